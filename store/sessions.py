"""Sessions: what a browser has in the place of a key. Only their SHA-256 is kept."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from store.keys import SHOWN
from store.models import ApiKey, Session

NOW = func.clock_timestamp()


async def begin(connection: AsyncConnection, *, sha256: bytes, key_id: str, lasts: timedelta) -> datetime:
    """Store a session of this key, and forget those that have expired; returns when this one will."""
    await connection.execute(delete(Session).where(Session.expires_at < NOW))
    statement = insert(Session).values(sha256=sha256, key_id=key_id, expires_at=NOW + lasts)
    expires_at: datetime = (await connection.execute(statement.returning(Session.expires_at))).scalar_one()
    return expires_at


async def find(connection: AsyncConnection, sha256: bytes) -> dict[str, Any] | None:
    """Return the key behind this session, unless one of them is over."""
    statement = (
        select(*SHOWN)
        .join(Session, Session.key_id == ApiKey.id)
        .where(Session.sha256 == sha256, Session.expires_at > NOW, ApiKey.revoked_at.is_(None))
    )
    row = (await connection.execute(statement)).mappings().one_or_none()
    return dict(row) if row else None


async def end(connection: AsyncConnection, sha256: bytes) -> None:
    """Forget a session; one that is unknown is over already."""
    await connection.execute(delete(Session).where(Session.sha256 == sha256))
