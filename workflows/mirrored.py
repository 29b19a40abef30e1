"""What passes between an attempt and the rest: what it writes, what it is answered, and what it is told."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, FailureError
from temporalio.exceptions import TimeoutError as ActivityTimeout

from domain.errors import GUIDANCE, Category, TaskError
from domain.events import EventSource, EventType
from domain.lifecycle import Step
from domain.messages import Answer, CallbackSignal, Verdict
from domain.names import CallbackKind
from domain.policy import Policy
from domain.spec import TaskSpec
from workflows.journal import Journal
from workflows.policies import MIRROR_RETRY, MIRROR_TRY
from workflows.ports import MirrorActivities

Reply = TypeVar("Reply", bound=BaseModel)
Request = TypeVar("Request", bound=BaseModel)


class StepFailed(Exception):  # noqa: N818 - a fact about the step
    """The step cannot go on; the attempt ends with this error."""

    def __init__(self, error: TaskError) -> None:
        super().__init__(error.message)
        self.error = error


class CancelIntent(Exception):  # noqa: N818 - a fact
    """The mirror says that somebody wants this task cancelled."""


class Fenced(Exception):  # noqa: N818 - a fact
    """The mirror says that this attempt may not write any more."""


class Mirrored(Journal):
    """A journal that is written to the mirror, obeys its answers, and takes what arrives."""

    @property
    def spec(self) -> TaskSpec:
        """The task's body."""
        return self.argument.spec

    @property
    def policy(self) -> Policy:
        """The numbers that this attempt was started with."""
        return self.argument.policy

    def error(
        self,
        code: str,
        category: Category,
        message: str,
        *,
        retryable: bool = False,
        context: Mapping[str, Any] | None = None,
    ) -> TaskError:
        """Return an error of the current step, with guidance and context."""
        return TaskError(
            code=code,
            category=category,
            message=message,
            step=self.state.step,
            retryable=retryable,
            guidance=GUIDANCE[category],
            context=self._context(context or {}),
        )

    def _context(self, more: Mapping[str, Any]) -> dict[str, Any]:
        known = {
            "attempt": self.argument.attempt,
            "node_id": self.state.node_id,
            "workspace_id": self.state.workspace_id,
        }
        return {name: value for name, value in (known | dict(more)).items() if value is not None}

    # --- the mirror ---------------------------------------------------------------------------------------------

    async def flush(self) -> Answer:
        """Write what is unwritten, and obey the answer."""
        return self.obey(await self.mirror(MirrorActivities.flush, self.batch()))

    async def mirror(self, method: Callable[[Any, Request], Awaitable[Reply]], request: Request) -> Reply:
        """Call an activity of the mirror or of placement, for as long as the database is away.

        It has no summary: the UI shows none for a local activity, and each costs a payload on the hot path.

        Raises StepFailed when the adapter says that trying again is useless.
        """
        try:
            reply: Reply = await workflow.execute_local_activity_method(
                method, request, start_to_close_timeout=MIRROR_TRY, retry_policy=MIRROR_RETRY
            )
        except FailureError as failure:
            raise self.failed(failure) from failure
        return reply

    def obey(self, answer: Answer) -> Answer:
        """Take over what the mirror says. Raises Fenced or CancelIntent, but not during `cleanup`."""
        if answer.live:
            self.written()
        if answer.verdict is Verdict.SUPERSEDED:
            self.state.superseded = True
        if answer.verdict is Verdict.ENDED:
            self.state.outcome, self.state.result, self.state.error = answer.status, answer.result, answer.error
        if (
            self.state.step is Step.CLEANUP
        ):  # the way out is taken already, and what is held is this attempt's to release
            return answer
        if not answer.live:
            raise Fenced(answer.verdict)
        self.state.pause, self.state.pause_reason = answer.pause, answer.pause_reason
        self.state.breakpoints = answer.breakpoints
        for signal in answer.inbox:
            self.receive(signal)
        if answer.cancel:
            raise CancelIntent
        return answer

    def check_cancelled(self) -> None:
        """Raise CancelIntent if a cancel came while an effect was under way."""
        if workflow.cancellation_reason() is not None and self.state.step is not Step.CLEANUP:
            raise CancelIntent

    # --- what arrives -------------------------------------------------------------------------------------------

    def receive(self, signal: CallbackSignal) -> None:
        """Take a callback, from a signal or from the inbox: first of its kind and turn wins, others change nothing."""
        state = self.state
        if signal.workspace_id is not None and signal.workspace_id != (state.workspace_id or signal.workspace_id):
            return
        match signal.kind:
            case CallbackKind.CLAIMED:
                state.claimed = True
            case CallbackKind.READY:
                state.claimed = True
                state.ready = state.ready or signal
            case CallbackKind.FAILED:
                state.failed = state.failed or signal
            case CallbackKind.FINISHED:
                state.claimed = True
                state.ready = state.ready or CallbackSignal(kind=CallbackKind.READY, details={"implied_by": "finished"})
                if signal.turn >= state.turn:  # a turn that is over says nothing new
                    state.finished.setdefault(signal.turn, signal)
            case None:
                pass

    def check_failed(self) -> None:
        """Raise StepFailed if the workspace has said that it failed."""
        if self.state.failed is None:
            return
        told = self.state.failed.error or self.error(
            "workspace_failed", Category.WORKSPACE, "The workspace said that it failed.", retryable=True
        )
        self.emit(EventType.WORKSPACE_FAILED, source=EventSource.WORKSPACE, code=told.code, message=told.message)
        raise self.told(told)

    def show(self, details: str) -> None:
        """Say in the Temporal UI what the attempt waits for; the summary of its start is gone in a later run."""
        title = f"{self.argument.name} · attempt {self.argument.attempt}\n\n" if self.state.flush_base else ""
        workflow.set_current_details(title + details)

    def told(self, error: TaskError, **context: Any) -> StepFailed:
        """Return the failure that an adapter or a workspace has classified, in this step's words."""
        told = {
            "step": self.state.step,
            "guidance": error.guidance or GUIDANCE[error.category],
            "context": self._context(error.context | context),
        }
        return StepFailed(error.model_copy(update=told))

    def failed(self, failure: FailureError) -> StepFailed:
        """Classify a failed activity: what the adapter said wins; silence of the node is a lost runtime.

        A local activity's failure arrives bare, a node's within an ActivityError. Raises it again if it is a cancel.
        """
        cause = failure.cause if isinstance(failure, ActivityError) else failure
        if isinstance(cause, CancelledError):
            raise failure
        error = _told(cause)
        if error is not None:
            return self.told(error)
        if isinstance(cause, ActivityTimeout):
            message = f"Node {self.state.node_id} did not answer in time."
            return StepFailed(self.error("node_unreachable", Category.RUNTIME_LOST, message, retryable=True))
        text = str(cause or failure)
        return StepFailed(self.error("unexpected", Category.INTERNAL, text, retryable=True))


def _told(cause: BaseException | None) -> TaskError | None:
    """Return the error that an adapter has put into its failure, if it is one that this version can read."""
    if isinstance(cause, ApplicationError) and cause.details:
        with suppress(ValidationError):
            return TaskError.model_validate(cause.details[0])
    return None
