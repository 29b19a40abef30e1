"""The end of an attempt by somebody else than its workflow: only of what was observed, and never twice."""

import asyncio
from datetime import timedelta
from typing import Any

from sqlalchemy import text

from domain.events import EventType
from domain.lifecycle import TaskStatus
from domain.messages import Verdict
from domain.names import TaskId
from store import repairs
from store.engine import Database
from store.repairs import Repair
from tests.store.rows import assert_folds, batch, column, create_task, delegated, event, flush, keys_of, row_of, scalar
from tests.store.slots import conclude

INTENTS = "SELECT kind || ' ' || attempt FROM outbox WHERE task_id = :task AND leased_by IS NULL ORDER BY 1"


async def end(
    database: Database,
    task: TaskId,
    version: int,
    *,
    attempt: int = 1,
    due_in: timedelta | None = None,
    kind: EventType = EventType.TASK_CANCELLED,
) -> Repair:
    """End an attempt that was observed at this version."""
    events = [event(kind, f"{attempt}:forced", attempt=attempt, error={"code": "forced"})]
    if due_in is not None:
        queued = event(EventType.TASK_QUEUED, f"{attempt + 1}:queued", attempt=attempt + 1)
        events = [event(EventType.ATTEMPT_FAILED, attempt=attempt, error={"code": "lost"}), queued]
    async with database.begin("tests.end_attempt") as connection:
        return await repairs.end_attempt(connection, task, attempt, version, events, due_in=due_in)


async def test_an_observed_attempt_is_ended(database: Database) -> None:
    """Applied: row, log and the intent of a Cleanup in one; nothing of it a second time."""
    task = await delegated(database)
    assert await end(database, task, 1) == Repair(verdict=Verdict.APPLIED, status=TaskStatus.CANCELLED, appended=[4, 4])
    row = await assert_folds(database, task)
    assert (row["status"], row["error"], row["step"]) == ("cancelled", {"code": "forced"}, None)
    assert await column(database, INTENTS, task=task) == ["cleanup 1"]
    assert await end(database, task, 1) == Repair(verdict=Verdict.ENDED, status=TaskStatus.CANCELLED)
    assert await column(database, INTENTS, task=task) == ["cleanup 1"]


async def test_an_attempt_that_went_on_is_left_alone(database: Database) -> None:
    """Superseded: neither an older version nor an older attempt is ended, and nothing is written."""
    task = await delegated(database)
    await flush(database, batch(task, 2, event(EventType.TASK_STARTED)))
    before = await row_of(database, task)
    assert await end(database, task, 1) == Repair(verdict=Verdict.SUPERSEDED, status=TaskStatus.IN_PROGRESS)
    assert await row_of(database, task) == before
    assert (await end(database, task, 2, due_in=timedelta(0))).verdict is Verdict.APPLIED
    assert await end(database, task, 2) == Repair(verdict=Verdict.SUPERSEDED, status=TaskStatus.QUEUED)
    assert (await row_of(database, task))["attempt"] == 2


async def test_the_next_attempt_is_due_by_the_databases_clock(database: Database) -> None:
    """Queued at attempt 2, with a start intent for later beside the Cleanup of attempt 1."""
    task = await delegated(database)
    repair = await end(database, task, 1, due_in=timedelta(minutes=2))
    assert repair == Repair(verdict=Verdict.APPLIED, status=TaskStatus.QUEUED, appended=[4, 5])
    row = await assert_folds(database, task)
    assert (row["status"], row["attempt"], row["version"]) == ("queued", 2, 0)
    assert await column(database, INTENTS, task=task) == ["cleanup 1", "start 2"]
    query = "SELECT due_at - clock_timestamp() FROM outbox WHERE task_id = :task AND kind = 'start' AND attempt = 2"
    assert timedelta(seconds=110) < await scalar(database, query, task=task) <= timedelta(minutes=2)


async def test_a_task_that_is_to_be_cancelled_gets_no_next_attempt(database: Database) -> None:
    """Superseded, and the answer says why; to end it as cancelled is applied."""
    task = await delegated(database)
    async with database.begin("tests.cancel") as connection:
        await connection.execute(text("UPDATE tasks SET cancel_requested_at = now() WHERE id = :id"), {"id": task})
    refused = await end(database, task, 1, due_in=timedelta(0))
    assert refused == Repair(verdict=Verdict.SUPERSEDED, status=TaskStatus.DELEGATED, cancel=True)
    assert (await end(database, task, 1)).verdict is Verdict.APPLIED


async def test_a_deleted_task_has_ended(database: Database) -> None:
    """Ended, without a status."""
    assert await end(database, TaskId("gone"), 1) == Repair(verdict=Verdict.ENDED)


async def test_a_late_flush_finds_the_end(database: Database) -> None:
    """The flush that was under way is told `ended`, with the error, and adds no event."""
    task = await delegated(database)
    await end(database, task, 1)
    keys = await keys_of(database, task)
    answer = await flush(database, batch(task, 9, event(EventType.TASK_STARTED)))
    assert (answer["verdict"], answer["status"], answer["error"]) == ("ended", "cancelled", {"code": "forced"})
    assert await keys_of(database, task) == keys


async def test_of_twenty_ends_one_is_written(database: Database) -> None:
    """Force, reconciler and the attempt's own conclusion at once: one terminal event, legal by the table."""
    for _ in range(10):
        task = await delegated(database)
        ends: list[Any] = [end(database, task, 1) for _ in range(10)]
        ends += [end(database, task, 1, kind=EventType.TASK_FAILED) for _ in range(9)]
        answers = await asyncio.gather(*ends, conclude(database, task, 2))
        verdicts = [getattr(answer, "verdict", None) or answer["verdict"] for answer in answers]
        assert verdicts.count("applied") == 1
        await assert_folds(database, task)
        kinds = "SELECT count(*) FROM events WHERE task_id = :t AND type IN ('task.cancelled', 'task.failed')"
        assert await scalar(database, kinds, t=task) == 1


async def test_a_task_that_was_never_started_is_ended_too(database: Database) -> None:
    """Applied at version 0."""
    task = await create_task(database)
    assert (await end(database, task, 0)).verdict is Verdict.APPLIED
