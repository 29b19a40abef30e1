"""Output of attempts, by byte position."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import ProjectId
from domain.tokens import Claims

_APPEND: Final = text("SELECT append_log(:task, :workspace, :attempt, :position, :data, :limit, :turn)")
_EXTENT: Final = text("""
SELECT t.attempt AS current, coalesce(CAST(:attempt AS int), t.attempt) AS attempt,
       t.status NOT IN ('ready', 'completed', 'failed', 'cancelled') AND NOT EXISTS (
         SELECT FROM log_chunks
         WHERE task_id = t.id AND attempt = coalesce(CAST(:attempt AS int), t.attempt) AND turn > CAST(:turn AS int)
       ) AS working,
       coalesce(c.position + length(c.data), 0) AS ends, coalesce(c.truncated, false) AS truncated,
       CASE WHEN CAST(:turn AS int) IS NULL THEN 0 ELSE coalesce((
         SELECT min(position) FROM log_chunks
         WHERE task_id = t.id AND attempt = coalesce(CAST(:attempt AS int), t.attempt) AND turn = CAST(:turn AS int)
       ), c.position + length(c.data), 0) END AS begins
FROM tasks t LEFT JOIN LATERAL (
  SELECT * FROM log_chunks
  WHERE task_id = t.id AND attempt = coalesce(CAST(:attempt AS int), t.attempt)
    AND turn <= coalesce(CAST(:turn AS int), turn)
  ORDER BY position DESC LIMIT 1
) c ON true
WHERE t.id = :task AND t.project = :project
""")
# From the chunk in which `first` lies: its position is found by the key, not by looking at the chunks.
_READ: Final = text("""
SELECT position, data FROM log_chunks
WHERE task_id = :task AND attempt = :attempt AND position < :stop AND position >= coalesce(
  (SELECT max(position) FROM log_chunks WHERE task_id = :task AND attempt = :attempt AND position <= :first), 0)
ORDER BY position
""")


class Appended(StrEnum):
    """What became of a piece of output."""

    APPENDED = "appended"
    REPEAT = "repeat"
    GAP = "gap"
    TRUNCATED = "truncated"
    STALE = "stale"
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class Extent:
    """Where the output of an attempt, or of one of its turns, begins and ends, and whether more may come."""

    attempt: int
    begins: int
    ends: int
    truncated: bool
    live: bool


async def append(
    connection: AsyncConnection, claims: Claims, *, position: int, data: bytes, limit: int
) -> tuple[Appended, int]:
    """Append output from a byte position on; returns what became of it and the position to go on from."""
    parameters = {
        "task": claims.task_id,
        "workspace": claims.workspace_id,
        "attempt": claims.attempt,
        "position": position,
        "data": data,
        "limit": limit,
        "turn": claims.turn,
    }
    answer: dict[str, Any] = (await connection.execute(_APPEND, parameters)).scalar_one()
    return Appended(answer["verdict"]), answer.get("next", 0)


async def extent(
    connection: AsyncConnection, project: ProjectId, task: str, *, attempt: int | None, turn: int | None = None
) -> Extent | None:
    """Return the extent of an attempt's output (None: the current one's), of all its turns or one.

    None for no such task or attempt. A turn that has written nothing begins and ends where those before it ended.
    """
    parameters = {"task": task, "project": project, "attempt": attempt, "turn": turn}
    row = (await connection.execute(_EXTENT, parameters)).one_or_none()
    if row is None or row.attempt > row.current:
        return None
    live = bool(row.working and row.attempt == row.current)
    return Extent(attempt=row.attempt, begins=row.begins, ends=row.ends, truncated=row.truncated, live=live)


async def read(connection: AsyncConnection, task: str, attempt: int, *, first: int, stop: int) -> bytes:
    """Return the bytes from `first` up to `stop`, as far as there are any."""
    parameters = {"task": task, "attempt": attempt, "first": first, "stop": stop}
    rows = (await connection.execute(_READ, parameters)).all()
    if not rows:
        return b""
    joined = b"".join(row.data for row in rows)
    return joined[first - rows[0].position : stop - rows[0].position]
