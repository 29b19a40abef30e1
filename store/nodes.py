"""Nodes: registered, reporting in, listed."""

from typing import Any, Final

from sqlalchemy import RowMapping, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import NodeId
from store.models import Node

_SHOWN: Final = (
    Node.id,
    Node.status,
    Node.slots,
    Node.used,
    Node.labels,
    Node.facts,
    Node.created_at,
    Node.last_heartbeat_at,
)
_REGISTER: Final = text("""
INSERT INTO nodes AS n (id, status, slots, labels, facts)
VALUES (:id, 'provisioning', :slots, CAST(:labels AS jsonb), CAST(:facts AS jsonb))
ON CONFLICT (id) DO UPDATE SET slots = excluded.slots, labels = excluded.labels, facts = excluded.facts,
  status = CASE WHEN n.status = 'gone' THEN 'provisioning' ELSE n.status END
RETURNING n.xmax = 0
""")
# The row's lock comes first: an attempt that enters the wait for this node holds it while it looks.
_REPORT: Final = text("UPDATE nodes SET status = 'ready', last_heartbeat_at = clock_timestamp() WHERE id = :id")
_TELL: Final = text("""
INSERT INTO outbox (kind, task_id, attempt, name, body)
SELECT 'signal', task_id, attempt, 'node_ready', jsonb_build_object('node_id', CAST(:id AS text))
FROM waiters WHERE awaits = :id AND granted IS NULL
""")
_GRANT: Final = text("SELECT grant_slots(:id)")


async def register(
    connection: AsyncConnection, *, node: NodeId, slots: int, labels: str, facts: str
) -> tuple[bool, dict[str, Any]]:
    """Make a node or renew what is known of it; returns whether it is new, and its row. Its slots stay as used.

    What is new and free of a node that works is granted to those who wait.
    """
    parameters = {"id": node, "slots": slots, "labels": labels, "facts": facts}
    new = bool((await connection.execute(_REGISTER, parameters)).scalar_one())
    await connection.execute(_GRANT, {"id": node})
    return new, dict(await _get(connection, node))


async def report(connection: AsyncConnection, node: NodeId) -> dict[str, Any] | None:
    """Note that a node is there: tell those who wait for it, grant its slots; None for an unknown node."""
    if (await connection.execute(_REPORT, {"id": node})).rowcount == 0:
        return None
    await connection.execute(_TELL, {"id": node})
    await connection.execute(_GRANT, {"id": node})
    return dict(await _get(connection, node))


async def page(connection: AsyncConnection, *, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Return up to `limit` nodes by id, after the one with the id `after`."""
    statement = select(*_SHOWN).order_by(Node.id).limit(limit)
    if after is not None:
        statement = statement.where(Node.id > after)
    return [dict(row) for row in (await connection.execute(statement)).mappings()]


async def _get(connection: AsyncConnection, node: NodeId) -> RowMapping:
    return (await connection.execute(select(*_SHOWN).where(Node.id == node))).mappings().one()
