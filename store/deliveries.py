"""Deliveries of events to webhooks: leased by who sends them, tried again, given up; looked at and asked for again."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import ProjectId
from store import jsonb

# A lease is a later `due_at`: whoever dies with a delivery in hand leaves it to the next. For each webhook at most as
# many as it may have at once, less what is under way already: one that hangs delays no other.
_LEASE: Final = text("""
WITH due AS (
  SELECT d.id FROM webhooks w CROSS JOIN LATERAL (
    SELECT id FROM deliveries
    WHERE webhook_id = w.id AND state = 'pending' AND due_at <= now()
    ORDER BY due_at LIMIT greatest(0, :each - coalesce(CAST(CAST(:flying AS jsonb) ->> w.id AS int), 0))
    FOR UPDATE SKIP LOCKED
  ) d
  LIMIT :limit
)
UPDATE deliveries d SET due_at = clock_timestamp() + CAST(:lease AS interval), tries = d.tries + 1
FROM due, webhooks w, tasks t, events e
WHERE d.id = due.id AND w.id = d.webhook_id AND t.id = d.task_id AND e.task_id = d.task_id AND e.seq = d.seq
RETURNING d.id, d.webhook_id, d.tries, w.url, w.key_id, w.generation,
          CASE WHEN w.previous_until > clock_timestamp() THEN w.previous_key_id END AS previous_key_id,
          e.type, e.ts, event_envelope(t, e) AS envelope
""")
_DELIVERED: Final = text("""
UPDATE deliveries SET state = 'delivered', delivered_at = clock_timestamp(), last_status = :status, last_error = NULL
WHERE id = :id AND state = 'pending'
""")
# The last try is at the end of its time, not before; what fails then, or later, is given up.
_FAILED: Final = text("""
UPDATE deliveries SET last_status = :status, last_error = :error,
  state = CASE WHEN clock_timestamp() >= since + CAST(:give_up AS interval) THEN 'exhausted' ELSE 'pending' END,
  due_at = least(clock_timestamp() + CAST(:delay AS interval), since + CAST(:give_up AS interval))
WHERE id = :id AND state = 'pending'
""")
_SHOWN: Final = """
d.id, d.webhook_id, d.task_id, d.seq, e.type, d.state, d.tries,
CASE WHEN d.state = 'pending' THEN d.due_at END AS next_try_at, d.last_status, d.last_error,
d.created_at, d.delivered_at
"""
# One statement says whether the webhook exists and what it has: one without deliveries gives one empty row.
_PAGE: Final = text(f"""
SELECT d.* FROM webhooks w LEFT JOIN LATERAL (
  SELECT {_SHOWN} FROM deliveries d JOIN events e ON e.task_id = d.task_id AND e.seq = d.seq
  WHERE d.webhook_id = w.id AND (CAST(:before AS text) IS NULL OR d.id < :before)
    AND (CAST(:state AS text) IS NULL OR d.state = :state)
  ORDER BY d.id DESC LIMIT :limit
) d ON true
WHERE w.id = :webhook AND w.project = :project ORDER BY d.id DESC
""")  # noqa: S608 - of constants
_AGAIN: Final = text(f"""
WITH found AS (
  SELECT d.id, w.disabled_at IS NOT NULL AS disabled FROM deliveries d JOIN webhooks w ON w.id = d.webhook_id
  WHERE d.id = :id AND w.id = :webhook AND w.project = :project
), again AS (
  UPDATE deliveries d SET state = 'pending', since = clock_timestamp(), due_at = clock_timestamp(), tries = 0,
                          delivered_at = NULL
  FROM found WHERE d.id = found.id AND NOT found.disabled
  RETURNING d.*
)
SELECT found.disabled, {_SHOWN} FROM found LEFT JOIN again d ON true
LEFT JOIN events e ON e.task_id = d.task_id AND e.seq = d.seq
""")  # noqa: S608


@dataclass(frozen=True, kw_only=True)
class Due:
    """A delivery in hand: where to, signed by what, and what it says."""

    id: str
    webhook_id: str
    tries: int
    url: str
    key_id: str
    generation: int
    previous_key_id: str | None
    type: str
    ts: datetime
    envelope: str


class Refused(StrEnum):
    """Why a delivery is not sent again."""

    DISABLED = "disabled"


async def lease(
    connection: AsyncConnection, *, until: timedelta, each: int, flying: Mapping[str, int], limit: int
) -> list[Due]:
    """Take up to `limit` due deliveries, up to `each` of a webhook less those of it that are under way."""
    parameters = {"lease": until, "each": each, "flying": jsonb.dumps(dict(flying)), "limit": limit}
    return [Due(**row) for row in (await connection.execute(_LEASE, parameters)).mappings()]


async def delivered(connection: AsyncConnection, delivery: str, *, status: int) -> None:
    """Note that the receiver has it."""
    await connection.execute(_DELIVERED, {"id": delivery, "status": status})


async def failed(
    connection: AsyncConnection, delivery: str, *, status: int | None, error: str, delay: timedelta, give_up: timedelta
) -> None:
    """Note that a try failed: the next comes after `delay`, or the last one at the end of `give_up`."""
    parameters = {"id": delivery, "status": status, "error": error, "delay": delay, "give_up": give_up}
    await connection.execute(_FAILED, parameters)


async def page(
    connection: AsyncConnection, project: ProjectId, webhook: str, *, state: str | None, before: str | None, limit: int
) -> list[dict[str, Any]] | None:
    """Return up to `limit` deliveries, newest first; None for no such webhook."""
    parameters = {"project": project, "webhook": webhook, "state": state, "before": before, "limit": limit}
    rows = (await connection.execute(_PAGE, parameters)).mappings().all()
    return [dict(row) for row in rows if row["id"] is not None] if rows else None


async def redeliver(
    connection: AsyncConnection, project: ProjectId, webhook: str, delivery: str
) -> dict[str, Any] | Refused | None:
    """Have a delivery sent again, whatever became of it; None when there is none."""
    parameters = {"project": project, "webhook": webhook, "id": delivery}
    row = (await connection.execute(_AGAIN, parameters)).mappings().one_or_none()
    if row is None:
        return None
    shown = dict(row)
    return Refused.DISABLED if shown.pop("disabled") else shown
