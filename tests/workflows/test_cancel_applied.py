"""A cancel, asked for as the API does it, in every step: the attempt ends in time, and nothing is left to force."""

import asyncio

import pytest

from domain.lifecycle import STEP_ORDER, Step
from domain.names import SignalName
from store import tasks
from store.commands import Outcome
from tests.workflows.scenes import BLOCKING, EXTERNAL_WAITS, LOCAL_WAITS, external, scene
from tests.workflows.stage import Running, Stage
from tests.workflows.test_cancel import IDLE, IN_SQL
from tests.workflows.test_cancel_forced import BLOCKED, intents

AT_ONCE = 4.0  # seconds; less than the deadline


def test_every_step_is_cancelled_here() -> None:
    """The table's steps: those that wait, those that block, those that are in SQL, and the one that is never long."""
    assert {*LOCAL_WAITS, *EXTERNAL_WAITS, *BLOCKED, *IN_SQL} | IDLE == set(STEP_ORDER)


@pytest.mark.parametrize("step", [step for step in (*LOCAL_WAITS, *BLOCKING) if step is not Step.CLEANUP])
async def test_a_local_task_is_cancelled_at_once(stage: Stage, step: Step) -> None:
    """Applied, also while a call on the node hangs: long before the deadline, and nothing is left to force."""
    async with scene(stage, step) as at:
        assert await at.task.cancel() is Outcome.REQUESTED
        async with asyncio.timeout(AT_ONCE):
            row = await at.task.end()
        assert (row["status"], row["error"]["code"], row["error"]["step"]) == ("cancelled", "cancelled", step)
        await at.assert_clean()
        assert await at.task.cancel() is Outcome.REPEATED


@pytest.mark.parametrize("step", EXTERNAL_WAITS)
async def test_an_external_task_is_cancelled_at_once(stage: Stage, step: Step) -> None:
    """Applied."""
    task = await external(stage, step)
    await task.cancel()
    row = await task.end()
    assert (row["status"], row["error"]["code"], await task.holds()) == ("cancelled", "cancelled", 0)


async def test_the_temporal_uis_button_has_the_same_effect(stage: Stage) -> None:
    """Row and log are the same, but for the request that only ours has."""
    stories, rows = [], []
    for ours in (True, False):
        async with scene(stage, Step.RUNNING) as at:
            await (at.task.cancel() if ours else at.task.handle.cancel())
            row = await at.task.end()
            error = {name: row["error"][name] for name in ("code", "category", "message", "step", "guidance")}
            rows.append((row["status"], row["outcome"], error))
            stories.append([event for event in await at.task.story() if event != "task.cancel_requested"])
            await at.assert_clean()
    assert rows[0] == rows[1]
    assert stories[0] == stories[1]


async def test_between_two_attempts_a_cancel_is_applied_at_once(stage: Stage) -> None:
    """The next attempt's start is taken back in the transaction that cancels."""
    async with scene(stage, Step.RUNNING, retry={"max_attempts": 2, "backoff": 1000}) as at:
        await at.task.signal(SignalName.WORKSPACE_FAILED)
        await at.task.end()
        assert await at.task.cancel() is Outcome.APPLIED
        row = await at.task.row()
        assert (row["status"], row["attempt"], await intents(at.task)) == ("cancelled", 2, "")
        await at.assert_clean()


async def test_twenty_cancels_at_once_are_one(stage: Stage) -> None:
    """One request, one end; each of the twenty is told how it is by then."""
    async with scene(stage, Step.RUNNING) as at:
        outcomes = await asyncio.gather(*(at.task.cancel() for _ in range(20)))
        assert outcomes.count(Outcome.REQUESTED) >= 1
        assert set(outcomes) <= {Outcome.REQUESTED, Outcome.REPEATED}
        await at.task.end()
        story = await at.task.story()
        assert (story.count("task.cancel_requested"), story.count("task.cancelled")) == (1, 1)
        assert await asyncio.gather(*(at.task.cancel() for _ in range(20))) == [Outcome.REPEATED] * 20
        await at.assert_clean()


# --- no next attempt ------------------------------------------------------------------------------------------------


async def test_a_cancel_that_comes_before_the_retry_is_written_prevents_it(stage: Stage) -> None:
    """Cancelled at attempt 1: only the mirror knew of the cancel, and the last flush was withheld for it."""
    async with scene(stage, Step.RUNNING, retry={"max_attempts": 3, "backoff": 0.001}) as at:
        at.node.script["destroy_workspace"] = at.gate
        await at.task.signal(SignalName.WORKSPACE_FAILED)
        await at.task.until("cleanup")
        await stage.execute("UPDATE tasks SET cancel_requested_at = now() WHERE id = :id", id=at.task.task)
        at.gate.opened.set()
        row = await at.task.end()
        assert (row["status"], row["attempt"], row["error"]["code"]) == ("cancelled", 1, "cancelled")
        story = await at.task.story()
        assert (story.count("attempt.cleaned"), "attempt.failed" in story) == (1, False)
        await at.assert_clean()


async def test_a_start_of_an_attempt_that_has_ended_is_not_sent(stage: Stage) -> None:
    """None: neither of an older attempt nor of one that is over."""
    task = Running(stage, await stage.create())
    async with stage.database.read() as connection:
        assert await tasks.start_argument(connection, task.task, 2) is None
        assert await tasks.start_argument(connection, task.task, 1) is not None
    await stage.execute("UPDATE tasks SET status = 'cancelled' WHERE id = :id", id=task.task)
    async with stage.database.read() as connection:
        assert await tasks.start_argument(connection, task.task, 1) is None
