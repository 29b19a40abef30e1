"""`/v1/runs/{id}/pause`, `/resume`, `/breakpoints`, `/commands`: hold a run, change what is to come, let it go on."""

import json
from typing import Annotated

from fastapi import APIRouter, Depends
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse

from api import bodies, members
from api.deps import Ctx, Writer, now
from api.idempotency import Done, IdempotencyKey, once
from api.problems import Problem
from api.schemas.run_steering import RunCommandOut, RunPauseOut, RunResumeOut
from api.schemas.steering import PauseBody, PauseResult, ResumeBody
from api.steered import changed, paused
from domain.ids import new_id
from domain.names import RunId
from domain.run_spec import STATE_BYTES, RunBreakpoints, RunCommand
from domain.spec import json_of
from store import run_steering

router = APIRouter(prefix="/v1/runs", tags=["runs"])


@router.post(
    "/{run_id}/pause",
    response_model=RunPauseOut,
    responses={202: {"model": RunPauseOut, "description": "Requested: it holds before its next member"}},
    openapi_extra=bodies.describe(PauseBody, required=False),
    summary="Pause a run",
)
async def pause(
    ctx: Ctx,
    caller: Writer,
    run_id: str,
    body: Annotated[bodies.Body[PauseBody], Depends(bodies.json_of(PauseBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Answer 200 `applied` if the run holds by now, else 202 `requested`; asked again, with the same token.

    No member begins while it holds. What runs goes on to its end; its tasks may be paused one by one.
    """
    run = RunId(run_id)

    async def work(connection: AsyncConnection) -> Done:
        found = await run_steering.pause(connection, caller.project, run, reason=body.value.reason, token=new_id())
        steered = changed(found, "run")
        status, content = paused(steered, {"status": steered.row["status"]})
        return Done(status=status, content=content, after=lambda: ctx.told(run))

    return await once(ctx, "runs.pause", project=caller.project, key=key, digest=body.digest, work=work)


@router.post(
    "/{run_id}/resume",
    response_model=RunResumeOut,
    openapi_extra=bodies.describe(ResumeBody),
    summary="Resume a run that is paused",
)
async def resume(
    ctx: Ctx,
    caller: Writer,
    run_id: str,
    body: Annotated[bodies.Body[ResumeBody], Depends(bodies.json_of(ResumeBody))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """End the hold of this token, or the request for it; 409 `not_paused` or `stale_token` changes nothing."""
    run = RunId(run_id)

    async def work(connection: AsyncConnection) -> Done:
        found = await run_steering.resume(connection, caller.project, run, token=body.value.token, now=now())
        content = {"result": PauseResult.APPLIED, "status": changed(found, "run").row["status"]}
        return Done(status=200, content=content, after=lambda: ctx.told(run))

    return await once(ctx, "runs.resume", project=caller.project, key=key, digest=body.digest, work=work)


@router.put(
    "/{run_id}/breakpoints",
    response_model=RunBreakpoints,
    openapi_extra=bodies.describe(RunBreakpoints),
    summary="Set the members at which a run holds",
)
async def set_breakpoints(
    ctx: Ctx,
    caller: Writer,
    run_id: str,
    body: Annotated[bodies.Body[RunBreakpoints], Depends(bodies.json_of(RunBreakpoints))],
) -> JSONResponse:
    """Replace all of them. A hold that is in effect stays; a name that no member has is 422 `unknown_member`."""
    run = RunId(run_id)
    async with ctx.database.begin("runs.set_breakpoints") as connection:
        changed(await run_steering.set_breakpoints(connection, caller.project, run, body.value), "run")
    ctx.told(run)
    return JSONResponse(body.value.model_dump(mode="json"))


@router.post(
    "/{run_id}/commands",
    response_model=RunCommandOut,
    openapi_extra=bodies.describe(RunCommand),
    summary="Change what is to come of a paused run",
)
async def command(
    ctx: Ctx,
    caller: Writer,
    run_id: str,
    body: Annotated[bodies.Body[RunCommand], Depends(bodies.json_of(RunCommand))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Append members and edges, skip members that wait, or name those of the next superstep; 409 `not_paused`.

    It is checked like a new graph: what is wrong is 422, and the run stays as it is. It is obeyed when the run goes on.
    """
    run, asked = RunId(run_id), body.value
    # It is carried to the orchestrator whole.
    if len(json.dumps(json_of(asked)).encode()) > STATE_BYTES:
        raise Problem("too_large", f"the command is larger than {STATE_BYTES} bytes")
    members.check(ctx, asked.append.members, field="append.members")

    async def work(connection: AsyncConnection) -> Done:
        steered = changed(await run_steering.command(connection, caller.project, run, asked, now=now()), "run")
        await members.check_attachments(connection, caller.project, asked.append.members, field="append.members")
        plan = await run_steering.added(connection, run, steered.command or 0)
        content = {"n": steered.command, "members": plan["names"], "edges": len(plan["edges"])}
        return Done(status=200, content=content, after=lambda: ctx.told(run))

    return await once(ctx, "runs.command", project=caller.project, key=key, digest=body.digest, work=work)
