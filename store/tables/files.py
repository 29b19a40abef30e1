"""Bytes: attachments, artifacts and raw output."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base


class Blob(Base):
    """Bytes of an attachment or an artifact, in chunks of at most 1 MiB."""

    __tablename__ = "blobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    __table_args__ = (Index("blobs_incomplete_ix", "created_at", postgresql_where=text("sha256 = ''")),)


class BlobChunk(Base):
    """One chunk, counted from 0."""

    __tablename__ = "blob_chunks"
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id", ondelete="CASCADE"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    data: Mapped[bytes]


class Attachment(Base):
    """A file that a caller uploaded for tasks of its project."""

    __tablename__ = "attachments"
    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    name: Mapped[str]
    media_type: Mapped[str]
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    __table_args__ = (Index(None, "blob_id"),)


class Artifact(Base):
    """A file that an attempt left."""

    __tablename__ = "artifacts"
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(primary_key=True)
    media_type: Mapped[str]
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    __table_args__ = (Index(None, "blob_id"),)


class LogChunk(Base):
    """Raw output of an attempt, by byte offset."""

    __tablename__ = "log_chunks"
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    data: Mapped[bytes]
    truncated: Mapped[bool] = mapped_column(server_default=text("false"))
    turn: Mapped[int] = mapped_column(server_default=text("1"))
