"""The journal of a run: what happened and is not written yet, how it is written, and what the mirror answers."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from pydantic import BaseModel
from temporalio import workflow
from temporalio.common import SearchAttributeKey

from domain.events import EventType, NewEvent
from domain.messages import Verdict
from domain.names import SearchAttribute
from domain.run import RunAnswer, RunFlush, RunInput, RunState
from domain.run_events import changes
from workflows.policies import MIRROR_RETRY, MIRROR_TRY
from workflows.ports import RunActivities
from workflows.versions import Versions

STATUS: Final = SearchAttributeKey.for_keyword(SearchAttribute.TASK_STATUS)

Reply = TypeVar("Reply", bound=BaseModel)
Request = TypeVar("Request", bound=BaseModel)


class RunFenced(Exception):  # noqa: N818 - a fact
    """The mirror says that this attempt of the run may not write any more."""


class RunJournal:
    """Notes events of a run; they are flushed together, no later than the next effect or wait."""

    def __init__(self, argument: RunInput) -> None:
        self.argument = argument
        self.state: RunState = argument.state
        self.pending: list[NewEvent] = []
        self._batched = 0
        self._versions = Versions()

    def emit(self, kind: EventType, mark: str = "", **data: Any) -> None:
        """Note an event; `mark` tells apart events of one type."""
        attempt = self.argument.attempt
        event = NewEvent(
            key=":".join(part for part in (str(attempt), kind, mark) if part),
            type=kind,
            ts=workflow.now(),
            attempt=attempt,
            data={name: value for name, value in data.items() if value is not None},
        )
        self.pending.append(event)

    def batch(self) -> RunFlush:
        """Return the unwritten events as a flush; they stay unwritten until its answer was obeyed."""
        self._batched = len(self.pending)
        self.state.looking = False
        return RunFlush(
            run_id=self.argument.run_id,
            attempt=self.argument.attempt,
            version=self._versions.next(self.state.flush_base),
            events=list(self.pending),
            seen=self.state.commands_seen,
        )

    async def ask(self, method: Callable[[Any, Request], Awaitable[Reply]], request: Request) -> Reply:
        """Call an activity of the mirror, for as long as the database is away."""
        reply: Reply = await workflow.execute_local_activity_method(
            method, request, start_to_close_timeout=MIRROR_TRY, retry_policy=MIRROR_RETRY
        )
        return reply

    async def flush(self) -> RunAnswer:
        """Write what is unwritten; returns the answer, which is obeyed as far as it is the journal's matter."""
        return self.obey(await self.ask(RunActivities.flush_run, self.batch()))

    def obey(self, answer: RunAnswer) -> RunAnswer:
        """Take over what the row asks for. Raises RunFenced when this attempt is over."""
        state = self.state
        if not answer.live:
            if answer.verdict is Verdict.ENDED:
                state.status = answer.status
            raise RunFenced(answer.verdict)
        self._written()
        state.pause, state.pause_reason, state.breakpoints = answer.pause, answer.pause_reason, answer.breakpoints
        state.cancel_wanted = state.cancel_wanted or answer.cancel
        return answer

    def _written(self) -> None:
        status = self.state.status
        for event in self.pending[: self._batched]:
            status = changes(event).get("status", status)
        self.pending = self.pending[self._batched :]
        self._batched = 0
        if status is not self.state.status:
            self.state.status = status
            workflow.upsert_search_attributes([STATUS.value_set(status)])
