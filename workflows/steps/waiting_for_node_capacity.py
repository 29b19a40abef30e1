"""Wait, visibly and in fair order, until whoever releases a slot grants it to this attempt."""

from domain.errors import Category
from domain.lifecycle import StepOutcome
from domain.messages import SlotWait
from workflows.attempt import Attempt
from workflows.ports import PlacementActivities
from workflows.steps.node_selection import query


async def waiting_for_node_capacity(attempt: Attempt) -> StepOutcome:
    """Enter the queue in the flush that makes the wait visible; the grant is a signal, or is there at once."""
    if attempt.external:
        return attempt.skip("an external workspace needs no slot")
    if attempt.state.node_id is not None:
        return attempt.skip("a slot is free")
    attempt.state.slot_granted = None
    wait = SlotWait(flush=attempt.batch(), query=query(attempt))
    answer = await attempt.mirror(PlacementActivities.wait_for_slot, wait)
    attempt.obey(answer.answer)
    attempt.state.slot_granted = attempt.state.slot_granted or answer.granted
    budget = attempt.budgets.waiting_for_node_capacity
    if not await attempt.wait(lambda: attempt.state.slot_granted is not None, within=budget):
        raise attempt.overdue("No slot became free", budget, category=Category.CAPACITY)
    attempt.state.node_id = attempt.state.slot_granted
    attempt.state.node_reported_in = True
    return StepOutcome.DONE
