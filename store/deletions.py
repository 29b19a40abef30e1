"""Deletion of whole tasks: the row, and with it events, output, artifacts with their bytes, callbacks, workspaces.

What such a task still holds outside is in the ledger, which has no key to it: a Cleanup releases it afterwards.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import TaskStatus
from domain.names import ProjectId, TaskId
from store import tasks

# In this order; the caller holds the rows' locks, and has seen that these tasks have ended.
_REMOVE: Final = tuple(
    text(statement)
    for statement in (
        # The time of a kept workspace is over with its task.
        "UPDATE ledger SET retained_until = clock_timestamp() WHERE task_id = ANY(:tasks) AND state = 'retained'",
        """
        INSERT INTO outbox (kind, task_id, attempt)
        SELECT DISTINCT 'cleanup', task_id, attempt FROM ledger WHERE task_id = ANY(:tasks) AND state <> 'released'
        """,
        "DELETE FROM ledger WHERE task_id = ANY(:tasks) AND state = 'released'",
        "DELETE FROM blobs WHERE id IN (SELECT blob_id FROM artifacts WHERE task_id = ANY(:tasks))",
        "DELETE FROM tasks WHERE id = ANY(:tasks)",
    )
)


class Deletion(StrEnum):
    """What became of it."""

    DELETED = "deleted"
    NOT_ENDED = "not_ended"
    BELONGS_TO_RUN = "belongs_to_run"


async def delete(connection: AsyncConnection, project: ProjectId, task: TaskId) -> Deletion | None:
    """Delete a task of this project that has ended; None when there is no such task. One of a run goes with it."""
    row = await tasks.get(connection, project, task, for_update=True)
    if row is None:
        return None
    if row["run_id"] is not None:
        return Deletion.BELONGS_TO_RUN
    if not TaskStatus(row["status"]).terminal:
        return Deletion.NOT_ENDED
    await remove(connection, [task])
    return Deletion.DELETED


async def remove(connection: AsyncConnection, ended: Sequence[TaskId]) -> None:
    """Remove tasks that have ended, whose rows this transaction has locked."""
    for statement in _REMOVE:
        await connection.execute(statement, {"tasks": list(ended)})
