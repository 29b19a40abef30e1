"""What is kept for a time only: kept workspaces first."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# The Cleanup of the attempt takes back what is over; one intent at a time is enough.
_EXPIRE: Final = text("""
WITH over AS (
  SELECT DISTINCT task_id, attempt FROM (
    SELECT task_id, attempt FROM ledger
    WHERE state = 'retained' AND retained_until <= clock_timestamp() ORDER BY retained_until LIMIT :limit
  ) oldest
)
INSERT INTO outbox (kind, task_id, attempt)
SELECT 'cleanup', task_id, attempt FROM over
WHERE NOT EXISTS (
  SELECT FROM outbox o WHERE o.task_id = over.task_id AND o.attempt = over.attempt AND o.kind = 'cleanup'
)
""")


async def expire_workspaces(connection: AsyncConnection, *, limit: int) -> int:
    """Have up to `limit` kept workspaces destroyed whose time is over; returns how many Cleanups were asked for."""
    return int((await connection.execute(_EXPIRE, {"limit": limit})).rowcount)
