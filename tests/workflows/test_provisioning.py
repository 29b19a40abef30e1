"""A task that finds no slot has a node made, waits for it to report in, and works there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.testing import WorkflowEnvironment

from activities.fleet import Fleet
from domain.ids import new_id
from domain.names import NodeId, SignalName
from domain.policy import Policy, StepRetry
from domain.provisioning import NodeProvider, Provisioning
from store import fleet, nodes
from tests.workflows.node import ScriptedNode
from tests.workflows.stage import Stage, bare_stage_on
from workspaces.machines import Joining, MachineProvider

PATIENCE = Policy(step_retry=StepRetry(tries=2, first_delay=timedelta(milliseconds=100)))


@dataclass
class Machines(MachineProvider):
    """A provider that notes whom it has made, and fails as often as it is told."""

    made: list[NodeId] = field(default_factory=list)
    fails: int = 0
    let: asyncio.Event | None = None

    async def create(self, joining: Joining) -> None:
        if self.let is not None:
            await self.let.wait()
        if self.fails:
            self.fails -= 1
            raise OSError(5, "no machine to be had")
        self.made.append(joining.node_id)

    async def find_by_tag(self, tag: NodeId) -> bool:
        return tag in self.made

    async def destroy(self, tag: NodeId) -> None:
        self.made.remove(tag)

    async def list(self) -> list[NodeId]:
        return self.made


@dataclass
class Yard:
    """A stage where nodes are made for tasks with these labels."""

    stage: Stage
    machines: Machines
    labels: dict[str, str]

    async def start(self, **body: Any) -> Any:
        return await self.stage.start(node_labels=self.labels, policy=PATIENCE, **body)

    @asynccontextmanager
    async def up(self, node: NodeId) -> AsyncIterator[ScriptedNode]:
        """Let the made machine come up: it works, and reports in."""
        scripted = ScriptedNode(node)
        async with self.stage.alive(scripted):
            async with self.stage.database.begin("test") as connection:
                await nodes.report(connection, node)
            self.stage.dispatcher.poke()
            yield scripted


@pytest.fixture
async def yard(temporal: WorkflowEnvironment, database_url: str) -> AsyncIterator[Yard]:
    """Give a yard with room for three nodes of one slot."""
    labels, machines = {"pool": new_id()}, Machines()
    policy = Provisioning(provider=NodeProvider.PROCESS, labels=labels, slots=1, most=3)
    async with bare_stage_on(temporal, database_url) as stage:
        makes = Fleet(stage.database, machines, policy=policy, within=timedelta(minutes=15))
        async with stage.worker(provisioning=policy, fleet=makes):
            yield Yard(stage, machines, labels)
        await stage.execute("UPDATE nodes SET status = 'gone' WHERE provider IS NOT NULL")


async def finish(task: Any) -> None:
    """Bring a task to its end on the node that it gets."""
    await task.until("workspace_ready")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    row = await task.end()
    assert (row["status"], row["error"]) == ("completed", None)


async def test_a_node_is_made_for_who_finds_no_slot(yard: Yard) -> None:
    """Made once, waited for, worked on; its step is done and not skipped."""
    task = await yard.start()
    await task.until("node_agent_ready")
    (node,) = yard.machines.made
    async with yard.up(node):
        await finish(task)
    assert (await task.row())["node_id"] == node
    story = await task.story()
    assert "step.finished(node_provisioning)" in story
    assert "step.skipped(waiting_for_node_capacity)" in story


async def test_a_task_that_asks_for_other_labels_waits(yard: Yard) -> None:
    """Nothing is made for it; it is in the queue."""
    task = await yard.stage.start(node_labels=yard.labels | {"gpu": "yes"})
    await task.until("waiting_for_node_capacity")
    assert yard.machines.made == []
    await task.handle.cancel()
    await task.end()


async def test_a_provider_is_asked_again(yard: Yard) -> None:
    """Made at the second try."""
    yard.machines.fails = 1
    task = await yard.start()
    await task.until("node_agent_ready")
    (node,) = yard.machines.made
    async with yard.up(node):
        await finish(task)


async def test_a_provider_that_makes_none_fails_the_attempt(yard: Yard) -> None:
    """Failed in that step, as provisioning, which another attempt may mend; nothing is held."""
    yard.machines.fails = 99
    task = await yard.start()
    row = await task.end()
    told = row["error"]
    assert (row["status"], told["code"], told["category"]) == ("failed", "node_not_made", "provisioning")
    assert (told["step"], told["retryable"], await task.holds()) == ("node_provisioning", True, 0)


async def test_many_who_come_at_once_have_as_many_made_as_they_need(yard: Yard) -> None:
    """Three nodes for five, because there may be three; all complete on them."""
    tasks = [await yard.start() for _ in range(5)]
    for task in tasks[:3]:
        await task.until("node_agent_ready")
    for task in tasks[3:]:
        await yard.stage.until(
            f"SELECT count(*) > 0 FROM waiters WHERE task_id = '{task.task}'"  # noqa: S608 - an id of ours
        )
    assert len(yard.machines.made) == 3
    first, second, third = yard.machines.made
    async with yard.up(first), yard.up(second), yard.up(third):
        for task in tasks:
            await finish(task)


async def test_a_cancel_does_not_wait_for_the_provider(yard: Yard) -> None:
    """Cancelled in that step while the provider's call hangs; what it makes late is there for the next."""
    yard.machines.let = asyncio.Event()
    task = await yard.start()
    await task.until("node_provisioning")
    await task.handle.cancel()
    row = await task.end()
    assert (row["status"], row["error"]["step"]) == ("cancelled", "node_provisioning")
    yard.machines.let.set()


async def test_a_cancel_before_it_is_up_leaves_the_node_to_the_next(yard: Yard) -> None:
    """cancelled; the next task waits for the same node, and none other is made."""
    task = await yard.start()
    await task.until("node_agent_ready")
    await task.handle.cancel()
    assert (await task.end())["status"] == "cancelled"
    following = await yard.start()
    await following.until("node_agent_ready")
    (node,) = yard.machines.made
    async with yard.up(node):
        await finish(following)


async def another(yard: Yard, task: Any, node: NodeId) -> NodeId:
    """Return the node that the task waits for instead of this one."""
    query = f"SELECT max(awaits) <> '{node}' FROM waiters WHERE task_id = '{task.task}'"  # noqa: S608 - ids of ours
    await yard.stage.until(query)
    return next(made for made in yard.machines.made if made != node)


async def test_a_node_that_is_given_up_is_waited_for_no_longer(yard: Yard) -> None:
    """Another one is made for the same attempt as soon as the first is given up; it completes there."""
    task = await yard.start()
    await task.until("node_agent_ready")
    (node,) = yard.machines.made
    async with yard.stage.database.begin("test") as connection:
        assert await fleet.give_up(connection, node)
    yard.stage.dispatcher.poke()
    second = await another(yard, task, node)
    async with yard.up(second):
        await finish(task)
    row = await task.row()
    assert (row["attempt"], row["node_id"]) == (1, second)
    assert [visit async for visit in ended(task)] == ["node_gone", "done"]


async def test_a_node_that_is_gone_before_it_is_waited_for_is_chosen_anew(yard: Yard) -> None:
    """Another one is made: the first was given up while the provider was asked."""
    yard.machines.let = asyncio.Event()
    task = await yard.start()
    await task.until("node_provisioning")
    async with yard.stage.database.begin("test") as connection:
        (first,) = (await connection.execute(text("SELECT id FROM nodes WHERE status = 'provisioning'"))).scalars()
        assert await fleet.give_up(connection, first)
    yard.machines.let.set()
    await task.until("node_agent_ready")
    second = await another(yard, task, first)
    async with yard.up(second):
        await finish(task)
    assert (await task.row())["attempt"] == 1
    assert [visit async for visit in ended(task)] == ["node_gone", "done"]


async def ended(task: Any) -> AsyncIterator[str]:
    """Give how each visit of `node_agent_ready` ended."""
    for event in await task.events():
        if (event.type, event.step) == ("step.finished", "node_agent_ready"):
            yield event.data["outcome"]
