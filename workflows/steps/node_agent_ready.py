"""Wait for a chosen node that has been registered but has not reported in."""

from domain.errors import Category
from domain.lifecycle import StepOutcome
from domain.messages import NodeWait
from workflows.attempt import Attempt
from workflows.ports import PlacementActivities


async def node_agent_ready(attempt: Attempt) -> StepOutcome:
    """Return at once if the node works; else its report is a signal."""
    if attempt.external:
        return attempt.skip("an external workspace needs no node")
    if attempt.state.node_reported_in:
        return attempt.skip("the node has reported in")
    node = attempt.node
    wait = NodeWait(flush=attempt.batch(), node_id=node)
    answer = await attempt.mirror(PlacementActivities.wait_for_node, wait)
    attempt.obey(answer.answer)
    if answer.reported_in:
        attempt.state.nodes_ready.add(node)
    budget = attempt.budgets.node_agent_ready
    if not await attempt.wait(lambda: node in attempt.state.nodes_ready, within=budget):
        raise attempt.overdue(f"Node {node} did not report in", budget, category=Category.PROVISIONING)
    attempt.state.node_reported_in = True
    return StepOutcome.DONE
