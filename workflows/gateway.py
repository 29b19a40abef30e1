"""The typed way to the engine: what API, CLI and dispatcher may ask of it, and nothing else.

The client is lazy: a process boots and serves reads while Temporal is away.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.enums.v1 import WorkflowExecutionStatus as Status
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    CountWorkflowExecutionsRequest,
    DescribeTaskQueueRequest,
    DescribeWorkflowExecutionRequest,
    ListWorkflowExecutionsRequest,
)
from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import (
    Priority,
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from domain.failpoints import boundary
from domain.lifecycle import RunStatus, TaskStatus
from domain.messages import CallbackSignal, CleanupOrder, Followup, Hold, NodeReady, PauseAnswer, SlotGranted
from domain.names import (
    CLEANUP,
    CONTROL_QUEUE,
    RUN_ORCHESTRATOR,
    TASK_RUNNER,
    ProjectId,
    RunId,
    SearchAttribute,
    SignalName,
    TaskId,
    UpdateName,
    cleanup_id,
    run_workflow_id,
    workflow_id,
)
from domain.policy import Policy
from domain.reconcile import Seen, Sight
from domain.run import Endings, RunInput
from domain.runner import RunnerInput

STATUS: Final = SearchAttributeKey.for_keyword(SearchAttribute.TASK_STATUS)
PROJECT: Final = SearchAttributeKey.for_keyword(SearchAttribute.PROJECT_ID)
RUN: Final = SearchAttributeKey.for_keyword(SearchAttribute.TASK_RUN_ID)

# A worker killed within a local activity costs 4 s instead of the default's 10.
TASK_TIMEOUT: Final = timedelta(seconds=5)
# A callback's answer waits for the signal at most this long; then the dispatcher carries it.
SIGNAL_LIMIT: Final = timedelta(seconds=2)
# A person waits for the answer to a command.
UPDATE_LIMIT: Final = timedelta(seconds=2)
# What an answer is waited for that nobody else can give.
ANSWER_LIMIT: Final = timedelta(seconds=5)
# An update's own ways to say that there is no answer.
UNANSWERED: Final = (WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError)
# By this a run's workflow says which attempt it is: all have one id.
ATTEMPT: Final = "attempt"
START_LIMIT: Final = timedelta(seconds=10)
LOOK_LIMIT: Final = timedelta(seconds=5)
# Others wait for what a Cleanup releases, and nobody knows how urgent they are.
URGENT: Final = 1
# The engine takes no longer one.
FAIRNESS_KEY: Final = 64

# Continued as new: the next run is about to be there.
SEEN: Final[Mapping[int, Seen]] = {
    Status.WORKFLOW_EXECUTION_STATUS_RUNNING: Seen.RUNNING,
    Status.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW: Seen.RUNNING,
    Status.WORKFLOW_EXECUTION_STATUS_PAUSED: Seen.PAUSED,
    Status.WORKFLOW_EXECUTION_STATUS_COMPLETED: Seen.COMPLETED,
    Status.WORKFLOW_EXECUTION_STATUS_FAILED: Seen.FAILED,
    Status.WORKFLOW_EXECUTION_STATUS_CANCELED: Seen.CANCELLED,
    Status.WORKFLOW_EXECUTION_STATUS_TERMINATED: Seen.TERMINATED,
    Status.WORKFLOW_EXECUTION_STATUS_TIMED_OUT: Seen.TIMED_OUT,
}
REPORTED_PROBLEMS: Final = "TemporalReportedProblems"
_PROBLEMS: Final = f"{REPORTED_PROBLEMS} IS NOT NULL AND ExecutionStatus = 'Running'"
_ATTEMPT: Final = re.compile(r"task-(?P<task>.+)-a(?P<attempt>\d+)")
_RUN: Final = re.compile(r"run-(?P<run>.+)")
_KILLED: Final = "WorkflowType = '{kind}' AND ExecutionStatus IN ('Terminated', 'TimedOut') AND CloseTime > '{since}'"


class Sent(StrEnum):
    """What became of a message to the engine."""

    DELIVERED = "delivered"
    NOT_FOUND = "not_found"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Told:
    """What became of a command: NOT_FOUND when the attempt refused it, by `refusal`, or is not there any more."""

    sent: Sent
    turn: int | None = None
    refusal: str | None = None


class Gateway:
    """Start, signal and cancel TaskRunners. No method raises for an engine that is away: the answer says so.

    Starts go to `queue`, where the control workers are.
    """

    def __init__(self, client: Client, *, ui_url: str = "http://127.0.0.1:8233", queue: str = CONTROL_QUEUE) -> None:
        self._client = client
        self._queue = queue
        self._ui_url = ui_url.rstrip("/")

    async def start(self, argument: RunnerInput) -> Sent:
        """Start an attempt; one that was started before counts as started."""
        attributes: list[SearchAttributePair[Any]] = [
            SearchAttributePair(STATUS, TaskStatus.QUEUED.value),
            SearchAttributePair(PROJECT, argument.project),
        ]
        if argument.run_id:
            attributes.append(SearchAttributePair(RUN, argument.run_id))
        try:
            with boundary("engine.start"):
                await self._client.start_workflow(
                    TASK_RUNNER,
                    argument,
                    id=workflow_id(argument.task_id, argument.attempt),
                    task_queue=self._queue,
                    task_timeout=TASK_TIMEOUT,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                    search_attributes=TypedSearchAttributes(attributes),
                    static_summary=f"{argument.name} · attempt {argument.attempt}",
                    priority=_claim(argument.spec.priority, argument.project),
                    rpc_timeout=START_LIMIT,
                )
        except WorkflowAlreadyStartedError:
            return Sent.DELIVERED
        except (RPCError, RuntimeError) as error:
            return _unreachable(error)
        return Sent.DELIVERED

    async def signal(
        self, task: TaskId, attempt: int, name: SignalName | str, body: CallbackSignal | SlotGranted | NodeReady
    ) -> Sent:
        """Send a fact to an attempt."""
        try:
            with boundary("engine.signal"):
                await self._handle(task, attempt).signal(str(name), body, rpc_timeout=SIGNAL_LIMIT)
        except (RPCError, RuntimeError) as error:
            return _unreachable(error)
        return Sent.DELIVERED

    async def pause(self, task: TaskId, attempt: int) -> Hold | None:
        """Have an attempt look whether it is to be held; None when it is not, not yet, or nobody says so in time."""
        try:
            async with asyncio.timeout(UPDATE_LIMIT.total_seconds()):
                with boundary("engine.pause"):
                    answer: PauseAnswer = await self._handle(task, attempt).execute_update(
                        UpdateName.PAUSE, result_type=PauseAnswer, rpc_timeout=UPDATE_LIMIT
                    )
                return answer.hold
        except (RPCError, RuntimeError, TimeoutError, *UNANSWERED):
            return None

    async def follow_up(self, task: TaskId, attempt: int, message: str, *, update: str) -> Told:
        """Say the next message of a conversation; with the same `update` id it is said once."""
        try:
            with boundary("engine.follow_up"):
                turn: int = await self._handle(task, attempt).execute_update(
                    UpdateName.FOLLOWUP, Followup(message=message), id=update, result_type=int, rpc_timeout=ANSWER_LIMIT
                )
        except (RPCError, RuntimeError, *UNANSWERED) as error:
            return _refusal(error)
        return Told(Sent.DELIVERED, turn=turn)

    async def close(self, task: TaskId, attempt: int, *, update: str) -> Told:
        """End a conversation; with the same `update` id it is one and the same end."""
        try:
            with boundary("engine.close"):
                await self._handle(task, attempt).execute_update(UpdateName.CLOSE, id=update, rpc_timeout=ANSWER_LIMIT)
        except (RPCError, RuntimeError, *UNANSWERED) as error:
            return _refusal(error)
        return Told(Sent.DELIVERED)

    async def cancel(self, task: TaskId, attempt: int) -> Sent:
        """Ask an attempt to cancel itself, as the Temporal UI's button does."""
        try:
            with boundary("engine.cancel"):
                await self._handle(task, attempt).cancel(rpc_timeout=SIGNAL_LIMIT)
        except (RPCError, RuntimeError) as error:
            return _unreachable(error)
        return Sent.DELIVERED

    async def clean_up(self, task: TaskId, attempt: int, policy: Policy, *, project: ProjectId | None = None) -> Sent:
        """Start the Cleanup of an attempt; one that is at work is left to go on, one that has ended begins again."""
        try:
            with boundary("engine.clean_up"):
                await self._client.start_workflow(
                    CLEANUP,
                    CleanupOrder(task_id=task, attempt=attempt, policy=policy),
                    id=cleanup_id(task, attempt),
                    task_queue=self._queue,
                    task_timeout=TASK_TIMEOUT,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                    static_summary=f"clean up after attempt {attempt}",
                    static_details=f"Releases what `{workflow_id(task, attempt)}` still holds, as the ledger says.",
                    priority=_claim(URGENT, project),
                    rpc_timeout=START_LIMIT,
                )
        except (RPCError, RuntimeError) as error:
            return _unreachable(error)
        return Sent.DELIVERED

    async def terminate(self, task: TaskId, attempt: int, reason: str) -> Sent:
        """End an attempt's workflow from outside; one that is over is NOT_FOUND."""
        try:
            with boundary("engine.terminate"):
                await self._handle(task, attempt).terminate(reason=reason, rpc_timeout=SIGNAL_LIMIT)
        except (RPCError, RuntimeError) as error:
            return _unreachable(error)
        return Sent.DELIVERED

    async def start_run(self, argument: RunInput) -> Sent:
        """Start the orchestrator of a run's attempt; one that was started before counts as started.

        All attempts of a run have one id. While the workflow of an earlier one is about to close, the answer is that
        it cannot be reached yet.
        """
        # An orchestrator that was lost begins anew, of rows that its flushes have left.
        first = argument.attempt == 1 and not argument.state.flush_base
        reuse = WorkflowIDReusePolicy.REJECT_DUPLICATE if first else WorkflowIDReusePolicy.ALLOW_DUPLICATE
        attributes: list[SearchAttributePair[Any]] = [
            SearchAttributePair(STATUS, RunStatus.QUEUED.value),
            SearchAttributePair(PROJECT, argument.project),
            SearchAttributePair(RUN, argument.run_id),
        ]
        try:
            with boundary("engine.start_run"):
                await self._client.start_workflow(
                    RUN_ORCHESTRATOR,
                    argument,
                    id=run_workflow_id(argument.run_id),
                    task_queue=self._queue,
                    task_timeout=TASK_TIMEOUT,
                    id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                    id_reuse_policy=reuse,
                    memo={ATTEMPT: argument.attempt},
                    search_attributes=TypedSearchAttributes(attributes),
                    static_summary=f"{argument.name} · attempt {argument.attempt}",
                    priority=_claim(argument.priority, argument.project),
                    rpc_timeout=START_LIMIT,
                )
        except WorkflowAlreadyStartedError:
            return Sent.DELIVERED if first else await self._begun(argument)
        except (RPCError, RuntimeError) as error:
            return _unreachable(error)
        return Sent.DELIVERED

    async def _begun(self, argument: RunInput) -> Sent:
        """Say whether the workflow that has this run's id is the one of this attempt."""
        try:
            with boundary("engine.begun"):
                found = await self._run_handle(argument.run_id).describe(rpc_timeout=LOOK_LIMIT)
            attempt = await found.memo_value(ATTEMPT, default=0)
        except (RPCError, RuntimeError, ValueError):
            return Sent.UNREACHABLE
        return Sent.DELIVERED if attempt == argument.attempt else Sent.UNREACHABLE

    async def tell_run(self, run: RunId, endings: Endings) -> Sent:
        """Tell a run which of its tasks have ended."""
        try:
            with boundary("engine.tell_run"):
                await self._run_handle(run).signal(SignalName.TASK_ENDED.value, endings, rpc_timeout=SIGNAL_LIMIT)
        except (RPCError, RuntimeError) as error:
            return _unreachable(error)
        return Sent.DELIVERED

    async def steer_run(self, run: RunId) -> Sent:
        """Have a run look at its row."""
        try:
            with boundary("engine.steer_run"):
                await self._run_handle(run).signal(SignalName.RUN_STEERED.value, rpc_timeout=SIGNAL_LIMIT)
        except (RPCError, RuntimeError) as error:
            return _unreachable(error)
        return Sent.DELIVERED

    async def cancel_run(self, run: RunId) -> Sent:
        """Ask a run to cancel itself, as the Temporal UI's button does."""
        try:
            with boundary("engine.cancel_run"):
                await self._run_handle(run).cancel(rpc_timeout=SIGNAL_LIMIT)
        except (RPCError, RuntimeError) as error:
            return _unreachable(error)
        return Sent.DELIVERED

    async def look(self, task: TaskId, attempt: int) -> Sight:
        """Say what became of an attempt's workflow, by its id."""
        return await self._look(workflow_id(task, attempt))

    async def look_run(self, run: RunId) -> Sight:
        """Say what became of a run's workflow, whichever attempt of it is the last."""
        return await self._look(run_workflow_id(run))

    async def _look(self, identity: str) -> Sight:
        """Ask the service itself: the SDK's `describe()` raises for a workflow that an operator has paused."""
        request = DescribeWorkflowExecutionRequest(
            namespace=self._client.namespace, execution=WorkflowExecution(workflow_id=identity)
        )
        try:
            with boundary("engine.look"):
                found = await self._client.workflow_service.describe_workflow_execution(request, timeout=LOOK_LIMIT)
        except (RPCError, RuntimeError) as error:
            return Sight(Seen.NOT_FOUND if _unreachable(error) is Sent.NOT_FOUND else Seen.UNREACHABLE)
        known = found.workflow_execution_info
        return Sight(SEEN.get(known.status, Seen.UNREACHABLE), _problems(known.search_attributes.indexed_fields))

    async def killed(self, since: datetime, *, limit: int) -> Sequence[tuple[TaskId, int]]:
        """Return attempts whose workflows were terminated or timed out lately, as far as the engine's lists know.

        A hint where to look first: lists are late, and empty when the engine does not answer.
        """
        names = (_ATTEMPT.fullmatch(each) for each in await self._killed(TASK_RUNNER, since, limit))
        return [(TaskId(name["task"]), int(name["attempt"])) for name in names if name]

    async def killed_runs(self, since: datetime, *, limit: int) -> Sequence[str]:
        """Return runs whose workflows were terminated or timed out lately: a hint, as `killed` gives one."""
        names = (_RUN.fullmatch(each) for each in await self._killed(RUN_ORCHESTRATOR, since, limit))
        return [name["run"] for name in names if name]

    async def _killed(self, kind: str, since: datetime, limit: int) -> Sequence[str]:
        query = _KILLED.format(kind=kind, since=since.strftime("%Y-%m-%dT%H:%M:%SZ"))
        request = ListWorkflowExecutionsRequest(namespace=self._client.namespace, query=query, page_size=limit)
        try:
            with boundary("engine.killed"):
                found = await self._client.workflow_service.list_workflow_executions(request, timeout=LOOK_LIMIT)
        except (RPCError, RuntimeError):
            return []
        return [each.execution.workflow_id for each in found.executions]

    async def polled(self, queue: str, *, workflows: bool = False) -> datetime | None:
        """Return when a worker last asked for work of this queue; None if nobody did in the last minutes, or no answer.

        A poll is open for a minute, and its start is what counts.
        """
        kind = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW if workflows else TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
        request = DescribeTaskQueueRequest(
            namespace=self._client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind
        )
        try:
            with boundary("engine.polled"):
                found = await self._client.workflow_service.describe_task_queue(request, timeout=LOOK_LIMIT)
        except (RPCError, RuntimeError):
            return None
        polls = [poller.last_access_time.ToDatetime(tzinfo=UTC) for poller in found.pollers]
        return max(polls, default=None)

    async def problems(self) -> int | None:
        """Return how many running workflows the engine reports as unable to go on; None when it does not answer."""
        request = CountWorkflowExecutionsRequest(namespace=self._client.namespace, query=_PROBLEMS)
        try:
            with boundary("engine.problems"):
                return (
                    await self._client.workflow_service.count_workflow_executions(request, timeout=LOOK_LIMIT)
                ).count
        except (RPCError, RuntimeError):
            return None

    async def reachable(self) -> bool:
        """Whether the engine answers."""
        try:
            return await self._client.service_client.check_health(timeout=timedelta(seconds=2))
        except (RPCError, RuntimeError):
            return False

    def url(self, task: TaskId, attempt: int) -> str:
        """Return the address of an attempt's history in the Temporal UI."""
        return f"{self._ui_url}/namespaces/{self._client.namespace}/workflows/{workflow_id(task, attempt)}"

    def run_url(self, run: RunId) -> str:
        """Return the address of a run's history in the Temporal UI."""
        return f"{self._ui_url}/namespaces/{self._client.namespace}/workflows/{run_workflow_id(run)}"

    def _run_handle(self, run: RunId) -> WorkflowHandle[Any, Any]:
        return self._client.get_workflow_handle(run_workflow_id(run))

    def _handle(self, task: TaskId, attempt: int) -> WorkflowHandle[Any, Any]:
        return self._client.get_workflow_handle(workflow_id(task, attempt))


def _claim(priority: int, project: ProjectId | None) -> Priority:
    """Return what orders the engine's queues; activities and later runs inherit it from their workflow."""
    return Priority(priority_key=priority, fairness_key=project[:FAIRNESS_KEY] if project else None)


def _problems(fields: Mapping[str, Payload]) -> str | None:
    """Return what the engine reports of a workflow that cannot go on."""
    return fields[REPORTED_PROBLEMS].data.decode(errors="replace") if REPORTED_PROBLEMS in fields else None


def _refusal(error: Exception) -> Told:
    """Sort a failed update: what the workflow's own validator said is an answer."""
    if isinstance(error, WorkflowUpdateFailedError):
        cause = error.cause
        return Told(Sent.NOT_FOUND, refusal=cause.type if isinstance(cause, ApplicationError) else None)
    if isinstance(error, RPCError | RuntimeError):
        return Told(_unreachable(error))
    return Told(Sent.UNREACHABLE)


def _unreachable(error: RPCError | RuntimeError) -> Sent:
    """Sort a failed call. The SDK raises RuntimeError when a lazy client cannot connect."""
    if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
        return Sent.NOT_FOUND
    return Sent.UNREACHABLE
