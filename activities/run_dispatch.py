"""The run dispatcher: carries what runs are to be told to the engine, many endings in one signal.

A run is told at once what has ended, unless it was told a lot just now; then what ends within the next moment is
collected: a run of 500 tasks that end 30 times a second costs ten signals a second, not thirty.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from activities.pace import Pace
from domain.names import RunId
from domain.policy import Policy
from domain.run import Ending, Endings
from store import run_intents, run_start
from store.engine import Database
from store.models import RunIntentKind
from store.run_intents import Mail
from workflows.gateway import Gateway, Sent

log = structlog.get_logger()

# Longer than the engine's own limits.
LEASE: Final = timedelta(seconds=15)
LOOK_AGAIN: Final = 0.5
# Signals to one run come ten times a second at most, in seconds; a few at once, since members in a chain are no crowd.
REST: Final = 0.1
AT_ONCE: Final = 3
BATCH: Final = 1000


class RunDispatcher:
    """Sends intents of runs; `run()` is the loop, `send()` the direct way for what this process has committed."""

    def __init__(self, *, database: Database, gateway: Gateway, policy: Policy, pace: Pace | None = None) -> None:
        self._database = database
        self._gateway = gateway.runs
        self._policy = policy
        self._tasks: set[asyncio.Task[None]] = set()
        self._poke = asyncio.Event()
        self._pace = pace or Pace(interval=REST, at_once=AT_ONCE)

    def send(self, run: RunId) -> None:
        """Send what is to be told to this run now, in the background."""
        self._spawn(self._sweep(run))

    def poke(self) -> None:
        """Let the loop look now."""
        self._poke.set()

    async def run(self) -> None:
        """Send what is due, until cancelled."""
        while True:
            self._poke.clear()
            rest = LOOK_AGAIN
            try:
                rest = await self._sweep()
            except (SQLAlchemyError, OSError) as error:
                log.warning("run_intents.unreachable", error=str(error).splitlines()[0])
            except Exception:
                log.exception("run_intents.round_failed")
            # Whoever rests is looked at as soon as it has rested, poked or not; who does not is told at once.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._poke.wait(), rest)

    async def close(self) -> None:
        """Finish what is in flight."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _sweep(self, run: RunId | None = None) -> float:
        """Take what is due and send it; returns after how many seconds to look again."""
        resting = self._pace.rests(time.monotonic())
        async with self._database.commit("run_intents.take") as connection:
            mails = await run_intents.take(connection, until=LEASE, limit=BATCH, resting=resting, run=run)
        for mail in mails:
            self._pace.told(mail.run_id, time.monotonic())
            self._spawn(self._carry(mail))
        # Whoever rested when the look began was left out, though it may have rested by now.
        return min([LOOK_AGAIN, *resting.values(), *self._pace.rests(time.monotonic()).values()])

    def _spawn(self, work: Awaitable[object]) -> None:
        async def guarded() -> None:
            try:
                await work
            except (SQLAlchemyError, OSError) as error:
                # The lease runs out, and it is sent again.
                log.warning("run_intents.send_failed", error=str(error).splitlines()[0])

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, mail: Mail) -> None:
        result = await self._tell(mail)
        if result is Sent.DELIVERED or (result is Sent.NOT_FOUND and not await self._live(mail.run_id)):
            async with self._database.commit("run_intents.sent") as connection:
                await run_intents.sent(connection, mail.ids)
            return
        delay = timedelta(seconds=min(1 + mail.tries, 5))
        async with self._database.commit("run_intents.put_back") as connection:
            await run_intents.put_back(connection, mail.ids, due_in=delay, error=result)

    async def _tell(self, mail: Mail) -> Sent:
        """Send all of it, in order: one that is not started yet hears nothing else."""
        result = Sent.DELIVERED
        if RunIntentKind.START in mail.kinds:
            result = await self._start(mail)
        if result is Sent.DELIVERED and mail.endings:
            endings = Endings(endings=[Ending.model_validate(body) for body in mail.endings])
            result = await self._gateway.tell(mail.run_id, endings)
        if result is Sent.DELIVERED and RunIntentKind.STEER in mail.kinds:
            result = await self._gateway.steer(mail.run_id)
        if result is Sent.DELIVERED and RunIntentKind.CANCEL in mail.kinds:
            result = await self._gateway.cancel(mail.run_id)
        return result

    async def _start(self, mail: Mail) -> Sent:
        async with self._database.read() as connection:
            argument = await run_start.argument(
                connection, mail.run_id, mail.attempt, history_events=self._policy.limits.history_events
            )
        return Sent.DELIVERED if argument is None else await self._gateway.start(argument)

    async def _live(self, run: RunId) -> bool:
        async with self._database.read() as connection:
            return await run_start.is_live(connection, run)
