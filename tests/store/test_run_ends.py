"""The ends of a run's tasks: the run hears of each, once."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from domain.events import EventType, NewEvent
from domain.lifecycle import TaskStatus
from domain.messages import Flush
from domain.names import DEFAULT_PROJECT, TaskId
from store import commands, mirror, repairs
from store.engine import Database
from tests.store.rows import event
from tests.store.runs import THREE, Orchestrator, create_run, intents_of

E = EventType


def ended(status: TaskStatus, attempt: int = 1) -> list[NewEvent]:
    """Return the events that lead from `queued` to an end."""
    on_the_way = [E.TASK_DELEGATED, E.TASK_STARTED] if status is TaskStatus.COMPLETED else []
    return [event(kind, attempt=attempt) for kind in (*on_the_way, E(f"task.{status}"))]


Way = Callable[[Database, TaskId, TaskStatus], Awaitable[Any]]


async def _by_its_flush(database: Database, task: TaskId, status: TaskStatus) -> None:
    for _ in range(2):
        async with database.commit("test") as connection:
            await mirror.flush(connection, Flush(task_id=task, attempt=1, version=1, events=ended(status)))


async def _by_its_conclusion(database: Database, task: TaskId, status: TaskStatus) -> None:
    for _ in range(2):
        async with database.begin("test") as connection:
            batch = Flush(task_id=task, attempt=1, version=1, events=ended(status))
            await mirror.conclude(connection, batch, destroyed=True, next_attempt_at=None)


async def _by_a_repair(database: Database, task: TaskId, status: TaskStatus) -> None:
    for _ in range(2):
        async with database.begin("test") as connection:
            await repairs.end_attempt(connection, task, 1, 0, ended(status))


async def _by_a_void_cancel(database: Database, task: TaskId, _: TaskStatus) -> None:
    for _again in range(2):
        async with database.begin("test") as connection:
            await connection.execute(text("UPDATE outbox SET leased_by = NULL WHERE task_id = :task"), {"task": task})
            await commands.cancel(
                connection, DEFAULT_PROJECT, task, now=datetime.now(UTC), lease_to="tests", lease=timedelta(seconds=1)
            )


ENDS = [status for status in TaskStatus if status.terminal]
WAYS: list[tuple[Way, TaskStatus]] = [
    *((way, status) for way in (_by_its_flush, _by_its_conclusion, _by_a_repair) for status in ENDS),
    (_by_a_void_cancel, TaskStatus.CANCELLED),
]


@pytest.mark.parametrize(("way", "status"), WAYS)
@pytest.mark.parametrize("item", [None, 2])
async def test_a_run_hears_once_of_each_end(database: Database, way: Way, status: TaskStatus, item: int | None) -> None:
    """One intent, in the transaction of the end, whoever writes it and however often; it says which task, and how."""
    member = {"name": "a", "task": {"command": ["true"]}} | ({} if item is None else {"fan_out": {"count": 3}})
    writer = Orchestrator(database, await create_run(database, {"members": [member]}))
    await writer.begin()
    task = await writer.start("a", item)
    assert await intents_of(database, writer.run) == []
    await way(database, task, status)
    async with database.read() as connection:
        found = await connection.execute(
            text("SELECT kind, body FROM run_intents WHERE run_id = :run"), {"run": writer.run}
        )
        [intent] = found.all()
    assert intent.kind == "ended"
    assert intent.body == {"member": "a", "item": item, "outcome": status, "attempt": 1}


async def test_a_try_that_is_followed_by_another_is_no_end(database: Database) -> None:
    """No intent for the failure of an attempt that the task survives; one for the last, with its attempt."""
    writer = Orchestrator(database, await create_run(database, THREE))
    await writer.begin()
    task = await writer.start("a")
    again = Flush(task_id=task, attempt=1, version=1, events=[event(E.ATTEMPT_FAILED), event(E.TASK_QUEUED, attempt=2)])
    async with database.begin("test") as connection:
        await mirror.conclude(connection, again, destroyed=True, next_attempt_at=datetime.now(UTC))
    assert await intents_of(database, writer.run) == []
    last = Flush(task_id=task, attempt=2, version=1, events=ended(TaskStatus.FAILED, attempt=2))
    async with database.begin("test") as connection:
        await mirror.conclude(connection, last, destroyed=True, next_attempt_at=None)
    async with database.read() as connection:
        query = text("SELECT body ->> 'attempt' FROM run_intents WHERE run_id = :run")
        assert (await connection.execute(query, {"run": writer.run})).scalars().all() == ["2"]
