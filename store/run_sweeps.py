"""What a sweep of the reconciler reads of runs, and the little that it writes."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import RunId
from domain.run_reconcile import OpenRun
from store.models import OPEN_RUN

_OPEN: Final = text(f"""
SELECT r.id AS run_id, r.attempt, r.version, r.cancel_requested_at IS NOT NULL AS cancel_wanted,
       EXISTS (SELECT FROM run_intents i WHERE i.run_id = r.id AND i.kind = 'start') AS to_be_started
FROM runs r
WHERE r.{OPEN_RUN} AND (r.updated_at < clock_timestamp() - CAST(:quiet AS interval) OR r.id = ANY(:hinted))
ORDER BY r.id = ANY(:hinted) DESC, r.checked_at NULLS FIRST LIMIT :limit
""")  # noqa: S608 - a constant
_CHECKED: Final = text("""
WITH looked AS (SELECT id FROM runs WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
UPDATE runs SET checked_at = clock_timestamp() FROM looked WHERE runs.id = looked.id
""")
_START_AGAIN: Final = text("""
WITH lost AS (
  SELECT id, attempt FROM runs WHERE id = :run AND attempt = :attempt AND version = :version
    AND NOT EXISTS (SELECT FROM run_intents WHERE run_id = :run AND kind = 'start')
  FOR NO KEY UPDATE
)
INSERT INTO run_intents (run_id, kind, attempt) SELECT id, 'start', attempt FROM lost RETURNING id
""")
_AS_OBSERVED: Final = text(f"""
SELECT project FROM runs WHERE id = :run AND attempt = :attempt AND version = :version AND {OPEN_RUN} FOR NO KEY UPDATE
""")  # noqa: S608
_LEFT: Final = text(
    "SELECT name FROM members WHERE run_id = :run AND status IN ('waiting', 'in_progress') ORDER BY position"
)


async def open_runs(
    connection: AsyncConnection, *, quiet: timedelta, hinted: Sequence[str], limit: int
) -> Sequence[OpenRun]:
    """Return open runs that have not moved for a while, or that are hinted at; checked longest ago first."""
    parameters = {"quiet": quiet, "hinted": list(hinted), "limit": limit}
    rows = (await connection.execute(_OPEN, parameters)).mappings()
    return [OpenRun(**row) for row in rows]


async def checked(connection: AsyncConnection, ids: Sequence[str]) -> None:
    """Note that these runs were looked at."""
    await connection.execute(_CHECKED, {"ids": list(ids)})


async def start_again(connection: AsyncConnection, run: OpenRun) -> bool:
    """Store a start intent for an orchestrator that was lost; False when the run has moved meanwhile."""
    parameters = {"run": run.run_id, "attempt": run.attempt, "version": run.version}
    return (await connection.execute(_START_AGAIN, parameters)).first() is not None


async def as_observed(connection: AsyncConnection, run: OpenRun) -> bool:
    """Lock a run's row if it is still as it was observed."""
    parameters = {"run": run.run_id, "attempt": run.attempt, "version": run.version}
    return (await connection.execute(_AS_OBSERVED, parameters)).first() is not None


async def left(connection: AsyncConnection, run: OpenRun) -> Sequence[str]:
    """Return the members that have not ended."""
    return (await connection.execute(_LEFT, {"run": RunId(run.run_id)})).scalars().all()
