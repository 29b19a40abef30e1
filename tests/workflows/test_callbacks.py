"""What workspaces tell: early, twice, late, wrong, by hand or by inbox alone."""

import asyncio
from typing import Any

import pytest

from domain.lifecycle import Step
from domain.messages import CallbackSignal
from domain.names import CallbackKind, SignalName
from tests.workflows.scenes import CLAIMED, EXTERNAL_WAITS, FINISHED, LOCAL_WAITS, READY, external, scene
from tests.workflows.stage import Stage

SIGNALS = (
    SignalName.WORKSPACE_CLAIMED,
    SignalName.WORKSPACE_READY,
    SignalName.WORKSPACE_FAILED,
    SignalName.WORKSPACE_FINISHED,
    SignalName.SLOT_GRANTED,
    SignalName.NODE_READY,
)


async def test_a_ready_that_comes_early_is_kept(stage: Stage) -> None:
    """Running at once: the wait for ready returns what came before it began."""
    async with scene(stage, Step.WORKSPACE_DISPATCH) as at:
        await at.task.signal(SignalName.WORKSPACE_READY, details={"cores": 2})
        at.gate.opened.set()
        await at.task.until("running")
        ready = [event for event in await at.task.events() if event.type == "workspace.ready"]
        assert [event.data["details"] for event in ready] == [{"cores": 2}]


async def test_the_inbox_is_enough(stage: Stage) -> None:
    """completed: every signal was lost, and each flush's answer brought the callback from the inbox."""
    finished = FINISHED.model_copy(update={"result": {"answer": 42}})
    task = await stage.start(provider="external", told=[CLAIMED, READY, finished])
    row = await task.end()
    assert (row["status"], row["result"], await task.holds()) == ("completed", {"answer": 42}, 0)


async def test_the_inbox_is_read_on_entering_the_wait(stage: Stage) -> None:
    """running, by a callback that was committed while the workspace was being created, and whose signal was lost."""
    async with scene(stage, Step.WORKSPACE_DISPATCH) as at:
        await at.task.tell(READY)
        at.gate.opened.set()
        await at.task.until("running")


async def test_the_first_ready_wins(stage: Stage) -> None:
    """One `workspace.ready`, of the first callback: later ones change nothing, in the wait or after it."""
    task = await external(stage, Step.WORKSPACE_READY)
    await task.signal(SignalName.WORKSPACE_READY, details={"n": 1})
    await task.signal(SignalName.WORKSPACE_READY, details={"n": 2})
    await task.until("running")
    await task.signal(SignalName.WORKSPACE_READY, details={"n": 3})
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    row = await task.end()
    ready = [event.data["details"] for event in await task.events() if event.type == "workspace.ready"]
    assert (row["status"], ready) == ("completed", [{"n": 1}])


async def test_the_first_finish_wins(stage: Stage) -> None:
    """The first result counts."""
    task = await external(stage, Step.RUNNING)
    await asyncio.gather(*(task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0, result=7) for _ in range(5)))
    row = await task.end()
    assert (row["status"], row["result"], (await task.story()).count("agent.finished")) == ("completed", 7, 1)


async def test_finished_implies_ready(stage: Stage) -> None:
    """completed, by a single callback."""
    task = await stage.start(provider="external")
    await task.until("workspace_dispatch")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    row = await task.end()
    ready = [event.data for event in await task.events() if event.type == "workspace.ready"]
    assert (row["status"], ready[0]["details"]) == ("completed", {"implied_by": "finished"})


@pytest.mark.parametrize("step", EXTERNAL_WAITS)
async def test_failed_ends_every_wait_of_an_external_task(stage: Stage, step: Step) -> None:
    """Failed at that step, in the workspace's own words."""
    task = await external(stage, step)
    await task.signal(SignalName.WORKSPACE_FAILED, error={"code": "no_disk", "message": "The disk is full."})
    row = await task.end()
    error = row["error"]
    assert (row["status"], error["code"], error["category"], error["step"]) == ("failed", "no_disk", "workspace", step)
    assert error["guidance"]
    assert await task.holds() == 0


@pytest.mark.parametrize("step", LOCAL_WAITS)
async def test_failed_ends_every_wait_of_a_local_task(stage: Stage, step: Step) -> None:
    """failed, with nothing left behind."""
    async with scene(stage, step) as at:
        await at.task.signal(SignalName.WORKSPACE_FAILED)
        row = await at.task.end()
        assert (row["status"], row["error"]["code"], row["error"]["step"]) == ("failed", "workspace_failed", step)
        await at.assert_clean()


async def test_failed_counts_even_when_the_command_has_finished(stage: Stage) -> None:
    """failed: both were told before anybody looked."""
    failed = CallbackSignal(kind=CallbackKind.FAILED)
    task = await stage.start(provider="external", told=[CLAIMED, READY, FINISHED, failed])
    row = await task.end()
    assert (row["status"], row["error"]["code"]) == ("failed", "workspace_failed")


async def test_an_error_may_carry_any_context(stage: Stage) -> None:
    """failed, with the context as it was told: its keys are not our own words."""
    task = await external(stage, Step.RUNNING)
    context = {"code": 1, "message": "x", "category": "y", "retryable": 2, "self": 3, "attempt": 9}
    error = {"code": "agent_lost", "category": "agent", "message": "gone", "context": context}
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=3, error=error)
    row = await task.end()
    assert (row["status"], row["error"]["code"]) == ("failed", "agent_lost")
    assert row["error"]["context"].items() >= (context | {"exit_code": 3}).items()


@pytest.mark.parametrize(
    "name", [SignalName.WORKSPACE_READY, SignalName.WORKSPACE_FAILED, SignalName.WORKSPACE_FINISHED]
)
async def test_another_workspaces_word_is_ignored(stage: Stage, name: SignalName) -> None:
    """Still waiting for ready, until the right workspace speaks."""
    task = await external(stage, Step.WORKSPACE_READY)
    await task.signal(name, workspace_id="another", exit_code=0)
    await task.signal(SignalName.WORKSPACE_READY, workspace_id=task.workspace)
    await task.until("running")
    await task.signal(SignalName.WORKSPACE_FINISHED, workspace_id="another", exit_code=1)
    await task.signal(SignalName.WORKSPACE_FINISHED, workspace_id=task.workspace, exit_code=0)
    assert (await task.end())["status"] == "completed"


@pytest.mark.parametrize("arguments", [[], [{}], [{"unknown": 1}], [{"status": "recovery"}]], ids=str)
async def test_an_operator_may_send_ready_by_hand(stage: Stage, arguments: list[Any]) -> None:
    """running, by `temporal workflow signal --name workspace_ready`, with an input or without."""
    async with scene(stage, Step.WORKSPACE_READY) as at:
        await at.task.handle.signal("workspace_ready", args=arguments)
        await at.task.until("running")


@pytest.mark.parametrize("arguments", [[], [{}], ["nonsense"], [{"turn": "x"}], [None], [1]], ids=str)
async def test_no_signal_can_hang_a_workflow(stage: Stage, arguments: list[Any]) -> None:
    """Cancelled as ever, after signals without an argument, or with one that nobody can read."""
    async with scene(stage, Step.WAITING_FOR_NODE_CAPACITY) as at:
        for name in SIGNALS:
            if name is not SignalName.WORKSPACE_FAILED:
                await at.task.handle.signal(str(name), args=arguments)
        await at.task.handle.signal("unheard_of", args=arguments)
        await at.task.handle.cancel()
        assert (await at.task.end())["status"] == "cancelled"
