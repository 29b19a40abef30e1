"""The ledger of an attempt that has ended: what it still holds, and its release.

An attempt that has ended never lives again and can reserve nothing, so what it holds only becomes less: whoever reads
it here, destroys it and releases it, has seen all of it. A workspace that is retained is not held: when its time is
over, whoever reads takes it back first. A retry that would go on in it asks under the same lock.
"""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import TERMINAL, NodeStatus
from domain.messages import HeldWorkspace
from domain.names import ProjectId, TaskId
from domain.spec import Provider
from store.models import Ledger, LedgerKind, LedgerState, Node, Task

OPEN: Final = (LedgerState.INTENT.value, LedgerState.CREATED.value)
_TAKE_BACK: Final = text("""
WITH taken AS (
  UPDATE ledger SET state = 'created', retained_until = NULL, updated_at = clock_timestamp()
  WHERE task_id = :task AND attempt = :attempt AND state = 'retained' AND retained_until <= clock_timestamp()
  RETURNING tag
)
UPDATE workspaces SET status = 'stopping', updated_at = clock_timestamp()
FROM taken WHERE id = taken.tag AND status = 'retained'
""")
# What was released of a task that was deleted is nobody's history any more.
_FORGET: Final = text("""
DELETE FROM ledger WHERE task_id = :task AND state = 'released' AND NOT EXISTS (SELECT FROM tasks WHERE id = :task)
""")
_RELEASE: Final = text("SELECT release_attempt(:task, :attempt, true)")


async def held(connection: AsyncConnection, task: TaskId, attempt: int) -> Sequence[HeldWorkspace] | None:
    """Return the workspaces that are to be destroyed; None while the attempt is live. Locks the task's row.

    A workspace of an `external` provider is somebody else's: there is nothing to destroy. Nor is there on a node
    that is gone: should it come back, it destroys by itself what is not its own any more.
    """
    if await _live(connection, task, attempt):
        return None
    await connection.execute(_TAKE_BACK, {"task": task, "attempt": attempt})
    statement = (
        select(Ledger.tag.label("workspace_id"), Ledger.provider, Ledger.node_id)
        .where(
            Ledger.task_id == task,
            Ledger.attempt == attempt,
            Ledger.kind == LedgerKind.WORKSPACE,
            Ledger.state.in_(OPEN),
            Ledger.provider != Provider.EXTERNAL,
            Ledger.node_id.is_not(None),
            Ledger.node_id.not_in(select(Node.id).where(Node.status == NodeStatus.GONE)),
        )
        .order_by(Ledger.tag)
    )
    return [HeldWorkspace.model_validate(dict(row)) for row in (await connection.execute(statement)).mappings()]


async def project_of(connection: AsyncConnection, task: TaskId, attempt: int) -> ProjectId | None:
    """Return whose an attempt's entries are; None when it has none. The ledger outlives a task that was deleted."""
    statement = select(Ledger.project).where(Ledger.task_id == task, Ledger.attempt == attempt).limit(1)
    found = (await connection.execute(statement)).scalar_one_or_none()
    return ProjectId(found) if found else None


async def release(connection: AsyncConnection, task: TaskId, attempt: int) -> int | None:
    """Release all that an ended attempt holds and grant its slots; returns to how many, or None while it is live."""
    if await _live(connection, task, attempt):
        return None
    granted = int((await connection.execute(_RELEASE, {"task": task, "attempt": attempt})).scalar_one())
    await connection.execute(_FORGET, {"task": task})
    return granted


async def _live(connection: AsyncConnection, task: TaskId, attempt: int) -> bool:
    """Whether the attempt may still write, under its row's lock. The ledger outlives a task that was deleted."""
    statement = select(Task.attempt, Task.status).where(Task.id == task).with_for_update(key_share=True)
    row = (await connection.execute(statement)).one_or_none()
    return row is not None and row.attempt == attempt and row.status not in TERMINAL
