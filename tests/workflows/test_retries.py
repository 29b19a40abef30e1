"""When an attempt fails: another one follows where that can help, through the outbox like every start."""

from typing import Any

import pytest
from sqlalchemy import text

from domain.errors import TRANSIENT_CATEGORIES, Category
from domain.events import EventType
from domain.lifecycle import Step
from domain.names import SignalName, workflow_id
from tests.workflows.scenes import external, scene
from tests.workflows.stage import Running, Stage

AGAIN = {"max_attempts": 2, "backoff": 0.2}


def second(task: Running) -> Running:
    """The next attempt of a task."""
    return Running(task.stage, task.task, task.attempt + 1)


async def fail(task: Running, category: Category = Category.WORKSPACE) -> dict[str, Any]:
    """Let the workspace say that it failed; returns the row after the attempt."""
    error = {"code": "broken", "message": "It broke.", "category": category}
    retryable = category in TRANSIENT_CATEGORIES
    await task.signal(SignalName.WORKSPACE_FAILED, error=error | {"retryable": retryable})
    return await task.end()


async def test_the_next_attempt_is_started_and_completes(stage: Stage) -> None:
    """Completed at attempt 2, in a workspace of its own, by a workflow of its own."""
    async with scene(stage, Step.RUNNING, retry=AGAIN) as at:
        row = await fail(at.task)
        assert (row["status"], row["attempt"], row["workspace_id"]) == ("queued", 2, None)
        again = second(at.task)
        await again.until("workspace_ready")
        await again.signal(SignalName.WORKSPACE_READY)
        await again.until("running")
        await again.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        row = await again.end()
        assert (row["status"], row["attempt"], row["error"]) == ("completed", 2, None)
        first, other = at.node.calls["create_workspace"]
        assert first.workspace_id != other.workspace_id
        kinds = [event.type for event in await again.events() if event.type.startswith(("attempt.", "task."))]
        assert kinds == [
            EventType.TASK_CREATED,
            EventType.TASK_QUEUED,
            EventType.ATTEMPT_STARTED,
            EventType.TASK_DELEGATED,
            EventType.TASK_STARTED,
            EventType.ATTEMPT_CLEANED,
            EventType.ATTEMPT_FAILED,
            EventType.TASK_QUEUED,
            EventType.ATTEMPT_STARTED,
            EventType.TASK_DELEGATED,
            EventType.TASK_STARTED,
            EventType.ATTEMPT_CLEANED,
            EventType.TASK_COMPLETED,
        ]
        await at.assert_clean()


async def test_the_next_start_waits_for_its_time(stage: Stage) -> None:
    """One start intent, committed with the end, due after the backoff with its jitter."""
    task = await external(stage, Step.RUNNING, retry={"max_attempts": 2, "backoff": 1000})
    await fail(task)
    query = text("SELECT kind, attempt, extract(epoch FROM due_at - now()) AS due FROM outbox WHERE task_id = :id")
    async with stage.database.begin("test") as connection:
        intents = (await connection.execute(query, {"id": task.task})).all()
    assert [(intent.kind, intent.attempt) for intent in intents] == [("start", 2)]
    assert 450 < intents[0].due < 1550


async def test_the_last_try_says_so(stage: Stage) -> None:
    """Failed after attempt 2, with `task.retries_exhausted` just before."""
    task = await external(stage, Step.WORKSPACE_READY, retry=AGAIN)
    await fail(task)
    again = second(task)
    await again.until("workspace_dispatch")
    row = await fail(again)
    assert (row["status"], row["attempt"], row["error"]["code"]) == ("failed", 2, "broken")
    assert (await again.story())[-2:] == [EventType.TASK_RETRIES_EXHAUSTED, EventType.TASK_FAILED]
    assert await again.holds() == 0


@pytest.mark.parametrize("category", [category for category in Category if category is not Category.CANCELLED])
async def test_only_what_another_attempt_can_mend_is_tried_again(stage: Stage, category: Category) -> None:
    """Queued for the transient categories, failed for the others; exhausted is neither."""
    task = await external(stage, Step.RUNNING, retry={"max_attempts": 3, "backoff": 1000})
    row = await fail(task, category)
    transient = category in TRANSIENT_CATEGORIES
    assert (row["status"], row["attempt"]) == (("queued", 2) if transient else ("failed", 1))
    assert EventType.TASK_RETRIES_EXHAUSTED not in await task.story()


async def test_a_task_may_narrow_what_is_tried_again(stage: Stage) -> None:
    """failed: the category is not in the task's own list."""
    task = await external(stage, Step.RUNNING, retry={"max_attempts": 3, "on": ["timeout"]})
    row = await fail(task)
    assert (row["status"], row["attempt"]) == ("failed", 1)


async def test_a_task_may_ask_that_its_command_is_tried_again(stage: Stage) -> None:
    """Queued after a first exit with 1, failed after a second with `task.retries_exhausted`: `on` names `agent`."""
    task = await external(stage, Step.RUNNING, retry=AGAIN | {"on": ["agent"]})
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=1)
    row = await task.end()
    assert (row["status"], row["attempt"]) == ("queued", 2)
    again = second(task)
    await again.until("workspace_dispatch")
    await again.signal(SignalName.WORKSPACE_FINISHED, exit_code=1)
    row = await again.end()
    assert (row["status"], row["attempt"], row["error"]["code"]) == ("failed", 2, "nonzero_exit")
    assert (await again.story())[-2:] == [EventType.TASK_RETRIES_EXHAUSTED, EventType.TASK_FAILED]


async def test_a_cancel_between_attempts_is_obeyed_by_the_next(stage: Stage) -> None:
    """Cancelled at attempt 2, before it holds anything."""
    task = await external(stage, Step.RUNNING, retry={"max_attempts": 2, "backoff": 2})
    await fail(task)
    await stage.execute("UPDATE tasks SET cancel_requested_at = now() WHERE id = :id", id=task.task)
    again = second(task)
    await again.until(status="cancelled")
    row = await again.end()
    assert (row["status"], row["attempt"], await again.holds()) == ("cancelled", 2, 0)
    assert again.handle.id == workflow_id(task.task, 2)
