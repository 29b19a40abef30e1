"""Logs as streams read them: what is new in many logs at once, and where one of them ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Final, NamedTuple

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import TaskStatus
from domain.names import ProjectId
from store.models import Task

# One row at least for each log that is asked for: with no `seq` where nothing is new, with no `known` where it is gone.
_NEW: Final = text("""
SELECT w.id, t.id IS NOT NULL AS known, e.seq, e.type, event_envelope(t, e) AS envelope
FROM unnest(CAST(:tasks AS text[]), CAST(:firsts AS bigint[])) AS w (id, first)
LEFT JOIN tasks t ON t.id = w.id
LEFT JOIN LATERAL (
  SELECT events.* FROM events WHERE task_id = t.id AND seq >= w.first ORDER BY seq LIMIT :limit
) e ON true
ORDER BY w.id, e.seq
""")


class Entry(NamedTuple):
    """An event of a log: its envelope is JSON on one line."""

    seq: int
    type: str
    envelope: str


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


async def new(connection: AsyncConnection, firsts: Mapping[str, int], *, limit: int) -> dict[str, list[Entry] | None]:
    """Return for each task its events from a `seq` on, at most `limit` of each; None for one that is gone.

    Events of a task get their numbers in the order of their commits: nothing is committed later before what is seen.
    """
    parameters = {"tasks": list(firsts), "firsts": list(firsts.values()), "limit": limit}
    found: dict[str, list[Entry] | None] = {}
    for task, some in groupby(await connection.execute(_NEW, parameters), key=itemgetter(0)):
        rows = list(some)
        found[task] = [Entry(*row[2:]) for row in rows if row.seq is not None] if rows[0].known else None
    return found
