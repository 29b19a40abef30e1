"""The append-only log of a task, and how it folds into the task's row.

`changes(event)` is the only definition of what an event does to the row: the flush applies it, the fold replays it.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, Field

from domain.lifecycle import Step, TaskStatus, check_status
from domain.names import RunId, TaskId


class EventType(StrEnum):
    """Every type that a log can hold."""

    TASK_CREATED = "task.created"
    TASK_QUEUED = "task.queued"
    TASK_DELEGATED = "task.delegated"
    TASK_STARTED = "task.started"
    TASK_PAUSE_REQUESTED = "task.pause_requested"
    TASK_PAUSED = "task.paused"
    TASK_RESUMED = "task.resumed"
    TASK_CAP_WARNING = "task.cap_warning"
    TASK_CANCEL_REQUESTED = "task.cancel_requested"
    TASK_COMPLETED = "task.completed"
    TASK_FAILED = "task.failed"
    TASK_CANCELLED = "task.cancelled"
    TASK_RETRIES_EXHAUSTED = "task.retries_exhausted"
    ATTEMPT_STARTED = "attempt.started"
    ATTEMPT_FAILED = "attempt.failed"
    ATTEMPT_CLEANED = "attempt.cleaned"
    STEP_STARTED = "step.started"
    STEP_FINISHED = "step.finished"
    STEP_SKIPPED = "step.skipped"
    STEP_RETRYING = "step.retrying"
    STEP_FAILED = "step.failed"
    WORKSPACE_READY = "workspace.ready"
    WORKSPACE_FAILED = "workspace.failed"
    CALLBACK_DUPLICATE = "callback.duplicate"
    CALLBACK_STALE = "callback.stale"
    AGENT_STARTED = "agent.started"
    AGENT_PROGRESS = "agent.progress"
    AGENT_FOLLOWUP = "agent.followup"
    AGENT_FINISHED = "agent.finished"
    RUN_CREATED = "run.created"
    RUN_STARTED = "run.started"
    RUN_MEMBER_READY = "run.member_ready"
    RUN_MEMBER_FINISHED = "run.member_finished"
    RUN_FANNED_OUT = "run.fanned_out"
    RUN_SUPERSTEP = "run.superstep"
    RUN_PAUSED = "run.paused"
    RUN_RESUMED = "run.resumed"
    RUN_COMMANDED = "run.commanded"
    RUN_AGGREGATED = "run.aggregated"
    RUN_COMPLETED = "run.completed"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"
    DEBUG_TRACE = "debug.trace"


class EventSource(StrEnum):
    """Who observed the fact."""

    API = "api"
    WORKFLOW = "workflow"
    NODE = "node"
    WORKSPACE = "workspace"
    RECONCILER = "reconciler"


class NewEvent(BaseModel):
    """An event before it has a number. `key` is unique per task: a redo writes it once."""

    key: str
    type: EventType
    ts: datetime
    attempt: int
    source: EventSource = EventSource.WORKFLOW
    step: Step | None = None
    data: dict[str, Any] = Field(default_factory=dict)


class Event(BaseModel):
    """The envelope, as the API and the streams show it; `seq` counts 1, 2, 3 … per task."""

    task_id: TaskId
    run_id: RunId | None
    attempt: int
    seq: int
    ts: datetime
    type: EventType
    v: int = 1
    source: EventSource
    step: Step | None
    data: dict[str, Any]


# What each event makes of the status. An event that is not here leaves it.
STATUS_OF_EVENT: Final[Mapping[EventType, TaskStatus]] = {
    EventType.TASK_CREATED: TaskStatus.READY,
    EventType.TASK_QUEUED: TaskStatus.QUEUED,
    EventType.TASK_DELEGATED: TaskStatus.DELEGATED,
    EventType.TASK_STARTED: TaskStatus.IN_PROGRESS,
    EventType.TASK_COMPLETED: TaskStatus.COMPLETED,
    EventType.TASK_FAILED: TaskStatus.FAILED,
    EventType.TASK_CANCELLED: TaskStatus.CANCELLED,
}
EVENT_OF_OUTCOME: Final[Mapping[TaskStatus, EventType]] = {
    status: event for event, status in STATUS_OF_EVENT.items() if status.terminal
}
_ENTERS_STEP: Final = frozenset({EventType.STEP_STARTED})
_FROM_DATA: Final[Mapping[EventType, tuple[str, ...]]] = {
    EventType.TASK_DELEGATED: ("workspace_id", "node_id"),
    EventType.TASK_COMPLETED: ("result",),
    EventType.TASK_FAILED: ("error",),
    EventType.TASK_CANCELLED: ("error",),
    EventType.ATTEMPT_FAILED: ("error",),
}
_NOT_PAUSED: Final[dict[str, Any]] = {
    "paused": False,
    "pause_token": None,
    "pause_reason": None,
    "paused_at": None,
    "paused_until": None,
}


def changes(event: NewEvent | Event) -> dict[str, Any]:
    """Return the columns of the task's row that this event sets, as JSON values."""
    row: dict[str, Any] = {key: event.data.get(key) for key in _FROM_DATA.get(event.type, ())}
    if event.type in _ENTERS_STEP:
        row |= {"step": event.step, "step_started_at": event.ts, "paused_seconds": 0}
    row |= _held(event)
    if event.type is EventType.TASK_RETRIES_EXHAUSTED:
        row["exhausted"] = True
    status = STATUS_OF_EVENT.get(event.type)
    if status is None:
        return row
    row["status"] = status
    if status is TaskStatus.QUEUED:
        row |= {
            "attempt": event.attempt,
            "step": None,
            "step_started_at": None,
            "outcome": None,
            # What is to be held stays so: the next attempt is, at its first boundary.
            "paused": False,
            "paused_at": None,
            "paused_until": None,
            "paused_seconds": 0,
            "exhausted": False,
            "workspace_id": None,
            "node_id": None,
            "finished_at": None,
        }
    if status is TaskStatus.IN_PROGRESS:
        row["started_at"] = event.ts
    if status.terminal:
        row |= _NOT_PAUSED | {"outcome": status, "step": None, "step_started_at": None, "finished_at": event.ts}
    if status is TaskStatus.COMPLETED:
        row["error"] = None
    return row


def _held(event: NewEvent | Event) -> dict[str, Any]:
    """Return what an event says of a hold."""
    row: dict[str, Any] = {}
    if event.type in (EventType.TASK_PAUSE_REQUESTED, EventType.TASK_PAUSED):
        row |= {"pause_token": event.data.get("token"), "pause_reason": event.data.get("reason")}
    if event.type is EventType.TASK_PAUSED:
        row |= {"paused": True, "paused_at": event.ts, "paused_until": event.data.get("until")}
        if event.data.get("at") == "before":  # its visit has not begun
            row |= {"step": event.step, "step_started_at": event.ts, "paused_seconds": 0}
    if event.type is EventType.TASK_RESUMED:
        row |= _NOT_PAUSED | {"paused_seconds": event.data.get("paused_seconds", 0)}
    return row


class Folded(BaseModel):
    """What a task's log says of its row."""

    status: TaskStatus = TaskStatus.READY
    step: Step | None = None
    step_started_at: datetime | None = None
    outcome: TaskStatus | None = None
    attempt: int = 1
    paused: bool = False
    pause_token: str | None = None
    pause_reason: str | None = None
    paused_at: datetime | None = None
    paused_until: datetime | None = None
    paused_seconds: float = 0
    exhausted: bool = False
    workspace_id: str | None = None
    node_id: str | None = None
    result: Any = None
    error: dict[str, Any] | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    last_seq: int = 0


def fold(log: Iterable[Event]) -> Folded:
    """Return the row that this log, in order of `seq` from 1, adds up to.

    Raises ValueError for a gap or a repeat, IllegalTransition for a status that the table does not allow.
    """
    row = Folded()
    for event in log:
        if event.seq != row.last_seq + 1:
            raise ValueError(f"seq {event.seq} follows {row.last_seq}")
        delta = changes(event)
        if "status" in delta:
            check_status(row.status, delta["status"])
        row = row.model_copy(update={**delta, "last_seq": event.seq})
    return Folded.model_validate(row.model_dump())
