"""Tasks: the row that everybody reads, and the writes that the API may make of it."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import TERMINAL
from domain.names import TaskId
from store.models import Task


async def start_argument(connection: AsyncConnection, task: TaskId) -> dict[str, Any] | None:
    """Return what a TaskRunner's input is made of, or None when the task was deleted."""
    statement = select(Task.id.label("task_id"), Task.project, Task.run_id, Task.name, Task.spec).where(Task.id == task)
    row = (await connection.execute(statement)).mappings().one_or_none()
    return dict(row) if row else None


async def is_live(connection: AsyncConnection, task: TaskId, attempt: int) -> bool:
    """Return whether this attempt is the task's current one and has not ended."""
    statement = select(Task.id).where(
        Task.id == task, Task.attempt == attempt, Task.status.not_in([status.value for status in TERMINAL])
    )
    return (await connection.execute(statement)).scalar_one_or_none() is not None
