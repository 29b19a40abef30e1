"""The second phase of a cancel: an attempt that has not ended in time is ended from outside."""

from collections.abc import Callable
from typing import Final

from domain.errors import CANCEL_FORCED, GUIDANCE, Category, TaskError
from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import TaskStatus
from domain.messages import Verdict
from domain.names import TaskId
from domain.policy import Policy
from store import repairs
from store.engine import Database
from store.mirror import Appended
from store.repairs import Observed
from workflows.gateway import Gateway, Sent

# Of one workflow task that was under way when its workflow was terminated, more flushes than it can still write.
LOOKS: Final = 20
# Told that a task's log has grown, and by which events.
Grown = Callable[[TaskId, Appended | None], None]


async def force(
    database: Database, gateway: Gateway, policy: Policy, task: TaskId, attempt: int, *, grown: Grown
) -> Sent:
    """Terminate the attempt's workflow, then write its end; UNREACHABLE when this is to be tried again.

    In this order, because a workflow that still ran could go on for as long as the row is live: it would have effects
    that no Cleanup sees any more. Cleanup comes last: its intent is part of the end's transaction.

    The version may move between the look and the termination, and once more after it: a local activity that was
    under way commits although its workflow is gone. Then the end does not hold for what is there now, and the look is
    repeated. If what was under way was the attempt's own last flush, the next look finds that it has ended.
    """
    reason = f"cancel forced: not acknowledged within {policy.supervision.cancel.total_seconds():g} s"
    for _ in range(LOOKS):
        async with database.read() as connection:
            seen = await repairs.observe(connection, task)
        if seen is None or seen.attempt != attempt:
            return Sent.DELIVERED
        if await gateway.terminate(task, attempt, reason) is Sent.UNREACHABLE:
            return Sent.UNREACHABLE
        async with database.commit("force.end_attempt") as connection:
            events = [_cancelled(seen, policy)]
            repair = await repairs.end_attempt(connection, task, attempt, seen.version, events)
        grown(task, repair.appended)
        if repair.verdict is not Verdict.SUPERSEDED:
            return Sent.DELIVERED
    return Sent.UNREACHABLE


def _cancelled(seen: Observed, policy: Policy) -> NewEvent:
    held = {"node_id": seen.node_id, "workspace_id": seen.workspace_id}
    seconds = policy.supervision.cancel.total_seconds()
    error = TaskError(
        code=CANCEL_FORCED,
        category=Category.CANCELLED,
        message=f"The task was cancelled by force: its attempt did not end within {seconds:g} s.",
        step=seen.step,
        guidance=GUIDANCE[Category.CANCELLED],
        context={"attempt": seen.attempt} | {name: value for name, value in held.items() if value is not None},
    )
    data = {
        "outcome": TaskStatus.CANCELLED,
        "error": error.model_dump(mode="json"),
        "duration_seconds": seen.lasted.total_seconds() if seen.lasted is not None else None,
        "forced": True,
        "cleanup": "pending",
    }
    return NewEvent(
        key=f"force:cancelled:{seen.attempt}",
        type=EventType.TASK_CANCELLED,
        ts=seen.read_at,
        attempt=seen.attempt,
        source=EventSource.API,
        data={name: value for name, value in data.items() if value is not None},
    )
