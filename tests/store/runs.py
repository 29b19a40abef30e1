"""Runs as their rows tell them: a test writes what the orchestrator would, and the ends of tasks."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from domain.events import EventSource, EventType, NewEvent
from domain.ids import member_task_id, new_id
from domain.lifecycle import MemberStatus, RunStatus, TaskStatus
from domain.messages import Flush
from domain.names import DEFAULT_PROJECT, ProjectId, RunId, TaskId
from domain.plan import planned
from domain.run import RunAnswer, RunFlush, Start
from domain.run_events import EVENT_OF_RUN_OUTCOME, FoldedRun, fold
from domain.run_spec import RunSpec
from store import mirror, run_commands, run_log, run_steering, run_tasks, runs
from store.engine import Database
from store.run_tasks import Sender
from tests.domain.run_logs import NAMES

OF_TASK = {
    TaskStatus.COMPLETED: EventType.TASK_COMPLETED,
    TaskStatus.FAILED: EventType.TASK_FAILED,
    TaskStatus.CANCELLED: EventType.TASK_CANCELLED,
}
DIAMOND: dict[str, Any] = {
    "name": "diamond",
    "members": [{"name": name, "task": {"command": ["true"], "provider": "external"}} for name in "abcd"],
    "edges": [
        {"from": "a", "to": "b"},
        {"from": "a", "to": "c"},
        {"from": "b", "to": "d"},
        {"from": "c", "to": "d"},
    ],
}
THREE: dict[str, Any] = {"members": [{"name": name, "task": {"command": ["true"]}} for name in NAMES]}


async def create_run(
    database: Database, body: dict[str, Any] | None = None, *, project: ProjectId = DEFAULT_PROJECT
) -> RunId:
    """Write a run as the API does; its start is sent by nobody."""
    spec = RunSpec.model_validate(body or DIAMOND)
    run = RunId(new_id())
    async with database.begin("test") as connection:
        await runs.create(
            connection,
            run=run,
            project=project,
            spec=spec,
            planned=planned(spec.members, spec.edges, breakpoints=spec.breakpoints, on_failure=spec.on_failure),
            now=datetime.now(UTC),
        )
    return run


@dataclass
class Orchestrator:
    """Writes a run's rows in the place of its workflow."""

    database: Database
    run: RunId
    attempt: int = 1
    version: int = 0

    def event(self, kind: EventType, **data: Any) -> NewEvent:
        """Give an event of now, under a key of its own."""
        return NewEvent(
            key=f"{self.attempt}:{kind}:{self.version}:{data.get('member')}:{data.get('item')}",
            type=kind,
            ts=datetime.now(UTC),
            attempt=self.attempt,
            source=EventSource.WORKFLOW,
            data=data,
        )

    def batch(self, *events: NewEvent) -> RunFlush:
        """Give the next flush."""
        self.version += 1
        return RunFlush(run_id=self.run, attempt=self.attempt, version=self.version, events=list(events))

    async def flush(self, *events: NewEvent) -> RunAnswer:
        """Write events."""
        async with self.database.commit("test") as connection:
            return await run_log.flush(connection, self.batch(*events))

    async def begin(self) -> None:
        """Take the start intent, and say that the run has begun."""
        async with self.database.begin("test") as connection:
            await connection.execute(text("DELETE FROM run_intents WHERE run_id = :run"), {"run": self.run})
        await self.flush(self.event(EventType.RUN_STARTED, attempt=self.attempt))

    async def start(self, member: str, item: int | None = None) -> TaskId:
        """Start a member, or a child of its fan-out."""
        task = member_task_id(self.run, member, item)
        part = {} if item is None else {"item": item}
        event = self.event(EventType.RUN_MEMBER_READY, member=member, task_id=task, **part)
        sender = Sender(name="tests", lease=timedelta(hours=1), agent_lease=timedelta(0), now=datetime.now(UTC))
        async with self.database.begin("test") as connection:
            batch = self.batch(event)
            await run_log.flush(connection, batch)
            await run_tasks.start(connection, batch, [Start(member=member, item=item)], sender)
        return task

    async def end_task(
        self, task: TaskId, status: TaskStatus = TaskStatus.COMPLETED, *, attempt: int = 1, result: Any = None
    ) -> None:
        """End a task."""
        kinds = [EventType.TASK_DELEGATED, EventType.TASK_STARTED] if status is TaskStatus.COMPLETED else []
        events = [
            NewEvent(key=f"{attempt}:{kind}", type=kind, ts=datetime.now(UTC), attempt=attempt, data={"result": result})
            for kind in (*kinds, OF_TASK[status])
        ]
        async with self.database.commit("test") as connection:
            await mirror.flush(connection, Flush(task_id=task, attempt=attempt, version=1, events=events))

    async def end(self, member: str, outcome: MemberStatus = MemberStatus.COMPLETED, reason: str | None = None) -> None:
        """End a member."""
        await self.flush(self.event(EventType.RUN_MEMBER_FINISHED, member=member, outcome=outcome, reason=reason))

    async def run_through(
        self, member: str, status: TaskStatus = TaskStatus.COMPLETED, *, attempt: int = 1, result: Any = None
    ) -> TaskId:
        """Start a member and end it."""
        task = await self.start(member)
        await self.end_task(task, status, attempt=attempt, result=result)
        await self.end(member, MemberStatus(status))
        return task

    async def hold(self, token: str) -> None:
        """Hold, because somebody asked for it by this token."""
        async with self.database.begin("test") as connection:
            project = (
                await connection.execute(text("SELECT project FROM runs WHERE id = :run"), {"run": self.run})
            ).scalar_one()
            await run_steering.pause(connection, project, self.run, reason=None, token=token)
        await self.flush(self.event(EventType.RUN_PAUSED, token=token))

    async def finish(self, outcome: RunStatus) -> None:
        """End the run."""
        await self.flush(self.event(EVENT_OF_RUN_OUTCOME[outcome], error=None))

    async def again(self) -> "Orchestrator":
        """Have the run tried again by hand, and give the orchestrator of its next attempt."""
        async with self.database.begin("test") as connection:
            row = await connection.execute(text("SELECT project FROM runs WHERE id = :run"), {"run": self.run})
            await run_commands.retry(
                connection, row.scalar_one(), self.run, from_attempt=self.attempt, now=datetime.now(UTC)
            )
        return Orchestrator(self.database, self.run, attempt=self.attempt + 1)

    async def fail(self) -> TaskId:
        """Let the first of DIAMOND fail, and all that needs it be skipped; returns the task."""
        await self.begin()
        task = await self.run_through("a", TaskStatus.FAILED)
        for member in "bcd":
            await self.end(member, MemberStatus.SKIPPED, "upstream")
        await self.finish(RunStatus.FAILED)
        return task


async def row_of(database: Database, run: RunId) -> dict[str, Any]:
    """Return a run's row."""
    async with database.read() as connection:
        found = await connection.execute(text("SELECT * FROM runs WHERE id = :run"), {"run": run})
        return dict(found.mappings().one())


async def members_of(database: Database, run: RunId) -> dict[str, str]:
    """Return the statuses of a run's members."""
    async with database.read() as connection:
        found = await connection.execute(text("SELECT name, status FROM members WHERE run_id = :run"), {"run": run})
        return {row.name: row.status for row in found}


async def intents_of(database: Database, run: RunId) -> list[tuple[str, int]]:
    """Return kind and attempt of a run's intents, in order."""
    async with database.read() as connection:
        query = text("SELECT kind, attempt FROM run_intents WHERE run_id = :run ORDER BY id")
        return [(row.kind, row.attempt) for row in await connection.execute(query, {"run": run})]


async def log_of(database: Database, run: RunId) -> list[NewEvent]:
    """Return a run's own log."""
    query = text("SELECT key, type, ts, attempt, source, data FROM run_events WHERE run_id = :run ORDER BY seq")
    async with database.read() as connection:
        return [
            NewEvent.model_validate(dict(row)) for row in (await connection.execute(query, {"run": run})).mappings()
        ]


async def assert_folds(database: Database, run: RunId) -> dict[str, Any]:
    """Assert that the log adds up to the row and to the members; returns the row."""
    row, log = await row_of(database, run), fold(await log_of(database, run))
    columns = FoldedRun.model_fields.keys() - {"members"}
    assert {name: row[name] for name in columns} == {name: getattr(log, name) for name in columns}
    members = await members_of(database, run)
    assert members == dict.fromkeys(members, "waiting") | log.members
    return row
