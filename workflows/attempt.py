"""One attempt from the inside: its state, its unwritten events, and the few ways in which a step may act."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError

from domain.errors import Category
from domain.events import EventType
from domain.lifecycle import NodeStatus
from domain.messages import NodeLost, WorkspaceOrder
from domain.names import NodeId, WorkspaceId, node_queue
from domain.runner import RunnerInput, RunnerState
from domain.spec import Provider
from workflows.lasting import Lasting
from workflows.mirrored import Reply, Request, StepFailed
from workflows.policies import AT_ONCE, NODE_HEARTBEAT, NODE_RETRY, NODE_TRY


class Attempt(Lasting):
    """What a step's handler gets: read `spec`, `state` and `budgets`; act through the methods."""

    def __init__(self, argument: RunnerInput, state: RunnerState) -> None:
        super().__init__(argument, state)
        self.concluding = False
        self._effect: workflow.ActivityHandle[Any] | None = None
        if argument.resume is not None:
            # From the first moment: whatever happens, it is this attempt's to release.
            state.workspace_id = argument.resume.workspace_id

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
            traceparent=self.argument.traceparent,
        )

    async def wait(self, until: Callable[[], bool], *, within: timedelta, holds: bool = True) -> bool:
        """Wait for a fact, pushed by a signal; one timer, no polling. Returns False when the time is up.

        A wait that is held, or interrupted to continue as new, goes on with the time that is left. One that does not
        `hold` goes on beside a pause: what it waits for cannot be held.

        Raises StepFailed when the workspace failed meanwhile, or its node was lost.
        """
        state = self.state
        state.deadline = state.deadline or workflow.now() + within
        self.attentive = holds

        def told() -> bool:
            return until() or state.failed is not None or self.deserted

        try:
            while True:
                if holds and (state.hold or (self.steered and not told())):
                    await self.hold_in_wait()
                self.show(f"**{state.step}**: waits until {state.deadline:%Y-%m-%d %H:%M:%S}Z")
                await workflow.wait_condition(
                    lambda: told() or self.outgrown or (holds and state.looking),
                    timeout=max(state.deadline - workflow.now(), AT_ONCE),
                    timeout_summary=f"{state.step} deadline",
                )
                if told():
                    break
                if not (holds and state.looking):
                    await self.renew(state.step)
        except TimeoutError:
            if not told():
                return False
        finally:
            state.deadline, self.attentive = None, False
        self.check_failed()
        if self.deserted and not until():
            # It may have told its end while the signal was on its way: that is in the inbox.
            await self.flush()
            self.check_failed()
            if not until():
                raise self.node_lost()
        return True

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

    @property
    def deserted(self) -> bool:
        """Whether the node of this attempt's workspace is not there any more."""
        lost = self.state.node_lost
        return lost is not None and lost.workspace_id == self.state.workspace_id

    def desert(self, lost: NodeLost) -> None:
        """Take in that a node was lost, and wait no longer for what it was asked to do."""
        self.state.node_lost = lost
        if self.deserted and self._effect is not None:
            self._effect.cancel()

    def node_lost(self) -> StepFailed:
        """Return the failure of whatever is wanted of a node that is not there any more."""
        lost = self.state.node_lost
        gone = lost is not None and lost.status is NodeStatus.GONE
        message = f"Node {self.node} is gone." if gone else f"Node {self.node} was lost: nobody hears it any more."
        return StepFailed(self.error("node_lost", Category.RUNTIME_LOST, message, retryable=True))

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
        workspace, not the try. Raises StepFailed, at once when the node is lost.
        """
        retry, delay = self.policy.step_retry, self.policy.step_retry.first_delay
        deadline = workflow.now() + within
        for number in range(1, retry.tries + 1):
            if self.deserted:
                raise self.node_lost()
            left = max(deadline - workflow.now(), timedelta(seconds=1))
            try:
                self._effect = workflow.start_activity_method(
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
                )
                reply: Reply = await self._effect
            except ActivityError as failure:
                self.check_cancelled()
                if self.deserted:
                    raise self.node_lost() from failure
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
