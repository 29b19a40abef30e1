"""Why a task is where it is: what it waits for, until when, and what follows. The reconciler decides with it too.

`explain()` is pure: from the facts of a row to an answer, by the tables below. A situation that the row as a whole is
in comes first; a task that is simply in a step is explained by that step's rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, Field

from domain.errors import Category
from domain.facts import Facts
from domain.lifecycle import Step, StepOutcome, TaskStatus, advance


class Wait(StrEnum):
    """What a task can wait for."""

    NOTHING = "nothing"
    RETRY = "retry"
    START = "start"
    BACKOFF = "backoff"
    DISPATCHER = "dispatcher"
    ENGINE = "engine"
    WORKER = "worker"
    RESUME = "resume"
    CANCEL = "cancel"
    PLACEMENT = "placement"
    SLOT = "slot"
    MATCHING_NODE = "matching_node"
    NODE_REPORT = "node_report"
    NODE = "node"
    CLAIM = "claim"
    WORKSPACE_READY = "workspace_ready"
    COMMAND = "command"
    MESSAGE = "message"
    RELEASE = "release"


class Reason(BaseModel):
    """A word for machines and a sentence for people."""

    code: str
    text: str


class Prediction(Reason):
    """What happens then: `code` is the step, the status or the error's code; `status` where it leads to."""

    status: TaskStatus | None = None


class Explanation(BaseModel):
    """Why a task is where it is."""

    waits_for: Reason
    since: datetime
    until: datetime | None = Field(
        default=None, description="When `on_failure` happens at the latest; `next`, where there is no `on_failure`."
    )
    next: Prediction | None = Field(default=None, description="What happens when it comes.")
    on_failure: Prediction | None = Field(default=None, description="What happens when it does not.")


def explain(facts: Facts, *, now: datetime) -> Explanation:
    """Return what a task waits for, since when and until when, and what happens then."""
    rule = _rule(facts, now)
    return Explanation(
        waits_for=Reason(code=rule.waits_for, text=rule.says(facts)),
        since=rule.since(facts),
        until=rule.until(facts),
        next=rule.next(facts),
        on_failure=rule.on_failure(facts),
    )


def deadline(facts: Facts, *, now: datetime) -> datetime | None:
    """Return the explanation's `until` alone: a sweep asks it of thousands."""
    return _rule(facts, now).until(facts)


# --- the parts of a rule --------------------------------------------------------------------------------------------


def _nothing(_: Facts) -> None:
    return None


def _since(facts: Facts) -> datetime:
    return facts.since


@dataclass(frozen=True, kw_only=True)
class _Rule:
    waits_for: Wait
    says: Callable[[Facts], str]
    since: Callable[[Facts], datetime] = _since
    until: Callable[[Facts], datetime | None] = _nothing
    next: Callable[[Facts], Prediction | None] = _nothing
    on_failure: Callable[[Facts], Prediction | None] = _nothing


def _plainly(sentence: str) -> Callable[[Facts], str]:
    return lambda facts: sentence.format(node=facts.node_id or "its node", attempt=facts.attempt)


def _then(code: str, text: str, status: TaskStatus | None = None) -> Callable[[Facts], Prediction]:
    return lambda _: Prediction(code=code, text=text, status=status)


def _within(budget: str) -> Callable[[Facts], datetime]:
    return lambda facts: facts.since + facts.paused_for + getattr(facts.budgets, budget)


# Whether a task passes a step by, since it has nothing to do there.
_PASSED_BY: Final[Mapping[Step, Callable[[Facts], bool]]] = {
    Step.NODE_SELECTION: lambda facts: facts.external,
    Step.WAITING_FOR_NODE_CAPACITY: lambda facts: facts.external,
    Step.NODE_PROVISIONING: lambda _: True,
    Step.NODE_AGENT_READY: lambda _: True,
    Step.ATTACHMENT_TRANSFER: lambda facts: facts.external or not facts.attachments,
    Step.AGENT_SESSION: lambda facts: facts.external,
    Step.AWAITING_FOLLOWUP: lambda facts: not facts.followup,
}
# The status that a task has in a step; the others leave it as it is.
_STATUS_IN: Final[Mapping[Step, TaskStatus]] = {
    Step.WORKSPACE_DISPATCH: TaskStatus.DELEGATED,
    Step.RUNNING: TaskStatus.IN_PROGRESS,
}


def _after(outcome: StepOutcome = StepOutcome.DONE) -> Callable[[Facts], Prediction]:
    """Return the step that follows an outcome of the task's own, past those with nothing to do."""

    def following(facts: Facts) -> Prediction:
        step = advance(facts.step, outcome) if facts.step else Step.NODE_SELECTION
        while step is not None and step in _PASSED_BY and _PASSED_BY[step](facts):
            step = advance(step, StepOutcome.SKIPPED)
        if step is None:
            return Prediction(code="end", text="The attempt ends.")
        return Prediction(code=step, text=f"It goes on with {step}.", status=_STATUS_IN.get(step, facts.status))

    return following


def _fails(code: str, category: Category, *, retryable: bool = True) -> Callable[[Facts], Prediction]:
    """Return what a failure of this kind leads to: the next attempt, or the task's end."""

    def failing(facts: Facts) -> Prediction:
        mended = facts.retry.helps_against(category, retryable=retryable)
        if mended and facts.attempt < facts.retry.max_attempts:
            then, status = f"attempt {facts.attempt + 1} of {facts.retry.max_attempts} follows", TaskStatus.QUEUED
        else:
            then, status = "the task fails", TaskStatus.FAILED
        return Prediction(code=code, text=f"The attempt fails with {code}, and {then}.", status=status)

    return failing


def _cap(facts: Facts) -> tuple[datetime, str]:
    """Return when the command is ended at the latest, and by which cap; output and progress put the idle one off."""
    budgets = facts.budgets
    caps = [
        (facts.since + budgets.running, "cap_hard"),
        (facts.since + budgets.running_absolute - facts.ran, "cap_absolute"),
    ]
    if budgets.running_idle and facts.active_at:
        caps.append((max(facts.since, facts.active_at) + budgets.running_idle, "cap_idle"))
    return min(caps, key=lambda cap: cap[0])


def _capped(facts: Facts) -> Prediction:
    return _fails(_cap(facts)[1], Category.TIMEOUT, retryable=False)(facts)


def _slot(facts: Facts) -> str:
    place = f", at place {facts.queue_position} of its queue" if facts.queue_position else ""
    return f"It waits for a free slot on a node with the labels that it asks for{place}."


def _unserved(facts: Facts) -> str:
    return f"No node that takes tasks has what it asks for: {', '.join(facts.unserved)}. It waits for one."


# --- the steps ------------------------------------------------------------------------------------------------------

_AT_ONCE: Final = _then("retried", "It is tried again, for as long as the database is away.")

_STEPS: Final[Mapping[Step, _Rule]] = {
    Step.NODE_SELECTION: _Rule(
        waits_for=Wait.PLACEMENT, says=_plainly("A node is being chosen."), next=_after(), on_failure=_AT_ONCE
    ),
    Step.WAITING_FOR_NODE_CAPACITY: _Rule(
        waits_for=Wait.SLOT,
        says=_slot,
        until=_within("waiting_for_node_capacity"),
        next=_after(),
        on_failure=_fails("waiting_for_node_capacity_timeout", Category.CAPACITY),
    ),
    Step.NODE_PROVISIONING: _Rule(
        waits_for=Wait.PLACEMENT,
        says=_plainly("It waits for the node provider to make {node}."),
        until=_within("node_provisioning"),
        next=_after(),
        on_failure=_fails("node_not_made", Category.PROVISIONING),
    ),
    Step.NODE_AGENT_READY: _Rule(
        waits_for=Wait.NODE_REPORT,
        says=_plainly("It waits for a node that is coming up to report in, or for a free slot of another one before."),
        until=_within("node_agent_ready"),
        next=_after(),
        on_failure=_fails("node_agent_ready_timeout", Category.PROVISIONING),
    ),
    Step.WORKSPACE_CREATION: _Rule(
        waits_for=Wait.PLACEMENT, says=_plainly("Its workspace is being reserved."), next=_after(), on_failure=_AT_ONCE
    ),
    Step.WORKSPACE_DISPATCH: _Rule(
        waits_for=Wait.NODE,
        says=_plainly("It waits for {node} to create the workspace."),
        until=_within("workspace_dispatch"),
        next=_after(),
        on_failure=_fails("node_unreachable", Category.RUNTIME_LOST),
    ),
    Step.WORKSPACE_READY: _Rule(
        waits_for=Wait.WORKSPACE_READY,
        says=_plainly("It waits for the workspace to call ready; cloning and setup come before that."),
        until=_within("workspace_ready"),
        next=_after(),
        on_failure=_fails("workspace_ready_timeout", Category.TIMEOUT),
    ),
    Step.ATTACHMENT_TRANSFER: _Rule(
        waits_for=Wait.NODE,
        says=_plainly("It waits for {node} to fetch the attachments."),
        until=lambda facts: facts.since + facts.budgets.attachment_transfer * max(facts.attachments, 1),
        next=_after(),
        on_failure=_fails("node_unreachable", Category.RUNTIME_LOST),
    ),
    Step.AGENT_SESSION: _Rule(
        waits_for=Wait.NODE,
        says=_plainly("It waits for {node} to start the command."),
        until=_within("workspace_dispatch"),
        next=_after(),
        on_failure=_fails("node_unreachable", Category.RUNTIME_LOST),
    ),
    Step.RUNNING: _Rule(
        waits_for=Wait.COMMAND,
        says=_plainly("The command runs; it waits for its end."),
        until=lambda facts: _cap(facts)[0],
        next=_after(),
        on_failure=_capped,
    ),
    Step.AWAITING_FOLLOWUP: _Rule(
        waits_for=Wait.MESSAGE,
        says=_plainly("It waits for the next message, or for a close."),
        until=_within("awaiting_followup"),
        next=_after(StepOutcome.NEXT_TURN),
        on_failure=_then("silence", "Nobody's word completes the task.", TaskStatus.COMPLETED),
    ),
    Step.CLEANUP: _Rule(
        waits_for=Wait.RELEASE,
        says=_plainly("It waits for {node} to destroy the workspace."),
        until=_within("cleanup"),
        next=_after(),
        on_failure=_then("cleanup_pending", "The attempt ends all the same; the reaper goes on releasing."),
    ),
}
_EXTERNAL: Final[Mapping[Step, _Rule]] = {
    Step.WORKSPACE_DISPATCH: _Rule(
        waits_for=Wait.CLAIM,
        says=_plainly("It waits for a controller to claim the workspace's callback token."),
        until=_within("workspace_dispatch"),
        next=_after(),
        on_failure=_fails("workspace_dispatch_timeout", Category.TIMEOUT),
    ),
}


def _rule(facts: Facts, now: datetime) -> _Rule:
    return next((rule for applies, rule in SITUATIONS if applies(facts, now)), None) or _step_rule(facts)


def _step_rule(facts: Facts) -> _Rule:
    if facts.step is None:
        return _FIRST_WRITE
    return (facts.external and _EXTERNAL.get(facts.step)) or _STEPS[facts.step]


# --- the situations that the row as a whole can be in ---------------------------------------------------------------

_FIRST: Final = _after()
_FIRST_WRITE: Final = _Rule(
    waits_for=Wait.WORKER,
    says=_plainly("Attempt {attempt} was started in Temporal; it waits for a control worker to take it up."),
    next=_FIRST,
    on_failure=_then("reconciled", "The reconciler looks whether Temporal has it, and starts it again if not."),
)
_UNSERVED: Final = replace(_STEPS[Step.WAITING_FOR_NODE_CAPACITY], waits_for=Wait.MATCHING_NODE, says=_unserved)
_LATER: Final = _then("retried", "The dispatcher sends it again, for as long as Temporal is away.")


def _due(facts: Facts) -> datetime | None:
    return facts.start.due_at if facts.start else None


def _away(facts: Facts) -> str:
    tries, error = (facts.start.tries, facts.start.last_error) if facts.start else (0, None)
    return f"It waits for Temporal, which did not take the start ({error}) in {tries} tries."


_By = Callable[[Facts, datetime], bool]
SITUATIONS: Final[tuple[tuple[_By, _Rule], ...]] = (
    (
        lambda facts, _: facts.status is TaskStatus.COMPLETED,
        _Rule(waits_for=Wait.NOTHING, says=_plainly("The task is completed.")),
    ),
    (
        lambda facts, _: facts.status.terminal,
        _Rule(
            waits_for=Wait.RETRY,
            says=lambda facts: f"The task is {facts.status}; only a retry by hand goes on from here.",
            next=_then("queued", "The next attempt is queued.", TaskStatus.QUEUED),
        ),
    ),
    (
        lambda facts, _: facts.status is TaskStatus.READY,
        _Rule(
            waits_for=Wait.START,
            says=_plainly("It was created with `start: false`; it waits for somebody to start it."),
            next=_then("queued", "It is queued.", TaskStatus.QUEUED),
        ),
    ),
    (
        lambda facts, _: facts.cancel_requested_at is not None,
        _Rule(
            waits_for=Wait.CANCEL,
            says=_plainly("A cancel was asked for; it waits for attempt {attempt} to acknowledge it and to clean up."),
            since=lambda facts: facts.cancel_requested_at or facts.since,
            until=lambda facts: facts.force_due_at,
            next=_then("cancelled", "The task is cancelled.", TaskStatus.CANCELLED),
            on_failure=_then("cancel_forced", "The attempt is ended from outside.", TaskStatus.CANCELLED),
        ),
    ),
    (
        lambda facts, _: facts.paused,
        _Rule(
            waits_for=Wait.RESUME,
            says=lambda facts: f"It is paused ({facts.pause_reason or 'no reason given'}) until somebody resumes it.",
            since=lambda facts: facts.paused_at or facts.since,
            until=lambda facts: facts.paused_until,
            next=_then("resumed", "It goes on where it was held."),
            on_failure=_fails("cap_paused", Category.TIMEOUT, retryable=False),
        ),
    ),
    (
        lambda facts, _: facts.step is None and facts.start is not None and facts.start.last_error is not None,
        _Rule(waits_for=Wait.ENGINE, says=_away, next=_FIRST, on_failure=_LATER),
    ),
    (
        lambda facts, now: facts.step is None and facts.start is not None and facts.start.due_at > now,
        _Rule(
            waits_for=Wait.BACKOFF,
            says=_plainly("Attempt {attempt} waits for its time: the one before it failed."),
            until=_due,
            next=_FIRST,
        ),
    ),
    (
        lambda facts, _: facts.step is None and facts.start is not None,
        _Rule(
            waits_for=Wait.DISPATCHER,
            says=_plainly("The start of attempt {attempt} is stored, and about to be sent to Temporal."),
            next=_FIRST,
            on_failure=_LATER,
        ),
    ),
    (lambda facts, _: bool(facts.unserved), _UNSERVED),
)
