"""A retry by hand: the next attempt of a task that failed or was cancelled, under the row's lock.

It may go on in the workspace that the last attempt has kept: ledger and workspace change their owner in the same
transaction, so that either this attempt has it, or the reaper, which asks under the same lock.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import delete, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import TASK_TRANSITIONS, Step, TaskStatus
from domain.names import ProjectId, TaskId, WorkspaceId
from store import mirror, outbox, tasks
from store.models import Outbox, OutboxKind, Task, Waiter
from store.outbox import Intent

# Only a workspace in which an agent was started once: another one may lack its repository, or its attachments.
_RESUME: Final = text("""
WITH moved AS (
  UPDATE ledger l SET attempt = :attempt + 1, state = 'created', retained_until = NULL, updated_at = clock_timestamp()
  WHERE l.task_id = :task AND l.attempt = :attempt AND l.kind = 'workspace' AND l.state = 'retained'
    AND l.retained_until > clock_timestamp()
    AND EXISTS (SELECT FROM nodes WHERE id = l.node_id AND status <> 'gone')
    AND EXISTS (SELECT FROM workspaces WHERE id = l.tag AND status = 'retained')
    AND EXISTS (
      SELECT FROM events d JOIN events s ON s.task_id = d.task_id AND s.attempt = d.attempt
      WHERE d.task_id = l.task_id AND d.type = 'task.delegated' AND d.data ->> 'workspace_id' = l.tag
        AND s.type = 'step.started' AND s.step = :step
    )
  RETURNING l.tag
)
UPDATE workspaces w SET attempt = :attempt + 1, status = 'ready', progress = NULL, last_activity_at = NULL,
                        updated_at = clock_timestamp()
FROM moved WHERE w.id = moved.tag
RETURNING w.id
""")

# Where a workspace may not be destroyed yet, its agent stops when it hears of the end, at the latest with its lease.
_AGENT_UNTIL: Final = text("""
SELECT t.updated_at + CAST(:lease AS interval) FROM tasks t
WHERE t.id = :task AND t.updated_at + CAST(:lease AS interval) > clock_timestamp() AND EXISTS (
  SELECT FROM ledger l WHERE l.task_id = t.id AND l.kind = 'workspace' AND l.state IN ('intent', 'created')
)
""")


class Refusal(StrEnum):
    """Why there is no next attempt."""

    BELONGS_TO_RUN = "belongs_to_run"
    NOT_ENDED = "not_ended"
    ALREADY_COMPLETED = "already_completed"
    ATTEMPT_MISMATCH = "attempt_mismatch"
    NOTHING_TO_RESUME = "nothing_to_resume"


@dataclass(frozen=True, kw_only=True)
class Retried:
    """The row as it is now, with the intent that starts the next attempt, or why there is none.

    There is no intent to send when the start is not due yet: the dispatcher sends it.
    """

    row: dict[str, Any]
    refused: Refusal | None = None
    intent: Intent | None = None


async def retry(
    connection: AsyncConnection,
    project: ProjectId,
    task: TaskId,
    *,
    from_attempt: int | None,
    resume: bool = False,
    by_run: bool = False,
    agent_lease: timedelta,
    now: datetime,
    lease_to: str,
    lease: timedelta,
) -> Retried | None:
    """Queue the next attempt and store its start intent, leased to the writer; None when there is no such task.

    `from_attempt` is the attempt that the caller saw fail: any other than the row's is refused, so that of two who
    saw the same failure one makes an attempt. With `resume` it begins at `agent_session` in the kept workspace.
    While an old workspace may still have an agent, for `agent_lease` after the end, nothing is started beside it.
    A task of a run is tried again `by_run` only: the run decides what comes of it.
    """
    row = await tasks.get(connection, project, task, for_update=True)
    if row is None:
        return None
    refused = Refusal.BELONGS_TO_RUN if row["run_id"] and not by_run else _refusal(row, from_attempt)
    if refused is not None:
        return Retried(row=row, refused=refused)
    lasts = (await connection.execute(_AGENT_UNTIL, {"task": task, "lease": agent_lease})).scalar_one_or_none()
    data: dict[str, Any] = {"reason": "retry", "by_hand": True}
    if resume:
        workspace = await _resume(connection, task, row["attempt"])
        if workspace is None:
            return Retried(row=row, refused=Refusal.NOTHING_TO_RESUME)
        data |= {"from_step": Step.AGENT_SESSION, "workspace_id": workspace}
    if lasts is not None:
        data["not_before"] = lasts.isoformat()
    attempt = row["attempt"] + 1
    await _forget(connection, task, row["attempt"])
    queued = NewEvent(
        key=f"api:retry:{attempt}",
        type=EventType.TASK_QUEUED,
        ts=now,
        attempt=attempt,
        source=EventSource.API,
        data=data,
    )
    await mirror.append(connection, task, [queued])
    intent = await outbox.put(
        connection, kind=OutboxKind.START, task_id=task, attempt=attempt, lease_to=lease_to, lease=lease, due_at=lasts
    )
    after = await tasks.get(connection, project, task)
    return Retried(row=after or row, intent=intent if lasts is None else None)


def _refusal(row: dict[str, Any], from_attempt: int | None) -> Refusal | None:
    status = TaskStatus(row["status"])
    if from_attempt is not None and from_attempt != row["attempt"]:
        return Refusal.ATTEMPT_MISMATCH
    if not status.terminal:
        return Refusal.NOT_ENDED
    return None if TaskStatus.QUEUED in TASK_TRANSITIONS[status] else Refusal.ALREADY_COMPLETED


async def _resume(connection: AsyncConnection, task: TaskId, attempt: int) -> WorkspaceId | None:
    """Give the workspace that this attempt has kept to the next one; None when there is none to go on in."""
    parameters = {"task": task, "attempt": attempt, "step": Step.AGENT_SESSION}
    return (await connection.execute(_RESUME, parameters)).scalar_one_or_none()


async def _forget(connection: AsyncConnection, task: TaskId, attempt: int) -> None:
    """Take back what was asked of the attempt that has ended, and must not be asked of the next.

    Its signals and cancels stay: they name their attempt, and may yet end a workflow that was left behind.
    """
    await connection.execute(update(Task).where(Task.id == task).values(cancel_requested_at=None))
    await connection.execute(delete(Waiter).where(Waiter.task_id == task, Waiter.attempt <= attempt))
    started = (Outbox.task_id == task, Outbox.attempt <= attempt, Outbox.kind == OutboxKind.START)
    await connection.execute(delete(Outbox).where(*started))
