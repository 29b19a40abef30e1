"""Intents for runs' orchestrators: committed with their cause, taken by whoever sends them, gone when they were sent.

What ends is told many tasks at a time: one signal for all that a run has not heard of.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from typing import Any, Final

from sqlalchemy import delete, func, insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import RunId
from store.models import RunIntent, RunIntentKind

# Of one run at a time: others have their turn.
_LEASE: Final = text("""
UPDATE run_intents SET leased_until = clock_timestamp() + CAST(:until AS interval), tries = tries + 1
WHERE id IN (
  SELECT id FROM run_intents
  WHERE due_at <= clock_timestamp() AND (leased_until IS NULL OR leased_until < clock_timestamp())
    AND run_id <> ALL(:resting) AND (CAST(:run AS text) IS NULL OR run_id = :run)
  ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
)
RETURNING id, run_id, kind, attempt, body, tries
""")


@dataclass(frozen=True, slots=True)
class Mail:
    """All that is to be told to one run now."""

    run_id: RunId
    ids: Sequence[int]
    kinds: frozenset[RunIntentKind]
    attempt: int
    endings: Sequence[dict[str, Any]]
    tries: int


async def put(connection: AsyncConnection, run: RunId, kind: RunIntentKind, *, attempt: int) -> None:
    """Store an intent; whoever commits it has it sent."""
    await connection.execute(insert(RunIntent).values(run_id=run, kind=kind, attempt=attempt))


async def take(
    connection: AsyncConnection,
    *,
    until: timedelta,
    limit: int,
    resting: Collection[str] = (),
    run: RunId | None = None,
) -> list[Mail]:
    """Take due intents that nobody holds, of this run or of all but those that rest; by runs."""
    parameters = {"until": until, "limit": limit, "resting": list(resting), "run": run}
    rows = sorted(await connection.execute(_LEASE, parameters), key=lambda row: (row.run_id, row.id))
    return [_mail(run_id, list(some)) for run_id, some in groupby(rows, key=lambda row: row.run_id)]


def _mail(run_id: RunId, rows: Sequence[Any]) -> Mail:
    return Mail(
        run_id=run_id,
        ids=[row.id for row in rows],
        kinds=frozenset(RunIntentKind(row.kind) for row in rows),
        attempt=max(row.attempt for row in rows),
        endings=[row.body for row in rows if row.kind == RunIntentKind.ENDED],
        tries=max(row.tries for row in rows),
    )


async def sent(connection: AsyncConnection, ids: Sequence[int]) -> None:
    """Remove intents that the engine has acknowledged, or that nobody waits for."""
    await connection.execute(delete(RunIntent).where(RunIntent.id.in_(ids)))


async def put_back(connection: AsyncConnection, ids: Sequence[int], *, due_in: timedelta, error: str) -> None:
    """Let intents be tried again later."""
    values = {"leased_until": None, "due_at": func.clock_timestamp() + due_in, "last_error": error[:2000]}
    await connection.execute(update(RunIntent).where(RunIntent.id.in_(ids)).values(values))
