"""Attempts, as the log tells them."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.times import rfc3339
from domain.errors import TaskError
from domain.events import EVENT_OF_OUTCOME, EventType
from domain.lifecycle import Step, TaskStatus
from domain.names import TaskId, workflow_id
from workflows.gateway import Gateway

OUTCOMES: Final = {event.value: status.value for status, event in EVENT_OF_OUTCOME.items()} | {
    EventType.ATTEMPT_FAILED.value: TaskStatus.FAILED.value
}
STEP_ENDS: Final = {
    EventType.STEP_FINISHED.value: "finished",
    EventType.STEP_SKIPPED.value: "skipped",
    EventType.STEP_FAILED.value: "failed",
}
TYPES: Final = (
    EventType.TASK_QUEUED.value,
    EventType.ATTEMPT_STARTED.value,
    EventType.STEP_STARTED.value,
    *STEP_ENDS,
    *OUTCOMES,
)


class VisitOut(BaseModel):
    """One visit of a step; `seconds` is null while it lasts."""

    model_config = ConfigDict(title="StepVisit", extra="forbid")

    step: Step
    outcome: str | None
    started_at: datetime
    seconds: float | None
    reason: str | None


class AttemptOut(BaseModel):
    """One execution of a task."""

    model_config = ConfigDict(title="Attempt", extra="forbid")

    attempt: int
    outcome: TaskStatus | None
    error: TaskError | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None
    durations: dict[Step, float] = Field(description="Seconds per step, all its visits together.")
    steps: list[VisitOut]
    workflow_id: str
    temporal_url: str


def attempts_of(task: TaskId, log: Iterable[Mapping[str, Any]], gateway: Gateway) -> list[dict[str, Any]]:
    """Return the attempts that a task's events of TYPES tell of, in order."""
    found: dict[int, dict[str, Any]] = {}
    for event in log:
        attempt = found.setdefault(event["attempt"], _blank(task, event["attempt"], gateway))
        _tell(attempt, event)
    for attempt in found.values():
        _sum_up(attempt)
    return [found[number] for number in sorted(found)]


def _blank(task: TaskId, number: int, gateway: Gateway) -> dict[str, Any]:
    return {
        "attempt": number,
        "outcome": None,
        "error": None,
        "queued_at": None,
        "started_at": None,
        "finished_at": None,
        "seconds": None,
        "durations": {},
        "steps": [],
        "workflow_id": workflow_id(task, number),
        "temporal_url": gateway.url(task, number),
    }


def _tell(attempt: dict[str, Any], event: Mapping[str, Any]) -> None:
    kind, ts, data = event["type"], event["ts"], event["data"]
    if kind == EventType.TASK_QUEUED:
        attempt["queued_at"] = ts
    elif kind == EventType.ATTEMPT_STARTED:
        attempt["started_at"] = ts
    elif kind == EventType.STEP_STARTED:
        attempt["steps"].append(_visit(event))
    elif kind in STEP_ENDS:
        visit = next((seen for seen in reversed(attempt["steps"]) if seen["step"] == event["step"]), None)
        if visit is None or visit["outcome"] is not None:
            # A step with nothing to do was never begun.
            visit = _visit(event)
            attempt["steps"].append(visit)
        visit["outcome"] = STEP_ENDS[kind]
        visit["seconds"] = (ts - visit["started_at"]).total_seconds()
        visit["reason"] = data.get("reason") or (data.get("error") or {}).get("message")
    elif kind in OUTCOMES:
        attempt["outcome"] = OUTCOMES[kind]
        attempt["error"] = data.get("error")
        attempt["finished_at"] = ts


def _visit(event: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": event["step"], "outcome": None, "started_at": event["ts"], "seconds": None, "reason": None}


def _sum_up(attempt: dict[str, Any]) -> None:
    for visit in attempt["steps"]:
        if visit["seconds"] is not None:
            attempt["durations"][visit["step"]] = attempt["durations"].get(visit["step"], 0.0) + visit["seconds"]
        visit["started_at"] = rfc3339(visit["started_at"])
    begun, ended = attempt["started_at"] or attempt["queued_at"], attempt["finished_at"]
    if begun and ended:
        attempt["seconds"] = (ended - begun).total_seconds()
    for name in ("queued_at", "started_at", "finished_at"):
        attempt[name] = rfc3339(attempt[name])
