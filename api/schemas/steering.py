"""Steering: what holds a task and lets it go on."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from domain.lifecycle import Step, TaskStatus
from domain.spec import STORABLE, Body

Reason = Annotated[str, StringConstraints(min_length=1, max_length=1000, strip_whitespace=True), STORABLE]
Token = Annotated[str, StringConstraints(min_length=1, max_length=64), STORABLE]


class PauseBody(Body):
    """What `pause` takes."""

    reason: Reason | None = Field(default=None, description="Shown to whoever wonders why the task is held.")


class ResumeBody(Body):
    """What `resume` takes."""

    token: Token = Field(description="The pause's: whoever saw another one does not end it.")


class PauseResult(StrEnum):
    """What became of a pause so far."""

    REQUESTED = "requested"
    APPLIED = "applied"


class PauseOut(BaseModel):
    """What became of a pause: `requested` until the step that is under way has ended, `applied` when it holds."""

    model_config = ConfigDict(extra="forbid")

    result: PauseResult
    repeated: bool = Field(description="It was to be held already; token and reason are those of then.")
    token: str = Field(description="What `resume` takes.")
    reason: str | None
    status: TaskStatus
    step: Step | None
    attempt: int


class ResumeOut(BaseModel):
    """The task is not to be held any more."""

    model_config = ConfigDict(extra="forbid")

    result: PauseResult
    status: TaskStatus
    step: Step | None
