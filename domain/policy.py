"""The numbers: budgets, tries and limits, with the contract's defaults, and whether a set of them makes sense.

A workflow gets its policy with its input, so that a changed setting never changes a history.
"""

from datetime import timedelta
from typing import Annotated

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


def inconsistencies(policy: Policy, *, callback_token: timedelta, stuck_after: timedelta) -> list[str]:
    """Return one sentence for each pair of settings that contradict each other; none if all is well."""
    budgets, supervision = policy.budgets, policy.supervision
    covered = sum((getattr(budgets, step) for step in COVERED_BY_STUCK), timedelta())
    longest = (
        budgets.workspace_dispatch + budgets.workspace_ready + budgets.running_absolute + budgets.awaiting_followup
    )
    rules = (
        (budgets.running_soft <= budgets.running, "BUDGETS__RUNNING_SOFT must not exceed BUDGETS__RUNNING"),
        (budgets.running <= budgets.running_absolute, "BUDGETS__RUNNING must not exceed BUDGETS__RUNNING_ABSOLUTE"),
        (supervision.lease < supervision.lost_after, "SUPERVISION__LEASE must be shorter than SUPERVISION__LOST_AFTER"),
        (
            supervision.heartbeat < supervision.lease,
            "SUPERVISION__HEARTBEAT must be shorter than SUPERVISION__LEASE",
        ),
        (
            callback_token > longest,
            f"CALLBACK_TOKEN must outlive the BUDGETS__ that a workspace lives through ({longest})",
        ),
        (stuck_after > covered, f"STUCK_AFTER must exceed the sum of the BUDGETS__ that it covers ({covered})"),
    )
    return [sentence for holds, sentence in rules if not holds]
