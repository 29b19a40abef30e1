"""The log of a run: fenced writes by its orchestrator, and appends by others. The logic is in `functions/*.sql`."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import NewEvent
from domain.names import RunId
from domain.run import RunAnswer, RunFlush
from domain.run_events import changes, member_changes
from store import jsonb

_FLUSH: Final = text("SELECT flush_run(:run, :attempt, :version, CAST(:events AS jsonb), :seen)")
_UNSEEN: Final = text("SELECT unseen_commands(:run, :seen)")
_APPEND: Final = text("SELECT append_to_run_log(:run, CAST(:events AS jsonb))")


class RunGone(LookupError):  # noqa: N818 - a fact, not a fault
    """The run was deleted."""


def events_json(events: Sequence[NewEvent]) -> str:
    """Return events as the SQL functions take them: each with what it changes in the row and in a member's."""
    rows = [
        {
            "key": event.key,
            "type": event.type,
            "ts": event.ts,
            "attempt": event.attempt,
            "source": event.source,
            "data": event.data,
            "changes": changes(event),
            "member": member_changes(event),
        }
        for event in events
    ]
    return jsonb.dumps(rows)


async def flush(connection: AsyncConnection, batch: RunFlush) -> RunAnswer:
    """Apply a batch if it is newer and the run has not ended. Raises RunGone."""
    parameters = {
        "run": batch.run_id,
        "attempt": batch.attempt,
        "version": batch.version,
        "events": events_json(batch.events),
        "seen": batch.seen,
    }
    answer: dict[str, Any] | None = (await connection.execute(_FLUSH, parameters)).scalar_one()
    if answer is None:
        raise RunGone(batch.run_id)
    return RunAnswer.model_validate(answer)


async def append(connection: AsyncConnection, run: RunId, events: Sequence[NewEvent]) -> None:
    """Append events of another source than the orchestrator; the caller has checked them under the row's lock."""
    await connection.execute(_APPEND, {"run": run, "events": events_json(events)})


async def unseen(connection: AsyncConnection, run: RunId, answer: RunAnswer, *, seen: int) -> RunAnswer:
    """Return the answer with the commands that have come with this transaction, after the number `seen`."""
    commands: dict[str, Any] = (await connection.execute(_UNSEEN, {"run": run, "seen": seen})).scalar_one()
    return RunAnswer.model_validate(answer.model_dump() | commands)
