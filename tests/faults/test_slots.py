"""A hundred tasks on three slots, of which one dies, drains or freezes every few seconds."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from typing import Final

import pytest

from tests.faults.caller import Caller, noting
from tests.faults.checker import check
from tests.faults.collect import effects_in
from tests.faults.quiet import settled
from tests.faults.stack import FaultStack, running

pytestmark = pytest.mark.campaign

TASKS, NODES, SEED = 100, 3, 7
BETWEEN: Final = (1.0, 3.0)  # seconds from one blow to the next
FROZEN: Final = 2.0
# In the order of their making, whoever is overtaken by more than this has starved: as many as were at work, or waited
# for their node, whenever a node was struck.
OVERTAKEN: Final = 30


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultStack]:
    """Give three nodes with a slot each."""
    async with running(tmp_path_factory.mktemp("slots"), nodes=NODES, slots=1) as stack:
        yield stack


async def strike(stack: FaultStack, dice: random.Random) -> None:
    """Kill a node, drain it, or freeze it for a while, again and again."""
    while True:
        await asyncio.sleep(dice.uniform(*BETWEEN))
        keeper = stack.nodes[dice.choice(sorted(stack.nodes))]
        blow = dice.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
        if keeper.send(blow) and blow is signal.SIGSTOP:
            await asyncio.sleep(FROZEN)
            keeper.send(signal.SIGCONT)


async def most_used(stack: FaultStack, most: list[int]) -> None:
    """Note the most slots that are ever used at once."""
    async with asyncio.timeout(3600):
        while True:
            async with stack.database.read() as connection:
                used = await connection.exec_driver_sql("SELECT coalesce(sum(used), 0) FROM nodes")
                most[0] = max(most[0], int(used.scalar_one()))
            await asyncio.sleep(0.05)


async def test_a_hundred_tasks_on_three_slots_that_die(stack: FaultStack) -> None:
    """All complete; never more than three slots are used or commands run at once; nobody is overtaken by many."""
    caller, dice, most = Caller(stack.http), random.Random(SEED), [0]
    beside = [asyncio.create_task(strike(stack, dice)), asyncio.create_task(most_used(stack, most))]
    try:
        tasks = [await caller.create(**noting(stack.effects, "sleep 0.1")) for _ in range(TASKS)]
        # One after the other: a hundred who ask at once would be the load that is measured here.
        rows = [await caller.ends(task, within=1200) for task in tasks]
    finally:
        for each in beside:
            each.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    assert [row["status"] for row in rows] == ["completed"] * TASKS
    assert most == [NODES]
    effects = effects_in(stack.effects)
    assert not [effect for effect in effects if effect.what == "double"]
    at_once, peak, order = 0, 0, []
    for effect in effects:
        at_once += {"start": 1, "stop": -1}.get(effect.what, 0)
        peak = max(peak, at_once)
        if effect.what == "start" and effect.task not in order:
            order.append(effect.task)
    assert peak <= NODES
    assert max(order.index(task) - place for place, task in enumerate(tasks)) <= OVERTAKEN
    snapshot = await settled(stack, caller.witness)
    assert {name: found for name, found in check(snapshot).items() if found} == {}
