"""What the reconciler makes of a run whose row is open. Pure: the sweep looks, this decides."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from domain.errors import GUIDANCE, Category, TaskError
from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import MemberStatus, RunStatus
from domain.reconcile import Action, Decision, Ending, Seen, Sight
from domain.run_events import EVENT_OF_RUN_OUTCOME

_LEAVE: Final = Decision(Action.LEFT_ALONE)
# An orchestrator begins anew from the rows of its run, so one that was lost is started again. One that somebody has
# terminated is not: what was ended by hand does not begin again by itself.
_DECISIONS: Final[Mapping[Seen, Decision]] = {
    Seen.RUNNING: _LEAVE,
    Seen.PAUSED: Decision(Action.FLAGGED_PAUSED),
    Seen.NOT_FOUND: Decision(Action.STARTED_AGAIN),
    Seen.TIMED_OUT: Decision(Action.STARTED_AGAIN),
    Seen.TERMINATED: Decision(Action.ENDED, Ending.TERMINATED),
    Seen.CANCELLED: Decision(Action.ENDED, Ending.CANCELLED),
    Seen.COMPLETED: Decision(Action.ENDED, Ending.UNWRITTEN),
    Seen.FAILED: Decision(Action.ENDED, Ending.UNWRITTEN),
    Seen.UNREACHABLE: Decision(Action.UNREACHABLE),
}
_MESSAGES: Final[Mapping[Ending, tuple[Category, str]]] = {
    Ending.TERMINATED: (Category.INFRASTRUCTURE, "Somebody terminated the run's workflow in Temporal."),
    Ending.CANCELLED: (Category.CANCELLED, "The run was cancelled."),
    Ending.UNWRITTEN: (Category.INTERNAL, "The run's workflow ended, and its end was not written."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """An open run as it was observed; `to_be_started` while its start intent is in the outbox."""

    run_id: str
    attempt: int
    version: int
    to_be_started: bool = False
    cancel_wanted: bool = False


def decide(run: OpenRun, sight: Sight) -> Decision:
    """Return what to do about an open run whose workflow was looked at after the row was read."""
    if run.to_be_started:
        return _LEAVE
    if sight.seen is Seen.RUNNING and sight.problems is not None:
        return Decision(Action.FLAGGED_PROBLEMS)
    return _DECISIONS[sight.seen]


def end_of(run: OpenRun, ending: Ending, left: Iterable[str], now: datetime) -> Sequence[NewEvent]:
    """Return the events that end a run, with all members that are `left`; their tasks are to be cancelled."""
    if run.cancel_wanted:
        ending = Ending.CANCELLED
    category, message = _MESSAGES[ending]
    guidance = "Retry the run if that was a mistake: what has completed stays."
    if ending is Ending.UNWRITTEN:
        guidance = GUIDANCE[category]
    error = TaskError(
        code=ending, category=category, message=message, guidance=guidance, context={"attempt": run.attempt}
    )
    outcome = RunStatus.CANCELLED if ending is Ending.CANCELLED else RunStatus.FAILED
    members = [
        _event(run, EventType.RUN_MEMBER_FINISHED, now, {"member": name, "outcome": MemberStatus.CANCELLED}, mark=name)
        for name in left
    ]
    data = {"error": error.model_dump(mode="json"), "outcome": outcome}
    return [*members, _event(run, EVENT_OF_RUN_OUTCOME[outcome], now, data)]


def _event(run: OpenRun, kind: EventType, now: datetime, data: dict[str, Any], *, mark: str = "") -> NewEvent:
    return NewEvent(
        key=f"reconciler:{run.attempt}:{kind}:{mark}",
        type=kind,
        ts=now,
        attempt=run.attempt,
        source=EventSource.RECONCILER,
        data=data,
    )
