"""Placement: which node has a free slot that nobody waits for."""

from typing import Any

from sqlalchemy import ColumnElement, and_, case, cast, exists, func, literal_column, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import NodeStatus, TaskStatus
from domain.messages import NodeChoice, NodeQuery
from domain.placement import BUSY
from store.models import Ledger, LedgerKind, LedgerState, Node, Task, Waiter

WORKING = (NodeStatus.READY.value, NodeStatus.WARM.value)
NODE: ColumnElement[Any] = literal_column(Node.__tablename__)  # the whole row
REASONS = ("held", "preferred", "warm", "least loaded", "coming up")


async def select_node(connection: AsyncConnection, query: NodeQuery) -> NodeChoice:
    """Choose: preferred, else warm, else least loaded, else one that is coming up; among those with a free slot.

    A node is as loaded as it measures, or as its slots are taken if that is more: what was placed there a moment ago
    is not measured yet. A busy one comes after all others, warm or not. Nodes with equal load take turns.

    A free slot that somebody else may take and waits for is not offered: who comes later joins the queue, and is
    granted a slot by its order.

    A slot that this attempt holds already (its workflow task was redone) comes before all others. For an attempt that
    is pinned there is its own node or none, whatever the labels of that one are now.
    """
    working = Node.status.in_(WORKING)
    held = exists().where(
        Ledger.task_id == query.task_id,
        Ledger.attempt == query.attempt,
        Ledger.kind == LedgerKind.SLOT,
        Ledger.state != LedgerState.RELEASED,
        Ledger.node_id == Node.id,
    )
    awaited = exists().where(
        Waiter.granted.is_(None),
        Waiter.task_id != query.task_id,
        func.serves(NODE, Waiter.pinned, Waiter.labels, Task.spec["provider"].astext),
        Task.id == Waiter.task_id,
        Task.attempt == Waiter.attempt,
        Task.status == TaskStatus.QUEUED,
        Task.cancel_requested_at.is_(None),
    )
    load = func.greatest(func.coalesce(Node.load, 0), Node.used * 1.0 / func.greatest(Node.slots, 1))
    rank = case(
        (held, 0),
        (Node.id == (query.preferred or ""), 1),
        (and_(Node.status == NodeStatus.WARM.value, load <= BUSY), 2),
        (working, 3),
        else_=4,
    )
    statement = (
        select(Node.id, working.label("reported_in"), rank.label("rank"), Node.provider)
        .where(
            or_(working, Node.status == NodeStatus.PROVISIONING.value),
            or_(held, and_(Node.used < Node.slots, or_(~working, ~awaited))),
            func.serves(NODE, query.pinned, cast(query.labels, JSONB), query.provider),
        )
        .order_by(case((working, 0), else_=1), rank, load, Node.taken_at.nulls_first(), Node.id)
        .limit(1)
    )
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return NodeChoice(reason="no matching node has a free slot that nobody waits for")
    # Who has noted that it is to be made may have died since: whoever waits for it has it made.
    made = row.provider is not None and not row.reported_in
    return NodeChoice(node_id=row.id, reported_in=row.reported_in, reason=REASONS[row.rank], made=made)
