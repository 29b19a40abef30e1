"""A conversation: each message is a turn of its own, until somebody closes it."""

import asyncio
from typing import Any

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from domain.lifecycle import Step
from domain.messages import Followup
from domain.names import SignalName, UpdateName
from tests.workflows.scenes import external, scene
from tests.workflows.stage import PATIENCE, Running, Stage


async def say(task: Running, message: str) -> int:
    """Send a follow-up; returns the number of its turn."""
    turn: int = await task.handle.execute_update(UpdateName.FOLLOWUP, Followup(message=message), result_type=int)
    return turn


async def listening(task: Running, times: int) -> None:
    """Wait until the task has begun to wait for a follow-up that often: its row alone may still be the last wait's."""
    async with asyncio.timeout(PATIENCE):
        while (await task.story()).count("step.started(awaiting_followup)") < times:  # noqa: ASYNC110 - SQL has no event
            await asyncio.sleep(0.02)


async def refused(task: Running, name: UpdateName, *arguments: Any) -> str:
    """Send a command that must be refused; returns why."""
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await task.handle.execute_update(name, args=arguments)
    assert isinstance(refusal.value.cause, ApplicationError)
    return str(refusal.value.cause.type)


async def test_each_message_is_a_new_turn(stage: Stage) -> None:
    """Three turns with their prompts on one workspace; the last one's result is the task's."""
    async with scene(stage, Step.AWAITING_FOLLOWUP) as at:
        for turn, message in ((2, "go on"), (3, "and again")):
            assert await say(at.task, message) == turn
            await at.task.until("running")
            await at.task.signal(SignalName.WORKSPACE_FINISHED, turn=turn, exit_code=0, result=turn)
            await listening(at.task, turn)
        await at.task.handle.execute_update(UpdateName.CLOSE)
        row = await at.task.end()
        started = [(order.turn, order.prompt) for order in at.node.calls["start_agent"]]
        assert started == [(1, None), (2, "go on"), (3, "and again")]
        assert (row["status"], row["result"], len(at.node.calls["create_workspace"])) == ("completed", 3, 1)
        said = [event.data for event in await at.task.events() if event.type == "agent.followup"]
        assert [data["message"] for data in said] == ["go on", "and again"]
        visits = [event.data["visit"] for event in await at.task.events() if event.type == "step.started"]
        assert max(visits) == 3
        await at.assert_clean()


async def test_an_external_workspace_takes_turns_too(stage: Stage) -> None:
    """Completed after two turns; a late word of the first turn changes nothing."""
    task = await external(stage, Step.AWAITING_FOLLOWUP)
    await say(task, "go on")
    await task.until("running")
    await task.signal(SignalName.WORKSPACE_FINISHED, turn=1, exit_code=1)
    await task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=0, result="two")
    await listening(task, 2)
    await task.handle.execute_update(UpdateName.CLOSE)
    row = await task.end()
    assert (row["status"], row["result"]) == ("completed", "two")


async def test_two_messages_at_once_are_two_turns(stage: Stage) -> None:
    """Turns 2 and 3, in the order of their acceptance, without a second wait between them."""
    task = await external(stage, Step.AWAITING_FOLLOWUP)
    turns = await asyncio.gather(say(task, "one"), say(task, "two"), return_exceptions=True)
    accepted = sorted(turn for turn in turns if isinstance(turn, int))
    assert accepted[0] == 2
    for turn in accepted:
        await task.signal(SignalName.WORKSPACE_FINISHED, turn=turn, exit_code=0)
    await listening(task, max(accepted))
    await task.handle.execute_update(UpdateName.CLOSE)
    row = await task.end()
    assert row["status"] == "completed"
    assert (await task.story()).count("agent.followup") == len(accepted)


async def test_a_turn_that_fails_ends_the_task(stage: Stage) -> None:
    """failed, with the second turn's exit code."""
    task = await external(stage, Step.AWAITING_FOLLOWUP)
    await say(task, "break something")
    await task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=2)
    row = await task.end()
    assert (row["status"], row["error"]["context"]["exit_code"]) == ("failed", 2)


@pytest.mark.parametrize("step", [Step.WORKSPACE_READY, Step.RUNNING])
async def test_nobody_listens_before_the_wait(stage: Stage, step: Step) -> None:
    """Refused by the validator: nothing of it is in the history."""
    task = await external(stage, step, followup=True)
    assert await refused(task, UpdateName.FOLLOWUP, Followup(message="hello")) == "not_awaiting_followup"
    assert await refused(task, UpdateName.CLOSE) == "not_awaiting_followup"
    names = [event.WhichOneof("attributes") for event in (await task.history()).events]
    assert not [name for name in names if name is not None and "update" in name]
    await task.handle.cancel()
    assert (await task.end())["status"] == "cancelled"


@pytest.mark.parametrize("message", ["", "  \n"])
async def test_an_empty_message_is_refused(stage: Stage, message: str) -> None:
    """Refused as input; the conversation goes on."""
    task = await external(stage, Step.AWAITING_FOLLOWUP)
    assert await refused(task, UpdateName.FOLLOWUP, Followup(message=message)) == "input"
    await task.handle.execute_update(UpdateName.CLOSE)
    assert (await task.end())["status"] == "completed"


async def test_messages_that_wait_are_bounded(stage: Stage) -> None:
    """Refused as input: more than continue-as-new could carry."""
    task = await external(stage, Step.AWAITING_FOLLOWUP)
    assert await refused(task, UpdateName.FOLLOWUP, Followup(message="ä" * 128_001)) == "input"
    assert await say(task, "ä" * 128_000) == 2
    await task.handle.cancel()
    assert (await task.end())["status"] == "cancelled"


async def test_a_cancel_ends_a_conversation(stage: Stage) -> None:
    """Cancelled in the second turn."""
    async with scene(stage, Step.AWAITING_FOLLOWUP) as at:
        await say(at.task, "go on")
        await at.task.until("running")
        await at.task.handle.cancel()
        row = await at.task.end()
        assert row["status"] == "cancelled"
        await at.assert_clean()
