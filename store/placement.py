"""Placement: which node has a free slot, and who waits for one."""

from sqlalchemy import case, exists, func, literal, or_, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import TERMINAL, NodeStatus
from domain.messages import Flush, NodeChoice, NodeQuery
from domain.names import NodeId
from store.models import Ledger, LedgerKind, LedgerState, Node, Task, Waiter

WORKING = (NodeStatus.READY.value, NodeStatus.WARM.value)


async def select_node(connection: AsyncConnection, query: NodeQuery) -> NodeChoice:
    """Choose: preferred, else warm, else least loaded, else one that is coming up; among those with a free slot.

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
    rank = case(
        (held, 0),
        (Node.id == (query.preferred or ""), 1),
        (Node.status == NodeStatus.WARM.value, 2),
        (working, 3),
        else_=4,
    )
    statement = (
        select(Node.id, working.label("reported_in"), rank.label("rank"))
        .where(
            or_(working, Node.status == NodeStatus.PROVISIONING.value),
            or_(held, Node.used < Node.slots),
            Node.id == query.pinned if query.pinned else Node.labels.contains(query.labels),
        )
        .order_by(case((working, 0), else_=1), rank, Node.used * 1.0 / func.greatest(Node.slots, 1), Node.id)
        .limit(1)
    )
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return NodeChoice(reason="no matching node has a free slot")
    reason = ("held", "preferred", "warm", "least loaded", "coming up")[row.rank]
    return NodeChoice(node_id=row.id, reported_in=row.reported_in, reason=reason)


async def await_node(connection: AsyncConnection, flush: Flush, node_id: NodeId) -> bool:
    """Enter the wait for a node's report; returns whether it has reported in already.

    The node's row is locked, so that its report either sees this waiter or was committed before.
    """
    status = (await connection.execute(select(Node.status).where(Node.id == node_id).with_for_update())).scalar()
    if status in WORKING:
        return True
    columns = [Waiter.task_id, Waiter.attempt, Waiter.project, Waiter.priority, Waiter.labels, Waiter.granted]
    # Of no account before the node has reported in; the wait for a slot, which may follow, brings its own.
    nowhere = literal({}, Waiter.labels.type)
    source = select(Task.id, Task.attempt, Task.project, Task.priority, nowhere, literal(node_id)).where(
        Task.id == flush.task_id,
        Task.attempt == flush.attempt,
        Task.status.not_in([status.value for status in TERMINAL]),
    )
    entry = upsert(Waiter).from_select(columns, source)
    await connection.execute(
        entry.on_conflict_do_update(index_elements=[Waiter.task_id, Waiter.attempt], set_={"granted": node_id})
    )
    return False
