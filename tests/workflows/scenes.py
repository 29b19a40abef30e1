"""Scenes: a task that has been brought to the step where it shall wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from domain.lifecycle import STEP_ORDER, NodeStatus, Step
from domain.messages import CallbackSignal
from domain.names import CallbackKind, SignalName
from tests.workflows.node import ScriptedNode
from tests.workflows.stage import Running, Stage

CLAIMED: Final = CallbackSignal(kind=CallbackKind.CLAIMED)
READY: Final = CallbackSignal(kind=CallbackKind.READY)
FAILED: Final = CallbackSignal(kind=CallbackKind.FAILED)
FINISHED: Final = CallbackSignal(kind=CallbackKind.FINISHED, exit_code=0)

# The activity in which a local task waits at these steps.
BLOCKING: Final = {
    Step.WORKSPACE_DISPATCH: "create_workspace",
    Step.ATTACHMENT_TRANSFER: "transfer_attachment",
    Step.AGENT_SESSION: "start_agent",
    Step.CLEANUP: "destroy_workspace",
}
# Where a task waits for a fact from outside, by what the fact comes as.
LOCAL_WAITS: Final = (
    Step.WAITING_FOR_NODE_CAPACITY,
    Step.NODE_AGENT_READY,
    Step.WORKSPACE_READY,
    Step.RUNNING,
    Step.AWAITING_FOLLOWUP,
)
EXTERNAL_WAITS: Final = (Step.WORKSPACE_DISPATCH, Step.WORKSPACE_READY, Step.RUNNING, Step.AWAITING_FOLLOWUP)


@dataclass
class Gate:
    """What an activity waits at until the test opens it."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _: Any) -> None:
        self.reached.set()
        await self.opened.wait()


@dataclass
class Scene:
    """A task, its node and, where an activity holds the task, the gate that it waits at."""

    task: Running
    node: ScriptedNode
    gate: Gate

    async def assert_clean(self) -> None:
        """Nothing is held any more: no ledger entry, no slot, no workspace."""
        holds = await self.task.holds()
        assert holds == 0
        used = await self.task.stage.used(self.node)
        assert used == 0
        assert self.node.workspaces == set()


@asynccontextmanager
async def scene(stage: Stage, step: Step, **body: Any) -> AsyncIterator[Scene]:
    """Bring a local task to a step and hold it there."""
    status = NodeStatus.PROVISIONING if step is Step.NODE_AGENT_READY else NodeStatus.READY
    slots = 0 if step is Step.WAITING_FOR_NODE_CAPACITY else 1
    gate = Gate()
    async with stage.node(slots=slots, status=status) as node:
        if step in BLOCKING:
            node.script[BLOCKING[step]] = gate
        if step is Step.ATTACHMENT_TRANSFER:
            body["attachments"] = ["notes"]
        body["followup"] = body.get("followup", step is Step.AWAITING_FOLLOWUP)
        try:
            task = await stage.start(node_labels={"node": node.id}, **body)
            if _after(step, Step.WORKSPACE_READY):
                await task.until("workspace_ready")
                await task.signal(SignalName.WORKSPACE_READY)
            if _after(step, Step.RUNNING):
                await task.until("running")
                await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
            await task.until(step)
            yield Scene(task, node, gate)
        finally:
            gate.opened.set()


async def external(stage: Stage, step: Step, **body: Any) -> Running:
    """Bring an external task to a step."""
    body["followup"] = body.get("followup", step is Step.AWAITING_FOLLOWUP)
    told = [
        callback
        for callback, at in (
            (CLAIMED, Step.WORKSPACE_DISPATCH),
            (READY, Step.WORKSPACE_READY),
            (FINISHED, Step.RUNNING),
        )
        if _after(step, at)
    ]
    task = await stage.start(provider="external", told=told, **body)
    await task.until(step)
    return task


def _after(step: Step, other: Step) -> bool:
    return STEP_ORDER.index(step) > STEP_ORDER.index(other)
