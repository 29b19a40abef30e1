"""The numbers: budgets, tries and limits, with the contract's defaults, and whether a set of them makes sense.

A workflow gets its policy with its input, so that a changed setting never changes a history.
"""

from collections.abc import Callable, Mapping
from datetime import timedelta
from operator import gt, le, lt
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from domain.durations import Span
from domain.lifecycle import Step
from domain.spec import Timeouts

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


class Budgets(BaseModel):
    """How long each waiting step may take, per visit; durations in seconds or ISO-8601."""

    model_config = ConfigDict(frozen=True)

    waiting_for_node_capacity: Span = 2 * HOUR
    node_provisioning: Span = 15 * MINUTE
    node_agent_ready: Span = 15 * MINUTE
    workspace_dispatch: Span = 10 * MINUTE
    workspace_ready: Span = 30 * MINUTE
    attachment_transfer: Span = timedelta(seconds=60)
    running_soft: Span = 4 * HOUR
    running: Span = 8 * HOUR
    running_absolute: Span = 24 * HOUR
    awaiting_followup: Span = 24 * HOUR
    cleanup: Span = 10 * MINUTE

    def overridden(self, timeouts: Timeouts) -> "Budgets":
        """Return these budgets with what the task's body sets instead."""
        return self.model_copy(update=timeouts.model_dump(exclude_none=True))


class StepRetry(BaseModel):
    """How a step's effect is tried again on a transient error."""

    model_config = ConfigDict(frozen=True)

    tries: Annotated[int, Field(ge=1)] = 3
    first_delay: Span = timedelta(seconds=5)
    longest_delay: Span = timedelta(seconds=60)


class Limits(BaseModel):
    """Sizes in bytes, and how many of a thing."""

    model_config = ConfigDict(frozen=True)

    body: int = 1_000_000
    attachment: int = 100_000_000
    artifact: int = 100_000_000
    result: int = 64_000
    log_per_attempt: int = 10_000_000
    page: int = 500
    visits: int = 3


class Supervision(BaseModel):
    """How long silence is tolerated before a runtime counts as lost."""

    model_config = ConfigDict(frozen=True)

    heartbeat: Span = timedelta(seconds=15)
    lost_after: Span = timedelta(seconds=180)
    lease: Span = timedelta(seconds=120)


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


def inconsistencies(
    policy: Policy, *, callback_token: timedelta, stuck_after: timedelta, prefix: str = ""
) -> list[str]:
    """Return one sentence for each set of settings that contradict each other; none if all is well.

    Each sentence names them as the environment does, with `prefix`, and gives their values.
    """
    budgets, supervision, retry = policy.budgets, policy.supervision, policy.step_retry
    lived_through = (Step.WORKSPACE_DISPATCH, Step.WORKSPACE_READY, "running_absolute", Step.AWAITING_FOLLOWUP)
    token, stuck = {"CALLBACK_TOKEN": callback_token}, {"STUCK_AFTER": stuck_after}
    rules = (
        (_group("BUDGETS", budgets, "running_soft"), "<=", _group("BUDGETS", budgets, "running")),
        (_group("BUDGETS", budgets, "running"), "<=", _group("BUDGETS", budgets, "running_absolute")),
        (_group("SUPERVISION", supervision, "heartbeat"), "<", _group("SUPERVISION", supervision, "lease")),
        (_group("SUPERVISION", supervision, "lease"), "<", _group("SUPERVISION", supervision, "lost_after")),
        (_group("STEP_RETRY", retry, "first_delay"), "<=", _group("STEP_RETRY", retry, "longest_delay")),
        (token, ">", _group("BUDGETS", budgets, *lived_through)),
        (stuck, ">", _group("BUDGETS", budgets, *COVERED_BY_STUCK)),
    )
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
