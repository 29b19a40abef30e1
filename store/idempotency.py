"""Answers that POSTs got, kept under the caller's own key so that a repeat gets the same one."""

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import ProjectId

# The lock says that no other request with this key is in flight; it goes with the transaction.
_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:project || '/' || :key, 0))")
_KNOWN: Final = text(
    "SELECT digest, status, response FROM idempotency"
    " WHERE project = :project AND key = :key AND created_at > clock_timestamp() - CAST(:kept AS interval)"
)
# Each answer that is kept clears away a few that have expired, so the table stays as long as its traffic is.
_KEEP: Final = text("""
WITH expired AS (
  SELECT project, key FROM idempotency
  WHERE created_at < clock_timestamp() - CAST(:kept AS interval) AND (project, key) <> (:project, :key)
  ORDER BY created_at LIMIT 10 FOR UPDATE SKIP LOCKED
), cleared AS (
  DELETE FROM idempotency i USING expired e WHERE i.project = e.project AND i.key = e.key
)
INSERT INTO idempotency (project, key, digest, status, response)
VALUES (:project, :key, :digest, :status, CAST(:response AS jsonb))
ON CONFLICT (project, key) DO UPDATE SET digest = excluded.digest, status = excluded.status,
  response = excluded.response, created_at = excluded.created_at
""")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The answer that the first request got."""

    digest: bytes
    status: int
    response: Any


async def lock(connection: AsyncConnection, project: ProjectId, key: str) -> bool:
    """Take the key for this transaction; False when another request holds it."""
    return bool((await connection.execute(_LOCK, {"project": project, "key": key})).scalar_one())


async def find(connection: AsyncConnection, project: ProjectId, key: str, *, kept: timedelta) -> Kept | None:
    """Return the answer kept under a key that this transaction has locked."""
    row = (await connection.execute(_KNOWN, {"project": project, "key": key, "kept": kept})).mappings().one_or_none()
    return Kept(**row) if row else None


async def keep(connection: AsyncConnection, project: ProjectId, key: str, answer: Kept, *, kept: timedelta) -> None:
    """Keep an answer, in the transaction that gives it."""
    parameters = {
        "project": project,
        "key": key,
        "digest": answer.digest,
        "status": answer.status,
        "response": json.dumps(answer.response),
        "kept": kept,
    }
    await connection.execute(_KEEP, parameters)
