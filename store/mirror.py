"""The hot path: fenced writes of a task's events and row, one round trip each.

The logic is in `functions/*.sql`, under the row's lock; here are the calls.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import NewEvent, changes
from domain.messages import Flush
from domain.names import NodeId, TaskId, WorkspaceId
from store import jsonb

# The numbers of the first and the last event that a write added; what the log had already is not among them.
Appended = Sequence[int]
_FLUSH = text("SELECT flush_task(:task, :attempt, :version, CAST(:events AS jsonb))")
_CONCLUDE = text(
    "SELECT conclude_task(:task, :attempt, :version, CAST(:events AS jsonb), :destroyed, CASE"
    # By the database's clock, from this write on: until now the workspace may have heard that its attempt is live. One
    # on a lost node was heard last when its row says so, or before the node was.
    " WHEN CAST(:due AS timestamptz) IS NOT NULL"
    " THEN greatest(CAST(:due AS timestamptz), CAST(:lease AS interval) + CASE WHEN :node_lost THEN"
    " (SELECT max(last_activity_at) FROM workspaces WHERE task_id = :task AND attempt = :attempt)"
    " ELSE clock_timestamp() END) END, :kept, :keep_for)"
)
_RESERVE = text(
    "SELECT reserve_workspace(:task, :attempt, :version, CAST(:events AS jsonb), :workspace, :visit, :provider, :node)"
)
_WAIT = text(
    "SELECT wait_for_slot(:task, :attempt, :version, CAST(:events AS jsonb), :priority, CAST(:labels AS jsonb),"
    " :pinned, :awaits)"
)
_APPEND = text("SELECT append_to_log(:task, CAST(:events AS jsonb))")


def events_json(events: Sequence[NewEvent]) -> str:
    """Return events as the SQL functions take them: each with what it changes in the row."""
    rows = [
        {
            "key": event.key,
            "type": event.type,
            "ts": event.ts,
            "attempt": event.attempt,
            "source": event.source,
            "step": event.step,
            "data": event.data,
            "changes": changes(event),
        }
        for event in events
    ]
    return jsonb.dumps(rows)


def _fence(flush: Flush) -> dict[str, Any]:
    return {
        "task": flush.task_id,
        "attempt": flush.attempt,
        "version": flush.version,
        "events": events_json(flush.events),
    }


class TaskGone(LookupError):  # noqa: N818 - a fact, not a fault
    """The task was deleted."""


async def _call(connection: AsyncConnection, statement: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] | None = (await connection.execute(statement, parameters)).scalar_one()
    if answer is None:
        raise TaskGone(parameters["task"])
    return answer


async def flush(connection: AsyncConnection, batch: Flush) -> dict[str, Any]:
    """Apply a batch if it is newer and its attempt has not ended; returns the answer's fields."""
    return await _call(connection, _FLUSH, _fence(batch))


async def conclude(
    connection: AsyncConnection,
    batch: Flush,
    *,
    destroyed: bool,
    next_attempt_at: datetime | None,
    lease: timedelta | None = None,
    node_lost: bool = False,
    kept: WorkspaceId | None = None,
    keep_for: timedelta | None = None,
) -> dict[str, Any]:
    """Apply an attempt's last batch and release what it held; `granted` counts the waiters who got its slots.

    The next attempt is due at `next_attempt_at`, and not before `lease` has run out from now on, or if `node_lost` from
    the workspace's last word. The workspace `kept` is retained for `keep_for`, if this end is the task's.
    """
    parameters = {
        "destroyed": destroyed,
        "due": next_attempt_at,
        "lease": lease,
        "node_lost": node_lost,
        "kept": kept,
        "keep_for": keep_for,
    }
    return await _call(connection, _CONCLUDE, _fence(batch) | parameters)


async def reserve(
    connection: AsyncConnection,
    batch: Flush,
    *,
    workspace: WorkspaceId,
    visit: int,
    provider: str,
    node: NodeId | None,
) -> dict[str, Any]:
    """Reserve a workspace with its slot, or find it reserved: `workspace_id` and `node_id` say where it is.

    `workspace_id` is None when the slot was lost to another.
    """
    parameters = {"workspace": workspace, "visit": visit, "provider": provider, "node": node}
    return await _call(connection, _RESERVE, _fence(batch) | parameters)


async def wait_for_slot(
    connection: AsyncConnection,
    batch: Flush,
    *,
    priority: int,
    labels: dict[str, str],
    pinned: NodeId | None = None,
    awaits: NodeId | None = None,
) -> dict[str, Any]:
    """Enter the queue of waiters; `granted` is the node of a slot that is already this attempt's.

    `reported_in` says whether the node that it `awaits` works by now.
    """
    parameters = {"priority": priority, "labels": jsonb.dumps(labels), "pinned": pinned, "awaits": awaits}
    return await _call(connection, _WAIT, _fence(batch) | parameters)


async def append(connection: AsyncConnection, task: TaskId, events: Sequence[NewEvent]) -> None:
    """Append events of another source than the workflow: same lock, same numbers, no fence.

    The caller has checked, under the row's lock, that the events are allowed.
    """
    await connection.execute(_APPEND, {"task": task, "events": events_json(events)})
