"""A retry by hand beside what the old attempt's workflow still does."""

from datetime import UTC, datetime, timedelta
from typing import Any

from activities.dispatch import LEASE
from domain.events import EventType
from domain.lifecycle import Step
from domain.names import DEFAULT_PROJECT, SignalName
from store import retries
from tests.workflows.scenes import READY, external, scene
from tests.workflows.stage import Running, Stage
from tests.workflows.test_retries import fail


async def retry(task: Running, **options: Any) -> Running:
    """Retry as the API does, and hand a start that is due to the dispatcher; returns the next attempt."""
    stage = task.stage
    async with stage.database.begin("test") as connection:
        retried = await retries.retry(
            connection,
            DEFAULT_PROJECT,
            task.task,
            from_attempt=task.attempt,
            agent_lease=timedelta(seconds=0.5),
            now=datetime.now(UTC),
            lease_to=stage.dispatcher.name,
            lease=LEASE,
            **options,
        )
    assert retried is not None
    assert retried.refused is None
    if retried.intent is not None:
        stage.dispatcher.send(retried.intent)
    return Running(stage, task.task, task.attempt + 1)


async def test_a_cancelled_task_completes_after_a_retry(stage: Stage) -> None:
    """The cancel of attempt 1 does not reach attempt 2, which completes in a workspace of its own."""
    async with scene(stage, Step.RUNNING) as at:
        await at.task.handle.cancel()
        row = await at.task.end()
        assert row["status"] == "cancelled"
        again = await retry(at.task)
        await again.tell(READY)
        await again.until("running")
        await again.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        row = await again.end()
        assert (row["status"], row["attempt"], row["error"]) == ("completed", 2, None)
        assert len({order.workspace_id for order in at.node.calls["create_workspace"]}) == 2
        await at.assert_clean()


async def test_an_old_attempt_that_still_runs_writes_nothing_and_holds_nothing_in_the_end(stage: Stage) -> None:
    """Attempt 1 was ended from outside while it was stuck; it wakes beside attempt 2, cleans up and says nothing."""
    async with scene(stage, Step.AGENT_SESSION) as at:
        await stage.execute("UPDATE tasks SET status = 'cancelled' WHERE id = :id", id=at.task.task)
        await stage.set_slots(at.node, 2)
        del at.node.script["start_agent"]
        again = await retry(at.task)
        await again.until("workspace_ready")
        await again.signal(SignalName.WORKSPACE_READY)
        await again.until("running")
        before = await again.story()
        at.gate.opened.set()
        released = "SELECT count(*) = 2 FROM ledger WHERE task_id = '{}' AND state = 'released'"
        await stage.until(released.format(at.task.task))
        assert await again.story() == before
        assert at.node.workspaces == {again.workspace}
        await again.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        await again.handle.result()
        row = await again.row()
        assert (row["status"], row["attempt"]) == ("completed", 2)
        await at.assert_clean()


async def test_a_retry_beyond_the_tries_is_one_attempt(stage: Stage) -> None:
    """max_attempts counts all attempts: after the last try a retry by hand has no other behind it, and says so."""
    task = await external(stage, Step.RUNNING, retry={"max_attempts": 2, "backoff": 0.1})
    await fail(task)
    last = Running(stage, task.task, 2)
    await last.until("workspace_dispatch")
    row = await fail(last)
    assert (row["status"], row["attempt"], row["exhausted"]) == ("failed", 2, True)
    beyond = await retry(last)
    row = await beyond.until("workspace_dispatch")
    assert row["exhausted"] is False
    row = await fail(beyond)
    assert (row["status"], row["attempt"], row["exhausted"]) == ("failed", 3, True)
    assert (await beyond.story()).count(EventType.TASK_RETRIES_EXHAUSTED) == 2
