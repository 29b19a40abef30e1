"""The reconciler's adapter for runs: looks at those that have not moved, does what `domain.run_reconcile` decides."""

from datetime import timedelta
from typing import Final

import structlog

from activities.dispatch import LEASE, Dispatcher
from domain.names import RunId, TaskId
from domain.policy import Policy
from domain.reconcile import Action, Decision, Report
from domain.run_reconcile import OpenRun, decide, end_of
from store import clock, run_log, run_sweeps, run_tasks
from store.engine import Database
from store.outbox import Intent
from store.run_tasks import Sender
from workflows.gateway import Gateway

log = structlog.get_logger()

QUIET: Final = timedelta(minutes=2)
KILLED_WITHIN: Final = timedelta(minutes=15)
DESCRIBES: Final = 50
CANCELS: Final = 100


class RunReconciler:
    """Sweeps over open runs. Several may run at once: every write holds only for what was observed."""

    def __init__(self, database: Database, gateway: Gateway, dispatcher: Dispatcher, policy: Policy) -> None:
        self._database = database
        self._gateway = gateway.runs
        self._dispatcher = dispatcher
        self._policy = policy

    async def sweep(self, report: Report) -> None:
        """Compare runs with their workflows."""
        async with self._database.read() as connection:
            now = await clock.now(connection)
        killed = await self._gateway.killed(now - KILLED_WITHIN, limit=DESCRIBES)
        async with self._database.read() as connection:
            found = await run_sweeps.open_runs(connection, quiet=QUIET, hinted=killed, limit=DESCRIBES)
        for run in found:
            sight = await self._gateway.look(RunId(run.run_id))
            decision = decide(run, sight)
            if decision.action is Action.LEFT_ALONE:
                continue
            done = decision.action if report.dry_run else await self._do(run, decision)
            report.note(done, run.run_id)
            log.warning("reconcile.found_run", run=run.run_id, attempt=run.attempt, action=done, seen=sight.seen)
        report.described += len(found)
        if found and not report.dry_run:
            async with self._database.commit("run_sweeps.checked") as connection:
                await run_sweeps.checked(connection, [run.run_id for run in found])

    async def _do(self, run: OpenRun, decision: Decision) -> Action:
        """Do what was decided, if the row is still as it was; returns what became of it."""
        if decision.action is Action.STARTED_AGAIN:
            async with self._database.commit("run_sweeps.start_again") as connection:
                stored = await run_sweeps.start_again(connection, run)
            return decision.action if stored else Action.SUPERSEDED
        if decision.ending is None:
            return decision.action
        intents = list[Intent]()
        async with self._database.begin("run_sweeps.end_run") as connection:
            if not await run_sweeps.as_observed(connection, run):
                return Action.SUPERSEDED
            now = await clock.now(connection)
            lease = self._policy.supervision.lease
            sender = Sender(name=self._dispatcher.name, lease=LEASE, agent_lease=lease, now=now)
            left = await run_sweeps.left(connection, run)
            await run_log.append(connection, RunId(run.run_id), end_of(run, decision.ending, left, now))
            more = 1
            while more:
                some, more = await run_tasks.cancel(connection, RunId(run.run_id), sender, limit=CANCELS)
                intents += some
        self._dispatcher.grown(TaskId(run.run_id))
        for intent in intents:
            self._dispatcher.send(intent)
        return decision.action
