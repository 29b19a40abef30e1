"""Create the workspace on its node; done only when it is acknowledged with this workspace's id."""

from domain.errors import Category
from domain.lifecycle import StepOutcome
from workflows.attempt import Attempt
from workflows.mirrored import StepFailed
from workflows.ports import NodeActivities


async def workspace_dispatch(attempt: Attempt) -> StepOutcome:
    """For an external workspace, wait until its callback token is claimed."""
    if attempt.argument.resume:
        return attempt.skip("the workspace was kept")
    budget = attempt.budgets.workspace_dispatch
    if attempt.external:
        if not await attempt.wait(lambda: attempt.state.claimed, within=budget):
            raise attempt.overdue("Nobody claimed the workspace's callback token", budget)
        return StepOutcome.DONE
    acknowledged = await attempt.on_node(
        NodeActivities.create_workspace, attempt.order(), summary="create the workspace", within=budget
    )
    if acknowledged.workspace_id != attempt.workspace:
        message = f"Node {attempt.node} acknowledged another workspace, {acknowledged.workspace_id}."
        raise StepFailed(attempt.error("wrong_workspace", Category.INTERNAL, message))
    return StepOutcome.DONE
