"""Workspaces: the list for controllers, and who may claim a callback token."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import NodeId, ProjectId, TaskId
from store.callbacks import digest
from store.models import Ledger, Task, Workspace

# The task is locked before the workspace, as the flush does it, so that the two never wait for each other.
_CLAIM: Final = text("""
WITH seen AS (
  SELECT w.id, w.task_id, w.attempt, w.provider, t.attempt = w.attempt AS current,
         t.status IN ('completed', 'failed', 'cancelled') AS over
  FROM workspaces w JOIN tasks t ON t.id = w.task_id
  WHERE w.id = :workspace
    AND CASE WHEN CAST(:node AS text) IS NULL THEN w.project = :project AND w.node_id IS NULL ELSE w.node_id = :node END
  FOR KEY SHARE OF t
), claimed AS (
  UPDATE workspaces w SET claimed_at = clock_timestamp(), updated_at = clock_timestamp()
  FROM seen
  WHERE w.id = seen.id AND w.claimed_at IS NULL AND seen.provider = 'external' AND seen.current AND NOT seen.over
  RETURNING w.id, w.attempt, w.task_id
), told AS (
  INSERT INTO callbacks (workspace_id, attempt, kind, turn, task_id, body, digest, due_at)
  SELECT id, attempt, 'claimed', 1, task_id, '{}', :digest, clock_timestamp() + :after FROM claimed
  ON CONFLICT DO NOTHING
)
SELECT task_id, attempt, current, over FROM seen
""")


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """Whose workspace it is, and whether its attempt is still the current one and alive."""

    task_id: TaskId
    attempt: int
    current: bool
    over: bool


async def claim(
    connection: AsyncConnection, workspace: str, *, project: ProjectId, node: NodeId | None, after: timedelta
) -> Claimed | None:
    """Claim an `external` workspace of this project, or one of this node's own; None when there is none.

    The first claim of an `external` workspace is told to its workflow, but only `after` a while: a `ready` that
    comes before then implies the claim, and saves the workflow a task.
    """
    parameters: dict[str, Any] = {
        "workspace": workspace,
        "project": project,
        "node": node,
        "digest": digest({}),
        "after": after,
    }
    row = (await connection.execute(_CLAIM, parameters)).mappings().one_or_none()
    return Claimed(**row) if row else None


async def page(
    connection: AsyncConnection,
    project: ProjectId,
    *,
    status: Sequence[str],
    provider: Sequence[str],
    task: str | None,
    before: str | None,
    limit: int,
) -> list[dict[str, Any]]:
    """Return up to `limit` workspaces, newest task first, that come after the one with the id `before`."""
    conditions = [
        *([Workspace.status.in_(status)] if status else []),
        *([Workspace.provider.in_(provider)] if provider else []),
        *([Workspace.task_id == task] if task is not None else []),
        *([Workspace.id < before] if before is not None else []),
    ]
    statement = (
        select(
            Workspace.id,
            Workspace.task_id,
            Workspace.attempt,
            Workspace.provider,
            Workspace.node_id,
            Workspace.status,
            Workspace.progress,
            Workspace.claimed_at,
            Workspace.last_activity_at,
            Workspace.created_at,
            Workspace.updated_at,
            Ledger.retained_until,
            Task.name.label("task_name"),
        )
        .join(Task, Task.id == Workspace.task_id)
        .join(Ledger, Ledger.tag == Workspace.id, isouter=True)
        .where(Workspace.project == project, *conditions)
        .order_by(Workspace.id.desc())
        .limit(limit)
    )
    return [dict(row) for row in (await connection.execute(statement)).mappings()]
