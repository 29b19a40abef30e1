"""Attachments: files that a caller uploaded for tasks of its project."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import AttachmentId, ProjectId, TaskId
from store.models import Attachment

_OF_TASK: Final = text("""
SELECT a.id, a.name, a.media_type, a.blob_id, b.size, b.sha256,
       t.attempt <> :attempt AS stale, t.status IN ('completed', 'failed', 'cancelled') AS over
FROM tasks t JOIN attachments a ON a.project = t.project JOIN blobs b ON b.id = a.blob_id
WHERE t.id = :task AND a.id = :attachment AND jsonb_exists(t.spec -> 'attachments', a.id)
""")


async def add(
    connection: AsyncConnection, *, attachment: AttachmentId, project: ProjectId, name: str, media_type: str, blob: str
) -> None:
    """Give a complete blob a name in a project."""
    values = {"id": attachment, "project": project, "name": name, "media_type": media_type, "blob_id": blob}
    await connection.execute(insert(Attachment).values(values))


async def missing(connection: AsyncConnection, project: ProjectId, ids: Sequence[AttachmentId]) -> list[AttachmentId]:
    """Return those of the ids that are no attachment of this project; the others are kept from retention meanwhile."""
    statement = select(Attachment.id).where(Attachment.project == project, Attachment.id.in_(ids))
    statement = statement.with_for_update(read=True, key_share=True)
    known = set((await connection.execute(statement)).scalars())
    return [attachment for attachment in ids if attachment not in known]


async def of_task(connection: AsyncConnection, task: TaskId, attempt: int, attachment: str) -> dict[str, Any] | None:
    """Return an attachment that this task's body names; None for any other."""
    parameters = {"task": task, "attempt": attempt, "attachment": attachment}
    row = (await connection.execute(_OF_TASK, parameters)).mappings().one_or_none()
    return dict(row) if row else None
