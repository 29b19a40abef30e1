"""What hooks are told of a log: the events at their moments, without what they carry of a task's own."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.hooks import MOMENT_OF_EVENT, Fact, Moment
from domain.names import TaskId
from store import jsonb
from store.mirror import Appended

# An event of a visit has the key `{attempt}:{type}:{step}:{visit}`.
_READ: Final = text("""
SELECT t.id AS task_id, t.project, t.run_id, e.attempt, e.seq, e.ts, e.type, e.step,
       CASE WHEN e.type LIKE 'step.%' THEN CAST(substring(split_part(e.key, ':', 4) FROM '^[0-9]{1,9}$') AS int) END
         AS visit,
       CASE WHEN e.type NOT IN ('step.started', 'task.paused')
         THEN coalesce(e.data ->> 'outcome', split_part(e.type, '.', 2)) END AS outcome,
       coalesce(CAST(e.data ->> 'duration_seconds' AS float), extract(epoch FROM e.ts - began.ts)) AS seconds,
       e.data -> 'error' ->> 'code' AS error
FROM jsonb_to_recordset(CAST(:ranges AS jsonb)) AS r (task text, first bigint, last bigint)
JOIN tasks t ON t.id = r.task
JOIN events e ON e.task_id = t.id AND e.seq BETWEEN r.first AND r.last AND e.type = ANY(:types)
LEFT JOIN events began ON e.type IN ('step.finished', 'step.failed') AND began.task_id = e.task_id
  AND began.key = replace(e.key, e.type, 'step.started')
ORDER BY e.task_id, e.seq
""")


async def read(connection: AsyncConnection, appended: Sequence[tuple[TaskId, Appended]]) -> list[tuple[Moment, Fact]]:
    """Return what these parts of logs tell, in the order of each log."""
    ranges = [{"task": task, "first": first, "last": last} for task, (first, last) in appended]
    parameters = {"ranges": jsonb.dumps(ranges), "types": list(MOMENT_OF_EVENT)}
    rows = [dict(row) for row in (await connection.execute(_READ, parameters)).mappings()]
    return [(MOMENT_OF_EVENT[row["type"]], _fact(**row)) for row in rows]


def _fact(*, seconds: float | None, **row: object) -> Fact:
    return Fact(**row, duration=None if seconds is None else timedelta(seconds=float(seconds)))  # type: ignore[arg-type]
