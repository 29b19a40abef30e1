"""Wait for the workspace-ready signal: one deadline timer, no polling."""

from domain.events import EventSource, EventType
from domain.lifecycle import StepOutcome
from domain.messages import WorkspaceRef
from workflows.attempt import Attempt
from workflows.ports import NodeActivities


async def workspace_ready(attempt: Attempt) -> StepOutcome:
    """Go back to `workspace_dispatch` when the deadline passes and the node has never heard of the workspace."""
    if attempt.argument.resume:
        return attempt.skip("the workspace was kept")
    budget = attempt.budgets.workspace_ready
    if attempt.state.ready is None:
        attempt.check_failed()
        await attempt.flush()
    if not await attempt.wait(lambda: attempt.state.ready is not None, within=budget):
        if not attempt.external and attempt.visit < attempt.policy.limits.visits:
            facts = await attempt.on_node(
                NodeActivities.inspect_workspace,
                WorkspaceRef(workspace_id=attempt.workspace, provider=attempt.spec.provider),
                summary="does the node have the workspace?",
                within=attempt.budgets.workspace_dispatch,
            )
            if not facts.exists:
                return StepOutcome.UNACKNOWLEDGED
        raise attempt.overdue("The workspace did not call ready", budget)
    ready = attempt.state.ready
    if ready is not None:
        attempt.emit(
            EventType.WORKSPACE_READY,
            source=EventSource.WORKSPACE,
            status=ready.status,
            details=ready.details or None,
        )
        attempt.state.ready = ready.model_copy(update={"details": {}})  # they are in the log now
    return StepOutcome.DONE
