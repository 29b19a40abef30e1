"""The typed way to the engine: what API, CLI and dispatcher may ask of it, and nothing else.

The client is lazy: a process boots and serves reads while Temporal is away.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import BaseModel
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import CountWorkflowExecutionsRequest, DescribeTaskQueueRequest
from temporalio.client import (
    Client,
    WorkflowHandle,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from domain.failpoints import boundary
from domain.lifecycle import TaskStatus
from domain.messages import CleanupOrder, Followup, Hold, PauseAnswer
from domain.names import (
    CLEANUP,
    CONTROL_QUEUE,
    TASK_RUNNER,
    ProjectId,
    RunId,
    SignalName,
    TaskId,
    UpdateName,
    cleanup_id,
    run_workflow_id,
    workflow_id,
)
from domain.policy import Policy
from domain.reconcile import Sight
from domain.runner import RunnerInput
from workflows import sights
from workflows.run_gateway import RunGateway
from workflows.sending import SIGNAL_LIMIT, START_LIMIT, TASK_TIMEOUT, Sent, attributes, claim, unreachable

__all__ = ["Gateway", "Sent", "Told"]

# A person waits for the answer to a command.
UPDATE_LIMIT: Final = timedelta(seconds=2)
# What an answer is waited for that nobody else can give.
ANSWER_LIMIT: Final = timedelta(seconds=5)
# An update's own ways to say that there is no answer.
UNANSWERED: Final = (WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError)
# Others wait for what a Cleanup releases, and nobody knows how urgent they are.
URGENT: Final = 1
_PROBLEMS: Final = f"{sights.REPORTED_PROBLEMS} IS NOT NULL AND ExecutionStatus = 'Running'"
_ATTEMPT: Final = re.compile(r"task-(?P<task>.+)-a(?P<attempt>\d+)")


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
        self.runs = RunGateway(client, queue=queue)

    @property
    def address(self) -> tuple[str, str]:
        """Where Temporal is, for this process, and the namespace."""
        return self._client.service_client.config.target_host, self._client.namespace

    async def start(self, argument: RunnerInput) -> Sent:
        """Start an attempt; one that was started before counts as started."""
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
                    search_attributes=attributes(TaskStatus.QUEUED, argument.project, argument.run_id),
                    static_summary=f"{argument.name} · attempt {argument.attempt}",
                    priority=claim(argument.spec.priority, argument.project),
                    rpc_timeout=START_LIMIT,
                )
        except WorkflowAlreadyStartedError:
            return Sent.DELIVERED
        except (RPCError, RuntimeError) as error:
            return unreachable(error)
        return Sent.DELIVERED

    async def signal(self, task: TaskId, attempt: int, name: SignalName | str, body: BaseModel) -> Sent:
        """Send a fact to an attempt: the model that `name` is taken with."""
        try:
            with boundary("engine.signal"):
                await self._handle(task, attempt).signal(str(name), body, rpc_timeout=SIGNAL_LIMIT)
        except (RPCError, RuntimeError) as error:
            return unreachable(error)
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
            return unreachable(error)
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
                    priority=claim(URGENT, project),
                    rpc_timeout=START_LIMIT,
                )
        except (RPCError, RuntimeError) as error:
            return unreachable(error)
        return Sent.DELIVERED

    async def terminate(self, task: TaskId, attempt: int, reason: str) -> Sent:
        """End an attempt's workflow from outside; one that is over is NOT_FOUND."""
        try:
            with boundary("engine.terminate"):
                await self._handle(task, attempt).terminate(reason=reason, rpc_timeout=SIGNAL_LIMIT)
        except (RPCError, RuntimeError) as error:
            return unreachable(error)
        return Sent.DELIVERED

    async def look(self, task: TaskId, attempt: int) -> Sight:
        """Say what became of an attempt's workflow, by its id."""
        return await sights.look(self._client, workflow_id(task, attempt))

    async def killed(self, since: datetime, *, limit: int) -> Sequence[tuple[TaskId, int]]:
        """Return attempts whose workflows were terminated or timed out lately: a hint where to look first."""
        names = map(_ATTEMPT.fullmatch, await sights.killed(self._client, TASK_RUNNER, since, limit))
        return [(TaskId(name["task"]), int(name["attempt"])) for name in names if name]

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
                found = await self._client.workflow_service.describe_task_queue(request, timeout=sights.LOOK_LIMIT)
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
                    await self._client.workflow_service.count_workflow_executions(request, timeout=sights.LOOK_LIMIT)
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
        return self._history(workflow_id(task, attempt))

    def run_url(self, run: RunId) -> str:
        """Return the address of a run's history in the Temporal UI."""
        return self._history(run_workflow_id(run))

    def _history(self, identity: str) -> str:
        return f"{self._ui_url}/namespaces/{self._client.namespace}/workflows/{identity}"

    def _handle(self, task: TaskId, attempt: int) -> WorkflowHandle[Any, Any]:
        return self._client.get_workflow_handle(workflow_id(task, attempt))


def _refusal(error: Exception) -> Told:
    """Sort a failed update: what the workflow's own validator said is an answer."""
    if isinstance(error, WorkflowUpdateFailedError):
        cause = error.cause
        return Told(Sent.NOT_FOUND, refusal=cause.type if isinstance(cause, ApplicationError) else None)
    if isinstance(error, RPCError | RuntimeError):
        return Told(unreachable(error))
    return Told(Sent.UNREACHABLE)
