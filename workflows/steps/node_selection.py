"""Choose a node: preferred, else warm, else least loaded with a free slot and matching labels, else wait."""

from domain.lifecycle import StepOutcome
from domain.messages import NodeQuery
from workflows.attempt import Attempt
from workflows.ports import PlacementActivities


def query(attempt: Attempt) -> NodeQuery:
    """Return which nodes this attempt may use."""
    return NodeQuery(
        task_id=attempt.argument.task_id,
        attempt=attempt.argument.attempt,
        project=attempt.argument.project,
        labels=attempt.spec.node_labels,
        preferred=attempt.spec.preferred_node,
        priority=attempt.spec.priority,
        pinned=attempt.argument.resume.node_id if attempt.argument.resume else None,
        provider=attempt.spec.provider,
    )


async def node_selection(attempt: Attempt) -> StepOutcome:
    """Leave the choice in `state.node_id`; None means that no matching node has a free slot."""
    if attempt.external:
        return attempt.skip("an external workspace needs no node")
    choice = await attempt.mirror(PlacementActivities.select_node, query(attempt))
    attempt.state.node_id = choice.node_id
    attempt.state.node_reported_in, attempt.state.node_made = choice.reported_in, choice.made
    attempt.trace("node_selection", {"node_id": choice.node_id, "reason": choice.reason})
    return StepOutcome.DONE
