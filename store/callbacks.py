"""The inbox: what workspaces tell, taken in once."""

import hashlib
import json
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import EventType
from domain.messages import Activity
from domain.names import CallbackKind, WorkspaceId
from domain.tokens import Claims
from store import jsonb

_RECEIVE: Final = text(
    "SELECT receive_callback(:task, :workspace, :attempt, :kind, :turn, CAST(:body AS jsonb), :digest, :lease)"
)
_HEARTBEAT: Final = text("""
WITH seen AS (
  SELECT attempt, status IN ('completed', 'failed', 'cancelled') AS over FROM tasks WHERE id = :task
), beaten AS (
  UPDATE workspaces SET last_activity_at = clock_timestamp(),
    active_at = CASE provider WHEN 'external' THEN clock_timestamp() ELSE active_at END
  FROM seen WHERE workspaces.id = :workspace AND seen.attempt = :attempt AND NOT seen.over
)
SELECT CASE WHEN attempt <> :attempt THEN 'stale' WHEN over THEN 'ended' ELSE 'applied' END FROM seen
""")
# Ages and not times: the engine's clock may be another one than the database's.
_ACTIVITY: Final = text("""
SELECT clock_timestamp() - active_at AS silent_for, clock_timestamp() - last_activity_at AS unheard_for
FROM workspaces WHERE id = :workspace
""")
_TAKEN: Final = text("""
SELECT EXISTS (
  SELECT FROM events
  WHERE task_id = :task AND attempt = :attempt AND type = :type AND coalesce((data ->> 'turn')::int, :turn) = :turn
)
""")
# What the log says of a callback that was heard. A claim is never told by a workspace.
_HEARD: Final = {
    CallbackKind.READY: EventType.WORKSPACE_READY,
    CallbackKind.FAILED: EventType.WORKSPACE_FAILED,
    CallbackKind.FINISHED: EventType.AGENT_FINISHED,
}
_PROGRESS: Final = text("SELECT note_progress(:task, :workspace, :attempt, CAST(:body AS jsonb))")


class Reception(StrEnum):
    """What the inbox says to a callback."""

    APPLIED = "applied"
    REPEAT = "repeat"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    ALREADY_FAILED = "already_failed"
    STALE = "stale"
    ENDED = "ended"


def digest(body: dict[str, Any]) -> bytes:
    """Return the SHA-256 of the canonical JSON of a body: the same content in another order is the same callback."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).digest()


async def receive(
    connection: AsyncConnection, claims: Claims, kind: CallbackKind, body: dict[str, Any], *, lease: timedelta
) -> Reception:
    """Take in a callback; the caller signals it, and until `lease` has run out nobody else does."""
    parameters = _of(claims) | {
        "kind": kind,
        "turn": claims.turn,
        "body": jsonb.dumps(body),
        "digest": digest(body),
        "lease": lease,
    }
    return Reception((await connection.execute(_RECEIVE, parameters)).scalar_one())


async def taken(connection: AsyncConnection, claims: Claims, kind: CallbackKind) -> bool:
    """Return whether the attempt has heard the callback of this kind and turn, which the inbox holds once."""
    parameters = {"task": claims.task_id, "attempt": claims.attempt, "type": _HEARD[kind], "turn": claims.turn}
    return bool((await connection.execute(_TAKEN, parameters)).scalar_one())


async def heartbeat(connection: AsyncConnection, claims: Claims) -> Reception:
    """Note that the workspace lives."""
    answer = (await connection.execute(_HEARTBEAT, _of(claims))).scalar_one_or_none()
    return Reception(answer or Reception.ENDED)


async def activity(connection: AsyncConnection, workspace: WorkspaceId) -> Activity:
    """Return how long a workspace has had no output and no progress, and how long it was not heard at all."""
    row = (await connection.execute(_ACTIVITY, {"workspace": workspace})).mappings().one_or_none()
    return Activity.model_validate(row or {})


async def progress(connection: AsyncConnection, claims: Claims, body: dict[str, Any]) -> Reception:
    """Keep what the workspace says of its progress."""
    return Reception((await connection.execute(_PROGRESS, _of(claims) | {"body": jsonb.dumps(body)})).scalar_one())


def _of(claims: Claims) -> dict[str, Any]:
    return {"task": claims.task_id, "workspace": claims.workspace_id, "attempt": claims.attempt}
