"""Callbacks: what a workspace tells, and what it is answered."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue, StringConstraints

from domain.errors import GUIDANCE, TRANSIENT_CATEGORIES, Category, TaskError
from domain.spec import Body, Text

LARGEST_CODE = 2**31


class ErrorBody(Body):
    """Why a workspace or an agent failed; without a category it is the workspace's or the agent's own fault."""

    code: Annotated[Text, StringConstraints(min_length=1, max_length=100)]
    message: Annotated[Text, StringConstraints(max_length=4000)]
    category: Category | None = None
    context: dict[str, JsonValue] = Field(default_factory=dict, max_length=32)

    def error(self, category: Category) -> TaskError:
        """Return the error as the mirror has it."""
        found = self.category or category
        return TaskError(
            code=self.code,
            category=found,
            message=self.message,
            retryable=found in TRANSIENT_CATEGORIES,
            guidance=GUIDANCE[found],
            context=self.context,
        )


class ReadyBody(Body):
    """The workspace is ready, or is so again after a recovery."""

    status: Literal["running", "recovery"] = "running"
    details: dict[str, JsonValue] = Field(default_factory=dict, max_length=64)

    def signal(self) -> dict[str, Any]:
        """Return what the workflow gets."""
        return {"status": self.status, "details": self.details}


class FailedBody(Body):
    """The workspace failed, and with it the attempt."""

    error: ErrorBody

    def signal(self) -> dict[str, Any]:
        """Return what the workflow gets."""
        return {"error": self.error.error(Category.WORKSPACE).model_dump(mode="json")}


class FinishedBody(Body):
    """The command or agent of this turn ended."""

    exit_code: Annotated[int, Field(ge=-LARGEST_CODE, lt=LARGEST_CODE)] | None = None
    result: JsonValue = None
    error: ErrorBody | None = None

    def signal(self) -> dict[str, Any]:
        """Return what the workflow gets."""
        error = self.error.error(Category.AGENT).model_dump(mode="json") if self.error else None
        return {"exit_code": self.exit_code, "result": self.result, "error": error}


class HeartbeatBody(Body):
    """The workspace lives."""


class ProgressBody(Body):
    """How far the agent is."""

    message: Annotated[Text, StringConstraints(max_length=2000)] | None = None
    percent: Annotated[float, Field(ge=0, le=100)] | None = None
    data: dict[str, JsonValue] = Field(default_factory=dict, max_length=64)


class TokenBody(Body):
    """Which turn of a conversation the token is for."""

    turn: Annotated[int, Field(ge=1, le=1_000_000)] = 1


class ResultOut(BaseModel):
    """`applied`, `duplicate` (came before), or `accepted` (the engine is away: delivered later)."""

    result: Literal["applied", "duplicate", "accepted"]


class TokenOut(BaseModel):
    """A callback token, and the address under which the callback routes are."""

    token: str
    expires_at: str
    callback_url: str


class LogOut(BaseModel):
    """Where to go on; `truncated` when the bound was reached and output is dropped."""

    next_offset: int
    truncated: bool
