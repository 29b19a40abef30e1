"""The dispatcher: carries committed intents and callbacks to the engine, at once where it can, again where it must.

A writer leases its intent to itself and hands it over right after its commit; the loop sends whatever a dead or
disconnected process left behind. Sending twice is harmless: starts are deduplicated by workflow id, signals by
the workflow's own state.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final

import structlog
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from activities.force import force
from activities.hooks import Hooks
from domain.messages import CallbackSignal, Look, NodeLost, NodeReady, SlotGranted
from domain.names import SIGNAL_OF_CALLBACK, CallbackKind, SignalName, TaskId
from domain.policy import Policy
from domain.runner import RunnerInput
from domain.spec import TaskSpec
from store import ledger, outbox, tasks
from store.engine import Database
from store.hints import Notifier
from store.mirror import Appended
from store.models import OutboxKind
from store.outbox import Intent, Undelivered
from workflows.gateway import Gateway, Sent

log = structlog.get_logger()

# Longer than START_LIMIT, so that nobody sends what its owner is still sending.
LEASE: Final = timedelta(seconds=15)
LOOK_AGAIN: Final = 0.5
BATCH: Final = 100
IN_FLIGHT: Final = 64
SETTLE: Final = 0.05
UNREADABLE: Final = timedelta(seconds=30)
# What an intent's body is, by the name of its signal.
SIGNALS: Final[Mapping[str, type[BaseModel]]] = {
    SignalName.SLOT_GRANTED: SlotGranted,
    SignalName.NODE_READY: NodeReady,
    SignalName.NODE_LOST: NodeLost,
    SignalName.TASK_STEERED: Look,
}
# Between two looks at the outbox; longer means that this process, or the database, stood still.
STANDSTILL: Final = timedelta(seconds=2)


class Dispatcher:
    """Sends intents through the gateway; `run()` is the loop, `send()` and `deliver()` the direct ways."""

    def __init__(
        self, *, name: str, database: Database, gateway: Gateway, policy: Policy, hooks: Hooks | None = None
    ) -> None:
        self.name = name
        self._database = database
        self._gateway = gateway
        self._policy = policy
        self._notifier = Notifier(database)
        self._hooks = hooks
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._poke = asyncio.Event()
        self._sent: list[int] = []
        self._delivered: list[tuple[str, int, str, int]] = []
        self._settling: asyncio.Task[None] | None = None
        self._watching_since = self._looked_at = time.monotonic()

    # --- the direct ways ----------------------------------------------------------------------------------------

    def send(self, intent: Intent, argument: RunnerInput | None = None) -> None:
        """Send an intent that was committed under this process's lease, in the background."""
        self.grown(intent.task_id)
        self._spawn(self._send(intent, argument))

    async def deliver(self, callback: Undelivered) -> Sent:
        """Send a committed callback's signal now, within the signal's own limit."""
        kind = CallbackKind(callback.kind)
        signal = CallbackSignal.model_validate(
            callback.body | {"kind": kind, "turn": callback.turn, "workspace_id": callback.workspace_id}
        )
        result = await self._gateway.signal(callback.task_id, callback.attempt, SIGNAL_OF_CALLBACK[kind], signal)
        # An attempt that is over needs no signal: the row has decided.
        if result is Sent.DELIVERED or (result is Sent.NOT_FOUND and callback.over):
            self._delivered.append((callback.workspace_id, callback.attempt, callback.kind, callback.turn))
            self._settle_soon()
        return result

    def poke(self) -> None:
        """Let the loop look now: something was committed that nobody has leased."""
        self._poke.set()

    def grown(self, task: TaskId, appended: Appended | None = None) -> None:
        """Tell those who watch that a task's log has grown, which is committed; hooks hear of what was `appended`."""
        self._notifier.hint(task)
        if self._hooks is not None and appended is not None:
            self._hooks.note(task, appended)

    # --- the loop -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what is left behind, until cancelled."""
        while True:
            full = False
            try:
                full = await self._sweep()
            except (SQLAlchemyError, OSError) as error:
                log.warning("outbox.unreachable", error=str(error).splitlines()[0])
            except Exception:
                # Whatever it was: a worker whose dispatcher has ended would look alive, and send nothing.
                log.exception("outbox.round_failed")
            if not full:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._poke.wait(), LOOK_AGAIN)
            self._poke.clear()

    async def close(self) -> None:
        """Finish what is in flight."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._notifier.close()
        if self._hooks is not None:
            await self._hooks.close()

    async def _sweep(self) -> bool:
        async with self._database.begin("outbox.lease") as connection:
            intents = await outbox.lease(connection, lease_to=self.name, until=LEASE, limit=BATCH)
            callbacks = await outbox.lease_callbacks(connection, until=LEASE, limit=BATCH)
        self._looked()
        for intent in intents:
            self._spawn(self._send(intent, None))
        for callback in callbacks:
            self._spawn(self._redeliver(callback))
        return len(intents) == BATCH or len(callbacks) == BATCH

    def _looked(self) -> None:
        """Note that the outbox was looked at; whoever stood still meanwhile watches from now on."""
        now = time.monotonic()
        if now - self._looked_at > STANDSTILL.total_seconds():
            self._watching_since = now
        self._looked_at = now

    def _spawn(self, work: Awaitable[None]) -> None:
        async def bounded() -> None:
            async with self._slots:
                try:
                    await work
                except (SQLAlchemyError, OSError) as error:
                    # The lease runs out and the loop sends it again.
                    log.warning("outbox.send_failed", error=str(error).splitlines()[0])

        task = asyncio.ensure_future(bounded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _redeliver(self, callback: Undelivered) -> None:
        result = await self.deliver(callback)
        if result is Sent.UNREACHABLE or (result is Sent.NOT_FOUND and not callback.over):
            # Sooner than its lease runs out, which is for a process that died: the engine may be back any moment.
            delay = timedelta(seconds=min(1 + callback.tries, 5))
            async with self._database.commit("outbox.defer_callback") as connection:
                await outbox.defer_callback(connection, callback, due_in=delay)

    async def _send(self, intent: Intent, argument: RunnerInput | None) -> None:
        senders: dict[OutboxKind, Callable[[], Awaitable[Sent]]] = {
            OutboxKind.START: lambda: self._start(intent, argument),
            OutboxKind.SIGNAL: lambda: self._gateway.signal(
                intent.task_id,
                intent.attempt,
                intent.name or "",
                SIGNALS.get(intent.name or "", Look).model_validate(intent.body or {}),
            ),
            OutboxKind.CANCEL: lambda: self._gateway.cancel(intent.task_id, intent.attempt),
            OutboxKind.FORCE: lambda: self._force(intent),
            OutboxKind.CLEANUP: lambda: self._clean_up(intent),
        }
        try:
            result = await senders[intent.kind]()
        except ValidationError as error:
            # What this version cannot read another one may: the row says so, and is asked twice a minute.
            # Not the error itself: it quotes what it read.
            log.warning("outbox.unreadable", intent=intent.id, task=intent.task_id, errors=error.error_count())
            async with self._database.commit("outbox.unreadable") as connection:
                await outbox.put_back(connection, intent, due_in=UNREADABLE, error="it cannot be read")
            return
        to_come = result is Sent.NOT_FOUND and await self._not_started_yet(intent)
        if intent.kind is OutboxKind.CANCEL and (result is Sent.DELIVERED or to_come):
            # An attempt whose start is still on its way finds the cancel in its first flush.
            async with self._database.commit("outbox.give_time") as connection:
                deadline = self._policy.supervision.cancel
                await outbox.turn_into(connection, intent, OutboxKind.FORCE, due_in=deadline)
        elif intent.kind is OutboxKind.FORCE and result is Sent.UNREACHABLE:
            async with self._database.commit("outbox.cancel_again") as connection:
                await outbox.turn_into(connection, intent, OutboxKind.CANCEL, due_in=timedelta(0))
        elif result is Sent.UNREACHABLE or to_come:
            delay = timedelta(seconds=min(1 + intent.tries, 5))
            async with self._database.begin("outbox.put_back") as connection:
                await outbox.put_back(connection, intent, due_in=delay, error=result)
        else:
            self._sent.append(intent.id)
            self._settle_soon()

    async def _start(self, intent: Intent, argument: RunnerInput | None) -> Sent:
        if argument is None:
            async with self._database.read() as connection:
                row = await tasks.start_argument(connection, intent.task_id, intent.attempt)
            if row is None:
                return Sent.DELIVERED
            argument = RunnerInput(**{**row, "spec": TaskSpec.model_validate(row["spec"])}, policy=self._policy)
        return await self._gateway.start(argument)

    async def _clean_up(self, intent: Intent) -> Sent:
        async with self._database.read() as connection:
            project = await ledger.project_of(connection, intent.task_id, intent.attempt)
        return await self._gateway.clean_up(intent.task_id, intent.attempt, self._policy, project=project)

    async def _force(self, intent: Intent) -> Sent:
        """Force a cancel whose deadline has passed, if the attempt could have used the time.

        While Temporal, the database or every worker was away, no attempt could end, and the deadline begins again.
        """
        watched = timedelta(seconds=time.monotonic() - self._watching_since)
        if intent.late > watched:
            return Sent.UNREACHABLE
        result = await force(
            self._database, self._gateway, self._policy, intent.task_id, intent.attempt, grown=self.grown
        )
        self.poke()
        return result

    async def _not_started_yet(self, intent: Intent) -> bool:
        """Say whether a message that found no workflow may still find one: its attempt lives."""
        async with self._database.read() as connection:
            return await tasks.is_live(connection, intent.task_id, intent.attempt)

    # --- settling -----------------------------------------------------------------------------------------------

    def _settle_soon(self) -> None:
        if self._settling is None:
            self._settling = asyncio.ensure_future(self._settle())
            # `close()` waits for it also while it writes, when it no longer is the one that collects.
            self._tasks.add(self._settling)
            self._settling.add_done_callback(self._tasks.discard)

    async def _settle(self) -> None:
        """Note what was sent, many at a time: a crash before this only sends them again."""
        await asyncio.sleep(SETTLE)
        self._settling = None
        sent, self._sent = self._sent, []
        delivered, self._delivered = self._delivered, []
        try:
            async with self._database.begin("outbox.settle") as connection:
                if sent:
                    await outbox.sent(connection, sent)
                if delivered:
                    await outbox.delivered(connection, delivered)
        except (SQLAlchemyError, OSError) as error:
            log.warning("outbox.settle_failed", error=str(error).splitlines()[0])
