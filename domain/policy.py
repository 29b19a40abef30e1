"""The numbers: budgets, tries and limits, with the contract's defaults, and whether a set of them makes sense.

A workflow gets its policy with its input, so that a changed setting never changes a history.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from operator import gt, le, lt
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from domain.durations import Span
from domain.lifecycle import Step
from domain.spec import Timeouts

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class Budgets(BaseModel):
    """How long each waiting step may take, per visit; durations in seconds or ISO-8601."""

    model_config = ConfigDict(frozen=True)

    waiting_for_node_capacity: Span = Field(default=2 * HOUR, description="The wait for a free slot.")
    node_provisioning: Span = Field(default=15 * MINUTE, description="The node provider's time to make a node.")
    node_agent_ready: Span = Field(
        default=15 * MINUTE, description="The wait for a node that is coming up to report in."
    )
    workspace_dispatch: Span = Field(
        default=10 * MINUTE,
        description="Until the node has acknowledged the workspace, or an `external` one was claimed.",
    )
    workspace_ready: Span = Field(
        default=30 * MINUTE, description="Until the workspace calls `ready`; cloning and `setup` are within it."
    )
    attachment_transfer: Span = Field(
        default=timedelta(seconds=60), description="Each attachment's way into the workspace."
    )
    running_soft: Span = Field(
        default=4 * HOUR, description="After this long in one visit a warning is written: `task.cap_warning`."
    )
    running: Span = Field(default=8 * HOUR, description="The longest visit of `running`.")
    running_absolute: Span = Field(
        default=24 * HOUR,
        description="The longest that an attempt may run, over all its turns; the waits between them do not count.",
    )
    running_idle: Span | None = Field(
        default=None,
        description="The longest time without output or progress in a visit of `running`; empty: there is no such cap.",
    )
    awaiting_followup: Span = Field(
        default=24 * HOUR, description="The wait for the next message; silence completes the task."
    )
    paused: Span = Field(
        default=72 * HOUR, description="The longest that an attempt may be held in all; past it the attempt fails."
    )
    cleanup: Span = Field(
        default=10 * MINUTE, description="Until the workspace is destroyed; after that the reaper goes on."
    )

    def overridden(self, timeouts: Timeouts) -> "Budgets":
        """Return these budgets with what the task's body sets instead."""
        return self.model_copy(update=timeouts.model_dump(exclude_none=True))


class StepRetry(BaseModel):
    """How a step's effect is tried again on a transient error."""

    model_config = ConfigDict(frozen=True)

    tries: int = Field(default=3, ge=1, description="Tries of an effect on a node, the first one counted.")
    first_delay: Span = Field(
        default=timedelta(seconds=5), description="Before the second try; it doubles from try to try."
    )
    longest_delay: Span = Field(default=timedelta(seconds=60), description="Where the doubling stops.")


class Limits(BaseModel):
    """Sizes in bytes, and how many of a thing."""

    model_config = ConfigDict(frozen=True)

    body: int = Field(default=1_000_000, ge=1, description="A JSON body.")
    attachment: int = Field(default=100_000_000, ge=1, description="An uploaded attachment.")
    artifact: int = Field(default=100_000_000, ge=1, description="An artifact.")
    result: int = Field(default=64_000, ge=1, description="A result that is kept in the row.")
    log_per_attempt: int = Field(
        default=10_000_000, ge=1, description="An attempt's output; the rest is cut off, and the log says so."
    )
    page: int = Field(default=500, ge=1, description="Items of a list's page at most.")
    visits: int = Field(default=3, ge=1, description="Dispatches of one workspace that is never acknowledged.")
    history_events: int = Field(
        default=2000,
        ge=20,
        le=10_000,
        description="An attempt's history, signals among it; a longer one continues as new where nothing is under way.",
    )


class Supervision(BaseModel):
    """How long silence is tolerated before a runtime counts as lost."""

    model_config = ConfigDict(frozen=True)

    heartbeat: Span = Field(default=timedelta(seconds=15), description="How often a workspace shows that it lives.")
    lost_after: Span = Field(
        default=timedelta(seconds=180), description="The silence after which a node or workspace counts as lost."
    )
    lease: Span = Field(
        default=timedelta(seconds=120),
        description="How long a workspace goes on without contact before it stops its agent.",
    )
    cancel: Span = Field(
        default=timedelta(seconds=5),
        description="How long an attempt may take to end after Temporal has its cancel; then the cancel is forced.",
    )


class Retention(BaseModel):
    """How long what belongs to tasks that have ended is kept, counted from their end; nothing is deleted by default."""

    model_config = ConfigDict(frozen=True)

    tasks: Span | None = Field(
        default=None,
        description="Whole tasks, with their events and all below; runs with their tasks, from the end of the run.",
    )
    logs: Span | None = Field(default=None, description="The output of their attempts.")
    artifacts: Span | None = Field(default=None, description="The files that they left.")
    attachments: Span | None = Field(default=None, description="Uploads that no task names, counted from the upload.")


class Policy(BaseModel):
    """All that a TaskRunner needs to know of the settings."""

    model_config = ConfigDict(frozen=True)

    budgets: Budgets = Budgets()
    step_retry: StepRetry = StepRetry()
    limits: Limits = Limits()
    supervision: Supervision = Supervision()
    callback_url: str = "http://127.0.0.1:8080"


COVERED_BY_STUCK: tuple[Step, ...] = (
    Step.WORKSPACE_DISPATCH,
    Step.WORKSPACE_READY,
    Step.ATTACHMENT_TRANSFER,
    Step.CLEANUP,
)


# What a callback token must outlive: the waits in which its workspace may call, with one and the same token, and the
# holds that make them longer.
LIVED_THROUGH: Final = (
    Step.WORKSPACE_DISPATCH,
    Step.WORKSPACE_READY,
    "running_absolute",
    Step.AWAITING_FOLLOWUP,
    "paused",
)


def outlived(budgets: Budgets, timeouts: Timeouts, *, callback_token: timedelta, prefix: str = "") -> str | None:
    """Return a sentence if a task's own timeouts are longer than a callback token lives; None if all is well.

    The settings alone agree with each other, so it is the body that must be changed, or the setting for it.
    """
    waits = _group("timeouts", budgets.overridden(timeouts), *LIVED_THROUGH)
    if callback_token > _sum(waits):
        return None
    names = " + ".join(str(step) for step in LIVED_THROUGH)
    return f"{names} ({_sum(waits)}) must be shorter than {prefix}CALLBACK_TOKEN ({callback_token})"


def inconsistencies(
    policy: Policy, *, callback_token: timedelta, stuck_after: timedelta, prefix: str = ""
) -> list[str]:
    """Return one sentence for each set of settings that contradict each other; none if all is well.

    Each sentence names them as the environment does, with `prefix`, and gives their values.
    """
    budgets, supervision, retry = policy.budgets, policy.supervision, policy.step_retry
    token, stuck = {"CALLBACK_TOKEN": callback_token}, {"STUCK_AFTER": stuck_after}
    idle = _group("BUDGETS", budgets, "running_idle") if budgets.running_idle else None
    rules: list[tuple[Mapping[str, timedelta], str, Mapping[str, timedelta]]] = [
        (_group("BUDGETS", budgets, "running_soft"), "<=", _group("BUDGETS", budgets, "running")),
        (_group("BUDGETS", budgets, "running"), "<=", _group("BUDGETS", budgets, "running_absolute")),
        (_group("SUPERVISION", supervision, "heartbeat"), "<", _group("SUPERVISION", supervision, "lease")),
        (_group("SUPERVISION", supervision, "lease"), "<", _group("SUPERVISION", supervision, "lost_after")),
        (_group("SUPERVISION", supervision, "cancel"), "<", _group("SUPERVISION", supervision, "lost_after")),
        (_group("STEP_RETRY", retry, "first_delay"), "<=", _group("STEP_RETRY", retry, "longest_delay")),
        (token, ">", _group("BUDGETS", budgets, *LIVED_THROUGH)),
        (stuck, ">", _group("BUDGETS", budgets, *COVERED_BY_STUCK)),
    ]
    if idle:
        rules += [
            (idle, "<", _group("BUDGETS", budgets, "running")),
            # A controller's heartbeat is what keeps an `external` workspace from being idle.
            (_group("SUPERVISION", supervision, "heartbeat"), "<", idle),
        ]
    return [
        f"{_named(left, prefix)} {_WORDS[relation]} {_named(right, prefix)}"
        for left, relation, right in rules
        if not _HOLDS[relation](_sum(left), _sum(right))
    ]


_HOLDS: Final[Mapping[str, Callable[[timedelta, timedelta], bool]]] = {"<": lt, "<=": le, ">": gt}
_WORDS: Final = {"<": "must be shorter than", "<=": "must not exceed", ">": "must be longer than"}


def _group(group: str, model: BaseModel, *fields: str) -> dict[str, timedelta]:
    return {f"{group}__{field.upper()}": getattr(model, field) for field in fields}


def _sum(durations: Mapping[str, timedelta]) -> timedelta:
    return sum(durations.values(), timedelta())


def _named(durations: Mapping[str, timedelta], prefix: str) -> str:
    names = " + ".join(prefix + name for name in durations)
    return f"{names} ({_sum(durations)})"
