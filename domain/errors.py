"""What can go wrong, in the words that a person reads.

    TaskrunnerError
    ├── IllegalTransition    a (status, status) or (step, outcome) pair that no table holds
    └── Failure              an effect failed, classified where it was understood best

A `Failure` becomes a Temporal `ApplicationError` at the activity boundary and a `TaskError` in the mirror.
"""

from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, Field


class TaskrunnerError(Exception):
    """The root of our own exceptions."""


class IllegalTransition(TaskrunnerError):  # noqa: N818 - named for the fact, as the standard library's StopIteration
    """A transition that the lifecycle tables do not hold."""

    def __init__(self, machine: str, old: str, new: str) -> None:
        super().__init__(f"{machine}: no transition from '{old}' by or to '{new}'")


class Category(StrEnum):
    """The ten causes by which failures are counted and retried."""

    CANCELLED = "cancelled"
    INPUT = "input"
    CAPACITY = "capacity"
    PROVISIONING = "provisioning"
    WORKSPACE = "workspace"
    AGENT = "agent"
    TIMEOUT = "timeout"
    RUNTIME_LOST = "runtime_lost"
    INFRASTRUCTURE = "infrastructure"
    INTERNAL = "internal"


# A new attempt can help against these; the others fail the same way again.
TRANSIENT_CATEGORIES: Final = frozenset(
    {
        Category.CAPACITY,
        Category.PROVISIONING,
        Category.WORKSPACE,
        Category.TIMEOUT,
        Category.RUNTIME_LOST,
        Category.INFRASTRUCTURE,
    }
)

GUIDANCE: Final[dict[Category, str]] = {
    Category.CANCELLED: "Retry the task if the cancel was a mistake.",
    Category.INPUT: "Correct the task's body and create the task again.",
    Category.CAPACITY: "Add a node or slots, or raise the capacity wait's budget.",
    Category.PROVISIONING: "Look at the node provider's own log, then retry the task.",
    Category.WORKSPACE: "Read the workspace's output under /logs, mend the setup, and retry the task.",
    Category.AGENT: "Read the command's output under /logs; its exit code is in the error's context.",
    Category.TIMEOUT: "Raise the step's budget in `timeouts`, or find out what the step waited for.",
    Category.RUNTIME_LOST: "The process vanished with its node; retry the task, and look at the node's log.",
    Category.INFRASTRUCTURE: "Check that the API, the database and the nodes are reachable, then retry the task.",
    Category.INTERNAL: "This is a fault of Taskrunner: report it with the workflow's id.",
}


# The code of a cancel that the attempt did not acknowledge in time.
CANCEL_FORCED: Final = "cancel_forced"


class TaskError(BaseModel):
    """Why an attempt failed, as the mirror and the API show it."""

    code: str
    category: Category
    message: str
    step: str | None = None
    retryable: bool = False
    guidance: str = ""
    context: dict[str, Any] = Field(default_factory=dict)


class Failure(TaskrunnerError):  # noqa: N818 - the contract's word
    """An effect failed; `transient` says whether the same call may succeed if tried again.

    `message` is one line for a person and holds no secret: histories are plain text.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        category: Category,
        transient: bool = False,
        guidance: str | None = None,
        context: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.error = TaskError(
            code=code,
            category=category,
            message=message,
            retryable=transient,
            guidance=guidance or GUIDANCE[category],
            context=context or {},
        )
