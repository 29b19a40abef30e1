"""What people ask of a task that it shall hold: pause, resume, breakpoints. Each holds the row's lock until it wrote.

The row is the truth: every answer to the attempt brings the token and the breakpoints along. The intent is a signal,
after which the attempt looks at the row. What has not been started needs none: the start is made of the row.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
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
from store.steering import Refusal, Steered, unresumable


@dataclass(frozen=True, kw_only=True)
class SteeredTask(Steered):
    """With what is to be sent once the transaction has committed."""

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
) -> SteeredTask | None:
    """Ask a task to hold, by this token unless it has one already; None when there is no such task."""
    row = await tasks.get(connection, project, task, for_update=True)
    if row is None:
        return None
    if TaskStatus(row["status"]).terminal:
        return SteeredTask(row=row, refused=Refusal.ALREADY_ENDED)
    if row["pause_token"] is not None:
        return SteeredTask(row=row, repeated=True)
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
) -> SteeredTask | None:
    """Let a task go on that is held, or is to be, by this token; None when there is no such task."""
    row = await tasks.get(connection, project, task, for_update=True)
    if row is None:
        return None
    if refusal := unresumable(row, token):
        return SteeredTask(row=row, refused=refusal)
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
) -> SteeredTask | None:
    """Replace a task's breakpoints; a hold that is in effect stays. None when there is no such task."""
    row = await tasks.get(connection, project, task, for_update=True)
    if row is None:
        return None
    if TaskStatus(row["status"]).terminal:
        return SteeredTask(row=row, refused=Refusal.ALREADY_ENDED)
    wanted = breakpoints.model_dump(mode="json") if breakpoints else None
    if wanted == row["breakpoints"]:
        return SteeredTask(row=row, repeated=True)
    await connection.execute(update(Task).where(Task.id == task).values(breakpoints=wanted))
    return await _steered(connection, row, lease_to=lease_to, lease=lease)


async def _steered(connection: AsyncConnection, row: dict[str, Any], *, lease_to: str, lease: timedelta) -> SteeredTask:
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
    return SteeredTask(row=after or row, intent=intent)


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
