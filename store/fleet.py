"""Nodes that were made: noted before they are, given their token, taken back when they are idle."""
# ruff: noqa: S608 - statements are put together from the constants of this module, never from a value

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.ids import new_id
from domain.lifecycle import NodeStatus
from domain.names import DEFAULT_PROJECT, NodeId, Scope, TaskId
from domain.provisioning import Provisioning
from store import jsonb, keys

_PROVIDE: Final = text("SELECT provide_node(:task, :node, :provider, :slots, CAST(:labels AS jsonb), :most, :waiting)")
# A workspace that is kept there is to be found there, for as long as was promised.
_IDLE: Final = (
    "(used = 0 AND NOT EXISTS (SELECT FROM ledger WHERE ledger.node_id = nodes.id AND ledger.state = 'retained'))"
)
_MADE: Final = text(f"""
SELECT id, status, slots, labels, clock_timestamp() - created_at AS age,
       CASE WHEN {_IDLE} THEN clock_timestamp() - idle_since END AS idle_for
FROM nodes WHERE provider = :provider AND (status <> 'gone' OR id = ANY(:there)) ORDER BY id
""")
_RETIRE: Final = text(f"""
UPDATE nodes SET status = 'gone'
WHERE id = :node AND {_IDLE} AND status IN ('ready', 'warm')
  AND idle_since < clock_timestamp() - CAST(:idle AS interval)
""")
_LOCK_LOST: Final = text("SELECT FROM nodes WHERE id = :node AND status = 'lost' FOR UPDATE")
_DESERT: Final = text("SELECT desert_node(:node, 'gone')")
_LOCK_COMING: Final = text("SELECT FROM nodes WHERE id = :node AND status = 'provisioning' FOR UPDATE")
_REVOKE: Final = text("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE node_id = :node AND revoked_at IS NULL")
_ONE: Final = text("""
SELECT id, status, slots, labels, clock_timestamp() - created_at AS age, CAST(NULL AS interval) AS idle_for
FROM nodes WHERE id = :node AND provider IS NOT NULL
""")


@dataclass(frozen=True, kw_only=True)
class Made:
    """A node that was made, or is to be; `idle_for` only while no slot of it is taken, and nothing is kept there."""

    id: NodeId
    status: NodeStatus
    slots: int
    labels: dict[str, str]
    age: timedelta
    idle_for: timedelta | None


async def provide(connection: AsyncConnection, task: TaskId, policy: Provisioning) -> NodeId | None:
    """Note that a node is to be made for this task, if slots are missing; returns its id."""
    parameters = {
        "task": task,
        "node": f"made-{new_id()}",
        "provider": policy.provider,
        "slots": policy.slots,
        "labels": jsonb.dumps(policy.labels),
        "most": policy.most,
        "waiting": policy.waiting,
    }
    node = (await connection.execute(_PROVIDE, parameters)).scalar_one()
    return NodeId(node) if node else None


async def made(connection: AsyncConnection, provider: str, there: Sequence[NodeId]) -> Sequence[Made]:
    """Return the provider's nodes that are not gone, and of the gone ones those of which something is still `there`."""
    rows = (await connection.execute(_MADE, {"provider": provider, "there": list(there)})).mappings()
    return [Made(**{**row, "status": NodeStatus(row["status"])}) for row in rows]


async def one(connection: AsyncConnection, node: NodeId) -> Made | None:
    """Return a made node."""
    row = (await connection.execute(_ONE, {"node": node})).mappings().one_or_none()
    return Made(**{**row, "status": NodeStatus(row["status"])}) if row else None


async def give_token(connection: AsyncConnection, node: NodeId, sha256: bytes) -> None:
    """Let the node in by this token, too: of two who make one node at once, one has it made with its own."""
    await keys.ensure(
        connection,
        sha256=sha256,
        project=DEFAULT_PROJECT,
        name=f"node {node}",
        scopes=[Scope.NODES_WRITE],
        node_id=node,
    )


async def revoke_tokens(connection: AsyncConnection, node: NodeId) -> None:
    """Let the node in no more."""
    await connection.execute(_REVOKE, {"node": node})


async def retire(connection: AsyncConnection, node: NodeId, *, idle: timedelta) -> bool:
    """End a node that has been idle for so long; False when it has work again."""
    return bool((await connection.execute(_RETIRE, {"node": node, "idle": idle})).rowcount)


async def abandon(connection: AsyncConnection, node: NodeId) -> bool:
    """End a node that is lost, and tell the attempts whose workspaces were there; False when it is back by now."""
    return await _ended(connection, _LOCK_LOST, node)


async def give_up(connection: AsyncConnection, node: NodeId) -> bool:
    """End a node that has never reported in, and tell those who wait for it; False when it has by now."""
    return await _ended(connection, _LOCK_COMING, node)


async def _ended(connection: AsyncConnection, lock: TextClause, node: NodeId) -> bool:
    if (await connection.execute(lock, {"node": node})).first() is None:
        return False
    await connection.execute(_DESERT, {"node": node})
    return True
