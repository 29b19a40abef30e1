"""The numbers of the health report: each query is bounded by what is open, or by the window through an index."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import Category
from domain.health import NodeNumbers, SystemNumbers, TaskNumbers
from domain.lifecycle import NodeStatus, TaskStatus
from domain.names import NodeId, ProjectId
from store.facts import COLUMNS, INTENTS
from store.models import OPEN

# Tasks that were tried again, quiet rows, latest writes: more of them change no judgement.
RETRIED: Final = 5_000
QUIET: Final = 2_000
LATEST: Final = 1_000
NODES: Final = 1_000
LAG_WITHIN: Final = timedelta(minutes=5)


# Each statement is made for one project (True) and for all: a plan for both would serve neither.
_WHOSE: Final = {True: "AND t.project = :project", False: ""}
_OPEN: Final = {
    own: text(f"""
SELECT t.status, count(*) AS tasks FROM tasks t
WHERE t.status IN ('ready', 'queued', 'delegated', 'in_progress') {whose} GROUP BY t.status
""")  # noqa: S608 - constants
    for own, whose in _WHOSE.items()
}
_ENDED: Final = {
    own: text(f"""
SELECT t.status, count(*) AS tasks, sum(t.attempt) AS tries, count(*) FILTER (WHERE t.exhausted) AS exhausted
FROM tasks t WHERE t.finished_at > clock_timestamp() - CAST(:window AS interval) {whose} GROUP BY t.status
""")  # noqa: S608 - constants
    for own, whose in _WHOSE.items()
}
_RETRIES: Final = {
    own: text(f"""
SELECT coalesce(e.data -> 'error' ->> 'category', 'internal') AS cause, count(*) AS attempts
FROM (
  (SELECT t.id FROM tasks t
   WHERE t.finished_at > clock_timestamp() - CAST(:window AS interval) AND t.attempt > 1 {whose} LIMIT :limit)
  UNION ALL
  (SELECT t.id FROM tasks t WHERE t.{OPEN} AND t.attempt > 1 {whose} LIMIT :limit)
) again
JOIN events e ON e.task_id = again.id AND e.type = 'attempt.failed'
WHERE e.ts > clock_timestamp() - CAST(:window AS interval)
GROUP BY 1
""")  # noqa: S608 - constants
    for own, whose in _WHOSE.items()
}
# The newest event of a row that its workflow has written lately: what was written with it cannot be older.
_LAG: Final = {
    own: text(f"""
SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM latest.updated_at - e.ts)) AS lag
FROM (
  (SELECT t.id, t.last_seq, t.updated_at FROM tasks t
   WHERE t.{OPEN} AND t.updated_at > clock_timestamp() - CAST(:within AS interval) {whose} LIMIT :limit)
  UNION ALL
  (SELECT t.id, t.last_seq, t.updated_at FROM tasks t
   WHERE t.finished_at > clock_timestamp() - CAST(:within AS interval) {whose}
   ORDER BY t.finished_at DESC LIMIT :limit)
) latest
JOIN events e ON e.task_id = latest.id AND e.seq = latest.last_seq AND e.source = 'workflow'
""")  # noqa: S608 - constants
    for own, whose in _WHOSE.items()
}
_QUIET: Final = {
    own: text(f"""
SELECT {COLUMNS}
FROM (
  SELECT * FROM tasks t
  WHERE t.{OPEN} AND NOT t.paused AND t.updated_at < clock_timestamp() - CAST(:quiet AS interval) {whose}
  ORDER BY t.updated_at LIMIT :limit
) t {INTENTS}
""")  # noqa: S608 - constants
    for own, whose in _WHOSE.items()
}
# What was put back has a new time to be due at: then its age counts from when it was made.
_SYSTEM: Final = text("""
SELECT
  (SELECT count(*) FROM outbox WHERE due_at <= clock_timestamp()) AS outbox_waiting,
  (SELECT coalesce(extract(epoch FROM max(
     clock_timestamp() - CASE WHEN last_error IS NULL THEN due_at ELSE created_at END)), 0)
   FROM outbox WHERE due_at <= clock_timestamp() OR last_error IS NOT NULL) AS outbox_age_seconds,
  (SELECT count(*) FROM callbacks WHERE delivered_at IS NULL) AS callbacks_waiting,
  (SELECT coalesce(extract(epoch FROM max(clock_timestamp() - received_at)), 0)
   FROM callbacks WHERE delivered_at IS NULL) AS callbacks_age_seconds,
  (SELECT extract(epoch FROM clock_timestamp() - max(at)) FROM sweeps) AS sweep_age_seconds
""")
_SWEEPS: Final = text("""
SELECT action, sum(CAST(count AS bigint)) AS count FROM sweeps, jsonb_each_text(counts) AS did (action, count)
WHERE at > clock_timestamp() - CAST(:window AS interval) GROUP BY action
""")
_NODES: Final = text("SELECT id, status, slots, used FROM nodes WHERE status <> 'gone' ORDER BY id LIMIT :limit")


async def of_tasks(connection: AsyncConnection, project: ProjectId | None, *, window: timedelta) -> TaskNumbers:
    """Count the tasks of a project, or of all projects; without those that are stuck."""
    own, named = project is not None, {"project": project} if project is not None else {}
    found = TaskNumbers()
    for row in await connection.execute(_OPEN[own], named):
        found.open[TaskStatus(row.status)] = row.tasks
    for row in await connection.execute(_ENDED[own], {**named, "window": window}):
        found.ended[TaskStatus(row.status)] = row.tasks
        found.tries += row.tries
        found.exhausted += row.exhausted
    for row in await connection.execute(_RETRIES[own], {**named, "window": window, "limit": RETRIED}):
        found.retries[Category(row.cause)] = row.attempts
    lag = await connection.execute(_LAG[own], {**named, "within": LAG_WITHIN, "limit": LATEST})
    found.mirror_lag_seconds = lag.scalar_one()
    return found


async def quiet_rows(
    connection: AsyncConnection, project: ProjectId | None, *, quiet: timedelta
) -> Sequence[Mapping[str, Any]]:
    """Return the open tasks that have not moved for so long, as rows for `facts.read`, the quietest first."""
    named = {"project": project} if project is not None else {}
    rows = await connection.execute(_QUIET[project is not None], {**named, "quiet": quiet, "limit": QUIET})
    return [dict(row) for row in rows.mappings()]


async def of_system(connection: AsyncConnection, *, window: timedelta) -> SystemNumbers:
    """Count what belongs to no project, as far as the database knows it."""
    row = (await connection.execute(_SYSTEM)).mappings().one()
    sweeps = {each.action: each.count for each in await connection.execute(_SWEEPS, {"window": window})}
    nodes = [
        NodeNumbers(id=NodeId(each.id), status=NodeStatus(each.status), slots=each.slots, used=each.used)
        for each in await connection.execute(_NODES, {"limit": NODES})
    ]
    return SystemNumbers.model_validate({**row, "sweeps": sweeps, "nodes": nodes})
