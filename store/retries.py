"""A retry by hand: the next attempt of a task that failed or was cancelled, under the row's lock."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import TASK_TRANSITIONS, TaskStatus
from domain.names import ProjectId, TaskId
from store import mirror, outbox, tasks
from store.models import Outbox, OutboxKind, Task, Waiter
from store.outbox import Intent


class Refusal(StrEnum):
    """Why there is no next attempt."""

    NOT_ENDED = "not_ended"
    ALREADY_COMPLETED = "already_completed"
    ATTEMPT_MISMATCH = "attempt_mismatch"


@dataclass(frozen=True, kw_only=True)
class Retried:
    """The row as it is now, with the intent that starts the next attempt, or why there is none."""

    row: dict[str, Any]
    refused: Refusal | None = None
    intent: Intent | None = None


async def retry(
    connection: AsyncConnection,
    project: ProjectId,
    task: TaskId,
    *,
    from_attempt: int | None,
    now: datetime,
    lease_to: str,
    lease: timedelta,
) -> Retried | None:
    """Queue the next attempt and store its start intent, leased to the writer; None when there is no such task.

    `from_attempt` is the attempt that the caller saw fail: any other than the row's is refused, so that of two who
    saw the same failure one makes an attempt.
    """
    row = await tasks.get(connection, project, task, for_update=True)
    if row is None:
        return None
    refused = _refusal(row, from_attempt)
    if refused is not None:
        return Retried(row=row, refused=refused)
    attempt = row["attempt"] + 1
    await _forget(connection, task, row["attempt"])
    queued = NewEvent(
        key=f"api:retry:{attempt}",
        type=EventType.TASK_QUEUED,
        ts=now,
        attempt=attempt,
        source=EventSource.API,
        data={"reason": "retry", "by_hand": True},
    )
    await mirror.append(connection, task, [queued])
    intent = await outbox.put(
        connection, kind=OutboxKind.START, task_id=task, attempt=attempt, lease_to=lease_to, lease=lease
    )
    after = await tasks.get(connection, project, task)
    return Retried(row=after or row, intent=intent)


def _refusal(row: dict[str, Any], from_attempt: int | None) -> Refusal | None:
    status = TaskStatus(row["status"])
    if from_attempt is not None and from_attempt != row["attempt"]:
        return Refusal.ATTEMPT_MISMATCH
    if not status.terminal:
        return Refusal.NOT_ENDED
    return None if TaskStatus.QUEUED in TASK_TRANSITIONS[status] else Refusal.ALREADY_COMPLETED


async def _forget(connection: AsyncConnection, task: TaskId, attempt: int) -> None:
    """Take back what was asked of the attempt that has ended, and must not be asked of the next.

    Its signals and cancels stay: they name their attempt, and may yet end a workflow that was left behind.
    """
    asked = {"cancel_requested_at": None, "pause_reason": None, "pause_token": None}
    await connection.execute(update(Task).where(Task.id == task).values(asked))
    await connection.execute(delete(Waiter).where(Waiter.task_id == task, Waiter.attempt <= attempt))
    started = (Outbox.task_id == task, Outbox.attempt <= attempt, Outbox.kind == OutboxKind.START)
    await connection.execute(delete(Outbox).where(*started))
