"""The log of a task, in pages."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import ProjectId
from store.models import EventRow, Task

# One statement says whether the task exists and what its log holds: a known task without a hit gives one empty row.
_PAGE: Final = text("""
SELECT t.run_id, e.attempt, e.seq, e.ts, e.type, e.source, e.step, e.data
FROM tasks t LEFT JOIN LATERAL (
  SELECT * FROM events
  WHERE task_id = t.id AND seq >= :first AND (CAST(:types AS text[]) IS NULL OR type = ANY(CAST(:types AS text[])))
  ORDER BY seq LIMIT :limit
) e ON true
WHERE t.id = :task AND t.project = :project
ORDER BY e.seq
""")


async def page(
    connection: AsyncConnection, project: ProjectId, task: str, *, first: int, types: Sequence[str], limit: int
) -> list[dict[str, Any]] | None:
    """Return up to `limit` events from `seq` = `first` on, of these types if any are given; None for no such task."""
    parameters = {"task": task, "project": project, "first": first, "types": list(types) or None, "limit": limit}
    rows = (await connection.execute(_PAGE, parameters)).mappings().all()
    if not rows:
        return None
    return [{"task_id": task, **row} for row in rows if row["seq"] is not None]


async def of_types(
    connection: AsyncConnection, project: ProjectId, task: str, types: Sequence[str]
) -> list[dict[str, Any]]:
    """Return all events of these types, in order of `seq`."""
    statement = (
        select(EventRow.attempt, EventRow.seq, EventRow.ts, EventRow.type, EventRow.step, EventRow.data)
        .join(Task, Task.id == EventRow.task_id)
        .where(Task.id == task, Task.project == project, EventRow.type.in_(types))
        .order_by(EventRow.seq)
    )
    return [dict(row) for row in (await connection.execute(statement)).mappings()]
