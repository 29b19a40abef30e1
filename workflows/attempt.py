"""One attempt from the inside: its state, its unwritten events, and the few ways in which a step may act."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from temporalio import workflow
from temporalio.common import Priority
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError, FailureError
from temporalio.exceptions import TimeoutError as ActivityTimeout

from domain.errors import GUIDANCE, Category, TaskError
from domain.events import EventSource, EventType
from domain.lifecycle import Step
from domain.messages import (
    Answer,
    CallbackSignal,
    RunnerInput,
    RunnerState,
    Verdict,
    WorkspaceOrder,
)
from domain.names import CallbackKind, NodeId, WorkspaceId, node_queue
from domain.policy import Policy
from domain.spec import Provider, TaskSpec
from workflows.journal import LAST_BASE, Journal
from workflows.policies import AT_ONCE, MIRROR_RETRY, MIRROR_TRY, NODE_HEARTBEAT, NODE_RETRY, NODE_TRY
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


class Attempt(Journal):
    """What a step's handler gets: read `spec`, `state` and `budgets`; act through the methods."""

    def __init__(self, argument: RunnerInput, state: RunnerState) -> None:
        super().__init__(argument, state)
        self.budgets = argument.policy.budgets.overridden(argument.spec.timeouts)
        self.supervision: workflow.ActivityHandle[Any] | None = None
        self._supervisions: list[workflow.ActivityHandle[Any]] = []
        self.concluding = False
        if argument.resume is not None:
            # From the first moment: whatever happens, it is this attempt's to release.
            state.workspace_id = argument.resume.workspace_id

    @property
    def spec(self) -> TaskSpec:
        """The task's body."""
        return self.argument.spec

    @property
    def policy(self) -> Policy:
        """The numbers that this attempt was started with."""
        return self.argument.policy

    @property
    def external(self) -> bool:
        """Whether the workspace belongs to somebody else, who only calls back."""
        return self.spec.provider is Provider.EXTERNAL

    @property
    def node(self) -> NodeId:
        """The node of this attempt's workspace."""
        if self.argument.resume is not None:
            return self.argument.resume.node_id
        if self.state.node_id is None:
            raise StepFailed(self.error("no_node", Category.INTERNAL, "No node was chosen before it was needed."))
        return self.state.node_id

    @property
    def workspace(self) -> WorkspaceId:
        """The workspace of this attempt."""
        if self.state.workspace_id is None:
            raise StepFailed(self.error("no_workspace", Category.INTERNAL, "No workspace was reserved."))
        return self.state.workspace_id

    def order(self) -> WorkspaceOrder:
        """Return what a node needs to know of the workspace."""
        return WorkspaceOrder(
            task_id=self.argument.task_id,
            attempt=self.argument.attempt,
            workspace_id=self.workspace,
            name=self.argument.name,
            spec=self.spec,
            callback_url=self.policy.callback_url,
            lease_seconds=self.policy.supervision.lease.total_seconds(),
            log_limit=self.policy.limits.log_per_attempt,
            result_limit=self.policy.limits.result,
        )

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

    async def wait(self, until: Callable[[], bool], *, within: timedelta) -> bool:
        """Wait for a fact, pushed by a signal; one timer, no polling. Returns False when the time is up.

        A wait that is interrupted to continue as new goes on in the next run with the time that is left.

        Raises StepFailed when the workspace failed meanwhile.
        """
        state = self.state
        deadline = state.deadline = state.deadline or workflow.now() + within
        self.show(f"**{state.step}**: waits until {deadline:%Y-%m-%d %H:%M:%S}Z")

        def told() -> bool:
            return until() or state.failed is not None

        try:
            await workflow.wait_condition(
                lambda: told() or self.outgrown,
                timeout=max(deadline - workflow.now(), AT_ONCE),
                timeout_summary=f"{state.step} deadline",
            )
            if not told():
                await self.renew(state.step)
        except TimeoutError:
            if not told():
                return False
        finally:
            state.deadline = None
        self.check_failed()
        return True

    def show(self, details: str) -> None:
        """Say in the Temporal UI what the attempt waits for; the summary of its start is gone in a later run."""
        title = f"{self.argument.name} · attempt {self.argument.attempt}\n\n" if self.state.flush_base else ""
        workflow.set_current_details(title + details)

    # --- a long life --------------------------------------------------------------------------------------------

    def supervised_by(self, supervision: workflow.ActivityHandle[Any]) -> None:
        """Note who looks after the process of this turn; an earlier turn's may still be about to notice its end."""
        self._supervisions = [open_ for open_ in self._supervisions if not open_.done()] + [supervision]
        self.supervision = supervision

    @property
    def outgrown(self) -> bool:
        """Whether the history has become long, and no activity is open, so that the attempt may continue as new."""
        info = workflow.info()
        long = info.get_current_history_length() >= self.policy.limits.history_events
        return (
            (long or info.is_continue_as_new_suggested())
            and self.state.flush_base < LAST_BASE
            and all(supervision.done() for supervision in self._supervisions)
        )

    async def renew(self, step: Step) -> NoReturn:
        """Continue as new: all that happened is written, and the next run goes on at `step` with all that is known.

        What arrives meanwhile fails this workflow task at the server, and is seen by the task that is done instead.

        Raises what a flush raises.
        """
        while self.unwritten or not workflow.all_handlers_finished():
            if self.unwritten:
                await self.flush()
            await workflow.wait_condition(workflow.all_handlers_finished)
        self.check_cancelled()
        state = self.state.model_copy(deep=True)
        state.step = step
        state.flush_base += 1
        state.finished = {turn: told for turn, told in state.finished.items() if turn >= state.turn}
        workflow.continue_as_new(self.argument.model_copy(update={"state": state}))

    def overdue(self, what: str, within: timedelta, *, category: Category = Category.TIMEOUT) -> StepFailed:
        """Return the failure of a wait whose deadline has passed."""
        seconds = f"{within.total_seconds():g}"
        return StepFailed(
            self.error(
                f"{self.state.step}_timeout",
                category,
                f"{what} within {seconds} s.",
                retryable=True,
                context={"budget_seconds": within.total_seconds()},
            )
        )

    # --- effects on a node --------------------------------------------------------------------------------------

    async def on_node(
        self,
        method: Callable[[Any, Request], Awaitable[Reply]],
        request: Request,
        *,
        summary: str,
        within: timedelta,
    ) -> Reply:
        """Have an effect on the attempt's node, tried again on a transient error; each new try is an event.

        `within` bounds all tries together. The activity finds what an earlier try has done: its key is the
        workspace, not the try.
        """
        retry, delay = self.policy.step_retry, self.policy.step_retry.first_delay
        deadline = workflow.now() + within
        for number in range(1, retry.tries + 1):
            left = max(deadline - workflow.now(), timedelta(seconds=1))
            try:
                reply: Reply = await workflow.execute_activity_method(
                    method,
                    request,
                    task_queue=node_queue(self.node),
                    schedule_to_close_timeout=left,
                    start_to_close_timeout=min(NODE_TRY, left),
                    heartbeat_timeout=NODE_HEARTBEAT,
                    retry_policy=NODE_RETRY,
                    # A cancel does not wait for the effect: what is made beside or after its destruction is refused
                    # by the provider, or taken back.
                    cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
                    summary=summary,
                    priority=Priority(priority_key=self.spec.priority),
                )
            except ActivityError as failure:
                self.check_cancelled()
                failed = self.failed(failure)
                failed.error.context["try"] = number
                if not failed.error.retryable or number == retry.tries or workflow.now() + delay >= deadline:
                    raise failed from failure
                self.emit(
                    EventType.STEP_RETRYING,
                    mark=str(number),
                    error=failed.error.model_dump(mode="json"),
                    next_try_in_seconds=delay.total_seconds(),
                )
                await self.flush()
                await workflow.sleep(delay, summary=f"try {number + 1} of {retry.tries}")
                delay = min(delay * 2, retry.longest_delay)
            else:
                self.check_cancelled()
                return reply
        raise AssertionError("unreachable: the last try returns or raises")

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
