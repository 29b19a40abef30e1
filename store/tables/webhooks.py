"""Webhooks, and the events on their way to them."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from store.tables.base import Base, one_of


class DeliveryState(StrEnum):
    """Where a webhook's delivery is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"


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
