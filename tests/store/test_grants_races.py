"""Slots with everything at once: never overfilled, nobody starves, nobody deadlocks."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import text

from domain.messages import NodeQuery
from domain.names import DEFAULT_PROJECT, NodeId, ProjectId, TaskId
from store import mirror, placement
from store.engine import Database
from tests.store.rows import assert_folds, batch, create_node, create_task, scalar
from tests.store.slots import BROKEN, OPEN, conclude, reserve, used, wait


@pytest.fixture(autouse=True)
async def _always_balanced(database: Database) -> AsyncIterator[None]:
    """Every test leaves each node's count equal to its open slot entries."""
    yield
    assert await scalar(database, BROKEN) == 0


@dataclass
class Crowd:
    """Tasks that wait, reserve, redo, give up and end at random, on nodes that are too few."""

    database: Database
    nodes: list[NodeId]
    chance: random.Random
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    served: int = 0

    async def live(self, task: TaskId) -> None:
        """Live one task's life as its workflow would; every call may be sent twice, as a redo would."""
        node = await self._chosen(task)
        reserved = await self._reserve(task, node, 2)
        while reserved["workspace_id"] is None:
            granted = await self._waited(task)
            if granted is None:
                return
            reserved = await self._reserve(task, granted, 20, visit=2)
        assert await scalar(self.database, BROKEN) == 0
        self.served += 1
        await self._end(task)

    async def _reserve(self, task: TaskId, node: NodeId, version: int, *, visit: int = 1) -> dict[str, Any]:
        return await self._twice(version, lambda number: reserve(self.database, task, node, number, visit=visit))

    async def _chosen(self, task: TaskId) -> NodeId:
        query = NodeQuery(task_id=task, attempt=1, project=DEFAULT_PROJECT, labels={"pool": self.nodes[0]})
        async with self.database.commit("test") as connection:
            choice = await placement.select_node(connection, query)
        return choice.node_id or self.chance.choice(self.nodes)

    async def _waited(self, task: TaskId) -> NodeId | None:
        """Wait for a grant; one in five gives up, as a cancel would have it."""
        labels: dict[str, str] = {"pool": self.nodes[0]}

        async def enter(version: int) -> dict[str, Any]:
            async with self.database.commit("test") as connection:
                return await mirror.wait_for_slot(connection, batch(task, version), priority=3, labels=labels)

        granted: str | None = (await self._twice(10, enter)).get("granted")
        if granted is None and self.chance.random() < 0.2:
            await self._end(task)
            return None
        query = "SELECT max(node_id) FROM ledger WHERE task_id = :task AND kind = 'slot' AND state <> 'released'"
        async with self.changed:
            while granted is None:
                granted = await scalar(self.database, query, task=task)
                if granted is None:
                    await self.changed.wait()
        return NodeId(granted)

    async def _twice(self, version: int, call: Any) -> dict[str, Any]:
        if self.chance.random() < 0.3:
            answers = await asyncio.gather(call(version), call(version + 1))
            return next((a for a in answers if a.get("workspace_id") or a.get("granted")), answers[0])
        answer: dict[str, Any] = await call(version)
        return answer

    async def _end(self, task: TaskId) -> None:
        await self._twice(100, lambda version: conclude(self.database, task, version))
        async with self.changed:
            self.changed.notify_all()


@pytest.mark.parametrize("seed", range(5))
async def test_a_crowd_never_overfills_a_node_and_nobody_starves(database: Database, seed: int) -> None:
    """60 concurrent lives on 2 to 4 nodes: used slots never exceed slots and equal the open entries; all get through.

    A deadlock would show as an error of whoever was chosen as its victim.
    """
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    pool = f"pool-{seed}"
    nodes = [NodeId(pool)]
    async with database.begin("test") as connection:
        for number in range(chance.randint(2, 4)):
            node = NodeId(pool if number == 0 else f"{pool}-{number}")
            nodes.append(node)
            statement = text("INSERT INTO nodes (id, status, slots, labels) VALUES (:id, 'ready', :slots, :labels)")
            labels = f'{{"pool": "{pool}"}}'
            await connection.execute(statement, {"id": node, "slots": chance.randint(1, 3), "labels": labels})
    crowd = Crowd(database, nodes[1:], chance)
    tasks = [await create_task(database, project=ProjectId(f"p{number % 3}")) for number in range(60)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(crowd.live(task) for task in tasks))
    assert await scalar(database, BROKEN) == 0
    assert await scalar(database, "SELECT sum(used) FROM nodes WHERE id LIKE :pool", pool=f"{pool}%") == 0
    assert await scalar(database, "SELECT count(*) FROM waiters WHERE task_id = ANY(:tasks)", tasks=list(tasks)) == 0
    for task in tasks:
        assert (await assert_folds(database, task))["status"] == "failed"
        assert await scalar(database, OPEN, task=task) == 0
    assert crowd.served >= 30


async def test_granting_to_one_who_is_leaving_is_no_deadlock(database: Database) -> None:
    """A release that grants to B while B itself concludes: both end well, and the slot is nobody's, 40 times over."""
    node = await create_node(database, slots=1)
    for _ in range(40):
        first, second = await create_task(database), await create_task(database)
        await reserve(database, first, node, 1)
        await wait(database, second, 1, node)
        async with asyncio.timeout(5):
            await asyncio.gather(conclude(database, first, 2), conclude(database, second, 2))
        assert (await used(database, node), await scalar(database, BROKEN)) == (0, 0)


async def test_waiting_while_a_slot_is_being_granted_takes_it_once(database: Database) -> None:
    """A redone wait beside the release that grants to it: one slot, one entry, 40 times over."""
    node = await create_node(database, slots=2)
    for _ in range(40):
        first, second, third = [await create_task(database) for _ in range(3)]
        for task in (first, third):
            await reserve(database, task, node, 1)
        await wait(database, second, 1, node)
        await asyncio.gather(
            conclude(database, first, 2),
            conclude(database, third, 2),
            wait(database, second, 2, node),
            reserve(database, second, node, 3),
        )
        assert (await used(database, node), await scalar(database, BROKEN)) == (1, 0)
        await conclude(database, second, 4)
        assert await used(database, node) == 0


async def test_a_grant_does_not_wait_for_the_row_of_a_task_that_is_being_written(database: Database) -> None:
    """A waiter's task is locked, as by its own conclusion: the grant commits all the same: no deadlock."""
    node = await create_node(database, slots=1)
    holder, waiter = await create_task(database), await create_task(database)
    await reserve(database, holder, node, 1)
    await wait(database, waiter, 1, node)
    async with database.begin("test") as writing:
        await writing.execute(text("SELECT FROM tasks WHERE id = :task FOR UPDATE"), {"task": waiter})
        async with asyncio.timeout(5):
            answer = await conclude(database, holder, 2)
    assert answer["granted"] == 1
    await conclude(database, waiter, 2)
