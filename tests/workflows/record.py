"""Record the golden histories: `make golden`, after a change of the workflow that old histories cannot follow.

A change that breaks them breaks running tasks as well: it needs `workflow.patched`, or an empty engine.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from temporalio.client import WorkflowHistory

from domain.errors import Category, Failure
from domain.lifecycle import NodeStatus, Step
from domain.messages import AgentExit, Followup, NodeReady, SlotGranted
from domain.names import SignalName, UpdateName
from tests.workflows.scenes import CLAIMED, FINISHED, READY, external, scene
from tests.workflows.stage import Running, Stage
from tests.workflows.test_retries_by_hand import retry

HISTORIES: Final = Path(__file__).parent / "histories"
# Who recorded it, and where its code was, is nobody's business.
SCRUBBED: Final = {"identity": "golden", "stackTrace": "", "binaryChecksum": "", "workerInstanceKey": ""}

Way = Callable[[Stage], Awaitable[Running]]


async def completed_external(stage: Stage) -> Running:
    """Three facts from outside, each on its own."""
    task = await external(stage, Step.WORKSPACE_DISPATCH)
    await task.signal(SignalName.WORKSPACE_CLAIMED)
    await task.until("workspace_ready")
    await task.signal(SignalName.WORKSPACE_READY)
    await task.until("running")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0, result={"answer": 42})
    return task


async def completed_local(stage: Stage) -> Running:
    """Every step of a node's task, with an attachment."""
    async with scene(stage, Step.ATTACHMENT_TRANSFER) as at:
        at.gate.opened.set()
        await at.task.until("running")
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        await at.task.end()
        return at.task


async def told_by_inbox(stage: Stage) -> Running:
    """Every signal was lost."""
    return await stage.start(provider="external", told=[CLAIMED, READY, FINISHED])


async def conversation(stage: Stage) -> Running:
    """Two turns, then closed."""
    task = await external(stage, Step.AWAITING_FOLLOWUP)
    await task.handle.execute_update(UpdateName.FOLLOWUP, Followup(message="go on"))
    await task.until("running")
    await task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=0)
    await task.until("awaiting_followup")
    await task.handle.execute_update(UpdateName.CLOSE)
    return task


async def slot_lost_then_granted(stage: Stage) -> Running:
    """Back to `node_selection`, then through the queue."""
    async with scene(stage, Step.WAITING_FOR_NODE_CAPACITY) as at:
        await at.task.handle.signal(SignalName.SLOT_GRANTED, SlotGranted(node_id=at.node.id))
        visited = "SELECT count(*) > 0 FROM events WHERE task_id = '{}' AND step = '{}' AND data ->> 'visit' = '2'"
        await stage.until(visited.format(at.task.task, Step.WAITING_FOR_NODE_CAPACITY))
        await stage.set_slots(at.node, 1)
        await at.task.until("workspace_ready")
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        await at.task.end()
        return at.task


async def node_reported_in(stage: Stage) -> Running:
    """A node that was coming up."""
    async with scene(stage, Step.NODE_AGENT_READY) as at:
        await stage.execute("UPDATE nodes SET status = :ready WHERE id = :id", id=at.node.id, ready=NodeStatus.READY)
        await at.task.handle.signal(SignalName.NODE_READY, NodeReady(node_id=at.node.id))
        await at.task.until("workspace_ready")
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        await at.task.end()
        return at.task


async def unacknowledged_then_overdue(stage: Stage) -> Running:
    """Back to `workspace_dispatch` as often as the limit allows."""
    async with stage.node() as node:

        async def forget(_: object) -> None:
            node.workspaces.clear()

        node.script["inspect_workspace"] = forget
        task = await stage.start(node_labels={"node": node.id}, timeouts={"workspace_ready": 1})
        await task.end()
        return task


async def retried_step_then_next_attempt(stage: Stage) -> Running:
    """Three tries of a step, then the next attempt."""
    busy = Failure("busy", "The node is busy.", category=Category.INFRASTRUCTURE, transient=True)

    async def fail(_: object) -> None:
        raise busy

    quick = stage.policy.model_validate({"step_retry": {"first_delay": 0.05}})
    retry = {"max_attempts": 2, "backoff": 1000}
    async with stage.node() as node:
        node.script["start_agent"] = fail
        task = await stage.start(told=[READY], policy=quick, node_labels={"node": node.id}, retry=retry)
        await task.end()
        return task


async def failed_by_workspace(stage: Stage) -> Running:
    """The workspace gives up."""
    task = await external(stage, Step.WORKSPACE_READY)
    await task.signal(SignalName.WORKSPACE_FAILED, error={"code": "no_disk", "message": "The disk is full."})
    return task


async def capped(stage: Stage) -> Running:
    """The soft cap's warning, then the hard cap."""
    timeouts = {"running_soft": 1, "running": 2}
    return await stage.start(provider="external", told=[CLAIMED, READY], timeouts=timeouts)


async def cancelled_in_an_effect(stage: Stage) -> Running:
    """A cancel that does not wait for the node."""
    async with scene(stage, Step.AGENT_SESSION) as at:
        await at.task.handle.cancel()
        await at.task.end()
        return at.task


async def cancelled_while_running(stage: Stage) -> Running:
    """A cancel with a supervision under way."""
    async with scene(stage, Step.RUNNING) as at:
        await at.task.handle.cancel()
        await at.task.end()
        return at.task


async def cleanup_pending(stage: Stage) -> Running:
    """A workspace that cannot be destroyed in time."""
    async with scene(stage, Step.CLEANUP, timeouts={"cleanup": 1}) as at:
        await at.task.end()
        return at.task


async def superseded(stage: Stage) -> Running:
    """A later attempt owns the row."""
    task = await external(stage, Step.WORKSPACE_READY)
    await stage.execute("UPDATE tasks SET attempt = 2, status = 'queued', version = 0 WHERE id = :id", id=task.task)
    await task.signal(SignalName.WORKSPACE_READY)
    return task


async def continued(stage: Stage) -> Running:
    """Several runs of one attempt: a wait for the next message goes on in the next run."""
    short = stage.policy.model_validate({"limits": {"history_events": 40}})
    async with scene(stage, Step.AWAITING_FOLLOWUP, policy=short) as at:
        at.node.exits[1].set_result(AgentExit(turn=1, exit_code=0))
        for _ in range(40):
            await at.task.handle.signal(str(SignalName.NODE_READY))
        await stage.until(f"SELECT version >> 50 = 1 FROM tasks WHERE id = '{at.task.task}'")  # noqa: S608 - ours
        await at.task.handle.execute_update(UpdateName.FOLLOWUP, Followup(message="go on"))
        await at.task.until("running")
        await at.task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=0)
        at.node.exits[2].set_result(AgentExit(turn=2, exit_code=0))
        await at.task.until("awaiting_followup")
        await at.task.handle.execute_update(UpdateName.CLOSE)
        await at.task.end()
        return at.task


async def resumed(stage: Stage) -> Running:
    """The second attempt, in the workspace that the first one left."""
    async with scene(stage, Step.RUNNING, keep_workspace={"on": "failure", "for": 3600}) as at:
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=3)
        await at.task.end()
        again = await retry(at.task, resume=True)
        await again.until("running")
        await again.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        await again.end()
        return again


PATHS: Final[dict[str, Way]] = {
    path.__name__: path
    for path in (
        completed_external,
        completed_local,
        told_by_inbox,
        conversation,
        slot_lost_then_granted,
        node_reported_in,
        unacknowledged_then_overdue,
        retried_step_then_next_attempt,
        failed_by_workspace,
        capped,
        cancelled_in_an_effect,
        cancelled_while_running,
        cleanup_pending,
        superseded,
        continued,
        resumed,
    )
}


def scrubbed(value: Any) -> Any:
    """Return a history's JSON without what tells of the machine that recorded it."""
    if isinstance(value, dict):
        return {key: SCRUBBED.get(key, scrubbed(inner)) for key, inner in value.items()}
    return [scrubbed(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", PATHS)
async def test_record(stage: Stage, name: str) -> None:
    """Written: the history of this path, as it is today; one file for each run."""
    task = await PATHS[name](stage)
    if name == "superseded":
        with pytest.raises(Exception, match="Workflow execution failed"):
            await task.handle.result()
    else:
        await task.end()
    keep(name, await task.runs())


def keep(name: str, runs: Sequence[WorkflowHistory]) -> None:
    """Write the histories of one workflow."""
    HISTORIES.mkdir(exist_ok=True)
    for number, run in enumerate(runs, 1):
        history = scrubbed(json.loads(run.to_json()))
        file = f"{name}.json" if number == 1 else f"{name}-{number}.json"
        (HISTORIES / file).write_text(json.dumps(history, separators=(",", ":")) + "\n")
