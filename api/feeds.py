"""Logs that somebody watches: one reader of the database per process, however many watch, and no queue for any of them.

A watcher has a cursor of its own. What is new is read once and shared; what is old, a watcher reads for itself.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from domain.events import EVENT_OF_OUTCOME
from domain.names import TaskId
from store import feed, hints
from store.engine import Database
from store.feed import Entry

log = structlog.get_logger()

PAGE: Final = 500
# Bytes of a log's newest frames that are kept for its watchers: one who falls behind further reads the database.
SHARED: Final = 128 * 1024
# The truth: a hint that was lost costs a watcher this long.
LOOK_AGAIN: Final = timedelta(seconds=1)
_ENDS: Final = frozenset(event.value for event in EVENT_OF_OUTCOME.values())


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as Server-Sent Events have it, and whether it ends an attempt for good."""

    seq: int
    data: bytes
    last: bool


def frame(entry: Entry) -> Frame:
    """Return the frame of an event: `id` is its `seq`, `event` its type, `data` the envelope on one line."""
    text = f"id: {entry.seq}\nevent: {entry.type}\ndata: {entry.envelope}\n\n"
    return Frame(entry.seq, text.encode(), entry.type in _ENDS)


class Feed:
    """The end of one task's log, while somebody watches it."""

    def __init__(self, task: TaskId, head: int) -> None:
        self.task = task
        self.head = head
        self.watchers = 0
        self.gone = False
        self._shared: deque[Frame] = deque()
        self._bytes = 0
        self._grown = asyncio.Event()

    def append(self, entries: Iterable[Entry]) -> None:
        """Take in what is new, and wake who waits for it."""
        for entry in entries:
            if entry.seq == self.head + 1:
                self._share(frame(entry))
                self.head = entry.seq
        self.wake()

    def _share(self, new: Frame) -> None:
        self._shared.append(new)
        self._bytes += len(new.data)
        while self._bytes > SHARED:
            self._bytes -= len(self._shared.popleft().data)

    def wake(self) -> None:
        """Let every watcher look."""
        self._grown.set()
        self._grown = asyncio.Event()

    async def grown(self, cursor: int, *, within: float) -> bool:
        """Return whether there is something at the cursor, or never will be, before so many seconds have passed."""
        try:
            async with asyncio.timeout(within):
                while self.head < cursor and not self.gone:
                    await self._grown.wait()
        except TimeoutError:
            return False
        return True

    def shared(self, cursor: int) -> list[Frame] | None:
        """Return the frames from the cursor on; None when they are not among those that are kept."""
        if not self._shared or cursor < self._shared[0].seq:
            return None
        return list(islice(self._shared, cursor - self._shared[0].seq, None))


class Feeds:
    """The logs that are watched in this process; nothing runs while none is."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._feeds: dict[TaskId, Feed] = {}
        self._reading: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, task: TaskId, head: int) -> Iterator[Feed]:
        """Watch a log, of which `head` is the last known number."""
        found = self._feeds.setdefault(task, Feed(task, head))
        found.watchers += 1
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(self._ended)
        try:
            yield found
        finally:
            found.watchers -= 1
            if not found.watchers:
                del self._feeds[task]
            if not self._feeds and self._reading is not None:
                self._reading.cancel()
                self._reading = None

    def _ended(self, reading: asyncio.Task[None]) -> None:
        """End all streams if the reading has failed: who watches comes back with its cursor, and it begins anew."""
        if reading.cancelled():
            return
        log.error("feeds.failed", exc_info=reading.exception())
        self._reading = None
        for found in self._feeds.values():
            found.gone = True
            found.wake()

    def watched(self, task: TaskId) -> int:
        """Return how many watch this task."""
        return self._feeds[task].watchers if task in self._feeds else 0

    async def follow(self, found: Feed, first: int, *, quiet: float) -> AsyncIterator[list[Frame]]:
        """Give the log's frames from `first` on, each once and in order, until the task is gone.

        Gives none after so many seconds in which none came.
        """
        cursor = first
        while not found.gone:
            if not await found.grown(cursor, within=quiet):
                yield []
                continue
            frames = found.shared(cursor)
            if frames is None:
                frames = await self._backlog(found.task, cursor)
            if frames:
                cursor = frames[-1].seq + 1
                yield frames

    async def _backlog(self, task: TaskId, first: int) -> list[Frame]:
        async with self._database.read() as connection:
            entries = (await feed.new(connection, {task: first}, limit=PAGE))[task]
        return [frame(entry) for entry in entries or ()]

    async def _read(self) -> None:
        async with aclosing(hints.listen(self._database, look_again=LOOK_AGAIN)) as grown:
            async for tasks in grown:
                watched = self._feeds if tasks is None else tasks & self._feeds.keys()
                try:
                    await self._take_in({task: self._feeds[task] for task in watched})
                except (SQLAlchemyError, OSError) as error:
                    # The next look sees it.
                    log.warning("feeds.unreachable", error=str(error).splitlines()[0])

    async def _take_in(self, feeds: Mapping[TaskId, Feed]) -> None:
        while feeds:
            firsts = {task: found.head + 1 for task, found in feeds.items()}
            async with self._database.read() as connection:
                new = await feed.new(connection, firsts, limit=PAGE)
            for task, entries in new.items():
                if entries is None:
                    feeds[task].gone = True
                if entries is None or entries:
                    feeds[task].append(entries or ())
            feeds = {task: found for task, found in feeds.items() if len(new.get(task) or ()) == PAGE}
