"""Tasks: the body that makes one, and its representation."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from api.schemas.pages import LARGEST_INT
from api.schemas.times import rfc3339
from domain.errors import TaskError
from domain.lifecycle import Step, TaskStatus
from domain.names import workflow_id
from domain.spec import Body, Breakpoints, Provider, TaskSpec
from workflows.gateway import Gateway


def unkept(spec: TaskSpec) -> str | None:
    """Return what a body asks for and would not get."""
    if spec.keep_workspace.on != "never" and spec.provider is Provider.EXTERNAL:
        return "`keep_workspace`: an external workspace is somebody else's to keep"
    return None


class TaskBody(TaskSpec):
    """What `POST /v1/tasks` takes: the task's spec, and whether it starts at once."""

    start: bool = Field(default=True, description="`false` leaves the task `ready` until it is started.")

    @model_validator(mode="after")
    def _promise_only_what_is_kept(self) -> Self:
        """Refuse what would be ignored: nobody shall find a workspace gone that was to be kept."""
        if reason := unkept(self):
            raise ValueError(reason)
        return self


class CommandBody(Body):
    """What `start` and `cancel` take: nothing yet."""


class RetryBody(Body):
    """What `retry` takes."""

    from_attempt: Annotated[int, Field(ge=1, le=LARGEST_INT, strict=True)] | None = Field(
        default=None, description="The attempt that the caller saw end: guards a double click."
    )
    from_step: Literal[Step.AGENT_SESSION] | None = Field(
        default=None, description="Begin here, in the workspace that the last attempt has kept."
    )


class Links(BaseModel):
    """Where the rest of a task is, relative to the API's address."""

    self: str
    events: str
    attempts: str
    explain: str
    logs: str
    artifacts: str
    cancel: str
    pause: str
    resume: str
    breakpoints: str
    retry: str


class TaskOut(BaseModel):
    """A task, as the mirror has it."""

    model_config = ConfigDict(title="Task", extra="forbid")

    id: str
    name: str
    project: str
    run_id: str | None
    member: str | None = Field(description="Which member of its run it is.")
    item: int | None = Field(description="Which child of a fan-out, counted from 1.")
    status: TaskStatus
    step: Step | None
    step_started_at: datetime | None
    outcome: TaskStatus | None
    attempt: int
    max_attempts: int
    paused: bool = Field(description="Held by now; a pause that is only requested has a token, and is not held yet.")
    exhausted: bool = Field(description="Failed although another try might have helped: none was left.")
    pause_reason: str | None
    pause_token: str | None = Field(description="What `resume` takes: of a pause that is requested, or in effect.")
    paused_at: datetime | None
    paused_until: datetime | None = Field(description="When the attempt fails if nobody has resumed it.")
    paused_seconds: float = Field(description="How long the step was held before, in holds that are over.")
    breakpoints: Breakpoints | None
    priority: int
    labels: dict[str, str]
    spec: dict[str, Any] = Field(description="The body as it was sent, without defaults.")
    result: JsonValue
    error: TaskError | None
    workspace_id: str | None
    node_id: str | None
    workflow_id: str | None = Field(description="The current attempt's workflow; null while the task is `ready`.")
    temporal_url: str | None
    traceparent: str | None = Field(description="The trace of the request that made it, if requests are traced.")
    version: int
    last_seq: int
    cancel_requested_at: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: Links


class CancelResult(StrEnum):
    """What became of a cancel so far."""

    REQUESTED = "requested"
    APPLIED = "applied"
    FORCED = "forced"


class CancelOut(BaseModel):
    """What became of a cancel: `requested`; `applied`, when the task is cancelled; `forced`, when it had to be ended.

    An attempt that was ended from outside is cleaned up by a workflow of its own.
    """

    result: CancelResult
    status: TaskStatus


def represent(row: Mapping[str, Any], gateway: Gateway) -> dict[str, Any]:
    """Return the representation of a row, as JSON values."""
    task, attempt = row["id"], row["attempt"]
    begun = row["status"] != TaskStatus.READY
    path = f"/v1/tasks/{task}"
    return {
        **row,
        "workflow_id": workflow_id(task, attempt) if begun else None,
        "temporal_url": gateway.url(task, attempt) if begun else None,
        "step_started_at": rfc3339(row["step_started_at"]),
        "paused_at": rfc3339(row["paused_at"]),
        "paused_until": rfc3339(row["paused_until"]),
        "cancel_requested_at": rfc3339(row["cancel_requested_at"]),
        "created_at": rfc3339(row["created_at"]),
        "updated_at": rfc3339(row["updated_at"]),
        "started_at": rfc3339(row["started_at"]),
        "finished_at": rfc3339(row["finished_at"]),
        "links": {
            "self": path,
            "events": f"{path}/events",
            "attempts": f"{path}/attempts",
            "explain": f"{path}/explain",
            "logs": f"{path}/logs",
            "artifacts": f"{path}/artifacts",
            "cancel": f"{path}/cancel",
            "pause": f"{path}/pause",
            "resume": f"{path}/resume",
            "breakpoints": f"{path}/breakpoints",
            "retry": f"{path}/retry",
        },
    }
