"""`/v1/workspaces/{id}/…`: what a workspace tells, with its callback token."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse

from api import bodies, inbox
from api.deps import Ctx, Token
from api.problems import Problem
from api.schemas.callbacks import FailedBody, FinishedBody, HeartbeatBody, ProgressBody, ReadyBody, ResultOut
from domain.names import CallbackKind
from store import callbacks

router = APIRouter(prefix="/v1/workspaces/{workspace_id}", tags=["callbacks"])
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": ResultOut, "description": "Kept: delivered once the engine is back"}
}


@router.post(
    "/ready",
    response_model=ResultOut,
    responses=ACCEPTED,
    openapi_extra=bodies.describe(ReadyBody, required=False),
    summary="The workspace is ready",
)
async def ready(
    ctx: Ctx, token: Token, body: Annotated[bodies.Body[ReadyBody], Depends(bodies.json_of(ReadyBody, required=False))]
) -> JSONResponse:
    """Let the step that waits for it go on; what is told before that step is kept."""
    status, result = await inbox.receive(ctx, token, CallbackKind.READY, body.value.signal())
    return JSONResponse({"result": result}, status)


@router.post(
    "/failed",
    response_model=ResultOut,
    responses=ACCEPTED,
    openapi_extra=bodies.describe(FailedBody),
    summary="The workspace failed",
)
async def failed(
    ctx: Ctx, token: Token, body: Annotated[bodies.Body[FailedBody], Depends(bodies.json_of(FailedBody))]
) -> JSONResponse:
    """Fail the attempt, at whatever step it is."""
    status, result = await inbox.receive(ctx, token, CallbackKind.FAILED, body.value.signal())
    return JSONResponse({"result": result}, status)


@router.post(
    "/finished",
    response_model=ResultOut,
    responses=ACCEPTED,
    openapi_extra=bodies.describe(FinishedBody, required=False),
    summary="The command or agent ended",
)
async def finished(
    ctx: Ctx,
    token: Token,
    body: Annotated[bodies.Body[FinishedBody], Depends(bodies.json_of(FinishedBody, required=False))],
) -> JSONResponse:
    """Implies `ready`. A result over its limit is 413 `result_too_large`: leave it in an artifact instead."""
    limit = ctx.settings.limits.result
    if body.value.result is not None and len(json.dumps(body.value.result).encode()) > limit:
        raise Problem("result_too_large", f"the result is larger than {limit} bytes", limit=limit)
    status, result = await inbox.receive(ctx, token, CallbackKind.FINISHED, body.value.signal())
    return JSONResponse({"result": result}, status)


@router.post(
    "/heartbeat",
    response_model=ResultOut,
    openapi_extra=bodies.describe(HeartbeatBody, required=False),
    summary="The workspace lives",
)
async def heartbeat(
    ctx: Ctx,
    token: Token,
    _: Annotated[bodies.Body[HeartbeatBody], Depends(bodies.json_of(HeartbeatBody, required=False))],
) -> JSONResponse:
    """Note it in the mirror; the workflow is not disturbed."""
    async with ctx.database.commit("callbacks.heartbeat") as connection:
        inbox.admit(await callbacks.heartbeat(connection, token))
    return JSONResponse({"result": "applied"})


@router.post(
    "/progress",
    response_model=ResultOut,
    openapi_extra=bodies.describe(ProgressBody),
    summary="How far the agent is",
)
async def progress(
    ctx: Ctx, token: Token, body: Annotated[bodies.Body[ProgressBody], Depends(bodies.json_of(ProgressBody))]
) -> JSONResponse:
    """Keep the latest on the workspace; the log gets at most one `agent.progress` a second."""
    told = body.value.model_dump(mode="json", exclude_none=True)
    async with ctx.database.commit("callbacks.progress") as connection:
        inbox.admit(await callbacks.progress(connection, token, told))
    return JSONResponse({"result": "applied"})
