"""The end of an attempt by somebody else than its workflow: a forced cancel, or the reconciler."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import NewEvent
from domain.lifecycle import Step, TaskStatus
from domain.messages import Verdict
from domain.names import NodeId, TaskId, WorkspaceId
from store.mirror import Appended, events_json

# Due by the database's own clock: the dispatcher compares it with no other.
_END: Final = text(
    "SELECT end_attempt(:task, :attempt, :version, CAST(:events AS jsonb),"
    " clock_timestamp() + CAST(:due_in AS interval))"
)


# The attempt as its end is written: how far it came, and since when it was at work.
_OBSERVE: Final = text("""
SELECT t.attempt, t.version, t.step, t.node_id, t.workspace_id, clock_timestamp() AS read_at,
       clock_timestamp() - (
         SELECT min(ts) FROM events e
         WHERE e.task_id = t.id AND e.attempt = t.attempt AND e.type = 'attempt.started'
       ) AS lasted
FROM tasks t WHERE t.id = :task AND t.status NOT IN ('completed', 'failed', 'cancelled')
""")


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A live attempt at `read_at` by the database's clock; `lasted` is None until its workflow has written."""

    attempt: int
    version: int
    step: Step | None
    node_id: NodeId | None
    workspace_id: WorkspaceId | None
    read_at: datetime
    lasted: timedelta | None


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What became of it. After `superseded` the caller looks again; `status` is None when the task was deleted."""

    verdict: Verdict
    status: TaskStatus | None = None
    cancel: bool = False
    appended: Appended | None = None


async def observe(connection: AsyncConnection, task: TaskId) -> Observed | None:
    """Return what the row says of the task's attempt; None when it has ended."""
    row = (await connection.execute(_OBSERVE, {"task": task})).mappings().one_or_none()
    return Observed(**row) if row else None


async def end_attempt(
    connection: AsyncConnection,
    task: TaskId,
    attempt: int,
    version: int,
    events: Sequence[NewEvent],
    *,
    due_in: timedelta | None = None,
) -> Repair:
    """End an attempt that was observed at this version; what it held is left to its Cleanup workflow.

    With `due_in` the events put the task back to `queued`, and the next attempt starts so much later: not before the
    lease of the old one has run out, which may live on. A task that somebody wants cancelled gets no next attempt.
    """
    parameters = {
        "task": task,
        "attempt": attempt,
        "version": version,
        "events": events_json(events),
        "due_in": due_in,
    }
    answer: dict[str, Any] | None = (await connection.execute(_END, parameters)).scalar_one()
    if answer is None:
        return Repair(verdict=Verdict.ENDED)
    return Repair(
        verdict=Verdict(answer["verdict"]),
        status=TaskStatus(answer["status"]),
        cancel=answer["cancel"],
        appended=answer.get("appended"),
    )
