"""Webhooks of a project: made, listed, rotated, disabled, deleted with their deliveries."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import delete as remove
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import ProjectId
from store.models import Delivery, DeliveryState, Webhook

_NOW: Final = func.clock_timestamp()
_SHOWN: Final = Webhook.__table__.columns
# Two at once must not both be the last that is allowed.
_ONE_AT_A_TIME: Final = text("SELECT pg_advisory_xact_lock(hashtext('taskrunner.webhooks'), hashtext(:project))")


async def create(
    connection: AsyncConnection,
    project: ProjectId,
    *,
    webhook: str,
    url: str,
    events: Sequence[str],
    description: str,
    key_id: str,
    most: int,
) -> dict[str, Any] | None:
    """Store a webhook; None when the project has as many as it may have."""
    await connection.execute(_ONE_AT_A_TIME, {"project": project})
    count = await connection.execute(select(func.count()).select_from(Webhook).where(Webhook.project == project))
    if count.scalar_one() >= most:
        return None
    values = {
        "id": webhook,
        "project": project,
        "url": url,
        "events": list(events),
        "description": description,
        "key_id": key_id,
    }
    return dict((await connection.execute(insert(Webhook).values(values).returning(*_SHOWN))).mappings().one())


async def page(
    connection: AsyncConnection, project: ProjectId, *, before: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` webhooks, newest first."""
    statement = select(*_SHOWN).where(Webhook.project == project)
    if before is not None:
        statement = statement.where(Webhook.id < before)
    rows = (await connection.execute(statement.order_by(Webhook.id.desc()).limit(limit))).mappings()
    return [dict(row) for row in rows]


async def rotate(
    connection: AsyncConnection, project: ProjectId, webhook: str, *, key_id: str, overlap: timedelta
) -> dict[str, Any] | None:
    """Give a webhook its next secret; the one before signs too for so long. None when there is no such webhook."""
    statement = (
        update(Webhook)
        .where(Webhook.id == webhook, Webhook.project == project)
        .values(
            key_id=key_id,
            generation=Webhook.generation + 1,
            previous_key_id=Webhook.key_id,
            previous_until=_NOW + overlap,
        )
        .returning(*_SHOWN)
    )
    row = (await connection.execute(statement)).mappings().one_or_none()
    return dict(row) if row else None


async def disable(connection: AsyncConnection, webhook: str, *, reason: str) -> None:
    """Deliver nothing to it any more; what is pending is given up. Locks: the webhook, then its deliveries."""
    gone = update(Webhook).where(Webhook.id == webhook, Webhook.disabled_at.is_(None))
    await connection.execute(gone.values(disabled_at=_NOW, disabled_reason=reason))
    pending = update(Delivery).where(Delivery.webhook_id == webhook, Delivery.state == DeliveryState.PENDING)
    await connection.execute(pending.values(state=DeliveryState.EXHAUSTED, last_error=reason))


async def delete(connection: AsyncConnection, project: ProjectId, webhook: str) -> bool:
    """Delete a webhook and its deliveries; False when there is no such webhook."""
    statement = remove(Webhook).where(Webhook.id == webhook, Webhook.project == project).returning(Webhook.id)
    return (await connection.execute(statement)).first() is not None
