"""Artifacts: files that an attempt left."""

from enum import StrEnum
from typing import Any, Final

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import TaskStatus
from domain.names import ProjectId, TaskId
from domain.tokens import Claims
from store.models import Artifact, Blob, Task

_SHOWN: Final = (
    Artifact.name,
    Artifact.attempt,
    Artifact.media_type,
    Artifact.created_at,
    Artifact.blob_id,
    Blob.size,
    Blob.sha256,
)


class Admission(StrEnum):
    """Whether an attempt may leave a file."""

    ADMITTED = "admitted"
    STALE = "stale"
    ENDED = "ended"
    TOO_MANY = "too_many"


async def admit(connection: AsyncConnection, claims: Claims, name: str, *, most: int) -> Admission:
    """Say whether this attempt may still leave a file; within a transaction the answer holds until its end."""
    statement = select(Task.attempt, Task.status).where(Task.id == claims.task_id).with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    if row is not None and row.attempt != claims.attempt:
        return Admission.STALE
    if row is None or TaskStatus(row.status).terminal:
        return Admission.ENDED
    others = select(func.count()).where(
        Artifact.task_id == claims.task_id, Artifact.attempt == claims.attempt, Artifact.name != name
    )
    count = (await connection.execute(others)).scalar_one()
    return Admission.TOO_MANY if count >= most else Admission.ADMITTED


async def put(connection: AsyncConnection, claims: Claims, *, name: str, media_type: str, blob: str) -> None:
    """Leave a complete blob under a name; a file of that name is replaced. The caller has asked `admit`."""
    key = {"task_id": claims.task_id, "attempt": claims.attempt, "name": name}
    former = select(Artifact.blob_id).filter_by(**key)
    replaced = (await connection.execute(former)).scalar_one_or_none()
    values = {"media_type": media_type, "blob_id": blob, "created_at": func.clock_timestamp()}
    statement = insert(Artifact).values(**key, **values)
    statement = statement.on_conflict_do_update(index_elements=list(key), set_=values)
    await connection.execute(statement)
    if replaced is not None:
        await connection.execute(delete(Blob).where(Blob.id == replaced))


async def page(
    connection: AsyncConnection, project: ProjectId, task: TaskId, *, attempt: int | None
) -> list[dict[str, Any]] | None:
    """Return the files of an attempt (None: the current one) by name; None for no such task."""
    current = select(Task.attempt).where(Task.id == task, Task.project == project)
    number = (await connection.execute(current)).scalar_one_or_none()
    if number is None:
        return None
    statement = (
        select(*_SHOWN)
        .join(Blob, Blob.id == Artifact.blob_id)
        .where(Artifact.task_id == task, Artifact.attempt == (number if attempt is None else attempt))
        .order_by(Artifact.name)
    )
    return [dict(row) for row in (await connection.execute(statement)).mappings()]


async def get(
    connection: AsyncConnection, project: ProjectId, task: TaskId, name: str, *, attempt: int | None
) -> dict[str, Any] | None:
    """Return one file of an attempt (None: the current one)."""
    statement = (
        select(*_SHOWN)
        .join(Blob, Blob.id == Artifact.blob_id)
        .join(Task, Task.id == Artifact.task_id)
        .where(
            Task.id == task,
            Task.project == project,
            Artifact.name == name,
            Artifact.attempt == (Task.attempt if attempt is None else attempt),
        )
    )
    row = (await connection.execute(statement)).mappings().one_or_none()
    return dict(row) if row else None
