"""How the suites take, wait for and release slots."""

from datetime import datetime, timedelta
from typing import Any

from domain.events import EventType, NewEvent
from domain.ids import workspace_id
from domain.names import NodeId, TaskId, WorkspaceId
from store import mirror
from store.engine import Database
from tests.store.rows import batch, event, scalar

# Where a node's count and its ledger entries differ, or a slot is used that the node does not have.
BROKEN = """
SELECT count(*) FROM nodes WHERE used > slots OR used < 0 OR used <> (
  SELECT count(*) FROM ledger WHERE kind = 'slot' AND state <> 'released' AND ledger.node_id = nodes.id
)
"""
OPEN = "SELECT count(*) FROM ledger WHERE task_id = :task AND state <> 'released'"


async def reserve(
    database: Database, task: TaskId, node: NodeId | None, version: int, *, visit: int = 1, attempt: int = 1
) -> dict[str, Any]:
    """Reserve as a local workspace on this node, or as an external one on none."""
    identity = workspace_id(task, attempt, visit)
    delegated = event(
        EventType.TASK_DELEGATED, f"{attempt}:delegated:{visit}", attempt=attempt, workspace_id=identity, node_id=node
    )
    async with database.commit("test") as connection:
        return await mirror.reserve(
            connection,
            batch(task, version, delegated, attempt=attempt),
            workspace=identity,
            visit=visit,
            provider="local" if node else "external",
            node=node,
        )


async def wait(
    database: Database, task: TaskId, version: int, node: NodeId, *, priority: int = 3, attempt: int = 1
) -> dict[str, Any]:
    """Enter the queue for this node."""
    async with database.commit("test") as connection:
        return await mirror.wait_for_slot(
            connection, batch(task, version, attempt=attempt), priority=priority, labels={"node": node}
        )


async def conclude(
    database: Database,
    task: TaskId,
    version: int,
    *events: NewEvent,
    attempt: int = 1,
    destroyed: bool = True,
    due: datetime | None = None,
    lease: timedelta | None = None,
    kept: WorkspaceId | None = None,
    keep_for: timedelta = timedelta(hours=1),
) -> dict[str, Any]:
    """Write the end of an attempt: failed, unless other events are given."""
    ending = events or (event(EventType.TASK_FAILED, error={"code": "end"}, attempt=attempt),)
    async with database.commit("test") as connection:
        return await mirror.conclude(
            connection,
            batch(task, version, *ending, attempt=attempt),
            destroyed=destroyed,
            next_attempt_at=due,
            lease=lease,
            kept=kept,
            keep_for=keep_for,
        )


async def used(database: Database, node: NodeId) -> int:
    """Return how many slots the node counts as used."""
    return int(await scalar(database, "SELECT used FROM nodes WHERE id = :node", node=node))


async def holder_of(database: Database, node: NodeId) -> TaskId:
    """Return the task that holds the node's only slot."""
    query = "SELECT task_id FROM ledger WHERE kind = 'slot' AND state <> 'released' AND node_id = :node"
    return TaskId(await scalar(database, query, node=node))
