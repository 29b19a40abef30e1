"""Steering of runs: what holds one, lets it go on, changes its graph, ends it, or tries it again."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.pages import LARGEST_INT
from api.schemas.steering import PauseResult
from api.schemas.tasks import CancelResult
from domain.lifecycle import RunStatus
from domain.spec import Body


class RunPauseOut(BaseModel):
    """What became of a pause: `requested` until the run holds. Tasks that run go on; no other one begins."""

    model_config = ConfigDict(title="RunPause", extra="forbid")

    result: PauseResult
    repeated: bool = Field(description="It was to be held already; token and reason are those of then.")
    token: str = Field(description="What `resume` takes.")
    reason: str | None
    status: RunStatus
    attempt: int


class RunResumeOut(BaseModel):
    """The run is not to be held any more."""

    model_config = ConfigDict(title="RunResume", extra="forbid")

    result: PauseResult
    status: RunStatus


class RunCommandOut(BaseModel):
    """A command was taken in: its number, and what it has added."""

    model_config = ConfigDict(title="RunCommanded", extra="forbid")

    n: int
    members: list[str]
    edges: int = Field(description="How many; one that `items_from` implies is counted.")


class RunCancelOut(BaseModel):
    """What became of a cancel: `requested`; `applied`, when the run is cancelled."""

    model_config = ConfigDict(title="RunCancel", extra="forbid")

    result: CancelResult
    status: RunStatus


class RunRetryBody(Body):
    """What `retry` of a run takes."""

    from_attempt: Annotated[int, Field(ge=1, le=LARGEST_INT, strict=True)] | None = Field(
        default=None, description="The attempt that the caller saw end: guards a double click."
    )
