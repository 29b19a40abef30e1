"""`/v1/tasks/{id}/stream`: the log as Server-Sent Events, backlog first, then live."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query
from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.deps import Context, Ctx, Reader
from api.feeds import Frame
from api.problems import Problem
from api.schemas.pages import LARGEST
from domain.names import ProjectId, TaskId
from store import feed
from store.feed import Head

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

PING: Final = 15
COMMENT: Final = b": still here\n\n"
# A reader that takes nothing for so long is dropped; its cursor brings it back.
STALLED: Final = 10
PIECE: Final = 32 * 1024
STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "`id:` is the event's `seq`, `event:` its type, `data:` its envelope",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {"description": "The task has ended and the cursor stands at the end of its log"},
}


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
    first: Annotated[str, Query(alias="fromSeq", description="Start here, inclusive.")] = "1",
    last: Annotated[
        str | None, Header(alias="Last-Event-ID", description="Go on after this one; wins over `fromSeq`.")
    ] = None,
) -> Response:
    """End with the task's terminal event; a retry opens the log again."""
    head = await _head(ctx, caller.project, task_id)
    cursor = max(_number(first), 1) if last is None else _number(last) + 1
    if cursor > head.last_seq + 1:
        raise Problem("bad_cursor", f"the log ends at {head.last_seq}")
    if head.terminal and cursor == head.last_seq + 1:
        return Response(status_code=204)
    return Stream(
        _frames(ctx, caller.project, TaskId(task_id), cursor, head),
        ping=0,  # a silence is ended by the frames themselves: a task less for each reader
        send_timeout=STALLED,
        sep="\n",
    )


async def _frames(ctx: Context, project: ProjectId, task: TaskId, cursor: int, head: Head) -> AsyncIterator[bytes]:
    with ctx.feeds.watching(task, head.last_seq) as watched:
        async for frames in ctx.feeds.follow(watched, cursor, quiet=PING):
            if not frames:
                yield COMMENT
                continue
            for piece in _pieces(frames):
                yield piece
            # The terminal event is the last one, unless a retry has come after it.
            if frames[-1].last:
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


def _number(text: str) -> int:
    """Return a cursor's number; raises Problem for anything that is none, or that no log could reach."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(LARGEST)) or int(text) > LARGEST:
        raise Problem("bad_cursor", "a cursor is a whole number, not below 0")
    return int(text)
