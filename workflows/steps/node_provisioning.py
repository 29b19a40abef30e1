"""Ask the node provider for a node. Every node joins by itself so far, so there is never one to ask for."""

from domain.lifecycle import StepOutcome
from workflows.attempt import Attempt


async def node_provisioning(attempt: Attempt) -> StepOutcome:
    """Skip: nodes join by themselves."""
    return attempt.skip("nodes join by themselves")
