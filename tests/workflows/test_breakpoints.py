"""Breakpoints: before, after, and after each step; passed once per visit."""

import pytest

from domain.lifecycle import Step
from domain.messages import Followup
from domain.names import SignalName, UpdateName
from tests.workflows.scenes import CLAIMED, FINISHED, READY, external
from tests.workflows.stage import Running, Stage
from tests.workflows.steering import ask_pause, held, resume, set_breakpoints, where

HOLDABLE = [step for step in Step if step is not Step.CLEANUP]
SIDES = [(side, step) for side in ("before", "after") for step in HOLDABLE]


async def run_through(task: Running) -> list[tuple[str, str | None]]:
    """Resume a task wherever it is held until it ends; returns where it was."""
    last: str | None = None
    while True:
        try:
            row = await held(task, but=last)
        except AssertionError:
            await task.end()
            return await where(task)
        last = row["pause_token"]
        await resume(task, last)


@pytest.mark.parametrize(("side", "step"), SIDES)
async def test_every_step_has_two_sides(stage: Stage, side: str, step: Step) -> None:
    """Held there once, also at a step that has nothing to do, and completed after one resume."""
    task = await stage.start(provider="external", told=[CLAIMED, READY, FINISHED], breakpoints={side: [step]})
    row = await held(task)
    assert (row["pause_reason"], await where(task)) == (f"breakpoint {side} {step}", [(side, step)])
    await resume(task)
    assert (await task.end())["status"] == "completed"
    assert await where(task) == [(side, step)]


async def test_each_step_is_every_step_that_had_something_to_do(stage: Stage) -> None:
    """Four holds of an external task: it skips all others."""
    task = await stage.start(provider="external", told=[CLAIMED, READY, FINISHED], breakpoints={"each_step": True})
    steps = ("workspace_creation", "workspace_dispatch", "workspace_ready", "running")
    assert await run_through(task) == [("after", step) for step in steps]
    assert (await task.row())["status"] == "completed"


async def test_each_visit_holds_anew(stage: Stage) -> None:
    """Once in each of two turns, by another token."""
    task = await stage.start(
        provider="external", told=[CLAIMED, READY, FINISHED], followup=True, breakpoints={"before": ["running"]}
    )
    first = (await held(task))["pause_token"]
    await resume(task)
    await task.until("awaiting_followup")
    await task.handle.execute_update(UpdateName.FOLLOWUP, Followup(message="go on"))
    second = (await held(task, but=first))["pause_token"]
    assert second != first
    await resume(task)
    await task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=1)
    assert (await task.end())["status"] == "failed"
    assert await where(task) == [("before", "running")] * 2


async def test_a_pause_at_a_breakpoint_is_one_hold(stage: Stage) -> None:
    """The pause's token holds, and one resume is enough for both."""
    task = Running(stage, await stage.create(provider="external", breakpoints={"before": ["node_selection"]}))
    token = await ask_pause(task)
    await stage.begin(task, provider="external", breakpoints={"before": ["node_selection"]})
    assert (await held(task))["pause_token"] == token
    await resume(task)
    await task.until("workspace_dispatch")
    assert await where(task) == [("before", "node_selection")]
    await task.handle.cancel()
    await task.end()


async def test_breakpoints_that_come_later_hold_too_and_those_that_were_taken_away_do_not(stage: Stage) -> None:
    """Set during one wait and replaced in the next: only what is set when the place is reached counts."""
    task = await external(stage, Step.WORKSPACE_DISPATCH, breakpoints={"after": ["workspace_ready"]})
    await set_breakpoints(task, after=[Step.WORKSPACE_DISPATCH])
    await task.signal(SignalName.WORKSPACE_READY)
    await held(task)
    await set_breakpoints(task)
    assert (await task.row())["paused"] is True
    await resume(task)
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    assert (await task.end())["status"] == "completed"
    assert await where(task) == [("after", "workspace_dispatch")]
