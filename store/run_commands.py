"""What people ask of a run as a whole: cancel it, or try it again. Each holds the row's lock from look to write."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import delete, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import GUIDANCE, Category, TaskError
from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import RUN_TRANSITIONS, MemberStatus, RunStatus
from domain.names import ProjectId, RunId
from store import run_intents, run_log, runs
from store.models import Run, RunIntent, RunIntentKind

_WAITING: Final = text("SELECT name FROM members WHERE run_id = :run AND status = 'waiting' ORDER BY position")
_OPEN_TASK: Final = text("""
SELECT id FROM tasks WHERE run_id = :run AND status NOT IN ('completed', 'failed', 'cancelled') LIMIT 1
""")
_WAIT_AGAIN: Final = text("""
UPDATE members SET status = 'waiting', reason = NULL, error = NULL, started_at = NULL, finished_at = NULL
WHERE run_id = :run AND status IN ('failed', 'cancelled', 'skipped')
""")


class Outcome(StrEnum):
    """What became of a cancel."""

    APPLIED = "applied"
    REQUESTED = "requested"
    REPEATED = "repeated"
    ALREADY_ENDED = "already_ended"


class Refusal(StrEnum):
    """Why there is no next attempt."""

    NOT_ENDED = "not_ended"
    ALREADY_COMPLETED = "already_completed"
    ATTEMPT_MISMATCH = "attempt_mismatch"


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """The outcome, the row before, and whether the orchestrator is to be told."""

    outcome: Outcome
    row: dict[str, Any]
    asked: bool = False


@dataclass(frozen=True, kw_only=True)
class Retried:
    """The row as it is now, or why there is no next attempt; `open_task` is one that keeps the run from it."""

    row: dict[str, Any]
    refused: Refusal | None = None
    open_task: str | None = None


async def cancel(connection: AsyncConnection, project: ProjectId, run: RunId, *, now: datetime) -> Cancelled | None:
    """Cancel at once what was never started, else ask the orchestrator to; None when there is no such run."""
    row = await runs.get(connection, project, run, for_update=True)
    if row is None:
        return None
    status = RunStatus(row["status"])
    if status.terminal:
        ended = Outcome.REPEATED if status is RunStatus.CANCELLED else Outcome.ALREADY_ENDED
        return Cancelled(outcome=ended, row=row)
    if status is RunStatus.QUEUED and await _void(connection, run, row["attempt"]):
        await run_log.append(connection, run, await _cancelled(connection, row, now))
        return Cancelled(outcome=Outcome.APPLIED, row=row)
    if row["cancel_requested_at"] is not None:
        return Cancelled(outcome=Outcome.REQUESTED, row=row)
    await connection.execute(update(Run).where(Run.id == run).values(cancel_requested_at=now))
    await run_intents.put(connection, run, RunIntentKind.CANCEL, attempt=row["attempt"])
    return Cancelled(outcome=Outcome.REQUESTED, row=row, asked=True)


async def _void(connection: AsyncConnection, run: RunId, attempt: int) -> bool:
    """Take back a start that nobody can have sent: one that was leased or tried may have reached the engine."""
    unsent = (
        RunIntent.run_id == run,
        RunIntent.attempt == attempt,
        RunIntent.kind == RunIntentKind.START,
        RunIntent.leased_until.is_(None),
        RunIntent.tries == 0,
        RunIntent.last_error.is_(None),
    )
    found = (await connection.execute(delete(RunIntent).where(*unsent).returning(RunIntent.id))).first()
    if found is None:
        return False
    await _forget(connection, run)
    return True


async def _cancelled(connection: AsyncConnection, row: dict[str, Any], now: datetime) -> list[NewEvent]:
    """Return the end of a run that has not begun: that of each member that waits, and its own."""
    names = (await connection.execute(_WAITING, {"run": row["id"]})).scalars().all()
    attempt = row["attempt"]
    error = TaskError(
        code="cancelled",
        category=Category.CANCELLED,
        message="cancelled before it was started",
        guidance=GUIDANCE[Category.CANCELLED],
        context={"attempt": attempt},
    )
    counts = (await runs.counts(connection, [row["id"]]))[row["id"]]
    counts |= {MemberStatus.CANCELLED: counts[MemberStatus.CANCELLED] + len(names), MemberStatus.WAITING: 0}

    def event(kind: EventType, key: str, **data: Any) -> NewEvent:
        return NewEvent(
            key=f"api:{key}:{attempt}", type=kind, ts=now, attempt=attempt, source=EventSource.API, data=data
        )

    cancelled = MemberStatus.CANCELLED
    return [
        *(event(EventType.RUN_MEMBER_FINISHED, f"cancelled:{name}", member=name, outcome=cancelled) for name in names),
        event(
            EventType.RUN_AGGREGATED,
            "aggregated",
            outcome=cancelled,
            counts={status: count for status, count in counts.items() if count},
        ),
        event(EventType.RUN_CANCELLED, "cancelled", error=error.model_dump(mode="json")),
    ]


async def retry(
    connection: AsyncConnection, project: ProjectId, run: RunId, *, from_attempt: int | None, now: datetime
) -> Retried | None:
    """Queue the next attempt: what failed, was cancelled or skipped waits again; None when there is no such run.

    `from_attempt` is the attempt that the caller saw end: any other than the row's is refused, so that of two who saw
    the same end one makes an attempt. Tasks that still run, because their run was ended from outside, end first.
    """
    row = await runs.get(connection, project, run, for_update=True)
    if row is None:
        return None
    refused = _refusal(row, from_attempt)
    if refused is not None:
        return Retried(row=row, refused=refused)
    task = (await connection.execute(_OPEN_TASK, {"run": run})).scalar_one_or_none()
    if task is not None:
        return Retried(row=row, refused=Refusal.NOT_ENDED, open_task=task)
    attempt = row["attempt"] + 1
    event = NewEvent(
        key=f"api:retry:{attempt}",
        type=EventType.RUN_COMMANDED,
        ts=now,
        attempt=attempt,
        source=EventSource.API,
        data={"source": "api", "retry": True},
    )
    await run_log.append(connection, run, [event])
    await connection.execute(_WAIT_AGAIN, {"run": run})
    await connection.execute(update(Run).where(Run.id == run).values(cancel_requested_at=None))
    await _forget(connection, run)
    await run_intents.put(connection, run, RunIntentKind.START, attempt=attempt)
    return Retried(row=await runs.get(connection, project, run) or row)


def _refusal(row: dict[str, Any], from_attempt: int | None) -> Refusal | None:
    status = RunStatus(row["status"])
    if from_attempt is not None and from_attempt != row["attempt"]:
        return Refusal.ATTEMPT_MISMATCH
    if not status.terminal:
        return Refusal.NOT_ENDED
    return None if RunStatus.QUEUED in RUN_TRANSITIONS[status] else Refusal.ALREADY_COMPLETED


async def _forget(connection: AsyncConnection, run: RunId) -> None:
    """Take back what an attempt that is over was to be told."""
    await connection.execute(delete(RunIntent).where(RunIntent.run_id == run))
