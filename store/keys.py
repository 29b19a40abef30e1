"""API keys: only their SHA-256 is kept."""

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.ids import new_id
from domain.names import NodeId, ProjectId, Scope
from store.models import ApiKey

SHOWN = (
    ApiKey.id,
    ApiKey.project,
    ApiKey.name,
    ApiKey.scopes,
    ApiKey.node_id,
    ApiKey.created_at,
    ApiKey.revoked_at,
)


def sha256_of(key: str) -> bytes:
    """Return what is kept of a key: its 256 random bits need no salt and no stretching."""
    return hashlib.sha256(key.encode()).digest()


async def ensure(
    connection: AsyncConnection,
    *,
    sha256: bytes,
    project: ProjectId,
    name: str,
    scopes: Sequence[Scope],
    node_id: NodeId | None = None,
) -> dict[str, Any]:
    """Store a key by its hash; one that is there already is left as it is, revoked or not."""
    values = {
        "id": new_id(),
        "project": project,
        "name": name,
        "sha256": sha256,
        "scopes": [scope.value for scope in scopes],
        "node_id": node_id,
    }
    await connection.execute(insert(ApiKey).values(values).on_conflict_do_nothing(index_elements=["sha256"]))
    return dict((await connection.execute(select(*SHOWN).where(ApiKey.sha256 == sha256))).mappings().one())


async def find(connection: AsyncConnection, sha256: bytes) -> dict[str, Any] | None:
    """Return the key with this hash, unless it was revoked."""
    statement = select(*SHOWN).where(ApiKey.sha256 == sha256, ApiKey.revoked_at.is_(None))
    row = (await connection.execute(statement)).mappings().one_or_none()
    return dict(row) if row else None


async def page(
    connection: AsyncConnection, project: ProjectId, *, before: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` keys, newest first, revoked ones too."""
    statement = select(*SHOWN).where(ApiKey.project == project)
    if before is not None:
        statement = statement.where(ApiKey.id < before)
    rows = (await connection.execute(statement.order_by(ApiKey.id.desc()).limit(limit))).mappings()
    return [dict(row) for row in rows]


async def revoke(connection: AsyncConnection, project: ProjectId, key: str) -> tuple[bytes, NodeId | None] | None:
    """Revoke a key and return its hash, and the node whose last token it was; None for no such key.

    Once revoked it stays as it is.
    """
    statement = (
        update(ApiKey)
        .where(ApiKey.id == key, ApiKey.project == project)
        .values(revoked_at=func.coalesce(ApiKey.revoked_at, func.clock_timestamp()))
        .returning(ApiKey.sha256, ApiKey.node_id)
    )
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return None
    others = select(ApiKey.id).where(ApiKey.node_id == row.node_id, ApiKey.revoked_at.is_(None)).limit(1)
    left = row.node_id is not None and (await connection.execute(others)).first() is None
    return row.sha256, NodeId(row.node_id) if left else None
