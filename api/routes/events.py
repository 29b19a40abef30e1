"""`/v1/tasks/{id}/events`: the log, in pages."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse

from api.deps import Ctx, Reader
from api.problems import Problem
from api.schemas.events import represent
from api.schemas.pages import LARGEST, Limit, Page
from domain.events import Event, EventType
from store import events

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.get("/{task_id}/events", response_model=Page[Event], summary="Read a task's log")
async def index(
    *,
    ctx: Ctx,
    caller: Reader,
    task_id: str,
    limit: Limit,
    first: Annotated[int, Query(alias="fromSeq", ge=0, le=LARGEST, description="Start here, inclusive.")] = 1,
    types: Annotated[list[EventType], Query(alias="type", description="May be repeated.")] = [],  # noqa: B006
    cursor: Annotated[int | None, Query(ge=0, le=LARGEST, description="`next_cursor`; wins over `fromSeq`.")] = None,
) -> JSONResponse:
    """In order of `seq`; the cursor is the `seq` to go on from. A page that is not full is the end, for now."""
    start = first if cursor is None else cursor
    async with ctx.database.read() as connection:
        rows = await events.page(connection, caller.project, task_id, first=start, types=types, limit=limit)
    if rows is None:
        raise Problem("not_found")
    following = str(rows[-1]["seq"] + 1) if len(rows) == limit else None
    return JSONResponse({"items": [represent(row) for row in rows], "next_cursor": following})
