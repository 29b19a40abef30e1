"""Attachments: files that a caller uploaded for tasks of its project."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import AttachmentId, ProjectId
from store.models import Attachment


async def missing(connection: AsyncConnection, project: ProjectId, ids: Sequence[AttachmentId]) -> list[AttachmentId]:
    """Return those of the ids that are no attachment of this project."""
    statement = select(Attachment.id).where(Attachment.project == project, Attachment.id.in_(ids))
    known = set((await connection.execute(statement)).scalars())
    return [attachment for attachment in ids if attachment not in known]
