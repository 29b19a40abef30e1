"""Webhooks and their deliveries: what makes one, and what is shown of them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api.schemas.times import rfc3339
from domain.events import EventType
from domain.spec import STORABLE, Body
from store.models import DeliveryState


class WebhookBody(Body):
    """Where events go, and which."""

    url: str = Field(description="https, without user, password or fragment, to a public address.")
    events: Annotated[list[EventType], Field(min_length=1, max_length=len(EventType))]
    description: Annotated[str, StringConstraints(max_length=200), STORABLE] = ""


class WebhookOut(BaseModel):
    """A webhook, without its secret."""

    model_config = ConfigDict(title="Webhook", extra="forbid")

    id: str
    url: str
    events: list[EventType]
    description: str
    created_at: datetime
    previous_until: datetime | None = Field(description="After a rotation: until when the secret before signs too.")
    disabled_at: datetime | None
    disabled_reason: str | None


class NewWebhookOut(WebhookOut):
    """A webhook with its secret, which is shown by no other call."""

    model_config = ConfigDict(title="NewWebhook", extra="forbid")

    secret: str | None = Field(description="`whsec_…`; null when its key is not configured any more.")


class DeliveryOut(BaseModel):
    """An event on its way to a webhook; its id is the `webhook-id` of every try."""

    model_config = ConfigDict(title="Delivery", extra="forbid")

    id: str
    webhook_id: str
    task_id: str
    seq: int
    type: EventType
    state: DeliveryState
    tries: int
    next_try_at: datetime | None
    last_status: int | None
    last_error: str | None
    created_at: datetime
    delivered_at: datetime | None


def represent(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the representation of a webhook's row."""
    return {name: _shown(row[name]) for name in WebhookOut.model_fields}


def represent_delivery(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the representation of a delivery's row."""
    return {name: _shown(row[name]) for name in DeliveryOut.model_fields}


def _shown(value: Any) -> Any:
    return rfc3339(value) if isinstance(value, datetime) else value
