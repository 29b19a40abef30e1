"""The mirror: one row a task."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Double, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from domain.lifecycle import Step, TaskStatus
from store.tables.base import Base, one_of

# What the reconciler goes through.
OPEN = "status IN ('queued', 'delegated', 'in_progress')"


class Task(Base):
    """The mirror's canonical row of a task."""

    __tablename__ = "tasks"
    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    run_id: Mapped[str | None]
    name: Mapped[str]
    status: Mapped[str]
    step: Mapped[str | None]
    step_started_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(server_default="1")
    max_attempts: Mapped[int] = mapped_column(server_default="1")
    paused: Mapped[bool] = mapped_column(server_default=text("false"))
    exhausted: Mapped[bool] = mapped_column(server_default=text("false"))
    pause_reason: Mapped[str | None]
    pause_token: Mapped[str | None]
    paused_at: Mapped[datetime | None]
    paused_until: Mapped[datetime | None]
    paused_seconds: Mapped[float] = mapped_column(Double(), server_default="0")
    breakpoints: Mapped[Any | None]
    priority: Mapped[int] = mapped_column(server_default="3")
    labels: Mapped[dict[str, str]] = mapped_column(server_default=text("'{}'"))
    spec: Mapped[dict[str, Any]]
    result: Mapped[Any | None]
    error: Mapped[Any | None]
    workspace_id: Mapped[str | None]
    node_id: Mapped[str | None]
    version: Mapped[int] = mapped_column(BigInteger, server_default="0")
    last_seq: Mapped[int] = mapped_column(BigInteger, server_default="0")
    cancel_requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    checked_at: Mapped[datetime | None]
    traceparent: Mapped[str | None]
    member: Mapped[str | None]
    item: Mapped[int | None]
    __table_args__ = (
        one_of("status", TaskStatus),
        one_of("step", Step),
        one_of("outcome", TaskStatus),
        CheckConstraint("priority BETWEEN 1 AND 5", name="priority"),
        Index(None, "project", "id"),
        Index(None, "project", "status", "id"),
        Index("tasks_exhausted_ix", "project", "id", postgresql_where=text("exhausted")),
        Index(
            None,
            "run_id",
            "member",
            "item",
            unique=True,
            postgresql_where=text("run_id IS NOT NULL"),
            postgresql_nulls_not_distinct=True,
        ),
        Index(None, "labels", postgresql_using="gin", postgresql_ops={"labels": "jsonb_path_ops"}),
        Index("tasks_open_ix", "checked_at", postgresql_where=text(OPEN)),
        Index(None, "finished_at"),
        Index(
            "tasks_attachments_ix",
            text("(spec -> 'attachments')"),
            postgresql_using="gin",
            postgresql_where=text("spec ? 'attachments'"),
        ),
    )
