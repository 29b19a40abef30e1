"""Wait for a chosen node that has been registered but has not reported in; or for a slot that is free before."""

from typing import Final

from domain.errors import Category
from domain.lifecycle import StepOutcome
from domain.messages import NodeWait
from workflows.attempt import Attempt
from workflows.mirrored import StepFailed
from workflows.ports import PlacementActivities
from workflows.steps.node_selection import query

# Nodes that are gone this often before they come up will not come up.
LOST_NODES: Final = 20


async def node_agent_ready(attempt: Attempt) -> StepOutcome:
    """Return at once if the node works; else its report is a signal, and so is a grant, which comes in fair order.

    Go back to `node_selection` when the node is gone without having reported in.
    """
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
    if answer.gone:
        attempt.state.nodes_gone.add(node)
    attempt.state.slot_granted = attempt.state.slot_granted or answer.granted
    budget = attempt.budgets.node_agent_ready

    def told() -> bool:
        return node in attempt.state.nodes_ready | attempt.state.nodes_gone or attempt.state.slot_granted is not None

    if not await attempt.wait(told, within=budget):
        raise attempt.overdue(f"Node {node} did not report in", budget, category=Category.PROVISIONING)
    if attempt.state.slot_granted is None and node not in attempt.state.nodes_ready:
        if attempt.visit >= LOST_NODES:
            message = f"{LOST_NODES} nodes were gone before they reported in."
            raise StepFailed(attempt.error("node_gone", Category.PROVISIONING, message, retryable=True))
        return StepOutcome.NODE_GONE
    attempt.state.node_id = attempt.state.slot_granted or node
    attempt.state.node_reported_in = True
    return StepOutcome.DONE
