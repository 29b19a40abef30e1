"""A node is lost while an attempt is there: the attempt ends at once, wherever it is, and another one follows."""

import asyncio
from typing import Any

import pytest

from domain.lifecycle import STEP_ORDER, Step
from domain.messages import AgentExit, AgentOrder, NodeLost
from domain.names import SignalName, WorkspaceId
from domain.policy import Supervision
from tests.workflows.node import ScriptedNode
from tests.workflows.scenes import BLOCKING, FINISHED, scene
from tests.workflows.stage import Stage

LEASE = Supervision().lease
THERE = [step for step in STEP_ORDER if STEP_ORDER.index(step) >= STEP_ORDER.index(Step.WORKSPACE_DISPATCH)]
NEVER_WAITS = {Step.CLEANUP}


async def lose(stage: Stage, node: ScriptedNode, status: str = "lost") -> None:
    """Have the node lost, as an API that does not hear it any more does."""
    await stage.execute("SELECT desert_node(:node, :status)", node=node.id, status=status)
    stage.dispatcher.poke()


@pytest.mark.parametrize("step", [step for step in THERE if step not in NEVER_WAITS])
async def test_an_attempt_on_a_lost_node_ends_at_once(stage: Stage, step: Step) -> None:
    """Failed as runtime_lost in that step, without waiting for the node; what it holds stays in the ledger."""
    async with scene(stage, step) as at:
        calls = len(at.node.calls["destroy_workspace"])
        await lose(stage, at.node)
        row = await at.task.end()
        told = row["error"]
        assert (row["status"], told["code"], told["category"]) == ("failed", "node_lost", "runtime_lost")
        assert (told["step"], told["context"]["node_id"], told["retryable"]) == (step, at.node.id, True)
        assert len(at.node.calls["destroy_workspace"]) == calls
        assert await at.task.holds() == 2
        at.gate.opened.set()


async def test_an_attempt_whose_cleanup_hangs_does_not_wait_for_a_lost_node(stage: Stage) -> None:
    """completed, with its cleanup pending: the node is lost while it destroys the workspace."""
    async with scene(stage, Step.CLEANUP) as at:
        await lose(stage, at.node)
        row = await at.task.end()
        assert row["status"] == "completed"
        ended = [event.data for event in await at.task.events() if event.type == "task.completed"]
        assert ended[0]["cleanup"] == "pending"
        at.gate.opened.set()


@pytest.mark.parametrize("status", ["lost", "gone"])
async def test_another_attempt_follows_elsewhere(stage: Stage, status: str) -> None:
    """Queued as the next attempt, which a node with the same label takes; the error says whether it comes back."""
    async with scene(stage, Step.RUNNING, retry={"max_attempts": 2, "backoff": 0.1}) as at, stage.node() as other:
        await stage.execute(
            "UPDATE nodes SET labels = labels || (SELECT labels FROM nodes WHERE id = :a) WHERE id = :b",
            a=at.node.id,
            b=other.id,
        )
        await lose(stage, at.node, status)
        await at.task.end()
        at.task.attempt, at.task.failure = 2, None
        await at.task.until("workspace_ready")
        assert (await at.task.row())["node_id"] == other.id
        failed = [event.data["error"] for event in await at.task.events() if event.type == "attempt.failed"]
        assert ("is gone" in failed[0]["message"]) is (status == "gone")
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        assert (await at.task.end())["status"] == "completed"


@pytest.mark.parametrize(("heard", "due_in"), [(None, 0.0), (100.0, 20.0), (30.0, 90.0)])
async def test_the_next_attempt_waits_for_the_lease_of_the_last_word(
    stage: Stage, heard: float | None, due_in: float
) -> None:
    """120 s after the workspace was heard last: an agent whose node worker alone has died is still in contact."""
    async with scene(stage, Step.RUNNING, retry={"max_attempts": 2, "backoff": 0.1}) as at:
        if heard is not None:
            statement = "UPDATE workspaces SET last_activity_at = now() - make_interval(secs => :ago) WHERE id = :id"
            await stage.execute(statement, ago=heard, id=at.task.workspace)
        await stage.execute("UPDATE nodes SET slots = 0 WHERE id = :id", id=at.node.id)
        await lose(stage, at.node)
        await at.task.end()
        left = await left_until_due(at.task)
        assert left == pytest.approx(due_in, abs=10)


async def left_until_due(task: Any) -> float:
    """Return how long the start of the next attempt is still to wait; none for one that has been sent."""
    async with task.stage.database.begin("test") as connection:
        query = (
            "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM outbox WHERE task_id = %s AND kind = 'start'"
        )
        found = (await connection.exec_driver_sql(query, (task.task,))).scalar_one_or_none()
    return max(float(found or 0), 0.0)


async def test_an_end_that_was_told_before_counts(stage: Stage) -> None:
    """completed: the command's end is in the inbox when its node is lost, and its signal is on its way."""
    async with scene(stage, Step.RUNNING) as at:
        await at.task.tell(FINISHED)
        await lose(stage, at.node)
        row = await at.task.end()
        assert (row["status"], row["error"]) == ("completed", None)


async def test_what_is_told_of_another_workspace_changes_nothing(stage: Stage) -> None:
    """running: an earlier workspace's node, or nobody's."""
    async with scene(stage, Step.RUNNING) as at:
        for lost in (None, NodeLost(), NodeLost(node_id=at.node.id, workspace_id=WorkspaceId("another"))):
            await at.task.handle.signal(str(SignalName.NODE_LOST), *([] if lost is None else [lost]))
        at.node.exits[1].set_result(AgentExit(turn=1, exit_code=0))
        assert (await at.task.end())["status"] == "completed"
        await at.assert_clean()


async def test_a_node_that_is_lost_between_two_tries_is_not_tried_again(stage: Stage) -> None:
    """Failed as node_lost after one call: the step's second try would have come five seconds later."""
    begun = asyncio.Event()

    async def broken(_: AgentOrder) -> None:
        begun.set()
        raise RuntimeError("the first try")

    async with scene(stage, Step.WORKSPACE_READY) as at:
        at.node.script["start_agent"] = broken
        await at.task.signal(SignalName.WORKSPACE_READY)
        await begun.wait()
        await lose(stage, at.node)
        row = await at.task.end()
        assert (row["error"]["code"], len(at.node.calls["start_agent"])) == ("node_lost", 1)


def test_every_step_with_a_workspace_is_lost_above() -> None:
    """Whatever waits, and every call of a node."""
    assert set(BLOCKING) <= set(THERE)
