"""The health report as a process gives it: counted at most once in a few seconds, however many ask."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from domain.health import LIVE_NODES, HealthReport, SystemNumbers, TaskNumbers, judge, silent
from domain.names import CONTROL_QUEUE, ProjectId, TaskId, node_queue
from domain.policy import Budgets
from domain.reconcile import overdue
from domain.thresholds import Thresholds
from store import clock, facts, health
from store.engine import Database
from telemetry.metrics import HealthGauges
from workflows.gateway import Gateway

# A page that polls, a scrape and a person within this time see one and the same report.
REMEMBERED: Final = timedelta(seconds=5)
SHOWN: Final = 20
# Each costs the engine a call; the others are left out of the judgement.
NODES_ASKED: Final = 100


class Health:
    """Counts, asks the engine, and lets `domain.health` judge."""

    def __init__(self, database: Database, gateway: Gateway, *, budgets: Budgets, thresholds: Thresholds) -> None:
        self._database = database
        self._gateway = gateway
        self._budgets = budgets
        self._thresholds = thresholds
        self._began = time.monotonic()
        self._known: dict[ProjectId | None, tuple[float, asyncio.Task[HealthReport]]] = {}

    async def report(self, project: ProjectId | None = None) -> HealthReport:
        """Return the report on a project's tasks; without a project, on all tasks and what belongs to no project."""
        present = time.monotonic()
        self._known = {whose: each for whose, each in self._known.items() if each[0] > present or not each[1].done()}
        if project not in self._known:
            # A task of its own: a caller who hangs up must not cut off those who share the answer.
            task = asyncio.ensure_future(self._made(project))
            self._known[project] = (present + REMEMBERED.total_seconds(), task)
        return await asyncio.shield(self._known[project][1])

    async def show(self, gauges: HealthGauges) -> None:
        """Let the gauges of this process tell the report on all tasks."""
        report = await self.report()
        limit = self._thresholds.silence_warning.total_seconds()
        gauges.show(report, silent=lambda node: silent(node.polled_seconds_ago, limit))

    async def _made(self, project: ProjectId | None) -> HealthReport:
        reachable, counted = await asyncio.gather(self._gateway.reachable(), self._counted(project))
        now, tasks, system = counted or (datetime.now(UTC), None, None)
        if system is not None and reachable:
            await self._ask(system, now)
        return judge(
            at=now, project=project, thresholds=self._thresholds, temporal=reachable, tasks=tasks, system=system
        )

    async def _counted(self, project: ProjectId | None) -> tuple[datetime, TaskNumbers, SystemNumbers | None] | None:
        """Return the database's time and what it knows; None when it does not answer."""
        window = self._thresholds.window
        try:
            async with self._database.read() as connection:
                now = await clock.now(connection)
                tasks = await health.of_tasks(connection, project, window=window)
                quiet = await health.quiet_rows(connection, project, quiet=self._thresholds.quiet)
                system = await health.of_system(connection, window=window) if project is None else None
        except (SQLAlchemyError, OSError):
            return None
        if system is not None:
            # After a night in which all was down the first sweep is still to come.
            since = system.sweep_age_seconds
            here = time.monotonic() - self._began
            system.sweep_age_seconds = here if since is None else min(since, here)
        # Off the loop: reading and explaining thousands of rows would keep every request waiting.
        stuck = await asyncio.to_thread(_late, quiet, self._budgets)
        tasks.stuck, tasks.stuck_tasks = len(stuck), stuck[:SHOWN]
        return now, tasks, system

    async def _ask(self, system: SystemNumbers, now: datetime) -> None:
        """Ask the engine who polls, and which workflows cannot go on."""
        live = [node for node in system.nodes if node.status in LIVE_NODES][:NODES_ASKED]
        problems, control, polled = await asyncio.gather(
            self._gateway.problems(),
            self._gateway.polled(CONTROL_QUEUE, workflows=True),
            asyncio.gather(*(self._gateway.polled(node_queue(node.id)) for node in live)),
        )
        system.reported_problems, system.control_polled_seconds_ago = problems, _ago(control, now)
        for node, last in zip(live, polled, strict=True):
            node.polled_seconds_ago = _ago(last, now)
        asked = {node.id for node in live}
        system.nodes = [node for node in system.nodes if node.id in asked or node.status not in LIVE_NODES]


def _ago(moment: datetime | None, now: datetime) -> float | None:
    return max((now - moment).total_seconds(), 0.0) if moment else None


def _late(rows: Sequence[Mapping[str, Any]], budgets: Budgets) -> list[TaskId]:
    """Return those of the quiet tasks whose deadline has passed, as `explain` tells it."""
    late = []
    for row in rows:
        try:
            known = facts.read(row, budgets=budgets)
            stuck = overdue(known, known.read_at) > timedelta(0)
        except (ValueError, TypeError, OverflowError):
            stuck = True  # a row that this version cannot read does not move either
        if stuck:
            late.append(TaskId(row["id"]))
    return late
