"""Reserve the slot and the workspace, write the ledger's intents, delegate the task: one transaction."""

from typing import Final

from domain.errors import Category
from domain.events import EventType
from domain.ids import workspace_id
from domain.lifecycle import StepOutcome
from domain.messages import Reservation
from workflows.attempt import Attempt
from workflows.mirrored import StepFailed
from workflows.ports import PlacementActivities

# Losing the race for a slot this often means that something else is wrong.
LOST_RACES: Final = 20


async def workspace_creation(attempt: Attempt) -> StepOutcome:
    """Go back to `node_selection` when the slot was lost to another attempt."""
    state, argument, visit = attempt.state, attempt.argument, attempt.visit
    resume = argument.resume
    identity = resume.workspace_id if resume else workspace_id(argument.task_id, argument.attempt, visit)
    with attempt.provisionally():
        attempt.emit(EventType.TASK_DELEGATED, workspace_id=identity, node_id=state.node_id)
        if resume:
            attempt.leave(StepOutcome.DONE)
        else:
            attempt.into_next()
        reserved = await attempt.mirror(
            PlacementActivities.reserve_workspace,
            Reservation(
                flush=attempt.batch(),
                workspace_id=identity,
                visit=visit,
                provider=attempt.spec.provider,
                node_id=state.node_id,
            ),
        )
        if reserved.workspace_id is not None or not reserved.answer.live:
            state.workspace_id = reserved.workspace_id or state.workspace_id
            state.node_id = reserved.node_id or state.node_id
            attempt.obey(reserved.answer)
            return StepOutcome.DONE
    attempt.trace("workspace_creation", {"slot_lost_on": state.node_id})
    if visit >= LOST_RACES:
        message = f"The slot was lost to another task {LOST_RACES} times."
        raise StepFailed(attempt.error("slot_lost", Category.CAPACITY, message, retryable=True))
    state.node_id = None
    return StepOutcome.SLOT_LOST
