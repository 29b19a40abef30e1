"""What the store's suites need to write and to read: tasks, nodes, their rows and logs."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, select, text

from domain.events import Event, EventType, Folded, NewEvent, fold
from domain.ids import new_id
from domain.lifecycle import NodeStatus, Step
from domain.messages import Flush
from domain.names import DEFAULT_PROJECT, NodeId, ProjectId, TaskId
from domain.spec import TaskSpec
from store import mirror, tasks
from store.engine import Database
from store.models import EventRow, Node, Task

LEASE = timedelta(seconds=30)


async def create_task(
    database: Database, *, project: ProjectId = DEFAULT_PROJECT, start: bool = True, **body: Any
) -> TaskId:
    """Write a task as the API does: its log is `task.created`, and `task.queued` unless `start` is False."""
    task = TaskId(new_id())
    async with database.begin("test") as connection:
        await tasks.create(
            connection,
            task=task,
            project=project,
            spec=TaskSpec.model_validate({"command": ["true"]} | body),
            start=start,
            now=datetime.now(UTC),
            lease_to="tests",
            lease=LEASE,
        )
    return task


async def create_node(
    database: Database, *, slots: int, labels: dict[str, str] | None = None, status: NodeStatus = NodeStatus.READY
) -> NodeId:
    """Write a node's row. Without labels it is found by the label `node` with its id."""
    node = NodeId(f"n-{new_id()}")
    row = {"id": node, "status": status, "slots": slots, "labels": labels or {"node": node}}
    async with database.begin("test") as connection:
        await connection.execute(insert(Node).values(row))
    return node


def event(
    kind: EventType, key: str | None = None, *, attempt: int = 1, step: Step | None = None, **data: Any
) -> NewEvent:
    """Return an event of now; its key is its type if it is given none."""
    return NewEvent(
        key=key or f"{attempt}:{kind}", type=kind, ts=datetime.now(UTC), attempt=attempt, step=step, data=data
    )


def batch(task: TaskId, version: int, *events: NewEvent, attempt: int = 1) -> Flush:
    """Return a flush."""
    return Flush(task_id=task, attempt=attempt, version=version, events=list(events))


async def flush(database: Database, flush: Flush) -> dict[str, Any]:
    """Send a flush as the activity does: one statement, one transaction."""
    async with database.commit("test") as connection:
        return await mirror.flush(connection, flush)


async def delegated(database: Database, **body: Any) -> TaskId:
    """Write a task that is `delegated` by version 1."""
    task = await create_task(database, **body)
    await flush(database, batch(task, 1, event(EventType.TASK_DELEGATED, workspace_id="w", node_id="n")))
    return task


async def row_of(database: Database, task: TaskId) -> dict[str, Any]:
    """Return a task's row."""
    async with database.commit("test") as connection:
        return dict((await connection.execute(select(Task.__table__).where(Task.id == task))).mappings().one())


async def log_of(database: Database, task: TaskId) -> list[Event]:
    """Return a task's log."""
    columns = [column for column in EventRow.__table__.columns if column.name != "key"]
    async with database.commit("test") as connection:
        rows = await connection.execute(select(*columns).where(EventRow.task_id == task).order_by(EventRow.seq))
        return [Event.model_validate({**row, "run_id": None}) for row in rows.mappings()]


async def keys_of(database: Database, task: TaskId) -> list[str]:
    """Return the keys of a task's log, in order."""
    async with database.commit("test") as connection:
        rows = await connection.execute(select(EventRow.key).where(EventRow.task_id == task).order_by(EventRow.seq))
        return list(rows.scalars())


async def assert_folds(database: Database, task: TaskId) -> dict[str, Any]:
    """Assert that the log has no gap and adds up to the row; returns the row."""
    row, log = await row_of(database, task), await log_of(database, task)
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert {name: row[name] for name in Folded.model_fields} == fold(log).model_dump()
    return row


async def scalar(database: Database, statement: str, **parameters: Any) -> Any:
    """Return the one value of a query."""
    async with database.commit("test") as connection:
        return (await connection.execute(text(statement), parameters)).scalar_one()


async def column(database: Database, statement: str, **parameters: Any) -> Sequence[Any]:
    """Return the first column of a query."""
    async with database.commit("test") as connection:
        return (await connection.execute(text(statement), parameters)).scalars().all()
