"""What a run's events make of its row and of its members; the flush applies it, the fold replays it."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel

from domain.errors import IllegalTransition
from domain.events import EventType, NewEvent
from domain.lifecycle import MEMBER_TRANSITIONS, RUN_TRANSITIONS, MemberStatus, RunStatus

# What each event makes of the run's status. An event that is not here leaves it.
STATUS_OF_RUN_EVENT: Final[Mapping[EventType, RunStatus]] = {
    EventType.RUN_CREATED: RunStatus.QUEUED,
    EventType.RUN_STARTED: RunStatus.IN_PROGRESS,
    EventType.RUN_COMPLETED: RunStatus.COMPLETED,
    EventType.RUN_FAILED: RunStatus.FAILED,
    EventType.RUN_CANCELLED: RunStatus.CANCELLED,
}
EVENT_OF_RUN_OUTCOME: Final[Mapping[RunStatus, EventType]] = {
    status: event for event, status in STATUS_OF_RUN_EVENT.items() if status.terminal
}
RUN_EVENTS: Final = frozenset(event for event in EventType if event.startswith("run."))


def changes(event: NewEvent) -> dict[str, Any]:
    """Return the columns of the run's row that this event sets, as JSON values."""
    row: dict[str, Any] = {}
    status = STATUS_OF_RUN_EVENT.get(event.type)
    if status is not None:
        row["status"] = status
    match event.type:
        case EventType.RUN_COMMANDED:
            if is_retry(event):  # the log goes on
                again = {"attempt": event.attempt, "outcome": None, "error": None, "finished_at": None}
                row |= {"status": RunStatus.QUEUED, **again}
        case EventType.RUN_STARTED:
            row["started_at"] = event.ts
        case EventType.RUN_SUPERSTEP:
            row |= {"superstep": event.data["superstep"], "state_versions": event.data.get("state_versions", {})}
        case EventType.RUN_PAUSED:
            row |= {
                "paused": True,
                "pause_token": event.data.get("token"),
                "pause_reason": event.data.get("reason"),
                "paused_at": event.ts,
            }
        case EventType.RUN_RESUMED:
            row |= _NOT_PAUSED
    if status is not None and status.terminal:
        row |= _NOT_PAUSED | {"outcome": status, "finished_at": event.ts, "error": event.data.get("error")}
    return row


def is_retry(event: NewEvent) -> bool:
    """Whether somebody asked for the run's next attempt: what failed, was cancelled or skipped waits again."""
    return event.type is EventType.RUN_COMMANDED and event.data.get("retry") is True


_NOT_PAUSED: Final[dict[str, Any]] = {"paused": False, "pause_token": None, "pause_reason": None, "paused_at": None}


def member_changes(event: NewEvent) -> dict[str, Any]:
    """Return the columns of the member's row that this event sets; none for one of a child of a fan-out."""
    data = event.data
    if "member" not in data or "item" in data:
        return {}
    match event.type:
        case EventType.RUN_MEMBER_READY:
            return {"status": MemberStatus.IN_PROGRESS, "started_at": event.ts}
        case EventType.RUN_FANNED_OUT:
            return {"status": MemberStatus.IN_PROGRESS, "started_at": event.ts, "size": data["size"]}
        case EventType.RUN_MEMBER_FINISHED:
            return {
                "status": data["outcome"],
                "reason": data.get("reason"),
                "error": data.get("error"),
                "finished_at": event.ts,
            }
    return {}


class FoldedRun(BaseModel):
    """What a run's log says of its row and its members."""

    status: RunStatus = RunStatus.QUEUED
    outcome: RunStatus | None = None
    attempt: int = 1
    paused: bool = False
    pause_token: str | None = None
    superstep: int = 0
    started_at: datetime | None = None
    finished_at: datetime | None = None
    members: dict[str, MemberStatus] = {}


def fold(log: Iterable[NewEvent]) -> FoldedRun:
    """Return the row and the members that this log, in order, adds up to.

    Raises IllegalTransition for a status that the tables do not allow.
    """
    row = FoldedRun()
    members: dict[str, MemberStatus] = {}
    for event in log:
        delta = changes(event)
        status = delta.get("status", row.status)
        moves = status is not row.status or is_retry(event)  # a queued run is not to be retried
        if moves and status not in RUN_TRANSITIONS[row.status]:
            raise IllegalTransition("run", row.status, status)
        if is_retry(event):
            again = (MemberStatus.FAILED, MemberStatus.CANCELLED, MemberStatus.SKIPPED)
            members = {name: MemberStatus.WAITING if was in again else was for name, was in members.items()}
        if (of := member_changes(event)) and (name := event.data["member"]):
            old, new = members.get(name, MemberStatus.WAITING), MemberStatus(of["status"])
            if new is not old and new not in MEMBER_TRANSITIONS[old]:
                raise IllegalTransition(f"member {name}", old, new)
            members[name] = new
        row = row.model_copy(update={key: delta[key] for key in delta.keys() & FoldedRun.model_fields.keys()})
    return row.model_copy(update={"members": members})
