"""Retries by hand: one transaction under the row's lock, which one of many gets."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from domain.events import EventType
from domain.lifecycle import TERMINAL, TaskStatus
from domain.names import DEFAULT_PROJECT, TaskId
from store import retries, tasks
from store.engine import Database
from store.retries import Refusal, Retried
from tests.store.rows import (
    LEASE,
    assert_folds,
    batch,
    column,
    create_node,
    create_task,
    event,
    flush,
    log_of,
    row_of,
    scalar,
)
from tests.store.slots import conclude, reserve, used, wait

ERROR = {"code": "first", "category": "agent", "message": "It failed."}


async def retry(database: Database, task: TaskId, *, from_attempt: int | None = None, resume: bool = False) -> Retried:
    """Retry by hand, as the API does."""
    async with database.begin("test") as connection:
        retried = await retries.retry(
            connection,
            DEFAULT_PROJECT,
            task,
            from_attempt=from_attempt,
            resume=resume,
            agent_lease=LEASE,
            now=datetime.now(UTC),
            lease_to="api",
            lease=LEASE,
        )
    assert retried is not None
    return retried


async def ended(database: Database, status: TaskStatus = TaskStatus.FAILED, **body: Any) -> TaskId:
    """Write a task whose first attempt has ended."""
    task = await create_task(database, **body)
    await flush(
        database,
        batch(
            task,
            1,
            event(EventType.TASK_DELEGATED, workspace_id="w", node_id="n"),
            event(EventType.TASK_STARTED),
            event(EventType(f"task.{status}"), error=ERROR),
        ),
    )
    return task


@pytest.mark.parametrize("status", sorted(TERMINAL - {TaskStatus.COMPLETED}))
async def test_the_next_attempt_is_queued_with_its_start_intent(database: Database, status: TaskStatus) -> None:
    """Queued at attempt 2 by the API, with one start leased to it; the log folds into the row."""
    task = await ended(database, status)
    retried = await retry(database, task)
    row = await assert_folds(database, task)
    assert (row["status"], row["attempt"], row["outcome"], row["workspace_id"]) == ("queued", 2, None, None)
    assert {name: retried.row[name] for name in ("status", "attempt", "last_seq")} == {
        "status": "queued",
        "attempt": 2,
        "last_seq": row["last_seq"],
    }
    assert retried.intent is not None
    intents = "SELECT kind || ' ' || attempt || ' ' || leased_by FROM outbox WHERE task_id = :task AND attempt = 2"
    assert await column(database, intents, task=task) == ["start 2 api"]
    *_, end, queued = await log_of(database, task)
    assert (end.type, end.data["error"]) == (f"task.{status}", ERROR)
    assert (queued.type, queued.attempt, queued.source, queued.data["reason"]) == ("task.queued", 2, "api", "retry")


async def test_a_task_that_was_cancelled_before_its_start_may_be_retried(database: Database) -> None:
    """Queued at attempt 2, although attempt 1 never began."""
    task = await create_task(database, start=False)
    await flush(database, batch(task, 1, event(EventType.TASK_CANCELLED, error=ERROR)))
    await retry(database, task)
    row = await assert_folds(database, task)
    assert (row["status"], row["attempt"]) == ("queued", 2)


async def test_what_was_asked_of_the_old_attempt_is_not_asked_of_the_next(database: Database) -> None:
    """No cancel, no pause, no waiter and no unsent start of attempt 1 is left; its unsent cancel still names it."""
    node = await create_node(database, slots=0)
    task = await create_task(database, node_labels={"node": node})
    await wait(database, task, 1, node)
    await scalar(
        database,
        "UPDATE tasks SET cancel_requested_at = now(), pause_reason = 'r', pause_token = 't'"
        " WHERE id = :id RETURNING 1",
        id=task,
    )
    await scalar(database, "INSERT INTO outbox (kind, task_id, attempt) VALUES ('cancel', :id, 1) RETURNING 1", id=task)
    await flush(database, batch(task, 2, event(EventType.TASK_CANCELLED, error=ERROR)))
    await retry(database, task)
    row = await row_of(database, task)
    assert (row["cancel_requested_at"], row["pause_reason"], row["pause_token"]) == (None, None, None)
    assert await scalar(database, "SELECT count(*) FROM waiters WHERE task_id = :id", id=task) == 0
    intents = "SELECT kind || attempt FROM outbox WHERE task_id = :id ORDER BY id"
    assert await column(database, intents, id=task) == ["cancel1", "start2"]
    answer = await flush(database, batch(task, 1, attempt=2))
    assert (answer["verdict"], answer["cancel"]) == ("applied", False)


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (None, Refusal.NOT_ENDED),
        (TaskStatus.COMPLETED, Refusal.ALREADY_COMPLETED),
    ],
)
async def test_nothing_else_is_retried(database: Database, status: TaskStatus | None, refusal: Refusal) -> None:
    """Refused, and nothing is written."""
    task = await ended(database, status) if status else await create_task(database)
    before = await row_of(database, task)
    retried = await retry(database, task)
    assert (retried.refused, retried.intent) == (refusal, None)
    assert await row_of(database, task) == before


@pytest.mark.parametrize("from_attempt", [0, 2, 7])
async def test_another_attempt_than_the_rows_is_refused(database: Database, from_attempt: int) -> None:
    """attempt_mismatch: somebody saw something else than there is."""
    task = await ended(database)
    retried = await retry(database, task, from_attempt=from_attempt)
    assert (retried.refused, retried.row["attempt"]) == (Refusal.ATTEMPT_MISMATCH, 1)


async def test_twenty_clicks_make_one_attempt(database: Database) -> None:
    """One start intent, one event; the other nineteen are told that the attempt is another by now."""
    task = await ended(database)
    answers = await asyncio.gather(*(retry(database, task, from_attempt=1) for _ in range(20)))
    refused = [answer.refused for answer in answers]
    assert (refused.count(None), refused.count(Refusal.ATTEMPT_MISMATCH)) == (1, 19)
    row = await assert_folds(database, task)
    assert (row["status"], row["attempt"]) == ("queued", 2)
    starts = "SELECT count(*) FROM outbox WHERE task_id = :id AND attempt = 2"
    assert await scalar(database, starts, id=task) == 1


async def test_the_old_attempt_writes_nothing_and_releases_what_it_held(database: Database) -> None:
    """superseded: its end changes neither row nor log, and its slot is free again."""
    node = await create_node(database, slots=1)
    task = await create_task(database, node_labels={"node": node})
    await reserve(database, task, node, 1)
    # Ended from outside, while its workflow was frozen.
    await scalar(database, "UPDATE tasks SET status = 'cancelled' WHERE id = :id RETURNING 1", id=task)
    await retry(database, task)
    before = (await row_of(database, task), await log_of(database, task))
    assert await used(database, node) == 1
    answer = await conclude(database, task, 9)
    assert answer["verdict"] == "superseded"
    assert (await row_of(database, task), await log_of(database, task)) == before
    assert await used(database, node) == 0
    assert (
        await scalar(database, "SELECT count(*) FROM ledger WHERE task_id = :id AND state <> 'released'", id=task) == 0
    )


async def test_nothing_is_started_beside_an_agent_that_may_live_on(database: Database) -> None:
    """Due when its lease has run out, counted from the end; at once where the workspace is gone."""
    node = await create_node(database, slots=2)
    task, other = [await create_task(database, node_labels={"node": node}) for _ in range(2)]
    for one in (task, other):
        await reserve(database, one, node, 1)
        await conclude(database, one, 2, destroyed=one == other)
    retried = await retry(database, task)
    assert (retried.refused, retried.intent, retried.row["status"]) == (None, None, "queued")
    due = "SELECT extract(epoch FROM o.due_at - w.updated_at) FROM outbox o JOIN workspaces w USING (task_id)"
    where = " WHERE o.task_id = :id AND o.kind = 'start' AND o.attempt = 2 AND o.leased_by IS NULL"
    assert 29 < await scalar(database, due + where, id=task) <= 30
    assert (await log_of(database, task))[-1].data.keys() == {"reason", "by_hand", "not_before"}
    assert (await retry(database, other)).intent is not None


async def exhausted(database: Database, label: str) -> list[str]:
    """Return the ids of this label's exhausted tasks."""
    async with database.read() as connection:
        filters = tasks.Filters(exhausted=True, labels={"of": label})
        return [row["id"] for row in await tasks.page(connection, DEFAULT_PROJECT, filters, before=None, limit=10)]


async def test_exhausted_tasks_are_a_filter_until_somebody_retries(database: Database) -> None:
    """Found after `task.retries_exhausted`, not after any other failure, nor once there is a new attempt."""
    task, other = [await create_task(database, labels={"of": "filter"}) for _ in range(2)]
    told = event(EventType.TASK_RETRIES_EXHAUSTED, attempts=1)
    await flush(database, batch(task, 1, told, event(EventType.TASK_FAILED, error=ERROR)))
    await flush(database, batch(other, 1, event(EventType.TASK_FAILED, error=ERROR)))
    assert await exhausted(database, "filter") == [task]
    assert (await assert_folds(database, task))["exhausted"] is True
    await retry(database, task)
    assert await exhausted(database, "filter") == []
    assert (await assert_folds(database, task))["exhausted"] is False
