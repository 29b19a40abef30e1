"""What is kept for a time only: kept workspaces, tasks, runs, output, artifacts, attachments. Each call is bounded.

Only tasks that have ended lose anything, and a task of a run goes with its run. There is no retention of events by
themselves: a retry goes on in the log of its task, and a log with a hole adds up to nothing.

An id begins with the time at which it was made: what belongs to tasks that are old enough is found by their ids, and
what was deleted before is not looked at again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.ids import first_id
from domain.names import RunId, TaskId
from store import deletions, run_deletions
from store.deletions import Deletion

_ENDED: Final = "t.status IN ('completed', 'failed', 'cancelled') AND t.finished_at < :before"
# The Cleanup of the attempt takes back what is over; one intent at a time is enough.
_WORKSPACES: Final = """
SELECT DISTINCT over.task_id, over.attempt FROM (
  SELECT task_id, attempt FROM ledger
  WHERE state = 'retained' AND retained_until <= clock_timestamp() ORDER BY retained_until LIMIT :limit
) over
WHERE NOT EXISTS (
  SELECT FROM outbox o WHERE o.task_id = over.task_id AND o.attempt = over.attempt AND o.kind = 'cleanup'
)
"""
_EXPIRE: Final = text(f"""
INSERT INTO outbox (kind, task_id, attempt) SELECT 'cleanup', task_id, attempt FROM ({_WORKSPACES}) over
""")  # noqa: S608 - of constants
_TASKS: Final = f"""
SELECT t.id FROM tasks t WHERE {_ENDED} AND t.run_id IS NULL ORDER BY t.finished_at LIMIT :limit
"""  # noqa: S608 - constants
_RUNS: Final = """
SELECT r.id FROM runs r
WHERE r.status IN ('completed', 'failed', 'cancelled') AND r.finished_at < :before AND NOT EXISTS (
  SELECT FROM tasks t WHERE t.run_id = r.id AND t.status NOT IN ('completed', 'failed', 'cancelled')
)
ORDER BY r.finished_at LIMIT :limit
"""
_WITH_LOGS: Final = f"""
SELECT t.id FROM tasks t
WHERE t.id IN (SELECT DISTINCT task_id FROM log_chunks WHERE task_id < :first) AND {_ENDED}
ORDER BY t.id LIMIT :limit
"""  # noqa: S608
_WITH_ARTIFACTS: Final = f"""
SELECT t.id FROM tasks t
WHERE t.id IN (SELECT DISTINCT task_id FROM artifacts WHERE task_id < :first) AND {_ENDED}
ORDER BY t.id LIMIT :limit
"""  # noqa: S608
_ATTACHMENTS: Final = """
SELECT a.id FROM attachments a WHERE a.id < :first AND a.created_at < :before
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.spec ? 'attachments' AND t.spec -> 'attachments' ? a.id)
  AND NOT EXISTS (SELECT FROM members m WHERE m.task ? 'attachments' AND m.task -> 'attachments' ? a.id)
ORDER BY a.id LIMIT :limit
"""
_DUE: Final = {
    kind: text(f"SELECT count(*) FROM ({statement}) due")  # noqa: S608
    for kind, statement in {
        "workspaces": _WORKSPACES,
        "tasks": _TASKS,
        "runs": _RUNS,
        "logs": _WITH_LOGS,
        "artifacts": _WITH_ARTIFACTS,
        "attachments": _ATTACHMENTS,
    }.items()
}
_OLD_TASKS: Final = text(f"{_TASKS} FOR UPDATE OF t SKIP LOCKED")
_OLD_RUNS: Final = text(f"{_RUNS} FOR UPDATE OF r SKIP LOCKED")
# A row that is locked is being retried: it keeps what it has.
_OLD_LOGS: Final = text(f"""
WITH old AS (
  {_WITH_LOGS} FOR UPDATE OF t SKIP LOCKED
), gone AS (
  DELETE FROM log_chunks USING old WHERE task_id = old.id
)
SELECT count(*) FROM old
""")  # noqa: S608
_OLD_ARTIFACTS: Final = text(f"""
WITH old AS (
  {_WITH_ARTIFACTS} FOR UPDATE OF t SKIP LOCKED
), gone AS (
  DELETE FROM blobs USING artifacts a, old WHERE a.task_id = old.id AND blobs.id = a.blob_id
)
SELECT count(*) FROM old
""")  # noqa: S608
# Who creates a task that names an attachment holds it meanwhile; what was locked first is looked at again below.
_OLD_ATTACHMENTS: Final = text(f"{_ATTACHMENTS} FOR UPDATE OF a SKIP LOCKED")
_REMOVE_ATTACHMENTS: Final = text("""
DELETE FROM blobs USING attachments a
WHERE a.id = ANY(:ids) AND blobs.id = a.blob_id
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.spec ? 'attachments' AND t.spec -> 'attachments' ? a.id)
  AND NOT EXISTS (SELECT FROM members m WHERE m.task ? 'attachments' AND m.task -> 'attachments' ? a.id)
""")


async def expire_workspaces(connection: AsyncConnection, *, limit: int) -> int:
    """Have up to `limit` kept workspaces destroyed whose time is over; returns how many Cleanups were asked for."""
    return int((await connection.execute(_EXPIRE, {"limit": limit})).rowcount)


async def delete_tasks(connection: AsyncConnection, *, before: datetime, limit: int) -> Sequence[TaskId]:
    """Delete up to `limit` tasks that ended before this time and belong to no run; returns which."""
    rows = await connection.execute(_OLD_TASKS, _bounds(before, limit))
    found = [TaskId(task) for task in rows.scalars()]
    if found:
        await deletions.remove(connection, found)
    return found


async def delete_runs(connection: AsyncConnection, *, before: datetime, limit: int) -> Sequence[RunId]:
    """Delete up to `limit` runs that ended before this time, with their tasks; returns which."""
    found = [RunId(run) for run in (await connection.execute(_OLD_RUNS, _bounds(before, limit))).scalars()]
    return [run for run in found if await run_deletions.remove(connection, run) is Deletion.DELETED]


async def delete_logs(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Delete the output of up to `limit` tasks that ended before this time; returns of how many."""
    return await _count(connection, _OLD_LOGS, before, limit)


async def delete_artifacts(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Delete the artifacts of up to `limit` tasks that ended before this time; returns of how many."""
    return await _count(connection, _OLD_ARTIFACTS, before, limit)


async def delete_attachments(connection: AsyncConnection, *, before: datetime, limit: int) -> int:
    """Delete up to `limit` attachments that were uploaded before this time and that no task names; returns how many."""
    ids = (await connection.execute(_OLD_ATTACHMENTS, _bounds(before, limit))).scalars().all()
    if not ids:
        return 0
    return int((await connection.execute(_REMOVE_ATTACHMENTS, {"ids": list(ids)})).rowcount)


async def due(connection: AsyncConnection, kind: str, *, before: datetime, limit: int) -> int:
    """Return of how many, up to `limit`, the call for this kind would delete something now."""
    return await _count(connection, _DUE[kind], before, limit)


def _bounds(before: datetime, limit: int) -> dict[str, object]:
    return {"before": before, "first": first_id(before), "limit": limit}


async def _count(connection: AsyncConnection, statement: TextClause, before: datetime, limit: int) -> int:
    return int((await connection.execute(statement, _bounds(before, limit))).scalar_one())
