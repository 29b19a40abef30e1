"""What people ask of a task that it shall hold: pause, resume, breakpoints. Each holds the row's lock until it wrote.

The row is the truth: every answer to the attempt brings the token and the breakpoints along. The intent is a signal,
after which the attempt looks at the row. What has not been started needs none: the start is made of the row.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import TaskStatus
from domain.names import ProjectId, SignalName, TaskId
from domain.spec import Breakpoints
from store import mirror, outbox, tasks
from store.models import Outbox, OutboxKind, Task
from store.outbox import Intent


class Refusal(StrEnum):
    """Why nothing was changed."""

    ALREADY_ENDED = "already_ended"
    NOT_PAUSED = "not_paused"
    STALE_TOKEN = "stale_token"  # noqa: S105 - a word


@dataclass(frozen=True, kw_only=True)
class Steered:
    """The row as it is now, or why it was not changed, and what is to be sent once the transaction has committed."""

    row: dict[str, Any]
    refused: Refusal | None = None
    repeated: bool = False
    intent: Intent | None = None


async def pause(
    connection: AsyncConnection,
    project: ProjectId,
    task: TaskId,
    *,
    reason: str | None,
    token: str,
    now: datetime,
    lease_to: str,
    lease: timedelta,
) -> Steered | None:
    """Ask a task to hold, by this token unless it has one already; None when there is no such task."""
    row = await tasks.get(connection, project, task, for_update=True)
    if row is None:
        return None
    if TaskStatus(row["status"]).terminal:
        return Steered(row=row, refused=Refusal.ALREADY_ENDED)
    if row["pause_token"] is not None:
        return Steered(row=row, repeated=True)
    data = {"token": token} | ({"reason": reason} if reason is not None else {})
    key = f"api:pause_requested:{token}"
    await mirror.append(connection, task, [_event(key, EventType.TASK_PAUSE_REQUESTED, row, now, data)])
    return await _steered(connection, row, lease_to=lease_to, lease=lease)


async def resume(
    connection: AsyncConnection,
    project: ProjectId,
    task: TaskId,
    *,
    token: str,
    now: datetime,
    lease_to: str,
    lease: timedelta,
) -> Steered | None:
    """Let a task go on that is held, or is to be, by this token; None when there is no such task."""
    row = await tasks.get(connection, project, task, for_update=True)
    if row is None:
        return None
    if row["pause_token"] is None:
        return Steered(row=row, refused=Refusal.NOT_PAUSED)
    if row["pause_token"] != token:
        return Steered(row=row, refused=Refusal.STALE_TOKEN)
    held = now - row["paused_at"] if row["paused_at"] else timedelta(0)
    data = {"token": token, "paused_seconds": row["paused_seconds"] + max(held, timedelta(0)).total_seconds()}
    await mirror.append(connection, task, [_event(f"api:resumed:{token}", EventType.TASK_RESUMED, row, now, data)])
    return await _steered(connection, row, lease_to=lease_to, lease=lease)


async def set_breakpoints(
    connection: AsyncConnection,
    project: ProjectId,
    task: TaskId,
    breakpoints: Breakpoints,
    *,
    lease_to: str,
    lease: timedelta,
) -> Steered | None:
    """Replace a task's breakpoints; a hold that is in effect stays. None when there is no such task."""
    row = await tasks.get(connection, project, task, for_update=True)
    if row is None:
        return None
    if TaskStatus(row["status"]).terminal:
        return Steered(row=row, refused=Refusal.ALREADY_ENDED)
    wanted = breakpoints.model_dump(mode="json") if breakpoints else None
    if wanted == row["breakpoints"]:
        return Steered(row=row, repeated=True)
    await connection.execute(update(Task).where(Task.id == task).values(breakpoints=wanted))
    return await _steered(connection, row, lease_to=lease_to, lease=lease)


async def _steered(connection: AsyncConnection, row: dict[str, Any], *, lease_to: str, lease: timedelta) -> Steered:
    """Return the row as it is by now, with the intent that tells the attempt to look at it, where there is one."""
    task, attempt, intent = TaskId(row["id"]), row["attempt"], None
    if row["status"] != TaskStatus.READY and not await _is_to_be_started(connection, task, attempt):
        intent = await outbox.put(
            connection,
            kind=OutboxKind.SIGNAL,
            task_id=task,
            attempt=attempt,
            name=SignalName.TASK_STEERED,
            lease_to=lease_to,
            lease=lease,
        )
    after = await tasks.get(connection, row["project"], task)
    return Steered(row=after or row, intent=intent)


async def _is_to_be_started(connection: AsyncConnection, task: TaskId, attempt: int) -> bool:
    """Whether the attempt's start is yet to be made, of a row that has this transaction's write.

    The lock keeps the dispatcher from taking it until then.
    """
    statement = select(Outbox.id).where(*outbox.unsent_start(task, attempt)).with_for_update()
    return (await connection.execute(statement)).first() is not None


def _event(key: str, kind: EventType, row: dict[str, Any], now: datetime, data: dict[str, Any]) -> NewEvent:
    return NewEvent(
        key=key, type=kind, ts=now, attempt=row["attempt"], source=EventSource.API, step=row["step"], data=data
    )
