"""Reconcile: one sweep of the safety net, started by a schedule or by hand. Its history is short whatever it finds."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from domain.messages import WorkspaceRef
    from domain.names import RECONCILE, NodeId, node_queue
    from domain.reconcile import Action, ListOrder, Orphans, Report, SweepOrder
    from workflows.policies import LIST_WITHIN, MIRROR_TRY, NODE_TRY, SWEEP, SWEEP_HEARTBEAT, SWEEP_RETRY
    from workflows.ports import NodeActivities, ReconcileActivities


@workflow.defn(name=RECONCILE)
class Reconcile:
    """Sweeps rows and ledger, then compares what a few nodes have with the ledger."""

    @workflow.run
    async def run(self, order: SweepOrder) -> Report:
        """Return the report. Raises the sweep's own typed failure; the schedule goes on with the next."""
        began = workflow.now()
        report = await workflow.execute_activity_method(
            ReconcileActivities.sweep,
            order,
            start_to_close_timeout=SWEEP,
            heartbeat_timeout=SWEEP_HEARTBEAT,
            retry_policy=SWEEP_RETRY,
            summary="dry run" if order.dry_run else "sweep",
        )
        for destroyed in await asyncio.gather(*(_orphans(node, order) for node in report.nodes)):
            if destroyed:
                report.note(Action.ORPHAN_DESTROYED, *destroyed)
        report.seconds = (workflow.now() - began).total_seconds()
        told = ", ".join(f"{count} {action}" for action, count in sorted(report.counts.items()))
        workflow.set_current_details(f"**{report.open_rows} open**, {report.described} looked at: {told or 'nothing'}")
        return report


async def _orphans(node: NodeId, order: SweepOrder) -> list[str]:
    """Destroy what a node has and nobody owns; a node that does not answer is asked another time."""
    try:
        found = await workflow.execute_activity_method(
            NodeActivities.list_workspaces,
            ListOrder(),
            task_queue=node_queue(node),
            schedule_to_close_timeout=LIST_WITHIN,
            retry_policy=SWEEP_RETRY,
            summary=f"what {node} has",
        )
        if not any(each.workspace_ids for each in found):
            return []
        unknown = await workflow.execute_local_activity_method(
            ReconcileActivities.orphans,
            Orphans(node_id=node, workspaces=found),
            start_to_close_timeout=MIRROR_TRY,
            retry_policy=SWEEP_RETRY,
        )
        orphans = [
            WorkspaceRef(workspace_id=workspace, provider=each.provider)
            for each in unknown.workspaces
            for workspace in each.workspace_ids
        ]
        for orphan in () if order.dry_run else orphans:
            await workflow.execute_activity_method(
                NodeActivities.destroy_workspace,
                orphan,
                task_queue=node_queue(node),
                schedule_to_close_timeout=NODE_TRY,
                retry_policy=SWEEP_RETRY,
                summary=f"destroy the orphan {orphan.workspace_id}",
            )
    except ActivityError as failure:
        workflow.logger.warning("node %s: %s", node, failure.cause)
        return []
    return [f"{orphan.workspace_id} on {node}" for orphan in orphans]
