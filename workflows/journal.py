"""The journal of an attempt: what happened and is not written yet, and in which order it will be.

Events are collected here and flushed together, no later than the next outward effect, wait or end.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from temporalio import workflow
from temporalio.common import SearchAttributeKey

from domain.events import EventSource, EventType, NewEvent, changes
from domain.lifecycle import Step, StepOutcome, advance
from domain.messages import Flush
from domain.names import SearchAttribute
from domain.runner import RunnerInput, RunnerState
from workflows.versions import Versions

TASK_STATUS: Final = SearchAttributeKey.for_keyword(SearchAttribute.TASK_STATUS)
TASK_STEP: Final = SearchAttributeKey.for_keyword(SearchAttribute.TASK_STEP)


class Journal:
    """Notes events of the current visit; `batch()` hands them to a flush, `written()` forgets them."""

    def __init__(self, argument: RunnerInput, state: RunnerState) -> None:
        self.argument = argument
        self.state = state
        self._pending: list[NewEvent] = []
        self._batched = 0
        self._versions = Versions()
        self._provisional = False

    @property
    def unwritten(self) -> bool:
        """Whether something has happened that is not in the log yet."""
        return bool(self._pending)

    @property
    def visit(self) -> int:
        """The current visit of the current step, counted from 1."""
        return self.state.visits.get(self.state.step, 1)

    def emit(
        self,
        kind: EventType,
        *,
        mark: str = "",
        source: EventSource = EventSource.WORKFLOW,
        attempt: int | None = None,
        step: Step | None = None,
        **data: Any,
    ) -> None:
        """Note an event; the next flush writes it. `mark` tells apart events of one type in one visit.

        `step` is the one that it is about, where that is not the current one.
        """
        number = self.argument.attempt if attempt is None else attempt
        event = NewEvent(
            key=self._key(kind, mark=mark, attempt=number),
            type=kind,
            ts=workflow.now(),
            attempt=number,
            source=source,
            step=step or self.state.step,
            data={name: value for name, value in data.items() if value is not None},
        )
        self._pending.append(event)

    def _key(self, kind: EventType, *, mark: str = "", attempt: int | None = None) -> str:
        """Return what makes an event one and the same in a redo: `{attempt}:{type}:{step}:{visit}`."""
        parts = (attempt or self.argument.attempt, kind, self.state.step, self.visit, mark)
        return ":".join(str(part) for part in parts if part != "")

    def trace(self, fn: str, data: dict[str, Any]) -> None:
        """Note a `debug.trace` event."""
        self.state.trace += 1
        self.emit(EventType.DEBUG_TRACE, mark=str(self.state.trace), fn=fn, data=data)

    def enter(self, step: Step) -> None:
        """Begin a visit of a step, or go on with the one that an earlier run of this attempt has begun."""
        state = self.state
        if state.visiting and state.step is step:
            return
        state.step, state.visiting, state.visit_since, state.warned = step, True, workflow.now(), False
        state.visits[step] = state.visits.get(step, 0) + 1
        self.emit(EventType.STEP_STARTED, visit=self.visit)

    def leave(self, outcome: StepOutcome, **data: Any) -> None:
        """End the current visit; ending it twice changes nothing."""
        if not self.state.visiting:
            return
        self.state.visiting = False
        if outcome is StepOutcome.SKIPPED:
            begun = self._key(EventType.STEP_STARTED)
            self._pending = [event for event in self._pending if event.key != begun]
            self.emit(EventType.STEP_SKIPPED, **data)
        elif outcome is StepOutcome.FAILED:
            self.emit(EventType.STEP_FAILED, **data)
        else:
            self.emit(EventType.STEP_FINISHED, outcome=outcome, **data)

    def into_next(self) -> None:
        """End this step and begin the next, in the flush that does this step's own work."""
        following = advance(self.state.step, StepOutcome.DONE)
        self.leave(StepOutcome.DONE)
        if following is not None:
            self.enter(following)

    @contextmanager
    def provisionally(self) -> Iterator[None]:
        """Take back all that was noted in this block, unless a flush has written it."""
        state = self.state
        pending, before = list(self._pending), (state.visiting, dict(state.visits), state.step, state.visit_since)
        self._provisional = True
        try:
            yield
        finally:
            if self._provisional:
                self._pending = pending
                state.visiting, state.visits, state.step, state.visit_since = before
                self._provisional = False

    def skip(self, reason: str) -> StepOutcome:
        """End a step that has nothing to do."""
        self.leave(StepOutcome.SKIPPED, reason=reason)
        return StepOutcome.SKIPPED

    def batch(self) -> Flush:
        """Return the unwritten events as a flush; they stay unwritten until an answer was obeyed."""
        self._batched = len(self._pending)
        self.state.looking = False  # its answer says what there is; what comes later is another look's
        return Flush(
            task_id=self.argument.task_id,
            attempt=self.argument.attempt,
            version=self._versions.next(self.state.flush_base),
            events=list(self._pending),
        )

    def written(self) -> None:
        """Note that the last batch is in the log; a changed status is shown to operators."""
        status = self.state.status
        for event in self._pending[: self._batched]:
            status = changes(event).get("status", status)
        self._pending = self._pending[self._batched :]
        self._batched = 0
        self._provisional = False
        if status is not self.state.status:
            self.state.status = status
            step = self.state.step
            workflow.upsert_search_attributes([TASK_STATUS.value_set(status), TASK_STEP.value_set(step)])
