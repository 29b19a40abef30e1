"""What nobody owns any more: entries of the ledger, waiters, counts of slots, kept answers, uploads."""
# ruff: noqa: S608 - statements are put together from the constants of this module, never from a value

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import NodeId, WorkspaceId

# An entry's owner is over when its task was deleted, has ended, or is at a later attempt.
_OVER: Final = "(t.id IS NULL OR t.attempt > l.attempt OR t.status IN ('completed', 'failed', 'cancelled'))"
# An entry without `created` stands for a call that may still be under way, until its deadline. A node that nobody hears
# can release nothing: what is there waits until it is back, or gone.
_LEFTOVERS: Final = f"""
SELECT DISTINCT l.task_id, l.attempt FROM ledger l LEFT JOIN tasks t ON t.id = l.task_id
WHERE l.state <> 'released' AND l.state IN ('intent', 'created') AND {_OVER}
  AND l.updated_at < clock_timestamp() - CAST(:settled AS interval)
  AND (l.state = 'created' OR l.updated_at < clock_timestamp() - CAST(:call AS interval))
  AND NOT EXISTS (
    SELECT FROM outbox o WHERE o.task_id = l.task_id AND o.attempt = l.attempt AND o.kind = 'cleanup'
  )
  AND NOT EXISTS (SELECT FROM nodes n WHERE n.id = l.node_id AND n.status = 'lost')
LIMIT :limit
"""
_FIND_LEFTOVERS: Final = text(_LEFTOVERS)
_CLEAN_UP: Final = text(f"""
INSERT INTO outbox (kind, task_id, attempt)
SELECT 'cleanup', task_id, attempt FROM ({_LEFTOVERS}) l RETURNING task_id, attempt
""")
_DEAD_WAITERS: Final = """
SELECT w.task_id, w.attempt FROM waiters w JOIN tasks t ON t.id = w.task_id
WHERE t.attempt <> w.attempt OR t.status IN ('completed', 'failed', 'cancelled')
LIMIT :limit
"""
_FIND_WAITERS: Final = text(_DEAD_WAITERS)
_REMOVE_WAITERS: Final = text(f"""
WITH dead AS ({_DEAD_WAITERS} FOR UPDATE OF w SKIP LOCKED)
DELETE FROM waiters w USING dead WHERE w.task_id = dead.task_id AND w.attempt = dead.attempt
RETURNING w.task_id, w.attempt
""")
_HELD: Final = "(SELECT count(*) FROM ledger l WHERE l.kind = 'slot' AND l.state <> 'released' AND l.node_id = n.id)"
_DRIFTED: Final = text(f"SELECT n.id FROM nodes n WHERE n.used <> {_HELD} ORDER BY n.id LIMIT :limit")
_LOCK_NODE: Final = text("SELECT FROM nodes WHERE id = :node FOR UPDATE")
_COUNT_SLOTS: Final = text(f"UPDATE nodes n SET used = {_HELD} WHERE n.id = :node AND n.used <> {_HELD} RETURNING n.id")
_GRANT: Final = text("SELECT grant_slots(:node)")
_EXPIRED: Final = """
SELECT ctid FROM idempotency WHERE created_at < clock_timestamp() - CAST(:kept AS interval) LIMIT :limit
"""
_COUNT_ANSWERS: Final = text(f"SELECT count(*) FROM ({_EXPIRED}) e")
_FORGET_ANSWERS: Final = text(f"DELETE FROM idempotency WHERE ctid IN ({_EXPIRED} FOR UPDATE SKIP LOCKED)")
_INTERRUPTED: Final = """
SELECT b.id FROM blobs b
WHERE b.sha256 = '' AND b.created_at < clock_timestamp() - CAST(:older AS interval)
  AND NOT EXISTS (SELECT FROM attachments a WHERE a.blob_id = b.id)
  AND NOT EXISTS (SELECT FROM artifacts a WHERE a.blob_id = b.id)
LIMIT :limit
"""
_FIND_UPLOADS: Final = text(_INTERRUPTED)
_REMOVE_UPLOADS: Final = text(f"DELETE FROM blobs WHERE id IN ({_INTERRUPTED} FOR UPDATE SKIP LOCKED) RETURNING id")
_NODES: Final = text("""
SELECT id FROM nodes WHERE status IN ('ready', 'warm', 'draining')
ORDER BY md5(id || floor(extract(epoch FROM clock_timestamp()) / :period)) LIMIT :limit
""")
_KNOWN: Final = text("SELECT tag FROM ledger WHERE tag = ANY(:ids) AND state <> 'released'")


async def clean_up(
    connection: AsyncConnection, *, settled: timedelta, call: timedelta, limit: int, dry_run: bool
) -> Sequence[str]:
    """Store a cleanup intent for each attempt that is over and still holds something, unless there is one already."""
    parameters = {"settled": settled, "call": call, "limit": limit}
    rows = await connection.execute(_FIND_LEFTOVERS if dry_run else _CLEAN_UP, parameters)
    return [f"{row.task_id}-a{row.attempt}" for row in rows]


async def remove_waiters(connection: AsyncConnection, *, limit: int, dry_run: bool) -> Sequence[str]:
    """Remove those who wait for a slot on behalf of an attempt that is over."""
    rows = await connection.execute(_FIND_WAITERS if dry_run else _REMOVE_WAITERS, {"limit": limit})
    return [f"{row.task_id}-a{row.attempt}" for row in rows]


async def drifted(connection: AsyncConnection, *, limit: int) -> Sequence[NodeId]:
    """Return the nodes whose count of used slots is not that of their open entries."""
    return [NodeId(node) for node in (await connection.execute(_DRIFTED, {"limit": limit})).scalars()]


async def count_slots(connection: AsyncConnection, node: NodeId) -> bool:
    """Count a node's slots anew under its lock, and grant what is free; False when the count was right after all.

    Whoever takes or releases a slot changes count and entry in one transaction, and holds the node's lock for it.
    """
    await connection.execute(_LOCK_NODE, {"node": node})
    if (await connection.execute(_COUNT_SLOTS, {"node": node})).first() is None:
        return False
    await connection.execute(_GRANT, {"node": node})
    return True


async def forget_answers(connection: AsyncConnection, *, kept: timedelta, limit: int, dry_run: bool) -> int:
    """Forget answers to POSTs whose time is over; returns how many."""
    parameters = {"kept": kept, "limit": limit}
    if dry_run:
        return int((await connection.execute(_COUNT_ANSWERS, parameters)).scalar_one())
    return (await connection.execute(_FORGET_ANSWERS, parameters)).rowcount


async def remove_uploads(connection: AsyncConnection, *, older: timedelta, limit: int, dry_run: bool) -> Sequence[str]:
    """Remove the bytes of uploads that were never completed."""
    parameters = {"older": older, "limit": limit}
    return list((await connection.execute(_FIND_UPLOADS if dry_run else _REMOVE_UPLOADS, parameters)).scalars())


async def nodes_to_ask(connection: AsyncConnection, *, period: timedelta, limit: int) -> Sequence[NodeId]:
    """Return a few nodes whose workspaces are to be compared with the ledger: others in each period."""
    parameters = {"period": period.total_seconds(), "limit": limit}
    return [NodeId(node) for node in (await connection.execute(_NODES, parameters)).scalars()]


async def unknown(connection: AsyncConnection, workspaces: Sequence[WorkspaceId]) -> list[WorkspaceId]:
    """Return those of a node's workspaces that no entry of the ledger holds or retains.

    An entry is committed before its workspace is made, so whoever lists first and asks then misses none.
    """
    known = set((await connection.execute(_KNOWN, {"ids": list(workspaces)})).scalars())
    return [workspace for workspace in workspaces if workspace not in known]
