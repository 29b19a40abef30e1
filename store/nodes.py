"""Nodes: registered, reporting in, heard, drained, lost and gone. Every change of status is under the row's lock."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import RowMapping, Select, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import NodeStatus
from domain.names import NodeId, WorkspaceId
from store.models import Node

_SHOWN: Final = (
    Node.id,
    Node.status,
    Node.slots,
    Node.used,
    Node.labels,
    Node.facts,
    Node.cpu,
    Node.memory,
    Node.created_at,
    Node.last_heartbeat_at,
)
# Who begins again and again, and never reports in, is not heard by that.
_REGISTER: Final = text("""
INSERT INTO nodes AS n (id, status, slots, labels, facts, home, last_heartbeat_at)
VALUES (:id, 'provisioning', :slots, CAST(:labels AS jsonb), CAST(:facts AS jsonb), :home, clock_timestamp())
ON CONFLICT (id) DO UPDATE SET slots = excluded.slots, labels = excluded.labels, facts = excluded.facts,
  home = coalesce(excluded.home, n.home), drains = false,
  last_heartbeat_at = CASE WHEN n.status = 'gone' THEN excluded.last_heartbeat_at ELSE n.last_heartbeat_at END,
  status = CASE WHEN n.status = 'gone' AND n.provider IS NULL THEN 'provisioning' ELSE n.status END
WHERE n.home IS NULL OR excluded.home IS NULL OR n.home = excluded.home OR n.status IN ('provisioning', 'lost', 'gone')
RETURNING n.xmax = 0
""")
# The row's lock comes first: an attempt that enters the wait for this node holds it while it looks. A node that was
# made and is gone stays so: its machine is being taken away. One that drains goes on with that, lost meanwhile or not.
_REPORT: Final = text("""
UPDATE nodes SET last_heartbeat_at = clock_timestamp(),
  status = CASE WHEN NOT drains THEN 'ready' WHEN used = 0 OR status = 'gone' THEN 'gone' ELSE 'draining' END,
  idle_since = CASE WHEN used = 0 THEN coalesce(idle_since, clock_timestamp()) END
WHERE id = :id AND NOT (status = 'gone' AND provider IS NOT NULL)
RETURNING status
""")
_TELL: Final = text("""
INSERT INTO outbox (kind, task_id, attempt, name, body)
SELECT 'signal', task_id, attempt, 'node_ready', jsonb_build_object('node_id', CAST(:id AS text))
FROM waiters WHERE awaits = :id AND granted IS NULL
""")
_GRANT: Final = text("SELECT grant_slots(:id)")
_BEAT: Final = text("""
UPDATE nodes SET last_heartbeat_at = clock_timestamp(), cpu = :cpu, memory = :memory, load = :load WHERE id = :id
""")
_DRAIN: Final = text("""
UPDATE nodes SET drains = true, status = CASE
  WHEN status IN ('lost', 'gone') THEN status
  WHEN status = 'provisioning' OR used = 0 THEN 'gone'
  ELSE 'draining' END
WHERE id = :id
""")
_FORSAKE: Final = text("SELECT forsake_node(id) FROM nodes WHERE id = :id AND status = 'gone'")
_LOCK: Final = text("SELECT FROM nodes WHERE id = :id FOR UPDATE")
_DESERT: Final = text("SELECT desert_node(:id, :status)")
_LOSE: Final = text("SELECT lose_nodes(CAST(:lost_after AS interval), CAST(:gap AS interval))")
# A node's own: what is kept, and what a live attempt holds there. What an attempt that has ended has not released yet
# is not: its next attempt may be at work elsewhere.
_OWN: Final = text("""
SELECT l.tag FROM ledger l LEFT JOIN tasks t ON t.id = l.task_id
WHERE l.tag = ANY(:ids) AND l.node_id = :id AND (
  l.state = 'retained' OR (l.state IN ('intent', 'created') AND t.attempt = l.attempt
                           AND t.status NOT IN ('completed', 'failed', 'cancelled')))
""")


async def register(
    connection: AsyncConnection, *, node: NodeId, slots: int, labels: str, facts: str, home: str | None = None
) -> tuple[bool, dict[str, Any]] | None:
    """Make a node or renew what is known of it; returns whether it is new, and its row. Its slots stay as used.

    What is new and free of a node that works is granted to those who wait. None, and nothing changes, while the node
    is another machine than `home`, which reports in: both would take its work from the same queues.
    """
    parameters = {"id": node, "slots": slots, "labels": labels, "facts": facts, "home": home}
    new = (await connection.execute(_REGISTER, parameters)).scalar_one_or_none()
    if new is None:
        return None
    await connection.execute(_GRANT, {"id": node})
    return bool(new), dict(await _get(connection, node))


async def elsewhere(connection: AsyncConnection, node: NodeId, *, home: str) -> bool:
    """Return whether a node is known to be another machine than this one."""
    known = await connection.execute(select(Node.home).where(Node.id == node))
    return known.scalar_one_or_none() not in {None, home}


async def report(connection: AsyncConnection, node: NodeId) -> dict[str, Any] | None:
    """Note that a node is there: tell those who wait for it, grant its slots; None for an unknown node.

    One that was drained since its start gets none.
    """
    if (await connection.execute(_REPORT, {"id": node})).scalar_one_or_none() == NodeStatus.READY:
        await connection.execute(_TELL, {"id": node})
        await connection.execute(_GRANT, {"id": node})
    row = (await connection.execute(_row(node))).mappings().one_or_none()
    return dict(row) if row else None


async def not_own(connection: AsyncConnection, node: NodeId, workspaces: Sequence[WorkspaceId]) -> list[WorkspaceId]:
    """Return those of the workspaces found on a node that are not its own any more.

    An entry is committed before its workspace is made, so whoever lists first and asks then misses none.
    """
    own = set((await connection.execute(_OWN, {"ids": list(workspaces), "id": node})).scalars())
    return [workspace for workspace in workspaces if workspace not in own]


async def beat(
    connection: AsyncConnection, node: NodeId, *, cpu: float | None, memory: float | None, load: float | None
) -> dict[str, Any] | None:
    """Note that a node was heard and what it measures; its status stays. None for an unknown node."""
    heard = await connection.execute(_BEAT, {"id": node, "cpu": cpu, "memory": memory, "load": load})
    return dict(await _get(connection, node)) if heard.rowcount else None


async def drain(connection: AsyncConnection, node: NodeId) -> dict[str, Any] | None:
    """Give a node no more slots; it is gone when it has none left. None for an unknown node.

    A node that is lost stays so: nobody can say that it is empty.
    """
    drained = await connection.execute(_DRAIN, {"id": node})
    await connection.execute(_FORSAKE, {"id": node})
    return dict(await _get(connection, node)) if drained.rowcount else None


async def remove(connection: AsyncConnection, node: NodeId) -> dict[str, Any] | None:
    """Note that a node does not come back, and tell the attempts whose workspaces were there; None: unknown."""
    if (await connection.execute(_LOCK, {"id": node})).first() is None:
        return None
    await connection.execute(_DESERT, {"id": node, "status": NodeStatus.GONE})
    return dict(await _get(connection, node))


async def hear(connection: AsyncConnection, *, lost_after: timedelta, gap: timedelta) -> list[NodeId]:
    """Note that an API is there to hear nodes; returns those that are lost by now, whose attempts are told.

    Silence counts only while somebody was there, without a `gap` longer than this between two of these calls.
    """
    lost = await connection.execute(_LOSE, {"lost_after": lost_after, "gap": gap})
    return [NodeId(node) for node in lost.scalars()]


async def page(connection: AsyncConnection, *, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` nodes by id, after the one with the id `after`."""
    statement = select(*_SHOWN).order_by(Node.id).limit(limit)
    if after is not None:
        statement = statement.where(Node.id > after)
    return [dict(row) for row in (await connection.execute(statement)).mappings()]


async def _get(connection: AsyncConnection, node: NodeId) -> RowMapping:
    return (await connection.execute(_row(node))).mappings().one()


def _row(node: NodeId) -> Select[*tuple[Any, ...]]:
    return select(*_SHOWN).where(Node.id == node)
