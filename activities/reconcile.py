"""The reconciler's adapter: reads rows, looks at workflows, and does what `domain.reconcile` decides.

Whatever is wrong with one row is told in the report and stops nothing else.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import structlog
from temporalio import activity

from activities.dispatch import Dispatcher
from activities.fleet import Fleet
from activities.reconcile_runs import RunReconciler
from activities.retention import due, prune
from domain.facts import Facts
from domain.messages import Verdict
from domain.names import TaskId
from domain.policy import Policy, Retention
from domain.reconcile import Action, Decision, Orphans, Report, Seen, Sight, SweepOrder, decide, end_of, overdue
from store import clock, facts, outbox, reaper, repairs, sweeps
from store.engine import Database
from workflows.gateway import Gateway, Sent
from workflows.policies import NODE_TRY, SWEEP_HEARTBEAT
from workflows.ports import ReconcileActivities

log = structlog.get_logger()

# A describe costs the engine a millisecond: this many in each sweep, and of those some for tasks that have ended.
DESCRIBES: Final = 500
ENDED: Final = 50
AT_ONCE: Final = 32
# Reading a row and explaining it costs 50 µs; beyond this many open rows a sweep goes on where the last one ended.
OPEN_ROWS: Final = 20_000
# What an attempt, an outbox or a Cleanup is about to do by itself is left to it for this long.
QUIET: Final = timedelta(minutes=2)
SETTLED: Final = timedelta(minutes=1)
KILLED_WITHIN: Final = timedelta(minutes=15)
# These have not released what they held, whatever their row says.
HELD_NO_END: Final = (Seen.RUNNING, Seen.PAUSED, Seen.TERMINATED)
BATCH: Final = 200
UPLOADS: Final = timedelta(days=1)
NODES: Final = 4
ERRORS: Final = 20


class Reconciler(ReconcileActivities):
    """Sweeps in bounded time. Several sweeps may run at once: every write holds only for what was observed."""

    def __init__(
        self,
        database: Database,
        gateway: Gateway,
        dispatcher: Dispatcher,
        *,
        policy: Policy,
        retention: Retention,
        idempotency: timedelta,
        fleet: Fleet | None = None,
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._dispatcher = dispatcher
        self._policy = policy
        self._retention = retention
        self._idempotency = idempotency
        self._fleet = fleet
        self._runs = RunReconciler(database, gateway, dispatcher, policy)

    @activity.defn
    async def sweep(self, order: SweepOrder) -> Report:
        """Compare rows with workflows, and the ledger with its owners; mend what disagrees."""
        began, report = time.monotonic(), Report(dry_run=order.dry_run)
        async with _beating():
            await self._rows(report)
            await self._ended(report)
            await self._runs.sweep(report)
            await self._reap(report)
            if self._fleet is not None:
                await self._fleet.tend(report)
            if not order.dry_run:
                async with self._database.commit("sweeps.note") as connection:
                    await sweeps.note(connection, report.counts)
        report.seconds = round(time.monotonic() - began, 3)
        if not order.dry_run and report.counts:
            self._dispatcher.poke()
        log.info("reconcile.swept", **report.model_dump(mode="json", exclude={"ids", "nodes"}))
        return report

    @activity.defn
    async def orphans(self, found: Orphans) -> Orphans:
        """Say which of a node's workspaces no entry of the ledger knows."""
        async with self._database.read() as connection:
            for each in found.workspaces:
                each.workspace_ids = await reaper.unknown(connection, each.workspace_ids)
        return found

    # --- open rows ----------------------------------------------------------------------------------------------

    async def _rows(self, report: Report) -> None:
        async with self._database.read() as connection:
            now = await clock.now(connection)
        killed = await self._gateway.killed(now - KILLED_WITHIN, limit=BATCH)
        async with self._database.read() as connection:
            rows = await sweeps.open_rows(connection, limit=OPEN_ROWS)
            first = await sweeps.named_rows(connection, [task for task, _ in killed])
        report.open_rows = len(rows)
        # Those of the hint first: with more open rows than are read, they may not be among them.
        every = {row["id"]: row for row in (*first, *rows)}
        # Off the loop: thousands of rows would keep the worker's other activities waiting.
        chosen = await asyncio.to_thread(self._chosen, list(every.values()), {*killed}, report)
        await _each(chosen, lambda known: self._row(known, report), report)
        report.described += len(chosen)
        if chosen and not report.dry_run:
            async with self._database.commit("sweeps.checked") as connection:
                await sweeps.checked(connection, [known.task_id for known in chosen])

    def _chosen(
        self, rows: Sequence[Mapping[str, Any]], hinted: set[tuple[TaskId, int]], report: Report
    ) -> Sequence[Facts]:
        """Return whom to look at: what was killed, then what is late, then what was looked at longest ago."""
        ranked = []
        for place, row in enumerate(rows):
            try:
                known = facts.read(row, budgets=self._policy.budgets)
                rank = _rank(known, hinted)
            except (ValueError, TypeError, OverflowError):
                report.note(Action.UNREADABLE, row["id"])
                continue
            if rank is not None:
                ranked.append((rank, place, known))
        ranked.sort(key=lambda each: each[:2])
        return [known for _, _, known in ranked[: DESCRIBES - ENDED]]

    async def _row(self, known: Facts, report: Report) -> None:
        sight = await self._gateway.look(known.task_id, known.attempt)
        decision = decide(known, sight, known.read_at)
        if decision.action is Action.LEFT_ALONE:
            return
        done = await (self._would if report.dry_run else self._do)(known, decision)
        report.note(done, known.task_id)
        log.warning("reconcile.found", task=known.task_id, attempt=known.attempt, action=done, seen=sight.seen)

    async def _would(self, known: Facts, decision: Decision) -> Action:
        """Say what would become of it: a row that has moved since it was read would be left alone."""
        async with self._database.read() as connection:
            rows = await sweeps.named_rows(connection, [known.task_id])
        unchanged = any((row["attempt"], row["version"]) == (known.attempt, known.version) for row in rows)
        return decision.action if unchanged else Action.SUPERSEDED

    async def _do(self, known: Facts, decision: Decision) -> Action:
        """Do what was decided, if the row is still as it was; returns what became of it."""
        if decision.action is Action.STARTED_AGAIN:
            async with self._database.commit("sweeps.start_again") as connection:
                stored = await sweeps.start_again(connection, known.task_id, known.attempt)
            return decision.action if stored else Action.SUPERSEDED
        if decision.ending is None:
            return decision.action
        end = end_of(known, decision.ending, known.read_at, lease=self._policy.supervision.lease)
        async with self._database.begin("sweeps.end_attempt") as connection:
            repair = await repairs.end_attempt(
                connection, known.task_id, known.attempt, known.version, end.events, due_in=end.due_in
            )
        if repair.verdict is not Verdict.APPLIED:
            return Action.SUPERSEDED
        self._dispatcher.grown(known.task_id, repair.appended)
        return decision.action

    # --- rows that have ended -----------------------------------------------------------------------------------

    async def _ended(self, report: Report) -> None:
        """Go by the row: a workflow that runs on after another has ended its attempt is terminated.

        Only what was seen to its end counts as checked: the others are looked at again.
        """
        seen: list[TaskId] = []

        async def over(each: tuple[TaskId, int]) -> None:
            if await self._over(*each, report):
                seen.append(each[0])

        async with self._database.read() as connection:
            ended = await sweeps.ended_by_others(connection, within=KILLED_WITHIN, limit=ENDED)
        await _each(ended, over, report)
        report.described += len(ended)
        if seen and not report.dry_run:
            async with self._database.commit("sweeps.checked_ended") as connection:
                await sweeps.checked(connection, seen)

    async def _over(self, task: TaskId, attempt: int, report: Report) -> bool:
        """Return whether nothing is left to do for this attempt."""
        sight: Sight = await self._gateway.look(task, attempt)
        if sight.seen is Seen.UNREACHABLE:
            report.note(Action.UNREACHABLE, task)
            return False
        if sight.seen not in HELD_NO_END:
            return True
        if sight.seen is not Seen.TERMINATED:
            if not report.dry_run and (
                await self._gateway.terminate(task, attempt, "its row has ended") is Sent.UNREACHABLE
            ):
                report.note(Action.UNREACHABLE, task)
                return False
            report.note(Action.TERMINATED, task)
        if not report.dry_run:
            # Also for what was terminated before: whoever did so may have died before this.
            async with self._database.commit("sweeps.clean_up") as connection:
                await outbox.clean_up(connection, task, attempt)
        return True

    # --- what nobody owns ---------------------------------------------------------------------------------------

    async def _reap(self, report: Report) -> None:
        dry, call = report.dry_run, self._policy.budgets.workspace_dispatch + NODE_TRY
        async with self._database.read() as connection:
            late = await sweeps.unsent(connection, older=SETTLED, limit=BATCH)
            drifted = await reaper.drifted(connection, limit=BATCH)
            report.nodes = list(await reaper.nodes_to_ask(connection, period=timedelta(seconds=30), limit=NODES))
        if late:
            report.note(Action.FLAGGED_UNSENT, *late)
        async with self._database.commit("reaper.clean_up") as connection:
            found = await reaper.clean_up(connection, settled=SETTLED, call=call, limit=BATCH, dry_run=dry)
        _noted(report, Action.CLEANED_UP, found)
        over = await (due if dry else prune)(self._database, self._retention)
        if over:
            report.note(Action.RETENTION_ENDED, count=sum(over.values()))
        async with self._database.commit("reaper.remove_waiters") as connection:
            found = await reaper.remove_waiters(connection, limit=BATCH, dry_run=dry)
        _noted(report, Action.WAITER_REMOVED, found)
        for node in drifted:
            wrong = True
            if not dry:
                async with self._database.begin("reaper.count_slots") as connection:
                    wrong = await reaper.count_slots(connection, node)
            _noted(report, Action.SLOTS_COUNTED, [node] if wrong else [])
        async with self._database.commit("reaper.forget_answers") as connection:
            count = await reaper.forget_answers(connection, kept=self._idempotency, limit=BATCH, dry_run=dry)
        if count:
            report.note(Action.ANSWERS_FORGOTTEN, count=count)
        async with self._database.commit("reaper.remove_uploads") as connection:
            found = await reaper.remove_uploads(connection, older=UPLOADS, limit=BATCH, dry_run=dry)
        _noted(report, Action.UPLOAD_REMOVED, found)


def _noted(report: Report, action: Action, found: Sequence[str]) -> None:
    if found:
        report.note(action, *found)


def _rank(known: Facts, hinted: set[tuple[TaskId, int]]) -> tuple[int, timedelta] | None:
    """Return the order of a row, the least first; None for one that has moved lately and is not late."""
    if (known.task_id, known.attempt) in hinted:
        return (0, timedelta(0))
    late = overdue(known, known.read_at)
    if late > timedelta(0):
        return (1, -late)
    return (2, timedelta(0)) if known.read_at - known.since > QUIET else None


async def _each(items: Sequence[Any], work: Callable[[Any], Awaitable[None]], report: Report) -> None:
    """Do the work for each item, some at once; what one of them raises is told, and keeps no other from its turn."""
    left = iter(items)

    async def one_after_the_other() -> None:
        for item in left:
            try:
                await work(item)
            except Exception as failure:  # noqa: BLE001 - one bad row never stops the sweep
                name = f"{type(failure).__name__}: {failure}".splitlines()[0]
                report.note(Action.FAILED, count=1)
                if len(report.errors) < ERRORS:
                    report.errors.append(name[:500])
                log.warning("reconcile.failed", item=str(item)[:200], error=name)

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))


@contextlib.asynccontextmanager
async def _beating() -> AsyncIterator[None]:
    """Heartbeat meanwhile: a worker that dies is noticed, and the next sweep begins in time."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(SWEEP_HEARTBEAT.total_seconds() / 4)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
