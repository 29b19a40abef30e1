"""`…/events` of a task and of a run: the log, in pages."""

import json
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import JSONResponse

from api.deps import Ctx, Reader
from api.feeds import ManyFeeds
from api.problems import Problem
from api.schemas.events import represent
from api.schemas.pages import LARGEST, Limit, Page
from api.schemas.runs import RunFeedEvent
from domain.events import Event, EventType
from domain.names import RunId
from store import events, project_feed, runs

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
of_run = APIRouter(prefix="/v1/runs", tags=["runs"])

First = Annotated[int, Query(alias="fromSeq", ge=0, le=LARGEST, description="Start here, inclusive.")]
Types = Annotated[list[EventType], Query(alias="type", description="May be repeated.")]
Cursor = Annotated[int | None, Query(ge=0, le=LARGEST, description="`next_cursor`; wins over `fromSeq`.")]


@router.get("/{task_id}/events", response_model=Page[Event], summary="Read a task's log")
async def index(
    *,
    ctx: Ctx,
    caller: Reader,
    task_id: str,
    limit: Limit,
    first: First = 1,
    types: Types = [],  # noqa: B006
    cursor: Cursor = None,
) -> JSONResponse:
    """In order of `seq`; the cursor is the `seq` to go on from. A page that is not full is the end, for now."""
    start = first if cursor is None else cursor
    async with ctx.database.read() as connection:
        rows = await events.page(connection, caller.project, task_id, first=start, types=types, limit=limit)
    if rows is None:
        raise Problem("not_found")
    following = str(rows[-1]["seq"] + 1) if len(rows) == limit else None
    return JSONResponse({"items": [represent(row) for row in rows], "next_cursor": following})


@of_run.get("/{run_id}/events", response_model=Page[RunFeedEvent], summary="Read the events of a run and its tasks")
async def of_run_and_tasks(
    *,
    ctx: Ctx,
    caller: Reader,
    run_id: str,
    limit: Limit,
    first: First = 1,
    types: Types = [],  # noqa: B006
    cursor: Cursor = None,
) -> JSONResponse:
    """In order of their `cursor`, which counts all of them; each task's own, and the run's, are in order of `seq`."""
    start = first if cursor is None else cursor
    async with ctx.database.read() as connection:
        if await runs.get(connection, caller.project, run_id) is None:
            raise Problem("not_found")
    await ManyFeeds(ctx.database).sequence()
    async with ctx.database.read() as connection:
        feed = project_feed.feed_of_run(RunId(run_id))
        entries = await project_feed.page(connection, feed, first=start, types=types, limit=limit)
    following = str(entries[-1].seq + 1) if len(entries) == limit else None
    items = [{"cursor": entry.seq, **json.loads(entry.envelope)} for entry in entries]
    return JSONResponse({"items": items, "next_cursor": following})
