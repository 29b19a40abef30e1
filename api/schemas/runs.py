"""Runs: their representation. The body that makes one is `domain.run_spec.RunSpec`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from api.schemas.times import rfc3339
from domain.errors import TaskError
from domain.events import Event
from domain.lifecycle import MemberStatus, RunStatus
from domain.names import TaskId, run_workflow_id
from domain.run_spec import OnFailure, Reducer, RunBreakpoints, RunMode
from workflows.gateway import Gateway


class RunLinks(BaseModel):
    """Where the rest of a run is, relative to the API's address."""

    self: str
    graph: str
    events: str
    stream: str
    tasks: str
    cancel: str
    pause: str
    resume: str
    breakpoints: str
    commands: str
    retry: str


class RunOut(BaseModel):
    """A run, as the mirror has it."""

    model_config = ConfigDict(title="Run", extra="forbid")

    id: str
    name: str
    project: str
    status: RunStatus
    outcome: RunStatus | None
    attempt: int
    mode: RunMode
    on_failure: OnFailure
    max_parallel: int | None
    paused: bool = Field(description="Held by now; a pause that is only requested has a token, and is not held yet.")
    pause_reason: str | None
    pause_token: str | None = Field(description="What `resume` takes: of a pause that is requested, or in effect.")
    paused_at: datetime | None
    breakpoints: RunBreakpoints | None
    superstep: int
    state: dict[str, JsonValue]
    state_versions: dict[str, int]
    reducers: dict[str, Reducer]
    labels: dict[str, str]
    priority: int
    counts: dict[MemberStatus, int] = Field(description="How many members are in which status.")
    error: TaskError | None
    workflow_id: str
    temporal_url: str
    version: int
    last_seq: int = Field(description="Of the run's own log; `events` and `stream` count those of its tasks as well.")
    cancel_requested_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: RunLinks


class RunFeedEvent(Event):
    """An event of a run, or of one of its tasks; a run's own has no `task_id`, and a `seq` of the run's log."""

    model_config = ConfigDict(title="RunEvent")

    task_id: TaskId | None  # type: ignore[assignment]  # a task's own log has no other
    cursor: int = Field(description="Its number among the events of the run and its tasks: what `fromSeq` takes.")


def represent(row: Mapping[str, Any], counts: Mapping[str, int], gateway: Gateway) -> dict[str, Any]:
    """Return the representation of a row, as JSON values."""
    run = row["id"]
    path = f"/v1/runs/{run}"
    parts = ("graph", "events", "stream", "cancel", "pause", "resume", "breakpoints", "commands", "retry")
    return {
        **{name: row[name] for name in RunOut.model_fields if name in row},
        "counts": dict(counts),
        "workflow_id": run_workflow_id(run),
        "temporal_url": gateway.run_url(run),
        "paused_at": rfc3339(row["paused_at"]),
        "cancel_requested_at": rfc3339(row["cancel_requested_at"]),
        "created_at": rfc3339(row["created_at"]),
        "updated_at": rfc3339(row["updated_at"]),
        "started_at": rfc3339(row["started_at"]),
        "finished_at": rfc3339(row["finished_at"]),
        "links": {"self": path, "tasks": f"/v1/tasks?run_id={run}"} | {part: f"{path}/{part}" for part in parts},
    }
