"""Start the command or agent of this turn."""

from domain.events import EventSource, EventType
from domain.lifecycle import StepOutcome
from domain.messages import AgentOrder
from workflows.attempt import Attempt
from workflows.ports import NodeActivities


def agent_order(attempt: Attempt) -> AgentOrder:
    """Return what the node shall start, or look after."""
    return AgentOrder(order=attempt.order(), turn=attempt.state.turn, prompt=attempt.state.message)


async def agent_session(attempt: Attempt) -> StepOutcome:
    """Have the node start it, or find it started by an earlier try."""
    if attempt.external:
        return attempt.skip("an external workspace starts its agent itself")
    await attempt.flush()
    started = await attempt.on_node(
        NodeActivities.start_agent,
        agent_order(attempt),
        summary=f"start turn {attempt.state.turn}",
        within=attempt.budgets.workspace_dispatch,
    )
    attempt.emit(
        EventType.AGENT_STARTED,
        source=EventSource.NODE,
        turn=started.turn,
        pid=started.pid,
        adopted=started.adopted or None,
    )
    return StepOutcome.DONE
