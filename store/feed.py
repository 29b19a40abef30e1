"""Logs as streams read them: what is new in many logs at once, and where one of them ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import TaskStatus
from domain.names import ProjectId, TaskId
from store.models import Task

# One row at least for each log that is asked for: with no `seq` where nothing is new, with no `known` where it is gone.
_NEW: Final = text("""
SELECT w.id AS task_id, t.id IS NOT NULL AS known, t.run_id,
       e.attempt, e.seq, e.ts, e.type, e.source, e.step, e.data
FROM unnest(CAST(:tasks AS text[]), CAST(:firsts AS bigint[])) AS w (id, first)
LEFT JOIN tasks t ON t.id = w.id
LEFT JOIN LATERAL (SELECT * FROM events WHERE task_id = t.id AND seq >= w.first ORDER BY seq LIMIT :limit) e ON true
ORDER BY e.task_id, e.seq
""")


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where a log ends by now, and whether the task has."""

    last_seq: int
    terminal: bool


async def head(connection: AsyncConnection, project: ProjectId, task: str) -> Head | None:
    """Return where the log of this project's task ends; None when there is no such task."""
    statement = select(Task.last_seq, Task.status).where(Task.id == task, Task.project == project)
    row = (await connection.execute(statement)).one_or_none()
    return Head(last_seq=row.last_seq, terminal=TaskStatus(row.status).terminal) if row else None


async def new(
    connection: AsyncConnection, firsts: Mapping[TaskId, int], *, limit: int
) -> dict[TaskId, list[dict[str, Any]] | None]:
    """Return for each task its events from a `seq` on, at most `limit` of each; None for one that is gone.

    Events of a task get their numbers in the order of their commits: nothing is committed later before what is seen.
    """
    parameters = {"tasks": list(firsts), "firsts": list(firsts.values()), "limit": limit}
    found: dict[TaskId, list[dict[str, Any]] | None] = {}
    for row in (await connection.execute(_NEW, parameters)).mappings():
        if not row["known"]:
            found[row["task_id"]] = None
            continue
        events = found.setdefault(row["task_id"], [])
        if row["seq"] is not None and events is not None:
            events.append(dict(row))
    return found
