"""What the engine says of workflows: of one by its id, and of those that were killed by its lists."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from temporalio.api.common.v1 import Payload, WorkflowExecution
from temporalio.api.enums.v1 import WorkflowExecutionStatus as Status
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest, ListWorkflowExecutionsRequest
from temporalio.client import Client
from temporalio.service import RPCError

from domain.failpoints import boundary
from domain.reconcile import Seen, Sight
from workflows.sending import Sent, unreachable

LOOK_LIMIT: Final = timedelta(seconds=5)
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
_KILLED: Final = "WorkflowType = '{kind}' AND ExecutionStatus IN ('Terminated', 'TimedOut') AND CloseTime > '{since}'"


async def look(client: Client, identity: str) -> Sight:
    """Ask the service itself: the SDK's `describe()` raises for a workflow that an operator has paused."""
    request = DescribeWorkflowExecutionRequest(
        namespace=client.namespace, execution=WorkflowExecution(workflow_id=identity)
    )
    try:
        with boundary("engine.look"):
            found = await client.workflow_service.describe_workflow_execution(request, timeout=LOOK_LIMIT)
    except (RPCError, RuntimeError) as error:
        return Sight(Seen.NOT_FOUND if unreachable(error) is Sent.NOT_FOUND else Seen.UNREACHABLE)
    known = found.workflow_execution_info
    return Sight(SEEN.get(known.status, Seen.UNREACHABLE), _problems(known.search_attributes.indexed_fields))


async def killed(client: Client, kind: str, since: datetime, limit: int) -> Sequence[str]:
    """Return the ids of workflows of a kind that were terminated or timed out lately, as far as the lists know.

    A hint where to look first: lists are late, and empty when the engine does not answer.
    """
    query = _KILLED.format(kind=kind, since=since.strftime("%Y-%m-%dT%H:%M:%SZ"))
    request = ListWorkflowExecutionsRequest(namespace=client.namespace, query=query, page_size=limit)
    try:
        with boundary("engine.killed"):
            found = await client.workflow_service.list_workflow_executions(request, timeout=LOOK_LIMIT)
    except (RPCError, RuntimeError):
        return []
    return [each.execution.workflow_id for each in found.executions]


def _problems(fields: Mapping[str, Payload]) -> str | None:
    """Return what the engine reports of a workflow that cannot go on."""
    return fields[REPORTED_PROBLEMS].data.decode(errors="replace") if REPORTED_PROBLEMS in fields else None
