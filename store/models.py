"""The tables. The migrations make the schema; `alembic check` proves that they and these models agree."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from domain.events import EventSource, EventType
from domain.lifecycle import MemberStatus, NodeStatus, RunStatus, Step, TaskStatus, WorkspaceStatus
from domain.names import CallbackKind
from domain.run_spec import OnFailure, RunMode
from domain.spec import Provider

CONVENTION = {
    "ix": "%(table_name)s_%(column_0_N_name)s_ix",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}


class OutboxKind(StrEnum):
    """What an intent asks of the engine."""

    START = "start"
    SIGNAL = "signal"
    CANCEL = "cancel"
    FORCE = "force"
    CLEANUP = "cleanup"


class RunIntentKind(StrEnum):
    """What an intent asks of a run's orchestrator."""

    START = "start"
    ENDED = "ended"
    STEER = "steer"
    CANCEL = "cancel"


class LedgerState(StrEnum):
    """Where an external resource is: the intent is committed before the call that makes it."""

    INTENT = "intent"
    CREATED = "created"
    RETAINED = "retained"
    RELEASED = "released"


class LedgerKind(StrEnum):
    """What an entry stands for."""

    SLOT = "slot"
    WORKSPACE = "workspace"


class DeliveryState(StrEnum):
    """Where a webhook's delivery is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"


def one_of(column: str, values: Iterable[StrEnum]) -> CheckConstraint:
    """Return the check that holds a text column to an enum of the domain (NULL passes)."""
    words = [str(value) for value in values]
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column, info={"words": frozenset(words)})


class Base(DeclarativeBase):
    """Naming convention and column types of all tables."""

    metadata = MetaData(naming_convention=CONVENTION)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own contract
        str: Text(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        dict[str, str]: JSONB(none_as_null=True),
        Any: JSONB(none_as_null=True),
        bytes: LargeBinary(),
        list[str]: ARRAY(Text()),
    }


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


# What the reconciler goes through, of runs.
OPEN_RUN = "status IN ('queued', 'in_progress')"


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


class RunEvent(Base):
    """One event of a run's own log; `key` makes a redo write it once."""

    __tablename__ = "run_events"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    ts: Mapped[datetime]
    type: Mapped[str]
    source: Mapped[str]
    data: Mapped[dict[str, Any]]
    key: Mapped[str]
    xid: Mapped[int] = mapped_column(BigInteger, server_default=text("(pg_current_xact_id()::text::bigint)"))
    __table_args__ = (
        one_of("type", EventType),
        one_of("source", EventSource),
        Index(None, "run_id", "key", unique=True),
        Index(None, "xid"),
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


class EventRow(Base):
    """One event of a task's log; `key` makes a redo write it once."""

    __tablename__ = "events"
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    ts: Mapped[datetime]
    type: Mapped[str]
    source: Mapped[str]
    step: Mapped[str | None]
    data: Mapped[dict[str, Any]]
    key: Mapped[str]
    xid: Mapped[int] = mapped_column(BigInteger, server_default=text("(pg_current_xact_id()::text::bigint)"))
    __table_args__ = (
        one_of("type", EventType),
        one_of("source", EventSource),
        one_of("step", Step),
        Index(None, "task_id", "key", unique=True),
        Index(None, "xid"),
    )


class FeedRow(Base):
    """A feed: the events of many tasks under one numbering of its own."""

    __tablename__ = "feeds"
    id: Mapped[str] = mapped_column(primary_key=True)
    last_seq: Mapped[int] = mapped_column(BigInteger)


class FeedEntry(Base):
    """An event's number in a feed, of a task or of a run; those of what was deleted are gone."""

    __tablename__ = "feed_entries"
    feed: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    task_id: Mapped[str | None] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    task_seq: Mapped[int | None] = mapped_column(BigInteger)
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    run_seq: Mapped[int | None] = mapped_column(BigInteger)
    __table_args__ = (
        CheckConstraint("num_nonnulls(task_id, run_id) = 1", name="source"),
        Index(None, "task_id"),
        Index(None, "run_id"),
    )


class Fed(Base):
    """Up to which `seq` a task's events have their numbers in its feeds."""

    __tablename__ = "fed"
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)


class FedRun(Base):
    """Up to which `seq` a run's own events have their numbers in its feeds."""

    __tablename__ = "fed_runs"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)


class FeedHorizon(Base):
    """The transaction below which every event has its numbers: one row."""

    __tablename__ = "feed_horizon"
    xid: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


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


class Ledger(Base):
    """Every external resource that an attempt holds or may hold, by a tag the provider can be searched by."""

    __tablename__ = "ledger"
    tag: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    task_id: Mapped[str]
    attempt: Mapped[int]
    project: Mapped[str]
    provider: Mapped[str]
    node_id: Mapped[str | None]
    state: Mapped[str]
    retained_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    __table_args__ = (
        one_of("state", LedgerState),
        one_of("kind", LedgerKind),
        Index("ledger_retained_ix", "retained_until", postgresql_where=text("state = 'retained'")),
        Index(None, "task_id", "attempt"),
        Index("ledger_open_ix", "node_id", "kind", postgresql_where=text("state <> 'released'")),
        Index("ledger_turns_ix", "project", "created_at", postgresql_where=text("kind = 'slot'")),
    )


class Workspace(Base):
    """The place where one attempt works."""

    __tablename__ = "workspaces"
    id: Mapped[str] = mapped_column(primary_key=True)
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    project: Mapped[str]
    attempt: Mapped[int]
    visit: Mapped[int]
    provider: Mapped[str]
    node_id: Mapped[str | None]
    status: Mapped[str]
    progress: Mapped[Any | None]
    claimed_at: Mapped[datetime | None]
    # Any word of it at all; and the last output or progress, which the idle cap goes by.
    last_activity_at: Mapped[datetime | None]
    active_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    __table_args__ = (
        one_of("status", WorkspaceStatus),
        one_of("provider", Provider),
        Index(None, "task_id", "attempt", "visit", unique=True),
        Index(None, "project", "id"),
    )


class Node(Base):
    """A machine that hosts workspaces; `used` of its `slots` are held by ledger entries, the last since `taken_at`."""

    __tablename__ = "nodes"
    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    slots: Mapped[int]
    used: Mapped[int] = mapped_column(server_default="0")
    labels: Mapped[dict[str, str]] = mapped_column(server_default=text("'{}'"))
    facts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    last_heartbeat_at: Mapped[datetime | None]
    taken_at: Mapped[datetime | None]
    __table_args__ = (one_of("status", NodeStatus), CheckConstraint("used >= 0", name="used"))


class Waiter(Base):
    """An attempt that waits for a slot (of any node with its labels, or of the one that it is `pinned` to).

    It has been queued `since`, and stays until a slot that was `granted` is taken up. If it `awaits` a node that is
    coming up, it is told when that one has reported in.
    """

    __tablename__ = "waiters"
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    project: Mapped[str]
    priority: Mapped[int]
    labels: Mapped[dict[str, str]]
    pinned: Mapped[str | None]
    awaits: Mapped[str | None]
    since: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    granted: Mapped[str | None]
    __table_args__ = (Index(None, "priority", "since", postgresql_where=text("granted IS NULL")),)


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


class ApiKey(Base):
    """A key, stored as the SHA-256 of its 256 random bits; `node_id` binds it to one node's workspaces."""

    __tablename__ = "api_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    name: Mapped[str]
    sha256: Mapped[bytes] = mapped_column(unique=True)
    scopes: Mapped[list[str]]
    node_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    revoked_at: Mapped[datetime | None]


class Session(Base):
    """What a browser has in the place of a key, for a while."""

    __tablename__ = "sessions"
    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    expires_at: Mapped[datetime]
    __table_args__ = (Index(None, "key_id"), Index(None, "expires_at"))


class Idempotency(Base):
    """The answer that a POST with this key got."""

    __tablename__ = "idempotency"
    project: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    status: Mapped[int]
    response: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    __table_args__ = (Index(None, "created_at"),)


class Webhook(Base):
    """An address that a project's events of some types are delivered to.

    Its secret is derived from `key_id` and `generation`, and stored nowhere; after a rotation the one before signs too,
    until `previous_until`.
    """

    __tablename__ = "webhooks"
    id: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str]
    url: Mapped[str]
    events: Mapped[list[str]]
    description: Mapped[str]
    key_id: Mapped[str]
    generation: Mapped[int] = mapped_column(server_default="1")
    previous_key_id: Mapped[str | None]
    previous_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    __table_args__ = (Index(None, "project", "id"),)


class Delivery(Base):
    """An event on its way to a webhook, committed with the event: while it is `pending`, it is tried when it is due.

    It is an outbox of its own: a receiver that is away for days must not stand in the way of the engine's intents.
    """

    __tablename__ = "deliveries"
    id: Mapped[str] = mapped_column(primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    task_id: Mapped[str] = mapped_column(ForeignKey("tasks.id", ondelete="CASCADE"))
    seq: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(server_default=DeliveryState.PENDING)
    # Since when it is tried, which it is given up by: its making, or when somebody asked for it again.
    since: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    due_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    tries: Mapped[int] = mapped_column(server_default="0")
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    delivered_at: Mapped[datetime | None]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]
    __table_args__ = (
        one_of("state", DeliveryState),
        Index(None, "webhook_id", "id"),
        Index(None, "task_id"),
        Index("deliveries_due_ix", "webhook_id", "due_at", postgresql_where=text("state = 'pending'")),
    )


class Transition(Base):
    """The lifecycle tables of the domain, as the database's own guard reads them."""

    __tablename__ = "transitions"
    machine: Mapped[str] = mapped_column(primary_key=True)
    old_status: Mapped[str] = mapped_column(primary_key=True)
    new_status: Mapped[str] = mapped_column(primary_key=True)


class Sweep(Base):
    """What a sweep of the reconciler did, for a week."""

    __tablename__ = "sweeps"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    counts: Mapped[dict[str, Any]]
    __table_args__ = (Index(None, "at"),)
