"""What the reconciler makes of a task whose row and workflow do not agree. Pure: the sweep reads, this decides.

Its counters should stay near zero: it is a safety net under the outbox, the fence and the ledger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, Field

from domain.errors import GUIDANCE, Category, TaskError
from domain.events import EVENT_OF_OUTCOME, EventSource, EventType, NewEvent
from domain.explain import deadline
from domain.facts import Facts
from domain.lifecycle import TaskStatus
from domain.names import NodeId, TaskId, WorkspaceId

# A deadline's own end is written within seconds; only what is later than this is worth a look.
GRACE: Final = timedelta(minutes=1)
IDS: Final = 20


class Seen(StrEnum):
    """What the engine says of an attempt's workflow."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TERMINATED = "terminated"
    TIMED_OUT = "timed_out"
    NOT_FOUND = "not_found"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at a workflow; `problems` is what the engine reports of a workflow that cannot go on."""

    seen: Seen
    problems: str | None = None


class Action(StrEnum):
    """What a sweep does, or would do, about one thing; also the words by which its report counts."""

    LEFT_ALONE = "left_alone"
    STARTED_AGAIN = "started_again"
    ENDED = "ended"
    TERMINATED = "terminated"
    CLEANED_UP = "cleaned_up"
    RETENTION_ENDED = "retention_ended"
    SLOTS_COUNTED = "slots_counted"
    WAITER_REMOVED = "waiter_removed"
    ANSWERS_FORGOTTEN = "answers_forgotten"
    UPLOAD_REMOVED = "upload_removed"
    ORPHAN_DESTROYED = "orphan_destroyed"
    NODE_MADE = "node_made"
    NODE_DESTROYED = "node_destroyed"
    SUPERSEDED = "superseded"
    FLAGGED_PROBLEMS = "flagged_problems"
    FLAGGED_PAUSED = "flagged_paused"
    FLAGGED_OVERDUE = "flagged_overdue"
    FLAGGED_UNSENT = "flagged_unsent"
    UNREADABLE = "unreadable"
    UNREACHABLE = "unreachable"
    FAILED = "failed"


class Ending(StrEnum):
    """Why an attempt is over although its workflow did not write so; the code of its error."""

    CANCELLED = "cancelled"
    TERMINATED = "terminated"
    TIMED_OUT = "workflow_timeout"
    LOST = "workflow_lost"
    UNWRITTEN = "end_unwritten"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about a row."""

    action: Action
    ending: Ending | None = None


_LEAVE: Final = Decision(Action.LEFT_ALONE)
# A workflow that is over must have written its end: a row that is open after all has lost it. COMPLETED is no success.
_OVER: Final[Mapping[Seen, Decision]] = {
    Seen.COMPLETED: Decision(Action.ENDED, Ending.UNWRITTEN),
    Seen.FAILED: Decision(Action.ENDED, Ending.UNWRITTEN),
    Seen.CANCELLED: Decision(Action.ENDED, Ending.CANCELLED),
    Seen.TERMINATED: Decision(Action.ENDED, Ending.TERMINATED),
    Seen.TIMED_OUT: Decision(Action.ENDED, Ending.TIMED_OUT),
    Seen.PAUSED: Decision(Action.FLAGGED_PAUSED),
    Seen.UNREACHABLE: Decision(Action.UNREACHABLE),
}


def overdue(facts: Facts, now: datetime) -> timedelta:
    """Return how long ago the task's deadline passed, with the grace; zero or less when it has not."""
    until = deadline(facts, now=now)
    return now - until - GRACE if until is not None else timedelta(0)


def decide(facts: Facts, sight: Sight, now: datetime) -> Decision:
    """Return what to do about an open row whose workflow was looked at after the row was read."""
    if sight.seen is Seen.NOT_FOUND:
        return _not_found(facts)
    if sight.seen is not Seen.RUNNING:
        return _OVER[sight.seen]
    if sight.problems is not None:
        return Decision(Action.FLAGGED_PROBLEMS)
    return Decision(Action.FLAGGED_OVERDUE) if overdue(facts, now) > timedelta(0) else _LEAVE


def _not_found(facts: Facts) -> Decision:
    if facts.start is not None:
        return _LEAVE  # not started yet
    if facts.status is TaskStatus.QUEUED and facts.version == 0:
        return Decision(Action.STARTED_AGAIN)
    return Decision(Action.ENDED, Ending.LOST)


@dataclass(frozen=True, slots=True)
class _Cause:
    category: Category
    message: str
    retryable: bool = False
    guidance: str | None = None


_CAUSES: Final[Mapping[Ending, _Cause]] = {
    Ending.CANCELLED: _Cause(Category.CANCELLED, "The task was cancelled."),
    # An operator's word: what somebody has ended by hand does not begin again by itself.
    Ending.TERMINATED: _Cause(
        Category.INFRASTRUCTURE,
        "Somebody terminated the workflow in Temporal.",
        guidance="Retry the task if that was a mistake; to end one, cancel it.",
    ),
    Ending.TIMED_OUT: _Cause(Category.TIMEOUT, "Temporal timed the workflow out.", retryable=True),
    Ending.LOST: _Cause(
        Category.RUNTIME_LOST,
        "Temporal does not know the workflow of this attempt any more.",
        retryable=True,
        guidance="Its history was deleted, or Temporal has lost its state: look at Temporal's storage and retention.",
    ),
    Ending.UNWRITTEN: _Cause(Category.INTERNAL, "The workflow ended, and its end was not written."),
}


@dataclass(frozen=True, slots=True)
class End:
    """The events that end an attempt, and when the next one is due; None when there is none."""

    events: Sequence[NewEvent]
    due_in: timedelta | None = None


def end_of(facts: Facts, ending: Ending, now: datetime, *, lease: timedelta) -> End:
    """Return how the reconciler writes this end.

    The next attempt starts only when the lease of the old one has run out: nobody can say that its agent is dead.
    """
    if facts.cancel_requested_at is not None:
        ending = Ending.CANCELLED
    cause = _CAUSES[ending]
    error = TaskError(
        code=ending,
        category=cause.category,
        message=cause.message,
        step=facts.step,
        retryable=cause.retryable,
        guidance=cause.guidance or GUIDANCE[cause.category],
        context={"attempt": facts.attempt},
    ).model_dump(mode="json")
    pending = {"error": error, "cleanup": "pending"}
    mended = facts.retry.helps_against(cause.category, retryable=cause.retryable)
    if mended and facts.attempt < facts.retry.max_attempts:
        due_in = max(lease, facts.retry.delay_after(facts.attempt))
        after = {"attempt": facts.attempt + 1, "reason": "retry", "not_before": (now + due_in).isoformat()}
        failed = _event(facts, EventType.ATTEMPT_FAILED, now, pending)
        return End([failed, _event(facts, EventType.TASK_QUEUED, now, after, attempt=facts.attempt + 1)], due_in)
    events = []
    if mended and facts.attempt >= facts.retry.max_attempts > 1:
        events.append(_event(facts, EventType.TASK_RETRIES_EXHAUSTED, now, {"attempts": facts.attempt}))
    outcome = TaskStatus.CANCELLED if ending is Ending.CANCELLED else TaskStatus.FAILED
    events.append(_event(facts, EVENT_OF_OUTCOME[outcome], now, {"outcome": outcome, **pending}))
    return End(events)


def _event(
    facts: Facts, kind: EventType, now: datetime, data: dict[str, Any], *, attempt: int | None = None
) -> NewEvent:
    number = facts.attempt if attempt is None else attempt
    return NewEvent(
        key=f"reconciler:{number}:{kind}",
        type=kind,
        ts=now,
        attempt=number,
        source=EventSource.RECONCILER,
        step=facts.step,
        data=data,
    )


# --- what goes over the wire ----------------------------------------------------------------------------------------


class SweepOrder(BaseModel):
    """The argument of a sweep; with `dry_run` it writes nothing, and its report says what it would do."""

    dry_run: bool = False


class NodeWorkspaces(BaseModel):
    """The workspaces that a node has, kept ones too."""

    provider: str = "local"
    workspace_ids: list[WorkspaceId] = Field(default_factory=list)


class ListOrder(BaseModel):
    """Ask a node for its workspaces, at most so many."""

    limit: int = 1000


class Orphans(BaseModel):
    """Workspaces of a node: those that it has, or of them those that no open entry of the ledger knows."""

    node_id: NodeId
    workspaces: list[NodeWorkspaces] = Field(default_factory=list)


class Report(BaseModel):
    """What a sweep saw and did: a count for each action, and the first ids of each."""

    dry_run: bool = False
    open_rows: int = 0
    described: int = 0
    counts: dict[Action, int] = Field(default_factory=dict)
    ids: dict[Action, list[str]] = Field(default_factory=dict)
    errors: list[str] = Field(default_factory=list)
    # The nodes whose workspaces the workflow compares with the ledger after this.
    nodes: list[NodeId] = Field(default_factory=list)
    seconds: float = 0.0

    def note(self, action: Action, *ids: TaskId | str, count: int | None = None) -> None:
        """Count an action, and keep the id while there are few."""
        self.counts[action] = self.counts.get(action, 0) + (len(ids) if count is None else count)
        if ids:
            known = self.ids.setdefault(action, [])
            known += [str(each) for each in ids][: IDS - len(known)]
