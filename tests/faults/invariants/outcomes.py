"""Invariants 4, 8 and 9: mirror and engine agree, no workflow is stuck, recovery is quick."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from domain.events import Event, EventSource, EventType, NewEvent
from domain.lifecycle import TaskStatus
from domain.names import TaskId, workflow_id
from tests.faults.snapshot import Execution, Snapshot

NEVER_STARTED: Final = "never started"
# Its end was written in a workflow task that was abandoned, and a later attempt was there before it was done again.
SUPERSEDED: Final = "FAILED:superseded"
UNANSWERED: Final = "category=WorkflowTaskTimedOut"

# How an attempt ended in the mirror, and how the engine may say the same: its status, and the failure's type.
# A cancel that reached the workflow as a cancel is CANCELED there; one that it read in the mirror is a failure of that
# type. What was taken out of an attempt's hands (a forced cancel, a repair) was terminated, or had gone before.
OUTCOMES: Final[Mapping[TaskStatus, frozenset[str]]] = {
    TaskStatus.COMPLETED: frozenset({"COMPLETED"}),
    TaskStatus.FAILED: frozenset({"FAILED"}),
    TaskStatus.CANCELLED: frozenset({"CANCELED", "FAILED:cancelled", NEVER_STARTED}),
}
TAKEN_OUT_OF_ITS_HANDS: Final = frozenset({"TERMINATED", "TIMED_OUT", NEVER_STARTED})
_ENDS: Final = {
    EventType.TASK_COMPLETED: TaskStatus.COMPLETED,
    EventType.TASK_FAILED: TaskStatus.FAILED,
    EventType.ATTEMPT_FAILED: TaskStatus.FAILED,
    EventType.TASK_CANCELLED: TaskStatus.CANCELLED,
}


def in_words(execution: Execution | None) -> str:
    """Return how an execution ended, in the words of OUTCOMES."""
    if execution is None:
        return NEVER_STARTED
    told = f"{execution.status}:{execution.error}"
    return told if told in ("FAILED:cancelled", SUPERSEDED) else execution.status


def forced(event: NewEvent | Event) -> bool:
    """Whether others than the workflow itself wrote this end."""
    return event.source is EventSource.RECONCILER or bool(event.data.get("forced"))


def _asked_to_cancel(log: Sequence[Event], attempt: int) -> bool:
    """Whether a cancel was asked for: one that is forced may meet the attempt's own last flush, which then stays."""
    return any(event.type is EventType.TASK_CANCEL_REQUESTED and event.attempt == attempt for event in log)


def agreement(snapshot: Snapshot) -> Iterator[str]:
    """Each attempt ended there as it did here, by the map; and the engine knows no task that the mirror does not."""
    known: set[str] = set()
    for task, log in snapshot.logs.items():
        attempts = {event.attempt for event in log}
        known |= {workflow_id(TaskId(task), attempt) for attempt in attempts}
        for event in log:
            if event.type not in _ENDS:
                continue
            ended = _ENDS[event.type]
            name = workflow_id(TaskId(task), event.attempt)
            found = in_words(snapshot.executions.get(name))
            if found == "TERMINATED" and _asked_to_cancel(log, event.attempt):
                continue
            if found == SUPERSEDED and event.attempt < max(attempts):
                continue
            # Whoever was ended by others may have heard of it, and have ended in the same way.
            if found not in OUTCOMES[ended] | (TAKEN_OUT_OF_ITS_HANDS if forced(event) else set()):
                yield f"{name} is {ended} in the mirror, and {found} in the engine"
    deleted = tuple(f"task-{task}-" for task in snapshot.deleting)
    for name, execution in snapshot.executions.items():
        if name.startswith("task-") and name not in known and not name.startswith(deleted):
            yield f"{name} is {execution.status} in the engine, and the mirror has no such attempt"
        elif execution.status == "RUNNING" and _ended(snapshot, name):
            yield f"{name} still runs in the engine, and its task has ended"


def _ended(snapshot: Snapshot, name: str) -> bool:
    return any(
        name == workflow_id(TaskId(task), attempt)
        for task, row in snapshot.tasks.items()
        if TaskStatus(row["status"]).terminal
        for attempt in range(1, row["attempt"] + 1)
    )


def problems(snapshot: Snapshot) -> Iterator[str]:
    """No workflow reports a problem of its own code.

    One that was terminated while its worker was frozen keeps the report of the task that nobody answered.
    """
    for execution in (*snapshot.executions.values(), *snapshot.orchestrators.values()):
        overtaken = execution.status == "TERMINATED" and UNANSWERED in execution.problems
        if execution.problems and not overtaken:
            yield f"{execution.workflow_id} reports {', '.join(execution.problems)}"


def recovery(snapshot: Snapshot) -> Iterator[str]:
    """Nothing took longer after its fault than it may."""
    for each in snapshot.recoveries:
        if each.took > each.within:
            yield f"after {each.fault} it took {each.took:.1f} s, and may take {each.within:g} s"
