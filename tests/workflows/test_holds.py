"""Pause and resume: held at once in a wait, else when the step has ended, and nothing is lost meanwhile."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from domain.lifecycle import Step
from domain.messages import Followup
from domain.names import DEFAULT_PROJECT, SignalName, UpdateName
from domain.policy import Policy
from domain.runner import RunnerInput
from domain.spec import TaskSpec
from store.steering import Refusal
from tests.workflows.scenes import BLOCKING, CLAIMED, FAILED, FINISHED, READY, external, scene
from tests.workflows.stage import Running, Stage
from tests.workflows.steering import ask_pause, held, pause, resume, where

HOUR = timedelta(hours=1)
WAITS = (Step.WORKSPACE_DISPATCH, Step.WORKSPACE_READY, Step.AWAITING_FOLLOWUP)
FACT = {
    Step.WORKSPACE_DISPATCH: SignalName.WORKSPACE_CLAIMED,
    Step.WORKSPACE_READY: SignalName.WORKSPACE_READY,
    Step.RUNNING: SignalName.WORKSPACE_FINISHED,
}


@pytest.mark.parametrize("step", WAITS)
async def test_a_wait_is_held_at_once(stage: Stage, step: Step) -> None:
    """The answer names token and step, the row has them too; resumed, the task completes."""
    task = await external(stage, step)
    hold = await pause(task)
    row = await task.row()
    assert hold is not None
    assert (row["paused"], row["pause_token"], row["pause_reason"], row["step"]) == (True, hold.token, "lunch", step)
    assert (hold.at, hold.step, row["status"]) == ("wait", step, row["status"])
    assert await resume(task) is None
    for signal in (SignalName.WORKSPACE_READY, SignalName.WORKSPACE_FINISHED):
        await task.signal(signal)
    if step is Step.AWAITING_FOLLOWUP:
        await task.handle.execute_update(UpdateName.CLOSE)
    row = await task.end()
    assert (row["status"], row["paused"], row["pause_token"], row["pause_reason"]) == ("completed", False, None, None)
    story = await task.story()
    assert [kind for kind in story if "pause" in kind or "resume" in kind] == [
        *("task.pause_requested", "task.paused", "task.resumed"),
    ]


@pytest.mark.parametrize("step", [Step.WORKSPACE_DISPATCH, Step.WORKSPACE_READY])
async def test_what_arrives_meanwhile_is_kept(stage: Stage, step: Step) -> None:
    """A fact that comes to a held wait moves nothing, and is seen on resume."""
    task = await external(stage, step)
    await pause(task)
    await task.signal(FACT[step])
    assert await task.stage.gateway.pause(task.task, 1) is not None  # the signal was handled before this update
    assert (await task.row())["step"] == step
    await resume(task)
    await task.until("running" if step is Step.WORKSPACE_READY else "workspace_ready")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    assert (await task.end())["status"] == "completed"


async def test_a_failure_that_arrives_meanwhile_is_kept_too(stage: Stage) -> None:
    """Failed, but only after somebody resumed it."""
    task = await external(stage, Step.WORKSPACE_READY)
    await pause(task)
    await task.signal(SignalName.WORKSPACE_FAILED)
    assert await task.stage.gateway.pause(task.task, 1) is not None
    await resume(task)
    row = await task.end()
    assert (row["status"], row["error"]["code"]) == ("failed", "workspace_failed")


async def test_a_message_that_arrives_meanwhile_is_the_next_turn(stage: Stage) -> None:
    """Turn 2, after the resume."""
    task = await external(stage, Step.AWAITING_FOLLOWUP)
    await pause(task)
    assert await task.handle.execute_update(UpdateName.FOLLOWUP, Followup(message="go on")) == 2
    assert (await task.row())["step"] == "awaiting_followup"
    await resume(task)
    await task.until("running")
    await task.signal(SignalName.WORKSPACE_FAILED)
    await task.end()


async def test_a_running_command_is_not_held_but_the_task_after_it(stage: Stage) -> None:
    """None at first; held after `running`, when the command has ended, and completed after the resume."""
    task = await external(stage, Step.RUNNING)
    assert await pause(task) is None
    assert (await task.row())["paused"] is False
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0, result="well")
    await held(task)
    assert await where(task) == [("after", "running")]
    await resume(task)
    row = await task.end()
    assert (row["status"], row["result"]) == ("completed", "well")


async def test_a_command_that_fails_ends_the_attempt_all_the_same(stage: Stage) -> None:
    """Failed at once: cleanup is not held."""
    task = await external(stage, Step.RUNNING)
    await ask_pause(task)
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=1)
    row = await task.end()
    assert (row["status"], row["pause_token"], await where(task)) == ("failed", None, [])


@pytest.mark.parametrize("step", [step for step in BLOCKING if step is not Step.CLEANUP])
async def test_an_effect_on_a_node_ends_before_the_task_is_held(stage: Stage, step: Step) -> None:
    """Requested while the node works, held after it."""
    async with scene(stage, step) as at:
        assert await pause(at.task) is None
        at.gate.opened.set()
        await held(at.task)
        assert await where(at.task) == [("after", step)]
        await resume(at.task)
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        assert (await at.task.end())["status"] == "completed"
        await at.assert_clean()


async def test_cleanup_is_never_held(stage: Stage) -> None:
    """None, and completed without a resume."""
    async with scene(stage, Step.CLEANUP) as at:
        assert await pause(at.task) is None
        at.gate.opened.set()
        row = await at.task.end()
        assert (row["status"], row["pause_token"], await where(at.task)) == ("completed", None, [])


async def test_the_clock_of_a_wait_stops(stage: Stage) -> None:
    """Held for longer than the wait's whole budget, it has its remainder left afterwards."""
    timeouts = {"workspace_ready": 2}
    task = await external(stage, Step.WORKSPACE_READY, timeouts=timeouts)
    hold = await pause(task)
    assert hold is not None
    await stage.until(f"SELECT clock_timestamp() > '{hold.since + timedelta(seconds=2.5)}'")
    await resume(task)
    assert await task.stage.gateway.pause(task.task, 1) is None  # it looked, and goes on
    assert (await task.row())["step"] == "workspace_ready"
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    row = await task.end()
    assert row["status"] == "completed"
    resumed = next(event for event in await task.events() if event.type == "task.resumed")
    assert resumed.data["paused_seconds"] >= 2.4


@pytest.mark.parametrize("provider", ["external", "local"])
async def test_a_task_that_was_paused_before_its_start_holds_at_once(stage: Stage, provider: str) -> None:
    """Held before `node_selection`: nothing is reserved until somebody resumes it."""
    async with stage.node(slots=1) as node:
        body: dict[str, Any] = {"provider": provider, "node_labels": {"node": node.id} if provider == "local" else {}}
        task = Running(stage, await stage.create(**body))
        token = await ask_pause(task)
        await stage.begin(task, **body)
        row = await held(task)
        assert (row["pause_token"], row["step"], await task.holds()) == (token, "node_selection", 0)
        await resume(task)
        await task.until("workspace_dispatch" if provider == "external" else "workspace_ready")
        await task.handle.cancel()
        assert (await task.end())["status"] == "cancelled"


async def test_a_start_that_knows_nothing_of_a_pause_hears_of_it_by_its_first_write(stage: Stage) -> None:
    """Held after `workspace_creation`, when the start was made before the pause and its signal is lost."""
    task = Running(stage, await stage.create(provider="external"))
    await ask_pause(task, told=False)
    spec = TaskSpec.model_validate({"command": ["true"], "provider": "external"})
    argument = RunnerInput(task_id=task.task, attempt=1, project=DEFAULT_PROJECT, spec=spec, policy=stage.policy)
    await stage.gateway.start(argument)
    await held(task)
    assert await where(task) == [("after", "workspace_creation")]
    await resume(task)
    await task.until("workspace_dispatch")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    assert (await task.end())["status"] == "completed"


async def test_a_start_that_knows_of_a_pause_that_is_over_goes_on(stage: Stage) -> None:
    """Not held, and no hold in the log: the row has the last word."""
    task = Running(stage, await stage.create(provider="external"))
    token = await ask_pause(task, told=False)
    assert await resume(task, told=False) is None
    spec = TaskSpec.model_validate({"command": ["true"], "provider": "external"})
    argument = RunnerInput(task_id=task.task, attempt=1, project=DEFAULT_PROJECT, spec=spec, pause=token)
    await stage.gateway.start(argument)
    await task.until("workspace_dispatch")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    assert ((await task.end())["status"], await where(task)) == ("completed", [])


async def test_only_the_holds_own_token_ends_it(stage: Stage) -> None:
    """STALE_TOKEN for another one, NOT_PAUSED when there is none; of two at once one is taken."""
    task = await external(stage, Step.WORKSPACE_READY)
    assert await resume(task, "x") is Refusal.NOT_PAUSED
    hold = await pause(task)
    assert hold is not None
    assert await resume(task, "x") is Refusal.STALE_TOKEN
    assert (await task.row())["paused"] is True
    answers = await asyncio.gather(*(resume(task, hold.token) for _ in range(2)))
    assert set(answers) == {None, Refusal.NOT_PAUSED}
    again = await pause(task)
    assert again is not None
    assert again.token != hold.token
    assert await resume(task, hold.token) is Refusal.STALE_TOKEN
    assert (await task.story()).count("task.resumed") == 1
    await task.handle.cancel()
    await task.end()


async def test_asked_again_it_is_the_same_pause(stage: Stage) -> None:
    """One token, one event, the first reason."""
    task = await external(stage, Step.WORKSPACE_READY)
    tokens = await asyncio.gather(*(ask_pause(task, f"reason {number}") for number in range(5)))
    assert len(set(tokens)) == 1
    await held(task)
    assert (await task.story()).count("task.pause_requested") == 1
    await resume(task)
    await task.signal(SignalName.WORKSPACE_FAILED)
    await task.end()


async def test_a_cancel_ends_a_hold_at_once(stage: Stage) -> None:
    """Cancelled, and nothing is held any more."""
    async with scene(stage, Step.WORKSPACE_READY) as at:
        await pause(at.task)
        await at.task.cancel()
        row = await at.task.end()
        assert (row["status"], row["paused"], row["pause_token"]) == ("cancelled", False, None)
        await at.assert_clean()


async def test_a_cancel_that_is_only_stored_is_seen_with_the_next_look(stage: Stage) -> None:
    """Cancelled by the look that somebody else's command causes."""
    task = await external(stage, Step.WORKSPACE_READY)
    await pause(task)
    await stage.execute("UPDATE tasks SET cancel_requested_at = now() WHERE id = :id", id=task.task)
    await task.handle.signal(str(SignalName.TASK_STEERED))
    assert (await task.end())["status"] == "cancelled"


async def test_the_next_attempt_stays_paused(stage: Stage) -> None:
    """A pause that came too late for attempt 1 holds attempt 2 before its first step."""
    task = await external(stage, Step.RUNNING, retry={"max_attempts": 2, "backoff": 0.01, "on": ["workspace"]})
    token = await ask_pause(task)
    await task.signal(SignalName.WORKSPACE_FAILED)
    await task.end()
    second = Running(stage, task.task, attempt=2)
    row = await held(second)
    assert (row["attempt"], row["pause_token"], row["step"]) == (2, token, "node_selection")
    await second.handle.cancel()
    row = await second.end()
    assert (row["status"], row["pause_token"]) == ("cancelled", None)


async def test_who_is_held_for_too_long_fails(stage: Stage) -> None:
    """Failed with cap_paused, for good; the row had said until when."""
    policy = Policy.model_validate({"budgets": {"paused": 0.5}})
    task = await external(stage, Step.WORKSPACE_READY, policy=policy, retry={"max_attempts": 3})
    await ask_pause(task)
    row = await held(task)
    assert timedelta(seconds=0.4) < row["paused_until"] - row["paused_at"] < timedelta(seconds=0.6)
    row = await task.end()
    error = row["error"]
    assert (row["status"], error["code"], error["category"], error["retryable"]) == (
        *("failed", "cap_paused", "timeout", False),
    )
    assert (row["paused"], row["attempt"]) == (False, 1)


async def test_all_holds_of_an_attempt_count(stage: Stage) -> None:
    """The second hold's end is nearer by the length of the first."""
    task = await external(stage, Step.WORKSPACE_READY)
    first = await pause(task)
    await resume(task)
    assert await stage.gateway.pause(task.task, 1) is None  # it goes on
    second = await pause(task)
    assert first is not None
    assert second is not None
    rows = [event for event in await task.events() if event.type == "task.paused"]
    cap = timedelta(hours=72)
    assert rows[0].data["until"] == (first.since + cap).isoformat()
    assert rows[1].data["until"] < (second.since + cap).isoformat()
    await task.handle.cancel()
    await task.end()


async def test_a_resume_whose_signal_is_lost_is_found_when_time_is_up(stage: Stage) -> None:
    """The task goes on instead of failing."""
    policy = Policy.model_validate({"budgets": {"paused": 1.5}})
    task = await external(stage, Step.WORKSPACE_READY, policy=policy)
    await pause(task)
    assert await resume(task, told=False) is None
    await task.signal(SignalName.WORKSPACE_READY)
    await task.until("running")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    assert (await task.end())["status"] == "completed"


async def test_a_default_task_looks_for_no_pause(stage: Stage) -> None:
    """Three writes, as ever."""
    task = await stage.start(provider="external", told=[CLAIMED, READY, FINISHED])
    await task.end()
    flushes = await task.flushes()
    assert len(flushes) == 3
    assert FAILED.kind not in flushes
