"""Wait for the next message of a conversation, or for its end."""

from domain.events import EventSource, EventType
from domain.lifecycle import StepOutcome
from workflows.attempt import Attempt


async def awaiting_followup(attempt: Attempt) -> StepOutcome:
    """A message is the next turn; a close, or nobody's word for the whole budget, completes the task."""
    if not attempt.spec.followup:
        return attempt.skip("the task asks for no follow-up")
    state = attempt.state
    await attempt.flush()
    spoken = await attempt.wait(
        lambda: bool(state.followups) or state.ended_by is not None, within=attempt.budgets.awaiting_followup
    )
    if not spoken or not state.followups:
        attempt.trace("awaiting_followup", {"ended_by": state.ended_by or "silence"})
        return StepOutcome.DONE
    state.turn += 1
    state.message = state.followups.pop(0)
    attempt.emit(EventType.AGENT_FOLLOWUP, source=EventSource.API, turn=state.turn, message=state.message)
    return StepOutcome.NEXT_TURN
