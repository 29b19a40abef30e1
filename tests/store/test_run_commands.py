"""Cancel, retry and deletion of runs: the row, its members, what its orchestrator is told; also two at once."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, text

from domain.events import EventType
from domain.ids import new_id
from domain.lifecycle import MemberStatus, RunStatus, TaskStatus
from domain.names import DEFAULT_PROJECT, AttachmentId, ProjectId, RunId
from store import attachments, deletions, retention, retries, run_commands, run_deletions, run_intents
from store.deletions import Deletion
from store.engine import Database
from store.models import FeedRow
from store.project_feed import feed_of_run
from store.run_commands import Cancelled, Outcome, Refusal, Retried
from tests.store.rows import LEASE, scalar
from tests.store.runs import Orchestrator, assert_folds, create_run, intents_of, log_of, members_of, row_of
from tests.store.test_retention import blob

DAY = timedelta(days=1)


async def cancel(database: Database, run: RunId) -> Cancelled:
    """Cancel as the API does."""
    async with database.begin("test") as connection:
        found = await run_commands.cancel(connection, DEFAULT_PROJECT, run, now=datetime.now(UTC))
    assert found is not None
    return found


async def retry(database: Database, run: RunId, from_attempt: int | None = None) -> Retried:
    """Retry as the API does."""
    async with database.begin("test") as connection:
        found = await run_commands.retry(
            connection, DEFAULT_PROJECT, run, from_attempt=from_attempt, now=datetime.now(UTC)
        )
    assert found is not None
    return found


async def delete(database: Database, run: RunId, project: ProjectId = DEFAULT_PROJECT) -> Deletion | None:
    """Delete as the API does."""
    async with database.begin("test") as connection:
        return await run_deletions.delete(connection, project, run)


async def take(database: Database, run: RunId) -> Any:
    """Take a run's intents as who sends them does."""
    async with database.commit("test") as connection:
        return await run_intents.take(connection, until=LEASE, limit=10, run=run)


# --- cancel -----------------------------------------------------------------------------------------------------------


async def test_a_run_that_nobody_has_started_is_cancelled_at_once(database: Database) -> None:
    """No start is left, every member and the run are cancelled, and the log says each; again: the same."""
    run = await create_run(database)
    assert (await cancel(database, run)).outcome is Outcome.APPLIED
    row = await assert_folds(database, run)
    assert (row["status"], row["outcome"], row["error"]["code"]) == ("cancelled", "cancelled", "cancelled")
    assert await members_of(database, run) == dict.fromkeys("abcd", "cancelled")
    assert await intents_of(database, run) == []
    *_, aggregated, last = await log_of(database, run)
    assert (aggregated.data["counts"], last.type) == ({"cancelled": 4}, EventType.RUN_CANCELLED)
    assert (await cancel(database, run)).outcome is Outcome.REPEATED


async def test_a_start_that_may_have_been_sent_is_asked_to_cancel(database: Database) -> None:
    """requested, and told once; again: requested, and not told again."""
    run = await create_run(database)
    assert await take(database, run)
    assert [((await cancel(database, run)).outcome, (await intents_of(database, run))[1:]) for _ in range(2)] == [
        (Outcome.REQUESTED, [("cancel", 1)]),
        (Outcome.REQUESTED, [("cancel", 1)]),
    ]
    row = await row_of(database, run)
    assert (row["status"], row["cancel_requested_at"] is not None) == ("queued", True)
    assert (await Orchestrator(database, run).flush()).cancel


@pytest.mark.parametrize("outcome", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
async def test_a_run_that_has_ended_is_not_cancelled(database: Database, outcome: RunStatus) -> None:
    """already_ended, unless it is cancelled already."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    await orchestrator.begin()
    await orchestrator.finish(outcome)
    expected = Outcome.REPEATED if outcome is RunStatus.CANCELLED else Outcome.ALREADY_ENDED
    assert (await cancel(database, run)).outcome is expected
    assert await intents_of(database, run) == []


async def test_a_cancel_and_a_start_at_once(database: Database) -> None:
    """Either nobody starts it, or it is asked: never both, never neither."""
    for _ in range(10):
        run = await create_run(database)
        cancelled, taken = await asyncio.gather(cancel(database, run), take(database, run))
        started = any(mail.kinds & {"start"} for mail in taken)
        assert cancelled.outcome is (Outcome.REQUESTED if started else Outcome.APPLIED)


async def test_cancels_at_once_ask_once(database: Database) -> None:
    """Five: one tells the orchestrator."""
    run = await create_run(database)
    await Orchestrator(database, run).begin()
    answers = await asyncio.gather(*(cancel(database, run) for _ in range(5)))
    assert [answer.asked for answer in answers].count(True) == 1
    assert await intents_of(database, run) == [("cancel", 1)]


async def test_a_retry_that_nobody_has_started_keeps_what_has_completed(database: Database) -> None:
    """A cancel of the second attempt before its start: the completed member stays, the others are cancelled."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    await orchestrator.begin()
    await orchestrator.run_through("a")
    await orchestrator.run_through("b", TaskStatus.FAILED)
    await orchestrator.end("d", MemberStatus.SKIPPED, "upstream")
    await orchestrator.run_through("c")
    await orchestrator.finish(RunStatus.FAILED)
    await retry(database, run)
    assert (await cancel(database, run)).outcome is Outcome.APPLIED
    assert await members_of(database, run) == {"a": "completed", "b": "cancelled", "c": "completed", "d": "cancelled"}
    await assert_folds(database, run)


# --- retry ------------------------------------------------------------------------------------------------------------


async def test_a_retry_lets_what_did_not_complete_wait_again(database: Database) -> None:
    """Attempt 2, queued, its start stored; what was asked of attempt 1 is forgotten; the log folds to it."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    await orchestrator.begin()
    await orchestrator.run_through("a")
    await orchestrator.run_through("b", TaskStatus.FAILED)
    await orchestrator.run_through("c", TaskStatus.CANCELLED)
    await orchestrator.end("d", MemberStatus.SKIPPED, "upstream")
    await cancel(database, run)
    await orchestrator.finish(RunStatus.FAILED)
    retried = await retry(database, run, 1)
    assert (retried.refused, retried.row["attempt"], retried.row["status"]) == (None, 2, "queued")
    row = await assert_folds(database, run)
    cleared = ("outcome", "error", "finished_at", "cancel_requested_at")
    assert [row[name] for name in cleared] == [None] * len(cleared)
    assert await members_of(database, run) == {"a": "completed", "b": "waiting", "c": "waiting", "d": "waiting"}
    query = "SELECT count(*) FROM members WHERE run_id = :run AND status = 'waiting' AND num_nonnulls(%s) > 0"
    columns = "reason, error, started_at, finished_at"
    assert await scalar(database, query % columns, run=run) == 0
    assert await intents_of(database, run) == [("start", 2)]
    assert (await orchestrator.flush()).verdict == "superseded"


async def test_a_retry_runs_again_what_failed(database: Database) -> None:
    """The task that failed gets its second attempt, under the same id; then all complete."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    task = await orchestrator.fail()
    following = await orchestrator.again()
    await following.begin()
    assert await following.run_through("a", attempt=2) == task
    for member in "bcd":
        await following.run_through(member)
    await following.finish(RunStatus.COMPLETED)
    assert (await assert_folds(database, run))["outcome"] == "completed"
    assert await scalar(database, "SELECT attempt FROM tasks WHERE id = :task", task=task) == 2


async def test_what_cannot_be_retried(database: Database) -> None:
    """not_ended, already_completed, attempt_mismatch; a task that outlived its run is named."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    assert (await retry(database, run)).refused is Refusal.NOT_ENDED
    await orchestrator.begin()
    task = await orchestrator.start("a")
    await orchestrator.finish(RunStatus.FAILED)
    assert (await retry(database, run, 2)).refused is Refusal.ATTEMPT_MISMATCH
    refused = await retry(database, run)
    assert (refused.refused, refused.open_task) == (Refusal.NOT_ENDED, task)
    await orchestrator.end_task(task)
    assert (await retry(database, run)).refused is None
    following = Orchestrator(database, run, attempt=2)
    await following.begin()
    await following.finish(RunStatus.COMPLETED)
    assert (await retry(database, run)).refused is Refusal.ALREADY_COMPLETED


async def test_of_two_retries_at_once_one_makes_an_attempt(database: Database) -> None:
    """The other one sees attempt 2."""
    run = await create_run(database)
    await Orchestrator(database, run).fail()
    answers = await asyncio.gather(*(retry(database, run, 1) for _ in range(5)))
    refused = [answer.refused for answer in answers if answer.refused]
    assert refused == [Refusal.ATTEMPT_MISMATCH] * 4
    assert (await row_of(database, run))["attempt"] == 2
    assert await intents_of(database, run) == [("start", 2)]


async def test_a_task_of_a_run_is_neither_retried_nor_deleted_alone(database: Database) -> None:
    """belongs_to_run, also while the run is under way, and after it."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    task = await orchestrator.fail()
    async with database.begin("test") as connection:
        assert await deletions.delete(connection, DEFAULT_PROJECT, task) is Deletion.BELONGS_TO_RUN
        retried = await retries.retry(
            connection,
            DEFAULT_PROJECT,
            task,
            from_attempt=None,
            agent_lease=LEASE,
            now=datetime.now(UTC),
            lease_to="tests",
            lease=LEASE,
        )
    assert retried is not None
    assert retried.refused is retries.Refusal.BELONGS_TO_RUN


# --- deletion and retention -------------------------------------------------------------------------------------------


async def left_of(database: Database, run: RunId) -> dict[str, int]:
    """Return how many rows there are of a run, by table."""
    tables = ("members", "run_events", "run_commands", "run_intents", "fed_runs", "tasks", "feed_entries")
    counted = {
        name: await scalar(database, f"SELECT count(*) FROM {name} WHERE run_id = :id", id=run)  # noqa: S608
        for name in tables
    }
    counted["runs"] = await scalar(database, "SELECT count(*) FROM runs WHERE id = :id", id=run)
    counted["feeds"] = await scalar(database, "SELECT count(*) FROM feeds WHERE id = :id", id=feed_of_run(run))
    return {name: count for name, count in counted.items() if count}


async def test_a_deleted_run_leaves_nothing(database: Database) -> None:
    """Its tasks with their logs, its rows, its feed: gone; of another project, and again, there is none."""
    run = await create_run(database)
    task = await Orchestrator(database, run).fail()
    async with database.begin("test") as connection:
        await connection.execute(insert(FeedRow).values(id=feed_of_run(run), last_seq=1))
    assert await delete(database, run, ProjectId("other")) is None
    assert await delete(database, run) is Deletion.DELETED
    assert await left_of(database, run) == {}
    assert await scalar(database, "SELECT count(*) FROM events WHERE task_id = :task", task=task) == 0
    assert await delete(database, run) is None


async def test_a_run_that_lives_is_not_deleted(database: Database) -> None:
    """not_ended while it is queued or under way, or one of its tasks is."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    assert await delete(database, run) is Deletion.NOT_ENDED
    await orchestrator.begin()
    task = await orchestrator.start("a")
    await orchestrator.finish(RunStatus.FAILED)
    before = await left_of(database, run)
    assert await delete(database, run) is Deletion.NOT_ENDED
    assert await left_of(database, run) == before
    await orchestrator.end_task(task)
    assert await delete(database, run) is Deletion.DELETED


async def test_a_retry_and_a_deletion_at_once(database: Database) -> None:
    """Either it is tried again whole, or it is gone whole."""
    for _ in range(5):
        run = await create_run(database)
        await Orchestrator(database, run).fail()

        async def again(run: RunId = run) -> Retried | None:
            async with database.begin("test") as connection:
                return await run_commands.retry(connection, DEFAULT_PROJECT, run, from_attempt=1, now=datetime.now(UTC))

        retried, deleted = await asyncio.gather(again(), delete(database, run))
        if retried is None:
            assert (deleted, await left_of(database, run)) == (Deletion.DELETED, {})
        else:
            assert (retried.refused, deleted) == (None, Deletion.NOT_ENDED)
            assert await intents_of(database, run) == [("start", 2)]


async def age(database: Database, run: RunId, days: int) -> None:
    """Let a run and its tasks have ended so many days ago."""
    async with database.begin("test") as connection:
        for table, key in (("runs", "id"), ("tasks", "run_id")):
            statement = f"UPDATE {table} SET finished_at = finished_at - :age * interval '1 day' WHERE {key} = :run"  # noqa: S608
            await connection.execute(text(statement), {"age": days, "run": run})


async def test_retention_takes_runs_whole(database: Database) -> None:
    """By the age of the run: its tasks are not taken alone, however old they are."""
    old, young = [await create_run(database) for _ in range(2)]
    for run in (old, young):
        await Orchestrator(database, run).fail()
        await age(database, run, 10)
    async with database.begin("test") as connection:
        await connection.execute(text("UPDATE runs SET finished_at = now() WHERE id = :run"), {"run": young})
    before = datetime.now(UTC) - 5 * DAY
    async with database.begin("test") as connection:
        assert await retention.delete_tasks(connection, before=before, limit=100) == []
        assert await retention.due(connection, "tasks", before=before, limit=100) == 0
        assert await retention.due(connection, "runs", before=before, limit=100) == 1
        assert await retention.delete_runs(connection, before=before, limit=100) == [old]
    assert await left_of(database, old) == {}
    assert (await left_of(database, young))["tasks"] == 1


async def test_retention_leaves_a_run_whose_task_lives(database: Database) -> None:
    """Until that has ended."""
    run = await create_run(database)
    orchestrator = Orchestrator(database, run)
    await orchestrator.begin()
    await orchestrator.start("a")
    await orchestrator.finish(RunStatus.FAILED)
    await age(database, run, 10)
    async with database.begin("test") as connection:
        assert await retention.delete_runs(connection, before=datetime.now(UTC) - 5 * DAY, limit=100) == []


async def test_an_attachment_that_a_member_names_is_kept(database: Database) -> None:
    """Also before there is a task that names it; with its run it may go."""
    attachment, moment = AttachmentId(new_id()), datetime.now(UTC)
    async with database.begin("test") as connection:
        await attachments.add(
            connection,
            attachment=attachment,
            project=DEFAULT_PROJECT,
            name="a",
            media_type="text/plain",
            blob=await blob(database),
        )
    task = {"command": ["true"], "attachments": [attachment]}
    run = await create_run(database, {"members": [{"name": "a", "task": task}]})
    later = moment + DAY
    async with database.begin("test") as connection:
        assert await retention.delete_attachments(connection, before=later, limit=100) == 0
    await cancel(database, run)
    assert await delete(database, run) is Deletion.DELETED
    async with database.begin("test") as connection:
        assert await retention.delete_attachments(connection, before=later, limit=100) == 1


async def test_a_large_run_is_cancelled_at_once_too(database: Database) -> None:
    """2,000 members that wait: each has its end in the log."""
    members = [{"name": f"m{n}", "task": {"command": ["true"]}} for n in range(2000)]
    run = await create_run(database, {"members": members})
    assert (await cancel(database, run)).outcome is Outcome.APPLIED
    assert len(await log_of(database, run)) == 2003
    assert set((await members_of(database, run)).values()) == {"cancelled"}
