"""Wait for a chosen node that has been registered but has not reported in; or for a slot that is free before."""

from domain.errors import Category
from domain.lifecycle import StepOutcome
from domain.messages import NodeWait
from workflows.attempt import Attempt
from workflows.ports import PlacementActivities
from workflows.steps.node_selection import query


async def node_agent_ready(attempt: Attempt) -> StepOutcome:
    """Return at once if the node works; else its report is a signal, and so is a grant, which comes in fair order."""
    if attempt.external:
        return attempt.skip("an external workspace needs no node")
    if attempt.state.node_reported_in:
        return attempt.skip("the node has reported in")
    node = attempt.node
    attempt.state.slot_granted = None
    wait = NodeWait(flush=attempt.batch(), node_id=node, query=query(attempt))
    answer = await attempt.mirror(PlacementActivities.wait_for_node, wait)
    attempt.obey(answer.answer)
    if answer.reported_in:
        attempt.state.nodes_ready.add(node)
    attempt.state.slot_granted = attempt.state.slot_granted or answer.granted
    budget = attempt.budgets.node_agent_ready

    def told() -> bool:
        return node in attempt.state.nodes_ready or attempt.state.slot_granted is not None

    if not await attempt.wait(told, within=budget):
        raise attempt.overdue(f"Node {node} did not report in", budget, category=Category.PROVISIONING)
    attempt.state.node_id = attempt.state.slot_granted or node
    attempt.state.node_reported_in = True
    return StepOutcome.DONE
