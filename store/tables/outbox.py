"""Between tasks and the engine: intents on their way out, callbacks on their way in."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from domain.names import CallbackKind
from store.tables.base import Base, one_of


class OutboxKind(StrEnum):
    """What an intent asks of the engine."""

    START = "start"
    SIGNAL = "signal"
    CANCEL = "cancel"
    FORCE = "force"
    CLEANUP = "cleanup"


class Outbox(Base):
    """An intent for the engine, committed with its cause; the row goes when it was sent.

    No foreign key: its check would lock the task's row, and a grant to a task that is just concluding, which waits
    for the grant's own locks, would be a deadlock. An intent for a deleted task finds nothing and goes.
    """

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    kind: Mapped[str]
    task_id: Mapped[str]
    attempt: Mapped[int]
    name: Mapped[str | None]
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    due_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    leased_by: Mapped[str | None]
    leased_until: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(server_default="0")
    last_error: Mapped[str | None]
    __table_args__ = (one_of("kind", OutboxKind), Index(None, "due_at"), Index(None, "task_id"))


class Callback(Base):
    """The inbox: what a workspace told, once per workspace, attempt, kind and turn."""

    __tablename__ = "callbacks"
    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(primary_key=True)
    turn: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, server_default="1")
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    body: Mapped[dict[str, Any]]
    digest: Mapped[bytes]
    received_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    due_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    delivered_at: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(server_default="0")
    __table_args__ = (
        one_of("kind", CallbackKind),
        Index(None, "due_at", postgresql_where=text("delivered_at IS NULL")),
        Index(None, "task_id"),
    )
