"""Release all that this attempt holds, on every way out."""

import contextlib

from domain.lifecycle import StepOutcome
from domain.messages import WorkspaceRef
from workflows.attempt import Attempt, Fenced, StepFailed
from workflows.ports import NodeActivities


async def cleanup(attempt: Attempt) -> StepOutcome:
    """Destroy the workspace; slot and ledger are released by the conclusion, which goes by the ledger.

    A workspace that cannot be destroyed within the budget stays in the ledger for the reaper: `cleanup_pending`.
    """
    state = attempt.state
    if attempt.external or state.workspace_id is None:
        return StepOutcome.DONE
    # What this attempt holds is its own to release even when it may write no more.
    with contextlib.suppress(Fenced):
        await attempt.flush()
    try:
        await attempt.on_node(
            NodeActivities.destroy_workspace,
            WorkspaceRef(workspace_id=state.workspace_id, provider=attempt.spec.provider),
            summary="destroy the workspace",
            within=attempt.budgets.cleanup,
        )
    except StepFailed as failure:
        state.cleanup_pending = True
        attempt.trace("cleanup", {"pending": failure.error.model_dump(mode="json")})
    if attempt.supervision is not None and not attempt.supervision.done():
        attempt.supervision.cancel()
    return StepOutcome.DONE
