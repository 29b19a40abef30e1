"""Legal histories, walked along the tables, with the row that they must add up to."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hypothesis import strategies as st

from domain.events import STATUS_OF_EVENT, Event, EventSource, EventType, NewEvent
from domain.lifecycle import FIRST_STEP, NEXT_STEP, TASK_TRANSITIONS, Step, StepOutcome, TaskStatus, advance
from domain.names import TaskId

TASK: Final = TaskId("0197f000-0000-7000-8000-000000000000")
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
EVENT_OF_STATUS: Final = {status: event for event, status in STATUS_OF_EVENT.items()}
NEUTRAL: Final = (EventType.DEBUG_TRACE, EventType.TASK_CAP_WARNING, EventType.CALLBACK_DUPLICATE)
OUTCOMES: Final = {step: [outcome for of, outcome in NEXT_STEP if of is step] for step in Step}

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@dataclass
class History:
    """The events of a task from its creation on, and what its row must be after them."""

    events: list[NewEvent] = field(default_factory=list)
    status: TaskStatus = TaskStatus.READY
    attempt: int = 1
    step: Step | None = None
    visits: int = 0

    def add(self, kind: EventType, *, step: Step | None = None, **data: Any) -> NewEvent:
        """Append an event; its key and its time come from its place."""
        number = len(self.events)
        event = NewEvent(
            key=f"{kind}:{number}",
            type=kind,
            ts=EPOCH + timedelta(seconds=number),
            attempt=self.attempt,
            source=EventSource.WORKFLOW,
            step=step,
            data=data,
        )
        self.events.append(event)
        return event

    def log(self) -> list[Event]:
        """The events with their numbers."""
        return numbered(self.events)


def numbered(events: list[NewEvent]) -> list[Event]:
    """Number events from 1, as the mirror does."""
    return [
        Event(task_id=TASK, run_id=None, seq=seq, **event.model_dump(exclude={"key"}))
        for seq, event in enumerate(events, start=1)
    ]


@st.composite
def histories(draw: st.DrawFn, *, queued: bool = False, by_hand: bool = True, moves: int = 25) -> History:
    """Walk the tables: each move is a status, a step or an event that changes nothing.

    With `queued` the walk begins where the workflow does; without `by_hand` it ends where the attempt does.
    """
    history = History()
    history.add(EventType.TASK_CREATED)
    if queued:
        _move_to(draw, history, TaskStatus.QUEUED)
    for _ in range(draw(st.integers(1, moves))):
        if not by_hand and (history.status.terminal or history.attempt > 1):
            break
        if history.status in (TaskStatus.READY, TaskStatus.COMPLETED) or history.status.terminal:
            kind = "status" if TASK_TRANSITIONS[history.status] else "neutral"
        else:
            kind = draw(st.sampled_from(["step", "step", "step", "status", "neutral"]))
        if kind == "status":
            _move_to(draw, history, draw(st.sampled_from(sorted(TASK_TRANSITIONS[history.status]))))
        elif kind == "step":
            _step(draw, history)
        else:
            history.add(draw(st.sampled_from(NEUTRAL)), step=history.step, note=draw(values))
    return history


def _move_to(draw: st.DrawFn, history: History, status: TaskStatus) -> None:
    if status is TaskStatus.QUEUED and history.status is not TaskStatus.READY:
        if not history.status.terminal:
            history.add(EventType.ATTEMPT_FAILED, step=history.step, error={"code": draw(text)})
        history.attempt += 1
    data: dict[str, Any] = {}
    if status is TaskStatus.DELEGATED:
        data = {"workspace_id": draw(text), "node_id": draw(st.none() | text)}
    elif status is TaskStatus.COMPLETED:
        data = {"result": draw(values)}
    elif status.terminal:
        data = {"error": draw(st.none() | st.fixed_dictionaries({"code": text}))}
    history.add(EVENT_OF_STATUS[status], step=history.step, **data)
    history.status = status
    if status is TaskStatus.QUEUED or status.terminal:
        history.step = None


def _step(draw: st.DrawFn, history: History) -> None:
    """Begin the first step, or end the current one and begin the next; a visit that is skipped never began."""
    if history.step is None:
        history.step = FIRST_STEP
    else:
        outcome = draw(st.sampled_from(OUTCOMES[history.step]))
        kind = EventType.STEP_FAILED if outcome is StepOutcome.FAILED else EventType.STEP_FINISHED
        history.add(kind, step=history.step, outcome=outcome)
        following = advance(history.step, outcome)
        if following is None:
            return
        history.step = following
    history.visits += 1
    history.add(EventType.STEP_STARTED, step=history.step, visit=history.visits)
