"""Tasks that come for slots and end, as their workflows would have them do."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from domain.ids import new_id
from domain.messages import NodeChoice, NodeQuery
from domain.names import DEFAULT_PROJECT, NodeId, ProjectId, TaskId
from store import mirror, placement
from store.engine import Database
from tests.store.rows import batch, create_node, create_task
from tests.store.slots import conclude, reserve

_GRANTED = text("SELECT task_id, granted FROM waiters WHERE granted IS NOT NULL AND task_id = ANY(:tasks)")


@dataclass
class Traffic:
    """A pool of nodes, and the tasks that ask for a slot of any of them."""

    database: Database
    nodes: Sequence[NodeId]
    labels: dict[str, str]
    tasks: list[TaskId] = field(default_factory=list)
    holders: list[TaskId] = field(default_factory=list)
    granted: dict[TaskId, asyncio.Future[NodeId]] = field(default_factory=dict)
    # As many as there are connections: whoever waits for one must not be turned away.
    pool: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(20))

    @classmethod
    async def on(cls, database: Database, *slots: int) -> "Traffic":
        """Return traffic on nodes of its own with so many slots each."""
        labels = {"pool": new_id()}
        nodes = [await create_node(database, slots=each, labels=labels) for each in slots]
        return cls(database, nodes, labels)

    async def create(
        self, *, project: ProjectId = DEFAULT_PROJECT, priority: int = 3, preferred: NodeId | None = None
    ) -> TaskId:
        """Write a task that has not come for its slot yet."""
        body: dict[str, Any] = {"preferred_node": preferred} if preferred else {}
        task = await create_task(self.database, project=project, priority=priority, node_labels=self.labels, **body)
        self.tasks.append(task)
        return task

    async def choose(self, task: TaskId, preferred: NodeId | None = None) -> NodeChoice:
        """Have a node chosen."""
        query = NodeQuery(task_id=task, attempt=1, project=DEFAULT_PROJECT, labels=self.labels, preferred=preferred)
        async with self.database.read() as connection:
            return await placement.select_node(connection, query)

    async def wait(self, task: TaskId, *, priority: int = 3, version: int = 10) -> NodeId | None:
        """Enter the queue; returns where it holds a slot, if it does."""
        async with self.database.commit("test") as connection:
            answer = await mirror.wait_for_slot(connection, batch(task, version), priority=priority, labels=self.labels)
        return answer["granted"]  # type: ignore[no-any-return]

    async def come(self, task: TaskId, *, priority: int = 3, preferred: NodeId | None = None) -> NodeId | None:
        """Come for a slot: take a free one, or queue up. Returns the node, or None for one that waits."""
        for visit in range(1, 20):
            node = (await self.choose(task, preferred)).node_id
            node = node or await self.wait(task, priority=priority, version=10 * visit)
            if node is None:
                return None
            if await self.take(task, node, visit=visit):
                return node
        raise AssertionError("it loses every slot")

    async def take(self, task: TaskId, node: NodeId, *, visit: int = 1) -> bool:
        """Take a free slot, or take up one that was granted; False if it is lost."""
        taken = (await reserve(self.database, task, node, 10 * visit + 1, visit=visit))["workspace_id"] is not None
        if taken:
            self.holders.append(task)
        return taken

    async def end(self, task: TaskId) -> None:
        """End one that holds a slot; whoever was granted it takes it up."""
        for granted, node in await self._conclude(task):
            assert await self.take(granted, node, visit=50)

    async def _conclude(self, task: TaskId) -> Sequence[tuple[TaskId, NodeId]]:
        """Conclude; returns who has been granted a slot and has not taken it up."""
        self.holders.remove(task)
        await conclude(self.database, task, 1000)
        return await self._told()

    async def _told(self) -> Sequence[tuple[TaskId, NodeId]]:
        async with self.database.read() as connection:
            return [(row.task_id, row.granted) for row in await connection.execute(_GRANTED, {"tasks": self.tasks})]

    async def live(self, task: TaskId, *, priority: int = 3, preferred: NodeId | None = None) -> None:
        """Live a whole life beside others: come, wait for a slot, take it, end."""
        told = self.granted[task] = asyncio.get_running_loop().create_future()
        async with self.pool:
            waits = await self.come(task, priority=priority, preferred=preferred) is None
            self._tell(await self._told())
        if waits:
            node = await told
            async with self.pool:
                assert await self.take(task, node, visit=50)
        async with self.pool:
            self._tell(await self._conclude(task))

    def _tell(self, granted: Sequence[tuple[TaskId, NodeId]]) -> None:
        for task, node in granted:
            if not self.granted[task].done():
                self.granted[task].set_result(node)
