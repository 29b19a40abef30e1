"""Logs and feeds that are watched: one reader of the database per process, and no queue for any of those who watch.

A watcher has a cursor of its own. What is new is read once and shared; what is old, a watcher reads for itself.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import takewhile
from typing import Final, Protocol

import structlog
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from domain.events import EVENT_OF_OUTCOME
from domain.run_events import EVENT_OF_RUN_OUTCOME
from store import feed, hints, project_feed
from store.engine import Database
from store.feed import Entry

log = structlog.get_logger()

PAGE: Final = 500
# Events that are numbered in one transaction.
SEQUENCED: Final = 2000
# Bytes of a log's newest frames that are kept for its watchers: one who falls behind further reads the database.
SHARED: Final = 128 * 1024
# The truth: a hint that was lost costs a watcher this long.
LOOK_AGAIN: Final = timedelta(seconds=1)
TASK_ENDS: Final = frozenset(event.value for event in EVENT_OF_OUTCOME.values())
RUN_ENDS: Final = frozenset(event.value for event in EVENT_OF_RUN_OUTCOME.values())


@dataclass(frozen=True, slots=True)
class Frame:
    """An event as Server-Sent Events have it."""

    seq: int
    type: str
    data: bytes


def frame(entry: Entry) -> Frame:
    """Return the frame of an event: `id` is its `seq`, `event` its type, `data` the envelope on one line."""
    text = f"id: {entry.seq}\nevent: {entry.type}\ndata: {entry.envelope}\n\n"
    return Frame(entry.seq, entry.type, text.encode())


class Source(Protocol):
    """Where feeds of one kind are read: tasks' logs, or feeds of projects and runs."""

    async def new(self, firsts: Mapping[str, int]) -> Mapping[str, list[Entry] | None]:
        """Return what these feeds hold from a number on, at most PAGE of each; None for one that is gone."""

    def grown(self, tasks: AbstractSet[str], watched: AbstractSet[str]) -> Iterable[str]:
        """Return which of the watched feeds may have grown with these tasks."""


class TaskLogs:
    """Tasks' logs, by the task's id and the event's `seq`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def new(self, firsts: Mapping[str, int]) -> Mapping[str, list[Entry] | None]:
        """Read them all with one query."""
        async with self._database.read() as connection:
            return await feed.new(connection, firsts, limit=PAGE)

    def grown(self, tasks: AbstractSet[str], watched: AbstractSet[str]) -> Iterable[str]:
        """Return the tasks that are watched."""
        return tasks & watched


class ManyFeeds:
    """Feeds of projects and runs, by numbers of their own that are given here, as long as somebody reads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def new(self, firsts: Mapping[str, int]) -> Mapping[str, list[Entry] | None]:
        """Number what was committed, then read."""
        await self.sequence()
        async with self._database.read() as connection:
            return dict(await project_feed.new(connection, firsts, limit=PAGE))

    def grown(self, tasks: AbstractSet[str], watched: AbstractSet[str]) -> Iterable[str]:
        """Return all: whose tasks they are is not looked up."""
        return watched if tasks else ()

    async def sequence(self) -> None:
        """Number all that was committed before."""
        more = True
        while more:
            # A task that is deleted between its look and its number stops the whole batch; then it is gone.
            with contextlib.suppress(IntegrityError):
                async with self._database.commit("feeds.sequence") as connection:
                    more = await project_feed.sequence(connection, most=SEQUENCED)


class Feed:
    """The end of one log or feed, while somebody watches it."""

    def __init__(self, key: str, head: int) -> None:
        self.key = key
        self.head = head
        self.watchers = 0
        self.gone = False
        self._shared: deque[Frame] = deque()
        self._bytes = 0
        self._grown = asyncio.Event()

    def append(self, entries: Iterable[Entry]) -> None:
        """Take in what is new, and wake who waits for it."""
        for entry in entries:
            if entry.seq > self.head:
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
        # From the end: a watcher has most of it already.
        return list(takewhile(lambda frame: frame.seq >= cursor, reversed(self._shared)))[::-1]


class Feeds:
    """The feeds of one source that are watched in this process; nothing runs while none is."""

    def __init__(self, database: Database, source: Source) -> None:
        self._database = database
        self._source = source
        self._feeds: dict[str, Feed] = {}
        self._reading: asyncio.Task[None] | None = None

    @contextmanager
    def watching(self, key: str, head: int) -> Iterator[Feed]:
        """Watch a feed, of which `head` is the last known number."""
        found = self._feeds.setdefault(key, Feed(key, head))
        found.watchers += 1
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(self._ended)
        try:
            yield found
        finally:
            found.watchers -= 1
            if not found.watchers:
                del self._feeds[key]
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

    def watched(self, key: str) -> int:
        """Return how many watch this one."""
        return self._feeds[key].watchers if key in self._feeds else 0

    async def follow(self, found: Feed, first: int, *, quiet: float) -> AsyncIterator[list[Frame]]:
        """Give the frames from `first` on, each once and in order, until the feed is gone.

        Gives none after so many seconds in which none came.
        """
        cursor = first
        while not found.gone:
            if not await found.grown(cursor, within=quiet):
                yield []
                continue
            frames = found.shared(cursor)
            if frames is None:
                frames = [frame(entry) for entry in (await self._source.new({found.key: cursor})).get(found.key) or ()]
            if not frames:
                cursor = found.head + 1  # what was there is deleted
                continue
            cursor = frames[-1].seq + 1
            yield frames

    async def _read(self) -> None:
        async with aclosing(hints.listen(self._database, look_again=LOOK_AGAIN)) as grown:
            async for tasks in grown:
                watched = self._feeds if tasks is None else self._source.grown(tasks, self._feeds.keys())
                try:
                    await self._take_in({key: self._feeds[key] for key in watched})
                except (SQLAlchemyError, OSError) as error:
                    # The next look sees it.
                    log.warning("feeds.unreachable", error=str(error).splitlines()[0])

    async def _take_in(self, feeds: Mapping[str, Feed]) -> None:
        while feeds:
            new = await self._source.new({key: found.head + 1 for key, found in feeds.items()})
            for key, entries in new.items():
                if entries is None:
                    feeds[key].gone = True
                if entries is None or entries:
                    feeds[key].append(entries or ())
            feeds = {key: found for key, found in feeds.items() if len(new.get(key) or ()) == PAGE}
