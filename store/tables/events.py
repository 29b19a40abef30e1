"""The logs of tasks and of runs."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from domain.events import EventSource, EventType
from domain.lifecycle import Step
from store.tables.base import Base, one_of


class _Entry:
    """What an event has in either log; `key` makes a redo write it once."""

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    ts: Mapped[datetime]
    type: Mapped[str]
    source: Mapped[str]
    data: Mapped[dict[str, Any]]
    key: Mapped[str]
    xid: Mapped[int] = mapped_column(BigInteger, server_default=text("(pg_current_xact_id()::text::bigint)"))


class EventRow(_Entry, Base):
    """One event of a task's log."""

    __tablename__ = "events"
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[str | None]
    __table_args__ = (
        one_of("type", EventType),
        one_of("source", EventSource),
        one_of("step", Step),
        Index(None, "task_id", "key", unique=True),
        Index(None, "xid"),
    )


class RunEvent(_Entry, Base):
    """One event of a run's own log."""

    __tablename__ = "run_events"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    __table_args__ = (
        one_of("type", EventType),
        one_of("source", EventSource),
        Index(None, "run_id", "key", unique=True),
        Index(None, "xid"),
    )
