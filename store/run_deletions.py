"""Deletion of whole runs: their tasks with all that belongs to those, then row, members, log and commands."""

from typing import Final

from sqlalchemy import delete as remove_rows
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import RunStatus, TaskStatus
from domain.names import ProjectId, RunId
from store import deletions, runs
from store.deletions import Deletion
from store.models import RunIntent

# In the order of their ids, as everybody who locks several.
_TASKS: Final = text("SELECT id, status FROM tasks WHERE run_id = :run ORDER BY id FOR UPDATE")


async def delete(connection: AsyncConnection, project: ProjectId, run: RunId) -> Deletion | None:
    """Delete a run of this project that has ended, and whose tasks have; None when there is no such run."""
    row = await runs.get(connection, project, run, for_update=True)
    if row is None:
        return None
    if not RunStatus(row["status"]).terminal:
        return Deletion.NOT_ENDED
    return await remove(connection, run)


async def remove(connection: AsyncConnection, run: RunId) -> Deletion:
    """Remove a run that has ended, whose row this transaction has locked, unless one of its tasks has not."""
    tasks = (await connection.execute(_TASKS, {"run": run})).all()
    if not all(TaskStatus(task.status).terminal for task in tasks):
        return Deletion.NOT_ENDED
    if tasks:
        await deletions.remove(connection, [task.id for task in tasks])
    await connection.execute(remove_rows(RunIntent).where(RunIntent.run_id == run))
    await runs.remove(connection, run)
    return Deletion.DELETED
