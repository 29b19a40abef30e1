"""Hooks: observers that an operator installs beside the worker, as entry points of the group `taskrunner.hooks`.

They are told what a write of this worker has added to a log, after its commit: a replay or a repeated flush adds
nothing, and so tells nothing. Each runs in threads of its own, so one that raises, hangs or blocks changes no task and
delays no other hook. What is told is told at most once; what must not be lost is a webhook's.
"""

import asyncio
import queue
import threading
from collections.abc import Iterable
from datetime import timedelta
from importlib.metadata import entry_points
from typing import Any, Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from domain.hooks import Fact, Moment
from domain.names import TaskId
from store import observations
from store.engine import Database
from store.mirror import Appended

log = structlog.get_logger()

GROUP: Final = "taskrunner.hooks"
# A call that lasts longer is left behind: a thread cannot be stopped, but nobody waits for it any more.
LIMIT: Final = timedelta(seconds=5)
# While so many calls of one hook hang, it is told nothing.
MOST_HANGING: Final = 4
# How long a worker that stops lets its hooks hear the rest.
CLOSING: Final = timedelta(seconds=5)
# What waits for a slow hook, and what waits to be read; beyond it facts are dropped.
MOST_WAITING: Final = 1000
_LONGEST_ERROR: Final = 200


class Hook:
    """One observer, called for one fact after the other."""

    def __init__(self, name: str, observer: object, *, limit: timedelta = LIMIT) -> None:
        self.name = name
        self._observer = observer
        self._limit = limit.total_seconds()
        self._hanging: list[threading.Thread] = []
        self._waiting: queue.Queue[tuple[Moment, Fact]] = queue.Queue(MOST_WAITING)
        # Daemons: a hook that hangs must not keep the worker from ending.
        threading.Thread(target=self._run, name=f"hook {name}", daemon=True).start()

    def rest(self) -> None:
        """Return when all was told or given up, or when it took too long."""
        with self._waiting.all_tasks_done:
            self._waiting.all_tasks_done.wait_for(lambda: not self._waiting.unfinished_tasks, CLOSING.total_seconds())

    def tell(self, moment: Moment, fact: Fact) -> None:
        """Have the hook called, if it wants to know of this moment."""
        if not hasattr(self._observer, moment):
            return
        try:
            self._waiting.put_nowait((moment, fact))
        except queue.Full:
            self._dropped(moment, fact)

    def _run(self) -> None:
        while True:
            moment, fact = self._waiting.get()
            self._hanging = [call for call in self._hanging if call.is_alive()]
            if len(self._hanging) < MOST_HANGING:
                self._within_limit(moment, fact)
            else:
                self._dropped(moment, fact)
            self._waiting.task_done()

    def _within_limit(self, moment: Moment, fact: Fact) -> None:
        call = threading.Thread(target=self._call, args=(moment, fact), name=f"hook {self.name} call", daemon=True)
        call.start()
        call.join(self._limit)
        if call.is_alive():
            self._hanging.append(call)
            log.warning("hook.timed_out", hook=self.name, moment=moment, task=fact.task_id, seq=fact.seq)

    def _call(self, moment: Moment, fact: Fact) -> None:
        try:
            getattr(self._observer, moment)(fact)
        except BaseException as error:  # noqa: BLE001 - somebody else's code: nothing of it goes further than this
            told = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
            log.warning("hook.failed", hook=self.name, moment=moment, task=fact.task_id, seq=fact.seq, error=told)

    def _dropped(self, moment: Moment, fact: Fact) -> None:
        log.warning("hook.dropped", hook=self.name, moment=moment, task=fact.task_id, seq=fact.seq)


class Hooks:
    """Reads what was added to a log, in the background, and tells it to each hook."""

    def __init__(self, database: Database, hooks: Iterable[Hook]) -> None:
        self._database = database
        self._hooks = tuple(hooks)
        self._noted: list[tuple[TaskId, Appended]] = []
        self._reading: asyncio.Task[None] | None = None

    def note(self, task: TaskId, appended: Appended) -> None:
        """Note that these events were added to a task's log, which is committed."""
        if len(self._noted) >= MOST_WAITING:
            log.warning("hook.dropped", task=task, seq=appended[0])
            return
        self._noted.append((task, appended))
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())

    async def close(self) -> None:
        """Tell what was noted, and give the hooks their time for it."""
        if self._reading is not None:
            await self._reading
        await asyncio.gather(*(asyncio.to_thread(hook.rest) for hook in self._hooks))

    async def _read(self) -> None:
        try:
            while self._noted:
                noted, self._noted = self._noted, []
                async with self._database.read() as connection:
                    found = await observations.read(connection, noted)
                for moment, fact in found:
                    for hook in self._hooks:
                        hook.tell(moment, fact)
        except (SQLAlchemyError, OSError) as error:
            log.warning("hook.dropped", error=str(error).splitlines()[0])
        finally:
            self._reading = None


def installed(database: Database, *, limit: timedelta = LIMIT) -> Hooks | None:
    """Return the hooks that are installed, each made by calling what its entry point names; None if there are none.

    One that cannot be loaded is logged, and the worker goes on without it.
    """
    found: list[Hook] = []
    for entry in entry_points(group=GROUP):
        observer = _made(entry)
        if observer is not None:
            found.append(Hook(entry.name, observer, limit=limit))
    return Hooks(database, found) if found else None


def _made(entry: Any) -> object | None:
    try:
        observer: object = entry.load()()
    except BaseException as error:  # noqa: BLE001 - somebody else's code: the worker starts without it
        log.warning("hook.not_loaded", hook=entry.name, error=f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])
        return None
    moments = [moment.value for moment in Moment if hasattr(observer, moment)]
    log.info("hook.loaded", hook=entry.name, moments=moments)
    return observer
