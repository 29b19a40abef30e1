"""What people ask of a task that exists: start it, cancel it. Each holds the row's lock from its look to its write."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import CANCEL_FORCED, GUIDANCE, Category, TaskError
from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import TaskStatus
from domain.names import ProjectId, TaskId
from store import mirror, outbox, tasks
from store.models import Outbox, OutboxKind, Task
from store.outbox import Intent


class Outcome(StrEnum):
    """What became of a command."""

    APPLIED = "applied"
    REQUESTED = "requested"
    REPEATED = "repeated"
    FORCED = "forced"
    ALREADY_ENDED = "already_ended"


@dataclass(frozen=True, kw_only=True)
class Commanded:
    """The outcome, the row before the command, and what is to be sent once the transaction has committed."""

    outcome: Outcome
    row: dict[str, Any]
    intent: Intent | None = None


async def start(
    connection: AsyncConnection, project: ProjectId, task: TaskId, *, now: datetime, lease_to: str, lease: timedelta
) -> Commanded | None:
    """Queue a task that was created with `start: false`; None when there is no such task."""
    row = await tasks.get(connection, project, task, for_update=True)
    if row is None:
        return None
    if row["status"] == TaskStatus.CANCELLED:
        return Commanded(outcome=Outcome.ALREADY_ENDED, row=row)
    if row["status"] != TaskStatus.READY:
        return Commanded(outcome=Outcome.REPEATED, row=row)
    event = _event(tasks.FIRST_QUEUED, EventType.TASK_QUEUED, row, now)
    await mirror.append(connection, task, [event])
    intent = await outbox.put(
        connection, kind=OutboxKind.START, task_id=task, attempt=row["attempt"], lease_to=lease_to, lease=lease
    )
    return Commanded(outcome=Outcome.APPLIED, row=row, intent=intent)


async def cancel(
    connection: AsyncConnection, project: ProjectId, task: TaskId, *, now: datetime, lease_to: str, lease: timedelta
) -> Commanded | None:
    """Cancel at once what was never started, else ask the attempt to; None when there is no such task.

    The intent is the cancel as long as Temporal has not taken it, then the force that is due at the deadline.
    """
    row = await tasks.get(connection, project, task, for_update=True)
    if row is None:
        return None
    status = TaskStatus(row["status"])
    if status.terminal:
        return Commanded(outcome=_ended(row), row=row)
    if status is TaskStatus.READY or (status is TaskStatus.QUEUED and await _void(connection, task, row["attempt"])):
        key = f"api:cancelled:{row['attempt']}"
        error = TaskError(
            code="cancelled",
            category=Category.CANCELLED,
            message="cancelled before it was started",
            guidance=GUIDANCE[Category.CANCELLED],
            context={"attempt": row["attempt"]},
        )
        event = _event(key, EventType.TASK_CANCELLED, row, now, {"error": error.model_dump(mode="json")})
        await mirror.append(connection, task, [event])
        return Commanded(outcome=Outcome.APPLIED, row=row)
    if row["cancel_requested_at"] is not None:
        return Commanded(outcome=Outcome.REQUESTED, row=row)
    await connection.execute(update(Task).where(Task.id == task).values(cancel_requested_at=now))
    key = f"api:cancel_requested:{row['attempt']}"
    await mirror.append(connection, task, [_event(key, EventType.TASK_CANCEL_REQUESTED, row, now)])
    intent = await outbox.put(
        connection, kind=OutboxKind.CANCEL, task_id=task, attempt=row["attempt"], lease_to=lease_to, lease=lease
    )
    return Commanded(outcome=Outcome.REQUESTED, row=row, intent=intent)


def _ended(row: dict[str, Any]) -> Outcome:
    if row["status"] != TaskStatus.CANCELLED:
        return Outcome.ALREADY_ENDED
    forced = row["error"] is not None and row["error"].get("code") == CANCEL_FORCED
    return Outcome.FORCED if forced else Outcome.REPEATED


async def _void(connection: AsyncConnection, task: TaskId, attempt: int) -> bool:
    """Take back a start that nobody can have sent."""
    statement = delete(Outbox).where(*outbox.unsent_start(task, attempt)).returning(Outbox.id)
    return (await connection.execute(statement)).first() is not None


def _event(
    key: str, kind: EventType, row: dict[str, Any], now: datetime, data: dict[str, Any] | None = None
) -> NewEvent:
    return NewEvent(
        key=key,
        type=kind,
        ts=now,
        attempt=row["attempt"],
        source=EventSource.API,
        step=row["step"] if kind is EventType.TASK_CANCEL_REQUESTED else None,
        data=data or {},
    )
