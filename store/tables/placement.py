"""Where attempts work, and what they hold there."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, Double, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from domain.lifecycle import NodeStatus, WorkspaceStatus
from domain.spec import Provider
from store.tables.base import Base, one_of


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
    """A machine that hosts workspaces; `used` of its `slots` are held by ledger entries, the last since `taken_at`.

    `cpu` and `memory` are the shares in use by its last heartbeat, `load` what they come to when nodes are compared.
    """

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
    cpu: Mapped[float | None] = mapped_column(Double())
    memory: Mapped[float | None] = mapped_column(Double())
    load: Mapped[float | None] = mapped_column(Double())
    # Who has made it, if nobody let it join, and since when none of its slots is taken.
    provider: Mapped[str | None]
    idle_since: Mapped[datetime | None]
    # Whether it was told to take no more tasks since it was started: it may be lost meanwhile, and come back.
    drains: Mapped[bool] = mapped_column(server_default=text("false"))
    # The machine that it is, by an id that the machine keeps.
    home: Mapped[str | None]
    __table_args__ = (one_of("status", NodeStatus), CheckConstraint("used >= 0", name="used"))


class Hearing(Base):
    """Since when, without a gap, and `at` last an API was there to hear nodes: one row, of those who are heard."""

    __tablename__ = "hearing"
    of: Mapped[str] = mapped_column(primary_key=True, server_default="nodes")
    since: Mapped[datetime]
    at: Mapped[datetime]


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
