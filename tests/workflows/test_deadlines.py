"""Every wait has a deadline: on a server that skips the time which a workflow waits."""

from datetime import timedelta

import pytest

from domain.events import Event, EventType
from domain.lifecycle import NodeStatus, Step
from domain.messages import AgentExit
from domain.names import SignalName
from domain.policy import Budgets
from tests.workflows.scenes import BLOCKING, CLAIMED, FINISHED, READY, scene
from tests.workflows.stage import Stage

BUDGETS = Budgets()
TOLD_BEFORE = {Step.WORKSPACE_DISPATCH: [], Step.WORKSPACE_READY: [CLAIMED]}
SHORT = {"workspace_dispatch": 1, "attachment_transfer": 1, "cleanup": 1}


def lasted(events: list[Event]) -> timedelta:
    """How long the attempt took by its own clock."""
    return events[-1].ts - next(event.ts for event in events if event.type is EventType.ATTEMPT_STARTED)


def about(budget: timedelta) -> tuple[timedelta, timedelta]:
    """From when to when a wait of this length may end."""
    return budget, budget + timedelta(minutes=5)


@pytest.mark.parametrize("step", TOLD_BEFORE)
async def test_nobody_calls_for_an_external_workspace(skipping_stage: Stage, step: Step) -> None:
    """Failed by timeout at that step, when exactly its budget is over."""
    task = await skipping_stage.start(provider="external", told=TOLD_BEFORE[step])
    row = await task.end()
    shortest, longest = about(getattr(BUDGETS, step))
    assert (row["error"]["code"], row["error"]["category"]) == (f"{step}_timeout", "timeout")
    assert row["error"]["context"]["budget_seconds"] == shortest.total_seconds()
    assert shortest <= lasted(await task.events()) < longest
    assert await task.holds() == 0


async def test_no_slot_becomes_free(skipping_stage: Stage) -> None:
    """Failed for want of capacity after 2 h, and out of the queue of waiters."""
    async with skipping_stage.node(slots=0) as node:
        task = await skipping_stage.start(node_labels={"node": node.id})
        row = await task.end()
        assert (row["error"]["code"], row["error"]["category"]) == ("waiting_for_node_capacity_timeout", "capacity")
        shortest, longest = about(BUDGETS.waiting_for_node_capacity)
        assert shortest <= lasted(await task.events()) < longest
        await skipping_stage.until("SELECT count(*) = 0 FROM waiters")


async def test_a_node_never_reports_in(skipping_stage: Stage) -> None:
    """Failed for want of a node after 15 min."""
    async with skipping_stage.node(status=NodeStatus.PROVISIONING) as node:
        task = await skipping_stage.start(node_labels={"node": node.id})
        row = await task.end()
        assert (row["error"]["code"], row["error"]["category"]) == ("node_agent_ready_timeout", "provisioning")
        shortest, longest = about(BUDGETS.node_agent_ready)
        assert shortest <= lasted(await task.events()) < longest


async def test_a_local_workspace_never_calls(skipping_stage: Stage) -> None:
    """Failed by timeout after 30 min: the node has the workspace, so it is not created again."""
    async with skipping_stage.node() as node:
        task = await skipping_stage.start(node_labels={"node": node.id})
        row = await task.end()
        assert (row["error"]["code"], len(node.calls["create_workspace"])) == ("workspace_ready_timeout", 1)
        assert (await task.holds(), node.workspaces) == (0, set())


async def test_a_workspace_that_the_node_never_heard_of_is_dispatched_again(skipping_stage: Stage) -> None:
    """Back to `workspace_dispatch` for each of the visits that the limit allows, then failed."""
    async with skipping_stage.node() as node:

        async def forget(_: object) -> None:
            node.workspaces.clear()

        node.script["inspect_workspace"] = forget
        task = await skipping_stage.start(node_labels={"node": node.id})
        row = await task.end()
        visits = skipping_stage.policy.limits.visits
        assert (row["error"]["code"], len(node.calls["create_workspace"])) == ("workspace_ready_timeout", visits)
        assert len({order.workspace_id for order in node.calls["create_workspace"]}) == 1
        started = [event for event in await task.events() if event.type is EventType.STEP_STARTED]
        assert [event.data["visit"] for event in started if event.step is Step.WORKSPACE_READY] == [1, 2, 3]
        assert await task.holds() == 0


async def test_a_command_may_run_until_its_hard_cap(skipping_stage: Stage) -> None:
    """A warning after 4 h, failed after 8 h."""
    task = await skipping_stage.start(provider="external", told=[CLAIMED, READY])
    row = await task.end()
    warnings = [event for event in await task.events() if event.type is EventType.TASK_CAP_WARNING]
    assert [event.data["cap"] for event in warnings] == ["soft"]
    soft, hard = about(BUDGETS.running_soft), about(BUDGETS.running)
    began = next(event.ts for event in await task.events() if event.type is EventType.TASK_STARTED)
    assert soft[0] <= warnings[0].ts - began < soft[1]
    assert hard[0] <= lasted(await task.events()) < hard[1]
    assert (row["status"], row["error"]["code"], row["error"]["category"]) == ("failed", "cap_hard", "timeout")


async def test_the_absolute_cap_counts_every_turn(skipping_stage: Stage) -> None:
    """Failed by the absolute cap, in a visit that is within its own hard cap."""
    timeouts = {"running_absolute": 3600}
    task = await skipping_stage.start(provider="external", told=[CLAIMED, READY], timeouts=timeouts)
    row = await task.end()
    assert (row["error"]["code"], row["error"]["context"]["cap"]) == ("cap_absolute", "absolute")


async def test_silence_ends_a_conversation_well(skipping_stage: Stage) -> None:
    """Completed after 24 h without a word."""
    task = await skipping_stage.start(provider="external", told=[CLAIMED, READY, FINISHED], followup=True)
    row = await task.end()
    shortest, longest = about(BUDGETS.awaiting_followup)
    assert row["status"] == "completed"
    assert shortest <= lasted(await task.events()) < longest


@pytest.mark.parametrize("step", [step for step in BLOCKING if step is not Step.CLEANUP])
async def test_a_node_that_does_not_answer_fails_the_attempt(stage: Stage, step: Step) -> None:
    """Failed once the step's budget is over: the node is asked no second time within it."""
    async with scene(stage, step, timeouts=SHORT | {"cleanup": 20}) as at:
        row = await at.task.end()
        assert (row["error"]["code"], row["error"]["category"]) == ("node_unreachable", "runtime_lost")
        assert (row["error"]["step"], len(at.node.calls[BLOCKING[step]])) == (step, 1)
        assert await at.task.holds() == 0


async def test_a_cleanup_that_outlasts_its_budget_is_left_to_the_reaper(stage: Stage) -> None:
    """Completed with `cleanup: pending`: workspace and slot stay in the ledger."""
    async with scene(stage, Step.CLEANUP, timeouts=SHORT) as at:
        row = await at.task.end()
        last = (await at.task.events())[-1]
        assert (row["status"], last.data["cleanup"]) == ("completed", "pending")
        assert (await at.task.holds(), await stage.used(at.node)) == (2, 1)


async def test_a_fact_beats_the_deadline_that_comes_with_it(stage: Stage) -> None:
    """running: the signal and the timer are in one activation, and the fact counts."""
    async with scene(stage, Step.WORKSPACE_READY, timeouts={"workspace_ready": 1}) as at:
        at.node.exits[1].set_result(AgentExit(turn=1, exit_code=0))
        await at.task.signal(SignalName.WORKSPACE_READY)
        assert (await at.task.end())["status"] == "completed"
