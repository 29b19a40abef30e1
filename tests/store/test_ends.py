"""What the last event of a task says, whoever wrote it: the outcome, and how long the attempt lasted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from domain.events import EVENT_OF_OUTCOME, EventType
from domain.facts import Facts
from domain.lifecycle import TaskStatus
from domain.names import DEFAULT_PROJECT
from domain.policy import Budgets
from domain.reconcile import Ending, end_of
from store import commands, facts, repairs
from store.engine import Database
from tests.store.rows import LEASE, batch, create_task, delegated, event, flush, log_of

TEN = timedelta(seconds=10)


async def last(database: Database, task: Any) -> dict[str, Any]:
    """Give the data of the last event."""
    return (await log_of(database, task))[-1].data


@pytest.mark.parametrize("start", [True, False])
async def test_a_task_that_never_began_lasted_no_time(database: Database, start: bool) -> None:  # noqa: FBT001 - a case
    """A void cancel of a task that is ready, or whose start nobody has sent: cancelled, after 0 s."""
    task = await create_task(database, start=start)
    async with database.begin("test") as connection:
        await connection.execute(text("UPDATE outbox SET leased_by = NULL WHERE task_id = :task"), {"task": task})
        done = await commands.cancel(
            connection, DEFAULT_PROJECT, task, now=datetime.now(UTC), lease_to="tests", lease=LEASE
        )
    assert done is not None
    assert done.outcome is commands.Outcome.APPLIED
    data = await last(database, task)
    assert (data["outcome"], data["duration_seconds"], data["error"]["code"]) == ("cancelled", 0, "cancelled")


@pytest.mark.parametrize("ending", [Ending.TERMINATED, Ending.CANCELLED])
async def test_an_end_by_the_reconciler_says_how_long(database: Database, ending: Ending) -> None:
    """From the attempt's first event to its end."""
    task = await delegated(database)
    began = event(EventType.ATTEMPT_STARTED)
    await flush(database, batch(task, 2, began))
    async with database.read() as connection:
        known: Facts | None = await facts.of_task(connection, DEFAULT_PROJECT, task, budgets=Budgets())
    assert known is not None
    end = end_of(known, ending, began.ts + TEN, lease=TEN)
    async with database.begin("test") as connection:
        await repairs.end_attempt(connection, task, 1, 2, end.events)
    data = await last(database, task)
    expected = "cancelled" if ending is Ending.CANCELLED else "failed"
    assert (data["outcome"], data["duration_seconds"], data["cleanup"]) == (expected, 10, "pending")


@pytest.mark.parametrize("outcome", [status for status in TaskStatus if status.terminal])
async def test_what_the_writer_knows_better_stays(database: Database, outcome: TaskStatus) -> None:
    """An attempt's own duration is kept; a clock that went back makes none below 0; other events get nothing."""
    told, untold = await delegated(database), await delegated(database)
    late = event(EventType.ATTEMPT_STARTED).model_copy(update={"ts": datetime.now(UTC) + timedelta(hours=1)})
    began = event(EventType.TASK_STARTED)
    ended = event(EVENT_OF_OUTCOME[outcome])
    for task, data in ((told, {"duration_seconds": 5, "outcome": outcome}), (untold, {})):
        await flush(database, batch(task, 2, late, began))
        await flush(database, batch(task, 3, ended.model_copy(update={"data": data})))
    assert await last(database, told) == {"duration_seconds": 5, "outcome": outcome}
    assert await last(database, untold) == {"duration_seconds": 0, "outcome": outcome}
    assert (await log_of(database, told))[-2].data == {}
