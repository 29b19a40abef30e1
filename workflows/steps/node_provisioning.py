"""Ask the node provider for a node, where no slot is free and none is coming up for this task."""

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError

from domain.lifecycle import StepOutcome
from domain.messages import MakeNode
from workflows.attempt import Attempt
from workflows.policies import NODE_TRY
from workflows.ports import FleetActivities


async def node_provisioning(attempt: Attempt) -> StepOutcome:
    """Skip, unless the choice of a node came to one that is to be made, whose row is there."""
    if not attempt.state.node_made:
        return attempt.skip("nodes join by themselves")
    await attempt.flush()
    budget, retry = attempt.budgets.node_provisioning, attempt.policy.step_retry
    try:
        await workflow.execute_activity_method(
            FleetActivities.make_node,
            MakeNode(node_id=attempt.node),
            schedule_to_close_timeout=budget,
            start_to_close_timeout=min(NODE_TRY, budget),
            retry_policy=RetryPolicy(
                maximum_attempts=retry.tries, initial_interval=retry.first_delay, maximum_interval=retry.longest_delay
            ),
            summary=f"make {attempt.node}",
        )
    except ActivityError as failure:
        attempt.check_cancelled()
        raise attempt.failed(failure) from failure
    return StepOutcome.DONE
