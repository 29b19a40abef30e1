"""`…/stream` of a task, of a run and of a project: events as Server-Sent Events, backlog first, then live."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.deps import Context, Ctx, Reader
from api.feeds import RUN_ENDS, TASK_ENDS, Frame, ManyFeeds
from api.problems import Problem
from api.schemas.pages import LARGEST
from domain.names import ProjectId, RunId, TaskId
from store import feed, project_feed
from store.feed import Head
from store.project_feed import RunHead

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
of_run = APIRouter(prefix="/v1/runs", tags=["runs"])
of_project = APIRouter(prefix="/v1", tags=["tasks"])

PING: Final = 15
COMMENT: Final = b": still here\n\n"
# A reader that takes nothing for so long is dropped; its cursor brings it back.
STALLED: Final = 10
PIECE: Final = 32 * 1024
STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "`id:` is the event's `seq`, `event:` its type, `data:` its envelope",
        # Without a schema: OpenAPI 3.1 has none for a stream, and what reads it takes each event for a body.
        "content": {"text/event-stream": {}},
    },
    204: {"description": "The task or run has ended and the cursor stands at the end of its events"},
}


NEXT: Final = "next"
First = Annotated[
    str, Query(alias="fromSeq", description="Start here, inclusive; `next` for nothing that was written before.")
]
Last = Annotated[str | None, Header(alias="Last-Event-ID", description="Go on after this one; wins over `fromSeq`.")]


class Stream(EventSourceResponse):
    """A stream whose reader may stop reading: that is no fault of ours."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the end, or until the reader is gone."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            return


@router.get("/{task_id}/stream", response_class=Stream, responses=STREAM, summary="Watch a task's log")
async def stream(
    ctx: Ctx,
    caller: Reader,
    task_id: str,
    first: First = "1",
    last: Last = None,
) -> Response:
    """End with the task's terminal event; a retry opens the log again."""
    head = await _head(ctx, caller.project, task_id)
    cursor = _cursor(first, last, head.last_seq)
    if head.terminal and cursor == head.last_seq + 1:
        return Response(status_code=204)
    return _stream(_of_task(ctx, caller.project, TaskId(task_id), cursor, head), _place(first, last, cursor))


@of_project.get("/stream", response_class=Stream, responses={200: STREAM[200]}, summary="Watch all tasks of a project")
async def stream_project(ctx: Ctx, caller: Reader, first: First = "1", last: Last = None) -> Response:
    """Number the events of all tasks anew, in an order in which each task's own is kept; it has no end."""
    feed_id = project_feed.feed_of(caller.project)
    await ManyFeeds(ctx.database).sequence()
    async with ctx.database.read() as connection:
        head = await project_feed.head(connection, feed_id)
    cursor = _cursor(first, last, head)
    return _stream(_of_project(ctx, feed_id, cursor, head), _place(first, last, cursor))


@of_run.get("/{run_id}/stream", response_class=Stream, responses=STREAM, summary="Watch a run and its tasks")
async def stream_run(ctx: Ctx, caller: Reader, run_id: str, first: First = "1", last: Last = None) -> Response:
    """Number the events of the run and of its tasks anew; end with the run's terminal event, until a retry."""
    await ManyFeeds(ctx.database).sequence()
    head = await _run_head(ctx, caller.project, run_id)
    if head is None:
        raise Problem("not_found")
    cursor = _cursor(first, last, head.last_seq)
    if head.end is not None and cursor > head.end:
        return Response(status_code=204)
    return _stream(_of_run(ctx, caller.project, RunId(run_id), cursor, head), _place(first, last, cursor))


def _stream(frames: AsyncIterator[bytes], place: bytes) -> Stream:
    # A silence is ended by the frames themselves: a task less for each reader.
    return Stream(_after(place, frames) if place else frames, ping=0, send_timeout=STALLED, sep="\n")


async def _after(place: bytes, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield place
    async for piece in frames:
        yield piece


def _place(first: str, last: str | None, cursor: int) -> bytes:
    """Return what tells a reader of what is `next` where that is: an id without an event, by which it comes back."""
    return b"id: %d\n\n" % (cursor - 1) if last is None and first == NEXT else b""


async def _of_project(ctx: Context, feed_id: str, cursor: int, head: int) -> AsyncIterator[bytes]:
    with ctx.many_feeds.watching(feed_id, head) as watched:
        async for frames in ctx.many_feeds.follow(watched, cursor, quiet=PING):
            for piece in _pieces(frames) if frames else (COMMENT,):
                yield piece


async def _of_run(ctx: Context, project: ProjectId, run: RunId, cursor: int, head: RunHead) -> AsyncIterator[bytes]:
    with ctx.many_feeds.watching(project_feed.feed_of_run(run), head.last_seq) as watched:
        async for frames in ctx.many_feeds.follow(watched, cursor, quiet=PING):
            end = None
            # A silence may mean that the run was deleted.
            if not frames or any(frame.type in RUN_ENDS for frame in frames):
                now = await _run_head(ctx, project, run)
                if now is None:
                    return
                end = now.end
            shown = frames if end is None else [frame for frame in frames if frame.seq <= end]
            for piece in _pieces(shown) if frames else (COMMENT,):
                yield piece
            if end is not None and (not frames or frames[-1].seq >= end):
                return


async def _of_task(ctx: Context, project: ProjectId, task: TaskId, cursor: int, head: Head) -> AsyncIterator[bytes]:
    with ctx.feeds.watching(task, head.last_seq) as watched:
        async for frames in ctx.feeds.follow(watched, cursor, quiet=PING):
            for piece in _pieces(frames) if frames else (COMMENT,):
                yield piece
            # The terminal event is the last one, unless a retry has come after it.
            if frames and frames[-1].type in TASK_ENDS:
                async with ctx.database.read() as connection:
                    now = await feed.head(connection, project, task)
                if now is None or (now.terminal and now.last_seq == frames[-1].seq):
                    return


def _pieces(frames: list[Frame]) -> Iterator[bytes]:
    """Join frames, but not too many: what was handed to the server is held for a reader who takes nothing."""
    piece = bytearray()
    for frame in frames:
        piece += frame.data
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


async def _head(ctx: Context, project: ProjectId, task: str) -> Head:
    async with ctx.database.read() as connection:
        found = await feed.head(connection, project, task)
    if found is None:
        raise Problem("not_found")
    return found


async def _run_head(ctx: Context, project: ProjectId, run: str) -> RunHead | None:
    async with ctx.database.read() as connection:
        return await project_feed.head_of_run(connection, project, run)


def _cursor(first: str, last: str | None, head: int) -> int:
    """Return the number to begin with; raises Problem for one beyond the next."""
    if last is None and first == NEXT:
        return head + 1
    cursor = max(_number(first), 1) if last is None else _number(last) + 1
    if cursor > head + 1:
        raise Problem("bad_cursor", f"the log ends at {head}")
    return cursor


def _number(text: str) -> int:
    """Return a cursor's number; raises Problem for anything that is none, or that no log could reach."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(LARGEST)) or int(text) > LARGEST:
        raise Problem("bad_cursor", "a cursor is a whole number, not below 0")
    return int(text)
