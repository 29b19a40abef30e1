"""Runs, their members, and what is asked of their orchestrators."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from domain.lifecycle import MemberStatus, RunStatus
from domain.run_spec import OnFailure, RunMode
from store.tables.base import Base, one_of

# What the reconciler goes through.
OPEN_RUN = "status IN ('queued', 'in_progress')"


class RunIntentKind(StrEnum):
    """What an intent asks of a run's orchestrator."""

    START = "start"
    ENDED = "ended"
    STEER = "steer"
    CANCEL = "cancel"


class Run(Base):
    """The canonical row of a run. Its members and what each is to do have rows of their own."""

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    name: Mapped[str]
    status: Mapped[str]
    outcome: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(server_default="1")
    mode: Mapped[str]
    on_failure: Mapped[str]
    max_parallel: Mapped[int | None]
    edges: Mapped[Any] = mapped_column(server_default=text("'[]'"))
    priority: Mapped[int] = mapped_column(server_default="3")
    labels: Mapped[dict[str, str]] = mapped_column(server_default=text("'{}'"))
    paused: Mapped[bool] = mapped_column(server_default=text("false"))
    pause_token: Mapped[str | None]
    pause_reason: Mapped[str | None]
    paused_at: Mapped[datetime | None]
    breakpoints: Mapped[Any | None]
    superstep: Mapped[int] = mapped_column(server_default="0")
    state: Mapped[Any] = mapped_column(server_default=text("'{}'"))
    state_versions: Mapped[Any] = mapped_column(server_default=text("'{}'"))
    # The last superstep whose results are in the state.
    merged: Mapped[int] = mapped_column(server_default="0")
    reducers: Mapped[Any] = mapped_column(server_default=text("'{}'"))
    error: Mapped[Any | None]
    version: Mapped[int] = mapped_column(BigInteger, server_default="0")
    last_seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    cancel_requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    checked_at: Mapped[datetime | None]
    traceparent: Mapped[str | None]
    __table_args__ = (
        one_of("status", RunStatus),
        one_of("outcome", RunStatus),
        one_of("mode", RunMode),
        one_of("on_failure", OnFailure),
        CheckConstraint("priority BETWEEN 1 AND 5", name="priority"),
        Index(None, "project", "id"),
        Index(None, "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
        Index("runs_open_ix", "checked_at", postgresql_where=text(OPEN_RUN)),
        Index(None, "finished_at"),
    )


class RunMember(Base):
    """A member of a run: the body of its task, and how far it is. The children of a fan-out are rows of `tasks`."""

    __tablename__ = "members"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    status: Mapped[str]
    reason: Mapped[str | None]
    task: Mapped[dict[str, Any]]
    fan_out: Mapped[Any | None]
    affinity: Mapped[str | None]
    expected_seconds: Mapped[float | None] = mapped_column(Double())
    size: Mapped[int | None]
    error: Mapped[Any | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        one_of("status", MemberStatus),
        Index(None, "run_id", "position", unique=True),
        Index(
            "members_attachments_ix",
            text("(task -> 'attachments')"),
            postgresql_using="gin",
            postgresql_where=text("task ? 'attachments'"),
        ),
    )


class RunCommandRow(Base):
    """A command to a run, checked and merged into its graph; the orchestrator obeys it by its number."""

    __tablename__ = "run_commands"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    source: Mapped[str]
    body: Mapped[dict[str, Any]]
    plan: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class RunIntent(Base):
    """An intent for a run's orchestrator, committed with its cause; what ends is told many at a time."""

    __tablename__ = "run_intents"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    run_id: Mapped[str]
    kind: Mapped[str]
    attempt: Mapped[int]
    body: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    due_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    leased_until: Mapped[datetime | None]
    tries: Mapped[int] = mapped_column(server_default="0")
    last_error: Mapped[str | None]
    __table_args__ = (one_of("kind", RunIntentKind), Index(None, "due_at"), Index(None, "run_id"))
