"""A hold outlives what happens meanwhile: workers that die, a history that grows long, days that pass."""

import asyncio
from datetime import timedelta
from typing import Final

import pytest
from temporalio.client import WorkflowFailureError

from domain.lifecycle import Step
from domain.messages import Hold
from domain.names import SignalName
from tests.workflows.scenes import CLAIMED, READY, external
from tests.workflows.stage import Running, Stage
from tests.workflows.steering import ask_pause, held, pause, resume, where
from tests.workflows.test_fencing import mortal
from tests.workflows.test_renewal import SHORT, assert_whole, pad, renewed

HOUR: Final = timedelta(hours=1)


@pytest.mark.parametrize("step", [Step.WORKSPACE_DISPATCH, Step.WORKSPACE_READY, Step.AWAITING_FOLLOWUP])
async def test_a_held_wait_continues_as_new(stage: Stage, step: Step) -> None:
    """Held still, by the same token and with one event; resumed, it goes on."""
    task = await external(stage, step, policy=SHORT)
    hold = await pause(task)
    assert hold is not None
    await pad(task)
    await renewed(task)
    assert (await held(task))["pause_token"] == hold.token
    after = await stage.gateway.pause(task.task, 1)
    assert after == hold
    await task.signal(SignalName.WORKSPACE_FAILED)
    await resume(task)
    row = await task.end()
    assert (row["error"]["code"], await where(task)) == ("workspace_failed", [("wait", step)])
    await assert_whole(task)


async def test_a_hold_after_the_last_step_continues_as_new(stage: Stage) -> None:
    """The step is not visited again: completed with its result."""
    task = await external(stage, Step.RUNNING, policy=SHORT)
    assert await pause(task) is None  # it has heard of it, and holds when the step has ended
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0, result=42)
    await held(task)
    await pad(task)
    await renewed(task)
    await resume(task)
    row = await task.end()
    assert (row["status"], row["result"], await where(task)) == ("completed", 42, [("after", "running")])
    await assert_whole(task)


@pytest.mark.parametrize("provider", ["external", "local"])
async def test_a_hold_between_two_steps_of_one_write_continues_as_new(stage: Stage, provider: str) -> None:
    """After `workspace_creation`, though the next step has begun in the log: that is visited once."""
    async with stage.node(slots=1) as node:
        labels = {"node": node.id} if provider == "local" else {}
        breakpoints = {"after": ["workspace_creation"]}
        task = await stage.start(provider=provider, node_labels=labels, breakpoints=breakpoints, policy=SHORT)
        await held(task)
        await pad(task)
        await renewed(task)
        assert not node.calls["create_workspace"]
        await resume(task)
        await task.until("workspace_ready" if provider == "local" else "workspace_dispatch")
        await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        assert (await task.end())["status"] == "completed"
        assert await where(task) == [("after", "workspace_creation")]
        await assert_whole(task)


async def test_a_pause_and_its_end_while_no_worker_runs(bare_stage: Stage) -> None:
    """Held by the worker that comes first, and let go by the next: both were only stored."""
    async with bare_stage.worker():
        task = await external(bare_stage, Step.WORKSPACE_READY)
    token = await ask_pause(task)
    assert await bare_stage.gateway.pause(task.task, 1) is None
    async with bare_stage.worker():
        assert (await held(task))["pause_token"] == token
    assert await resume(task) is None
    async with bare_stage.worker():
        await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        assert (await task.end())["status"] == "completed"
    assert await where(task) == [("wait", "workspace_ready")]


@pytest.mark.parametrize("resumed", [False, True], ids=["held", "resumed"])
async def test_a_worker_that_dies_with_the_hold_just_written(
    bare_stage: Stage,
    temporal_address: str,
    resumed: bool,  # noqa: FBT001
) -> None:
    """One event of it, though the next worker writes it again; not held again if it was resumed meanwhile."""
    async with bare_stage.worker():
        task = await external(bare_stage, Step.WORKSPACE_READY)
    await ask_pause(task)
    async with mortal(bare_stage, temporal_address, "flush", 2) as process:
        assert await process.wait() == -9
    await held(task)
    if resumed:
        await resume(task)
    async with bare_stage.worker():
        if not resumed:
            assert await asked(task) is not None
            await resume(task)
        await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        assert (await task.end())["status"] == "completed"
    assert (await task.story()).count("task.paused") == 1


async def asked(task: Running) -> Hold | None:
    """Ask what holds a task; a worker that has just come may need a while."""
    async with asyncio.timeout(20):
        while (hold := await task.stage.gateway.pause(task.task, 1)) is None:
            pass
    return hold


async def test_days_of_a_hold_cost_a_wait_nothing(skipping_stage: Stage) -> None:
    """71 hours later the wait's half hour is left, and runs out then."""
    environment = skipping_stage.environment
    with environment.with_time_skipping_disabled():
        task = await external(skipping_stage, Step.WORKSPACE_READY)
        first = await pause(task)
    assert await environment.fast_forward(task.handle, 71 * HOUR)
    assert await skipping_stage.gateway.pause(task.task, 1) == first
    await resume(task)
    assert await skipping_stage.gateway.pause(task.task, 1) is None
    await environment.fast_forward(task.handle)
    row = await task.end()
    assert (row["status"], row["error"]["code"]) == ("failed", "workspace_ready_timeout")
    events = await task.events()
    began = next(event.ts for event in events if event.step == "workspace_ready")
    assert 71.5 * HOUR <= events[-1].ts - began < 71.6 * HOUR


async def test_three_days_are_the_most(skipping_stage: Stage) -> None:
    """Failed with cap_paused 72 hours after the hold began."""
    task = await skipping_stage.start(
        provider="external", told=[CLAIMED, READY], breakpoints={"after": ["workspace_ready"]}
    )
    row = await task.end()
    assert (row["status"], row["error"]["code"], row["error"]["step"]) == ("failed", "cap_paused", "workspace_ready")
    events = await task.events()
    paused = next(event.ts for event in events if event.type == "task.paused")
    assert 72 * HOUR <= events[-1].ts - paused < 72.1 * HOUR


async def test_a_sweep_leaves_a_held_task_alone(stage: Stage) -> None:
    """Held before the sweep and after it, though nothing has moved for longer than its wait may last."""
    task = await external(stage, Step.WORKSPACE_READY)
    hold = await pause(task)
    await stage.execute(
        "UPDATE tasks SET updated_at = updated_at - interval '2 h', step_started_at = step_started_at - interval '2 h'"
        " WHERE id = :id",
        id=task.task,
    )
    report = await stage.sweep()
    assert [action for action, ids in report.ids.items() if task.task in ids] == []
    assert await stage.gateway.pause(task.task, 1) == hold
    await task.handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await task.handle.result()
