"""Three nodes, one of them with containers, work off two hundred tasks while nodes die, drain, freeze and are away."""

import asyncio
import itertools
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from domain.containers import Containers
from domain.names import NodeId
from domain.spec import Provider
from tests.containers import images, record
from tests.faults.caller import Caller, noting, printing
from tests.faults.checker import check
from tests.faults.quiet import settled
from tests.faults.stack import LOST_AFTER, SOON_LOST, FaultStack, running
from workspaces.docker import DockerProvider
from workspaces.engine import connected

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

TASKS, SEED = 200, 11
CONTAINED: Final = NodeId("n2")  # the node with containers
NAMES: Final = ("api-0", "control-0", "control-1", "n0", "n1", CONTAINED)
# What a command does, and how its task ends.
SCRIPTS: Final = {"true": "completed", "sleep 0.3": "completed", "sleep 3": "completed", "exit 3": "failed"}
IN_A_CONTAINER: Final = 0.3  # of the tasks
CANCELLED: Final = 0.05
BETWEEN_TASKS: Final = (0.1, 0.9)  # seconds
BETWEEN_BLOWS: Final = (0.5, 3.0)
# However often it loses its node.
RETRY: Final = {"max_attempts": 20, "backoff": 0.2}


@pytest.fixture
async def stack(tmp_path_factory: pytest.TempPathFactory, engine_address: str) -> AsyncIterator[FaultStack]:
    """Give three nodes, of which the last one has containers; nothing of these is left when it is over."""
    folder = tmp_path_factory.mktemp("pool")
    rules = Containers(
        engine=engine_address, image=images.ensure(engine_address, images.WORKSPACE), disk_mb=64, memory_mb=128
    )
    contained = {
        "TASKRUNNER_NODE_PROVIDERS": '["local", "docker"]',
        "TASKRUNNER_CONTAINERS__ENGINE": rules.engine,
        "TASKRUNNER_CONTAINERS__IMAGE": rules.image,
        "TASKRUNNER_CONTAINERS__DISK_MB": str(rules.disk_mb),
        "TASKRUNNER_CONTAINERS__MEMORY_MB": str(rules.memory_mb),
    }
    more = dict.fromkeys(NAMES, SOON_LOST) | {CONTAINED: SOON_LOST | contained}
    async with running(folder, controls=2, nodes=3, slots=4, engine=engine_address, more=more) as stack:
        yield stack
    left = record.of_node(engine_address, CONTAINED)
    async with connected(rules) as client:
        provider = DockerProvider(stack.data_dir(CONTAINED) / "containers", client=client, node=CONTAINED, rules=rules)
        for workspace in await provider.list():
            await provider.destroy(workspace)
    assert left == set()
    assert str(folder) not in Path("/proc/mounts").read_text()


async def killed(stack: FaultStack, _: Caller, node: NodeId) -> None:
    """Kill a node with -9; it is started again."""
    stack.nodes[node].send(signal.SIGKILL)


async def stopped(stack: FaultStack, _: Caller, node: NodeId) -> None:
    """Tell a node to stop: it drains."""
    stack.nodes[node].send(signal.SIGTERM)


async def drained(_: FaultStack, caller: Caller, node: NodeId) -> None:
    """Drain a node by the API: it ends when it is empty."""
    await caller.post(f"/v1/nodes/{node}/drain")


async def away(stack: FaultStack, _: Caller, node: NodeId) -> None:
    """Kill a node, and start it again when it is lost."""
    await stack.nodes[node].down(signal.SIGKILL)
    try:
        await asyncio.sleep(LOST_AFTER + 3)
    finally:
        await stack.nodes[node].up()


async def frozen(stack: FaultStack, _: Caller, node: NodeId) -> None:
    """Freeze a node until it is lost; it wakes, and its tasks were given away."""
    assert stack.nodes[node].send(signal.SIGSTOP)
    try:
        await asyncio.sleep(LOST_AFTER + 3)
    finally:
        stack.nodes[node].send(signal.SIGCONT)


BLOWS: Final[Mapping[str, Callable[[FaultStack, Caller, NodeId], Awaitable[None]]]] = {
    blow.__name__: blow for blow in (killed, stopped, drained, away, frozen)
}


async def storm(stack: FaultStack, caller: Caller, enough: asyncio.Event, hits: Counter[tuple[str, NodeId]]) -> None:
    """Strike every node with everything in an order by dice, again and again."""
    dice = random.Random(f"{SEED} storm")
    while True:
        blows = list(itertools.product(BLOWS, sorted(stack.nodes)))
        dice.shuffle(blows)
        for blow, node in blows:
            await asyncio.sleep(dice.uniform(*BETWEEN_BLOWS))
            await stack.nodes[node].ready()
            await BLOWS[blow](stack, caller, node)
            hits[blow, node] += 1
        enough.set()


async def load(stack: FaultStack, caller: Caller) -> dict[str, tuple[str, ...]]:
    """Create the tasks; give how each may end."""
    dice = random.Random(f"{SEED} load")
    ends: dict[str, tuple[str, ...]] = {}
    for _ in range(TASKS):
        script = dice.choice(list(SCRIPTS))
        body = (
            printing(script, retry=RETRY)
            if dice.random() < IN_A_CONTAINER
            else noting(stack.effects, script, retry=RETRY)
        )
        task = await caller.create(**body)
        ends[task] = (SCRIPTS[script],)
        if dice.random() < CANCELLED:
            await caller.cancel(task)
            ends[task] = (SCRIPTS[script], "cancelled")
        await asyncio.sleep(dice.uniform(*BETWEEN_TASKS))
    return ends


async def test_the_nine_invariants_hold(stack: FaultStack, engine_address: str) -> None:
    """All end as their commands say, whatever struck; no agent doubled by files, output or engine; nothing is left."""
    caller, enough, hits = Caller(stack.http), asyncio.Event(), Counter[tuple[str, NodeId]]()
    with record.recorded(engine_address, CONTAINED) as events:
        storming = asyncio.create_task(storm(stack, caller, enough, hits))
        try:
            ends = await load(stack, caller)
            rows = {task: await caller.ends(task, within=900) for task in ends}
            await asyncio.wait({storming, asyncio.create_task(enough.wait())}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            storming.cancel()
            (struck,) = await asyncio.gather(storming, return_exceptions=True)
        assert isinstance(struck, asyncio.CancelledError)
        for keeper in stack.nodes.values():
            await keeper.ready()
        snapshot = await settled(stack, caller.witness)
    assert {task: row["status"] for task, row in rows.items() if row["status"] not in ends[task]} == {}
    assert {name: found for name, found in check(snapshot).items() if found} == {}
    assert list(record.doubles(events)) == []
    assert sorted(hits) == sorted(itertools.product(BLOWS, stack.nodes))
    contained = [task for task, row in snapshot.tasks.items() if row["spec"].get("provider") == Provider.DOCKER]
    assert {task for task in contained if rows[task]["status"] != "cancelled"} <= set(record.work(events))
