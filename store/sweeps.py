"""What a sweep of the reconciler reads of tasks, and the little that it writes beside `repairs.end_attempt`."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import TaskId
from domain.reconcile import Action
from store.facts import COLUMNS, INTENTS
from store.models import OPEN

_OPEN_ROWS: Final = text(f"""
SELECT {COLUMNS} FROM tasks t {INTENTS}
WHERE t.{OPEN} ORDER BY t.checked_at NULLS FIRST LIMIT :limit
""")  # noqa: S608 - constants
_NAMED_ROWS: Final = text(f"SELECT {COLUMNS} FROM tasks t {INTENTS} WHERE t.id = ANY(:ids) AND t.{OPEN}")  # noqa: S608
# The locks are taken in order and never waited for: a row that is being written is looked at another time.
_CHECKED: Final = text("""
WITH looked AS (
  SELECT id FROM tasks WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE tasks SET checked_at = clock_timestamp() FROM looked WHERE tasks.id = looked.id
""")
# Their last event is not their workflow's: it may not know that it is over.
_ENDED_BY_OTHERS: Final = text("""
SELECT t.id, t.attempt FROM tasks t
JOIN events e ON e.task_id = t.id AND e.seq = t.last_seq
WHERE t.finished_at > clock_timestamp() - CAST(:within AS interval)
  AND (t.checked_at IS NULL OR t.checked_at < t.finished_at)
  AND t.status IN ('completed', 'failed', 'cancelled') AND e.source <> 'workflow'
ORDER BY t.finished_at LIMIT :limit
""")
_START_AGAIN: Final = text("""
WITH lost AS (
  SELECT id, attempt FROM tasks
  WHERE id = :task AND attempt = :attempt AND version = 0 AND status = 'queued'
    AND NOT EXISTS (
      SELECT FROM outbox WHERE outbox.task_id = :task AND outbox.attempt = :attempt AND kind = 'start'
    )
  FOR NO KEY UPDATE
)
INSERT INTO outbox (kind, task_id, attempt) SELECT 'start', id, attempt FROM lost RETURNING id
""")
_UNSENT: Final = text("""
SELECT id, kind, task_id FROM outbox
WHERE due_at < clock_timestamp() - CAST(:older AS interval)
  AND (leased_until IS NULL OR leased_until < clock_timestamp())
ORDER BY due_at LIMIT :limit
""")
_NOTE: Final = text("""
WITH old AS (DELETE FROM sweeps WHERE at < clock_timestamp() - interval '7 days')
INSERT INTO sweeps (counts) VALUES (CAST(:counts AS jsonb))
""")


async def open_rows(connection: AsyncConnection, *, limit: int) -> Sequence[Mapping[str, Any]]:
    """Return open tasks as rows for `facts.read`, those that were checked longest ago first."""
    return [dict(row) for row in (await connection.execute(_OPEN_ROWS, {"limit": limit})).mappings()]


async def named_rows(connection: AsyncConnection, ids: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    """Return those of these tasks that are open."""
    return [dict(row) for row in (await connection.execute(_NAMED_ROWS, {"ids": list(ids)})).mappings()]


async def checked(connection: AsyncConnection, ids: Sequence[str]) -> None:
    """Note that these tasks were looked at."""
    await connection.execute(_CHECKED, {"ids": list(ids)})


async def ended_by_others(
    connection: AsyncConnection, *, within: timedelta, limit: int
) -> Sequence[tuple[TaskId, int]]:
    """Return (task, attempt) of those that ended lately by another's word than their workflow's, not checked since."""
    rows = await connection.execute(_ENDED_BY_OTHERS, {"within": within, "limit": limit})
    return [(TaskId(row.id), row.attempt) for row in rows]


async def start_again(connection: AsyncConnection, task: TaskId, attempt: int) -> bool:
    """Store the start intent of an attempt that has none and never began; False when it is not needed any more."""
    found = await connection.execute(_START_AGAIN, {"task": task, "attempt": attempt})
    return found.first() is not None


async def unsent(connection: AsyncConnection, *, older: timedelta, limit: int) -> Sequence[str]:
    """Return the tasks of intents that are long due and that no dispatcher holds."""
    rows = await connection.execute(_UNSENT, {"older": older, "limit": limit})
    return [f"{row.kind} {row.task_id}" for row in rows]


async def note(connection: AsyncConnection, counts: Mapping[Action, int]) -> None:
    """Keep what a sweep did, and forget those of more than a week ago."""
    await connection.execute(_NOTE, {"counts": json.dumps(counts)})
