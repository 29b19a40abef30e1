"""Keep a board of the running tasks up to date by the project's stream, and a view with it."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final

from cli.board import RUNNING, Board, Row
from cli.panel import Changes, Panel
from cli.remote import Remote, RemoteError
from cli.stream import Stream

REFRESH: Final = 0.25  # seconds
PAUSE: Final = 1.0
MOST: Final = 100_000


async def watch(remote: Remote, view: Panel | Changes) -> None:
    """Keep a board up to date, and the view with it. Raises RemoteError."""
    main = asyncio.current_task()
    if main:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    board = Board()
    with view:
        works = {asyncio.create_task(_read(remote, board, view)), asyncio.create_task(_draw(board, view))}
        try:
            done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            for work in done:
                work.result()
        finally:
            for work in works:
                work.cancel()
            await asyncio.wait(works)


async def _draw(board: Board, view: Panel | Changes) -> None:
    while True:
        view.draw(board)
        await asyncio.sleep(REFRESH)


async def _read(remote: Remote, board: Board, view: Panel | Changes) -> None:
    stream = Stream(remote, "/v1/stream", after=None, away_limit=None, away=view.away)
    async with aclosing(stream.frames()) as frames:
        async for frame in frames:
            if not frame.event:
                # From this place on nothing is missed: what runs is looked up once.
                for row in await _look(remote, board):
                    view.changed(row)
                continue
            if frame.event["task_id"] is None:
                continue  # a run's own
            changed = board.apply(frame.event) or await _fetch(remote, board, frame.event["task_id"])
            if changed:
                view.changed(changed, ts=frame.event["ts"])


async def _look(remote: Remote, board: Board) -> list[Row]:
    """Take in what runs by now. Raises RemoteError."""
    tasks = await _told(lambda: list(remote.pages("/v1/tasks", limit=MOST, status=list(RUNNING))))
    workspaces = await _told(lambda: list(remote.pages("/v1/workspaces", limit=MOST, status="ready")))
    rows = [board.put(task) for task in tasks]
    board.progress(workspaces)
    board.known = True
    return rows


async def _fetch(remote: Remote, board: Board, task_id: str) -> Row | None:
    """Take in a task that goes on again; None for one that is deleted. Raises RemoteError."""
    try:
        return board.put(await _told(lambda: remote.get(f"/v1/tasks/{task_id}")))
    except RemoteError as error:
        if error.code == "not_found":
            return None
        raise


async def _told(call: Callable[[], Any]) -> Any:
    """Return what a call returns, as soon as the API is there. Raises RemoteError for what waiting does not mend."""
    while True:
        try:
            return await asyncio.to_thread(call)
        except RemoteError as error:
            if not error.transient:
                raise
            await asyncio.sleep(PAUSE)
