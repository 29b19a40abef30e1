"""Cleanup: releases what an attempt still holds that its own workflow could not release.

Started by the intent that the end of such an attempt has committed, and again by the reaper after it failed.
"""

import asyncio

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.exceptions import TimeoutError as ActivityTimeout

with workflow.unsafe.imports_passed_through():
    from domain.errors import GUIDANCE, Category, TaskError
    from domain.messages import AttemptRef, CleanupOrder, CleanupResult, HeldWorkspace, WorkspaceRef
    from domain.names import CLEANUP, node_queue
    from workflows.policies import MIRROR_RETRY, MIRROR_TRY, NODE_HEARTBEAT, NODE_TRY
    from workflows.ports import LedgerActivities, NodeActivities


@workflow.defn(name=CLEANUP)
class Cleanup:
    """Destroys each workspace of an ended attempt on its node, then releases ledger entries and slots."""

    @workflow.run
    async def run(self, order: CleanupOrder) -> CleanupResult:
        """Return what was destroyed. Whoever runs again finds what is left; an attempt that is live is left alone.

        Raises ApplicationError, typed by its category, when a workspace remains: nothing is released then.
        """
        attempt = AttemptRef(task_id=order.task_id, attempt=order.attempt)
        held = await workflow.execute_local_activity_method(
            LedgerActivities.held, attempt, start_to_close_timeout=MIRROR_TRY, retry_policy=MIRROR_RETRY
        )
        if held.live:
            workflow.set_current_details("**left alone**: the attempt is live")
            return CleanupResult(live=True)
        nodes = ", ".join(sorted({workspace.node_id for workspace in held.workspaces}))
        workflow.set_current_details(f"**destroys** {len(held.workspaces)} workspaces on {nodes or 'no node'}")
        # Together: a node that is dead keeps no other one waiting.
        ends = await asyncio.gather(*(_destroy(order, each) for each in held.workspaces), return_exceptions=True)
        for workspace, end in zip(held.workspaces, ends, strict=True):
            if isinstance(end, BaseException):
                workflow.set_current_details(f"**failed**: {workspace.workspace_id} is still on {workspace.node_id}")
                raise _remains(workspace, end) from end
        released = await workflow.execute_local_activity_method(
            LedgerActivities.release, attempt, start_to_close_timeout=MIRROR_TRY, retry_policy=MIRROR_RETRY
        )
        workflow.set_current_details("**released**")
        destroyed = [workspace.workspace_id for workspace in held.workspaces]
        return CleanupResult(destroyed=destroyed, granted=released.granted)


async def _destroy(order: CleanupOrder, workspace: HeldWorkspace) -> None:
    """Destroy within the budget of a step's cleanup, with a step's tries."""
    budget, retry = order.policy.budgets.cleanup, order.policy.step_retry
    await workflow.execute_activity_method(
        NodeActivities.destroy_workspace,
        WorkspaceRef(workspace_id=workspace.workspace_id, provider=workspace.provider),
        task_queue=node_queue(workspace.node_id),
        schedule_to_close_timeout=budget,
        start_to_close_timeout=min(NODE_TRY, budget),
        heartbeat_timeout=NODE_HEARTBEAT,
        retry_policy=RetryPolicy(
            maximum_attempts=retry.tries, initial_interval=retry.first_delay, maximum_interval=retry.longest_delay
        ),
        summary=f"destroy {workspace.workspace_id}",
    )


def _remains(workspace: HeldWorkspace, end: BaseException) -> BaseException:
    """Return the typed failure; a cancel of the cleanup stays one."""
    if not isinstance(end, ActivityError) or not isinstance(end.cause, ApplicationError | ActivityTimeout):
        return end
    category = Category.RUNTIME_LOST if isinstance(end.cause, ActivityTimeout) else Category.WORKSPACE
    error = TaskError(
        code="workspace_remains",
        category=category,
        message=f"Workspace {workspace.workspace_id} could not be destroyed on node {workspace.node_id}: {end.cause}.",
        retryable=True,
        guidance=GUIDANCE[category],
        context={"node_id": workspace.node_id, "workspace_id": workspace.workspace_id},
    )
    return ApplicationError(error.message, error.model_dump(mode="json"), type=category, non_retryable=True)
