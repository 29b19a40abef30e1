"""Nodes that die, fall silent and come back: their tasks are tried again elsewhere, and never two at once."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any, Final

import pytest

from domain.names import NodeId
from tests.faults.caller import Caller, noting
from tests.faults.checker import check
from tests.faults.collect import effects_in
from tests.faults.quiet import settled
from tests.faults.stack import HEARTBEAT, LOST_AFTER, SOON_LOST, FaultStack, running, until

pytestmark = pytest.mark.campaign

# From the last heartbeat to the mirror: the sweep, the dispatcher, the workflow.
MARGIN: Final = 5.0
NAMES: Final = ("api-0", "control-0", "n0", "n1")


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultStack]:
    """Give a stack with two nodes, where a node is lost after 15 s."""
    folder = tmp_path_factory.mktemp("nodes")
    async with running(folder, nodes=2, more=dict.fromkeys(NAMES, SOON_LOST)) as stack:
        yield stack


@pytest.fixture(scope="module")
def caller(stack: FaultStack) -> Caller:
    """Give a caller who remembers all that it was told."""
    return Caller(stack.http)


async def busy(stack: FaultStack, caller: Caller, count: int, script: str) -> Mapping[str, dict[str, Any]]:
    """Give tasks that run, by id, as they are shown then."""
    tasks = [await caller.create(**noting(stack.effects, script)) for _ in range(count)]
    return {task: await caller.reaches(task, step="running") for task in tasks}


async def nodes(caller: Caller) -> dict[str, dict[str, Any]]:
    """Return the nodes as the API shows them."""
    return {row["id"]: row for row in (await caller.send("GET", "/v1/nodes")).json()["items"]}


async def becomes(caller: Caller, node: NodeId, status: str, *, within: float = 60.0) -> None:
    """Wait until the API says this of the node."""
    async with asyncio.timeout(within):
        while True:
            if (await nodes(caller))[node]["status"] == status:
                return
            await asyncio.sleep(0.1)


async def test_the_tasks_of_a_killed_node_are_tried_again_elsewhere(stack: FaultStack, caller: Caller) -> None:
    """Failed as node_lost within lost_after + 5 s of kill -9, and completed on the other node."""
    tasks = await busy(stack, caller, 4, "sleep 30")
    node = next(iter(tasks.values()))["node_id"]
    killed = time.time()
    await stack.nodes[node].down(signal.SIGKILL)
    for task in [task for task, row in tasks.items() if row["node_id"] == node]:
        await caller.reaches(task, attempt=2)
        events = (await caller.send("GET", f"/v1/tasks/{task}/events", params={"type": "attempt.failed"})).json()
        (failed,) = events["items"]
        took = datetime.fromisoformat(failed["ts"]).timestamp() - killed
        assert failed["data"]["error"]["code"] == "node_lost"
        assert LOST_AFTER - HEARTBEAT - 1 < took < LOST_AFTER + MARGIN
    await stack.nodes[node].up()
    await becomes(caller, NodeId(node), "ready")
    for task in tasks:
        assert (await caller.ends(task))["status"] == "completed"
    assert not [effect for effect in effects_in(stack.effects) if effect.what == "double"]


async def test_a_frozen_node_wakes_after_its_tasks_were_given_away(stack: FaultStack, caller: Caller) -> None:
    """Completed elsewhere; what the node still has of them when it wakes is destroyed by it."""
    tasks = await busy(stack, caller, 4, "sleep 20")
    node = next(iter(tasks.values()))["node_id"]
    stack.nodes[node].send(signal.SIGSTOP)
    try:
        await becomes(caller, NodeId(node), "lost")
    finally:
        stack.nodes[node].send(signal.SIGCONT)
    await becomes(caller, NodeId(node), "ready")
    for task in tasks:
        assert (await caller.ends(task))["status"] == "completed"
    assert not [effect for effect in effects_in(stack.effects) if effect.what == "double"]


async def test_a_node_is_not_lost_while_no_api_was_there(stack: FaultStack, caller: Caller) -> None:
    """One attempt: the API was away for longer than lost_after, and the node came back with it."""
    tasks = await busy(stack, caller, 2, "sleep 5")
    (api,) = stack.apis
    await api.down(signal.SIGKILL)
    await asyncio.sleep(LOST_AFTER + MARGIN)
    await api.up()
    for task in tasks:
        await caller.ends(task)
    statuses = {node: row["status"] for node, row in (await nodes(caller)).items()}
    assert statuses == {"n0": "ready", "n1": "ready"}
    logs = [stack.folder / "logs" / "api-0.log"]
    assert "node.lost" not in logs[0].read_text().split("Uvicorn running on")[-1]


async def test_three_drains_fail_no_task(stack: FaultStack, caller: Caller) -> None:
    """One attempt, completed: its node was told to stop three times while the command ran, and was started again."""
    (task,) = tasks = await busy(stack, caller, 1, "sleep 45")
    keeper = stack.nodes[tasks[task]["node_id"]]
    for _ in range(3):
        deaths = keeper.deaths
        keeper.send(signal.SIGTERM)
        await keeper.after(deaths)
    row = await caller.ends(task)
    assert (row["status"], row["attempt"]) == ("completed", 1)
    starts = [effect for effect in effects_in(stack.effects) if (effect.task, effect.what) == (task, "start")]
    assert len(starts) == 1


async def test_a_drained_node_ends_when_it_is_empty(stack: FaultStack, caller: Caller) -> None:
    """Its task completes, no other comes, its process ends by itself; started again, it is in service again."""
    (task,) = tasks = await busy(stack, caller, 1, "sleep 3")
    node = NodeId(tasks[task]["node_id"])
    deaths = stack.nodes[node].deaths
    assert (await caller.post(f"/v1/nodes/{node}/drain"))["status"] == "draining"
    later = await caller.ends(await caller.create(**noting(stack.effects, "true")))
    assert later["node_id"] != node
    assert (await caller.ends(task))["attempt"] == 1
    await stack.nodes[node].after(deaths)
    await becomes(caller, node, "ready")


async def test_a_node_that_is_gone_for_good_lets_go(stack: FaultStack, caller: Caller) -> None:
    """Nothing is held of a machine that somebody has said to be gone."""
    tasks = await busy(stack, caller, 2, "sleep 30")
    node = NodeId(next(iter(tasks.values()))["node_id"])
    await stack.nodes[node].down(signal.SIGKILL)
    await caller.post(f"/v1/nodes/{node}/drain", {"gone": True})
    async with asyncio.timeout(60):
        while True:
            if not (await nodes(caller))[node]["used"]:
                break
            await asyncio.sleep(0.2)
    await stack.nodes[node].up()
    for task in tasks:
        assert (await caller.ends(task))["status"] == "completed"


async def test_after_all_of_them_the_nine_invariants_hold(stack: FaultStack, caller: Caller) -> None:
    """No violation of any invariant."""
    await until(lambda: all(keeper.child.pid for keeper in stack.nodes.values()))
    snapshot = await settled(stack, caller.witness)
    assert {name: found for name, found in check(snapshot).items() if found} == {}
