"""The TaskRunner: one attempt of one task, as its own durable state machine."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from domain.errors import Category
    from domain.events import EventType
    from domain.lifecycle import Step, StepOutcome, TaskStatus, advance
    from domain.messages import CallbackSignal, Followup, Look, NodeLost, NodeReady, PauseAnswer, Side, SlotGranted
    from domain.names import TASK_RUNNER, CallbackKind, SignalName, UpdateName
    from domain.runner import RunnerInput, RunnerResult, RunnerState
    from domain.spec import FOLLOWUP_BYTES
    from workflows.attempt import Attempt
    from workflows.conclusion import cancelled, conclude, will_retry
    from workflows.mirrored import CancelIntent, Fenced, StepFailed
    from workflows.policies import REPEATS
    from workflows.steps.agent_session import agent_session
    from workflows.steps.attachment_transfer import attachment_transfer
    from workflows.steps.awaiting_followup import awaiting_followup
    from workflows.steps.cleanup import cleanup
    from workflows.steps.node_agent_ready import node_agent_ready
    from workflows.steps.node_provisioning import node_provisioning
    from workflows.steps.node_selection import node_selection
    from workflows.steps.running import running
    from workflows.steps.waiting_for_node_capacity import waiting_for_node_capacity
    from workflows.steps.workspace_creation import workspace_creation
    from workflows.steps.workspace_dispatch import workspace_dispatch
    from workflows.steps.workspace_ready import workspace_ready

Handler = Callable[[Attempt], Awaitable[StepOutcome]]

HANDLERS: Final[Mapping[Step, Handler]] = {
    Step.NODE_SELECTION: node_selection,
    Step.WAITING_FOR_NODE_CAPACITY: waiting_for_node_capacity,
    Step.NODE_PROVISIONING: node_provisioning,
    Step.NODE_AGENT_READY: node_agent_ready,
    Step.WORKSPACE_CREATION: workspace_creation,
    Step.WORKSPACE_DISPATCH: workspace_dispatch,
    Step.WORKSPACE_READY: workspace_ready,
    Step.ATTACHMENT_TRANSFER: attachment_transfer,
    Step.AGENT_SESSION: agent_session,
    Step.RUNNING: running,
    Step.AWAITING_FOLLOWUP: awaiting_followup,
    Step.CLEANUP: cleanup,
}

# The type of the failure with which an attempt ends that may not write any more.
SUPERSEDED: Final = "superseded"


@workflow.defn(name=TASK_RUNNER)
class TaskRunner:
    """Walks the table of steps, obeys the mirror, and releases what it held on every way out."""

    @workflow.init
    def __init__(self, argument: RunnerInput) -> None:
        self.state = argument.state or RunnerState(
            pause=argument.pause, pause_reason=argument.pause_reason, breakpoints=argument.breakpoints
        )
        # Whether this run begins within a visit that an earlier run has begun.
        self._goes_on = self.state.visiting
        self.attempt = Attempt(argument, self.state)

    @workflow.run
    async def run(self, argument: RunnerInput) -> RunnerResult:  # noqa: ARG002 - `__init__` has it
        """Return a completed attempt's result.

        Raises ApplicationError, typed by its category, for a failed one, CancelledError for a cancelled one, and
        ContinueAsNewError for one whose history has become long: the next run of the same id goes on.
        """
        if self.state.began_at is None:
            self.state.began_at = workflow.info().workflow_start_time
            self.attempt.emit(EventType.ATTEMPT_STARTED, workflow_id=workflow.info().workflow_id)
        step: Step | None = self.state.step
        while step is not None and step is not Step.CLEANUP:
            step = await self._dispatch(step)
        await self._shielded(self._end())
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._result()

    async def _dispatch(self, step: Step) -> Step | None:
        """Visit a step; whatever happens in it is one of the table's outcomes."""
        try:
            if self.attempt.outgrown:
                await self.attempt.renew(step)
            outcome = await self._visit(step)
        except StepFailed as failure:
            outcome = self._failed(failure)
        except Fenced:
            outcome = StepOutcome.CANCELLED
        except CancelIntent:
            outcome = self._cancelled()
        except BaseException as failure:
            # From the Temporal UI's button, or ours: both reach the workflow as asyncio's own cancellation.
            if is_cancelled_exception(failure):
                outcome = self._cancelled()
            elif isinstance(failure, FailureError):
                outcome = self._failed(self.attempt.failed(failure))
            else:
                raise
        return advance(step, outcome)

    async def _visit(self, step: Step) -> StepOutcome:
        """Visit a step, held before and after it where somebody asks for that."""
        hold, goes_on = self.state.hold, self._goes_on
        self._goes_on = False
        if hold is not None and hold.outcome is not None:
            outcome = hold.outcome  # an earlier run was held after this step
        else:
            if not goes_on or (hold is not None and hold.at is Side.BEFORE):
                await self.attempt.boundary(Side.BEFORE, step)
            self.attempt.enter(step)
            outcome = await HANDLERS[step](self.attempt)
            if self.state.step is step:  # a step may have gone into the next one within its own flush
                self.attempt.leave(outcome)
        await self.attempt.boundary(Side.AFTER, step, outcome)
        return outcome

    def _failed(self, failure: StepFailed) -> StepOutcome:
        # A step that had gone ahead into the next one, provisionally, is back in its own.
        error = failure.error.model_copy(update={"step": self.state.step})
        self.state.outcome, self.state.error = TaskStatus.FAILED, error
        self.attempt.leave(StepOutcome.FAILED, error=error.model_dump(mode="json"))
        return StepOutcome.FAILED

    def _cancelled(self) -> StepOutcome:
        self.state.outcome, self.state.error = TaskStatus.CANCELLED, cancelled(self.attempt)
        self.attempt.leave(StepOutcome.CANCELLED)
        return StepOutcome.CANCELLED

    async def _end(self) -> None:
        """Clean up, then write the last flush: every way out leads through here."""
        if self.state.outcome is None and not self.state.superseded:
            self.state.outcome = TaskStatus.COMPLETED
        self.attempt.attentive = False
        self.attempt.enter(Step.CLEANUP)
        self.attempt.leave(await cleanup(self.attempt))
        await conclude(self.attempt)

    async def _shielded(self, end: Awaitable[None]) -> None:
        """Finish the end whatever arrives. A cancel before the last flush still prevents another attempt, no more."""
        task = asyncio.ensure_future(end)
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                if will_retry(self.attempt) and not self.attempt.concluding:
                    self.state.outcome, self.state.error = TaskStatus.CANCELLED, cancelled(self.attempt)
        task.result()

    def _result(self) -> RunnerResult:
        state = self.state
        self.attempt.show(f"**{state.outcome or 'superseded'}**")
        if state.superseded:
            # Whatever a redo has come to since: the mirror has this attempt as failed.
            raise ApplicationError("A later attempt has taken over.", type=SUPERSEDED, non_retryable=True)
        if state.outcome is TaskStatus.COMPLETED:
            return RunnerResult(status=state.outcome, result=state.result)
        if state.outcome is TaskStatus.CANCELLED and workflow.cancellation_reason() is not None:
            raise asyncio.CancelledError
        category = state.error.category if state.error else Category.CANCELLED
        message = state.error.message if state.error else "The task was ended from outside."
        details = [state.error.model_dump(mode="json")] if state.error else []
        raise ApplicationError(message, *details, type=str(category), non_retryable=True)

    # --- facts, as signals --------------------------------------------------------------------------------------

    @workflow.signal(name=SignalName.WORKSPACE_CLAIMED)
    def workspace_claimed(self, signal: CallbackSignal | None = None) -> None:
        """Somebody fetched the callback token of an external workspace."""
        self._receive(CallbackKind.CLAIMED, signal)

    @workflow.signal(name=SignalName.WORKSPACE_READY)
    def workspace_ready(self, signal: CallbackSignal | None = None) -> None:
        """The workspace is ready."""
        self._receive(CallbackKind.READY, signal)

    @workflow.signal(name=SignalName.WORKSPACE_FAILED)
    def workspace_failed(self, signal: CallbackSignal | None = None) -> None:
        """The workspace cannot go on."""
        self._receive(CallbackKind.FAILED, signal)

    @workflow.signal(name=SignalName.WORKSPACE_FINISHED)
    def workspace_finished(self, signal: CallbackSignal | None = None) -> None:
        """The command or agent of a turn ended."""
        self._receive(CallbackKind.FINISHED, signal)

    def _receive(self, kind: CallbackKind, signal: CallbackSignal | None) -> None:
        """Take a callback; `temporal workflow signal` without `--input` sends no argument at all."""
        self.attempt.receive((signal or CallbackSignal()).model_copy(update={"kind": kind}))

    @workflow.signal(name=SignalName.SLOT_GRANTED)
    def slot_granted(self, grant: SlotGranted | None = None) -> None:
        """A slot that another attempt released is ours."""
        if grant is not None and grant.node_id is not None:
            self.state.slot_granted = grant.node_id

    @workflow.signal(name=SignalName.NODE_READY)
    def node_ready(self, report: NodeReady | None = None) -> None:
        """A node reported in."""
        if report is not None and report.node_id is not None:
            self.state.nodes_ready.add(report.node_id)

    @workflow.signal(name=SignalName.NODE_LOST)
    def node_lost(self, report: NodeLost | None = None) -> None:
        """The node of a workspace is not there any more, or one that was waited for does not come up."""
        if report is not None and report.workspace_id is not None:
            self.attempt.desert(report)
        elif report is not None and report.node_id is not None:
            self.state.nodes_gone.add(report.node_id)

    @workflow.signal(name=SignalName.TASK_STEERED)
    def task_steered(self, _: Look | None = None) -> None:
        """There is something new in the row."""
        self.state.looking = True

    # --- commands, as updates -----------------------------------------------------------------------------------

    @workflow.update(name=UpdateName.PAUSE)
    async def pause(self) -> PauseAnswer:
        """Look whether a pause is wanted, at once if nothing is under way that must end first."""
        attempt, looks = self.attempt, self.attempt.looks
        self.state.looking = True
        await workflow.wait_condition(lambda: not attempt.attentive or attempt.looks > looks)
        return PauseAnswer(hold=self.state.hold if attempt.attentive else None)

    @workflow.update(name=UpdateName.FOLLOWUP)
    def followup(self, command: Followup) -> int:
        """Take the next message; returns the number of its turn."""
        state, update = self.state, workflow.current_update_info()
        if update is not None and update.id in state.said:
            return state.said[update.id]
        state.followups.append(command.message)
        turn = state.turn + len(state.followups)
        if update is not None:
            # The server knows a repeat within one run only, and a conversation has many.
            state.said = dict([*state.said.items(), (update.id, turn)][-REPEATS:])
        return turn

    @followup.validator
    def _followup_is_awaited(self, command: Followup) -> None:
        update = workflow.current_update_info()
        if update is not None and update.id in self.state.said:
            return
        if not command.message.strip():
            raise ApplicationError("The message is empty.", type="input", non_retryable=True)
        self._conversation_is_open()
        waiting = sum(len(message.encode()) for message in (*self.state.followups, command.message))
        if waiting > FOLLOWUP_BYTES:
            message = f"The messages that wait would have {waiting} bytes; at most {FOLLOWUP_BYTES} may wait."
            raise ApplicationError(message, type="input", non_retryable=True)

    @workflow.update(name=UpdateName.CLOSE)
    def close(self) -> None:
        """End the conversation: the task completes."""
        self.state.ended_by = "close"

    @close.validator
    def _conversation_is_open(self) -> None:
        state, asked = self.state, self.attempt.spec.followup
        if not asked or state.step is not Step.AWAITING_FOLLOWUP or state.ended_by is not None:
            message = f"The task does not wait for a follow-up: it is at {self.state.step}."
            raise ApplicationError(message, type="not_awaiting_followup", non_retryable=True)
