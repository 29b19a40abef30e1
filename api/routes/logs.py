"""Output of attempts: appended by workspaces, read by everybody."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from api import bodies, transfer
from api.deps import Context, Ctx, Reader, Token
from api.problems import Problem
from api.schemas.callbacks import LogOut
from api.schemas.pages import LARGEST, LARGEST_INT
from domain.names import ProjectId
from store import logs
from store.logs import Appended, Extent

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
of_workspace = APIRouter(prefix="/v1/workspaces/{workspace_id}", tags=["callbacks"])

WINDOW: Final = 1024 * 1024
LONGEST_WAIT: Final = timedelta(seconds=8)  # below the 10 s after which many clients give up
LOOK_AGAIN: Final = timedelta(milliseconds=200)
TEXT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The output, as it came",
        "content": {"text/plain": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            "X-Next-Offset": {"description": "Where to go on.", "schema": {"type": "integer"}},
            "X-Truncated": {"description": "`true` if output was dropped.", "schema": {"type": "string"}},
            "X-Attempt": {"description": "Whose output it is.", "schema": {"type": "integer"}},
            "X-Live": {"description": "`true` while more may come.", "schema": {"type": "string"}},
        },
    }
}


@of_workspace.post(
    "/logs",
    response_model=LogOut,
    openapi_extra=transfer.BODY,
    summary="Append output",
)
async def append(
    ctx: Ctx, token: Token, request: Request, offset: Annotated[int, Query(ge=0, le=LARGEST - 10**9)]
) -> JSONResponse:
    """Append what is new from the byte `offset` on: a repeat changes nothing, a gap is 409 `log_gap`."""
    data = await bodies.read(request, ctx.settings.limits.body)
    limit = ctx.settings.limits.log_per_attempt
    async with ctx.database.commit("logs.append") as connection:
        appended, following = await logs.append(connection, token, position=offset, data=data, limit=limit)
    if appended in (Appended.STALE, Appended.ENDED):
        raise Problem("stale_attempt" if appended is Appended.STALE else "attempt_ended")
    if appended is Appended.GAP:
        raise Problem("log_gap", f"the log ends at {following}", next_offset=following)
    return JSONResponse({"next_offset": following, "truncated": appended is Appended.TRUNCATED})


@router.get(
    "/{task_id}/logs",
    response_class=StreamingResponse,
    responses=TEXT,
    summary="Read the output of an attempt, or of one of its turns",
)
async def show(
    *,
    ctx: Ctx,
    caller: Reader,
    task_id: str,
    attempt: Annotated[int | None, Query(ge=1, le=LARGEST_INT, description="The current one if left out.")] = None,
    turn: Annotated[int | None, Query(ge=1, le=LARGEST_INT, description="Of a conversation; all if left out.")] = None,
    offset: Annotated[int, Query(ge=0, le=LARGEST, description="Counted over all turns of the attempt.")] = 0,
    follow: Annotated[bool, Query(description="Wait up to 8 s for output beyond `offset`.")] = False,
) -> Response:
    """Send raw bytes from `offset` to the end; go on at `X-Next-Offset`."""
    extent = await _extent(ctx, caller.project, task_id, attempt, turn)
    until = time.monotonic() + LONGEST_WAIT.total_seconds()
    while follow and extent.live and extent.ends <= max(offset, extent.begins) and time.monotonic() < until:
        await asyncio.sleep(LOOK_AGAIN.total_seconds())
        extent = await _extent(ctx, caller.project, task_id, extent.attempt, turn)
    offset = max(offset, extent.begins)
    headers = {
        "X-Next-Offset": str(max(offset, extent.ends)),
        "X-Truncated": str(extent.truncated).lower(),
        "X-Attempt": str(extent.attempt),
        "X-Live": str(extent.live).lower(),
        "Content-Length": str(max(0, extent.ends - offset)),
    }
    output = _windows(ctx, task_id, extent, offset)
    return StreamingResponse(output, media_type="text/plain; charset=utf-8", headers=headers)


async def _extent(ctx: Context, project: ProjectId, task: str, attempt: int | None, turn: int | None) -> Extent:
    async with ctx.database.read() as connection:
        found = await logs.extent(connection, project, task, attempt=attempt, turn=turn)
    if found is None:
        raise Problem("not_found")
    return found


async def _windows(ctx: Context, task: str, extent: Extent, offset: int) -> AsyncIterator[bytes]:
    for first in range(offset, extent.ends, WINDOW):
        stop = min(extent.ends, first + WINDOW)
        async with ctx.database.read() as connection:
            yield await logs.read(connection, task, extent.attempt, first=first, stop=stop)
