"""Release all that this attempt holds, on every way out."""

import asyncio
import contextlib

from temporalio import workflow

from domain.lifecycle import StepOutcome
from domain.messages import Acknowledgement, WorkspaceRef
from domain.names import WorkspaceId
from workflows.attempt import Attempt, StepFailed
from workflows.policies import VISIBLE
from workflows.ports import NodeActivities


async def cleanup(attempt: Attempt) -> StepOutcome:
    """Destroy the workspace; slot and ledger are released by the conclusion, which goes by the ledger.

    A workspace that cannot be destroyed within the budget stays in the ledger for the reaper: `cleanup_pending`.
    """
    state = attempt.state
    if attempt.external or state.workspace_id is None:
        return StepOutcome.DONE
    destroyed = asyncio.ensure_future(_destroy(attempt, state.workspace_id))
    try:
        await workflow.wait_condition(destroyed.done, timeout=VISIBLE, timeout_summary="show a long cleanup")
    except TimeoutError:
        # What cannot be written keeps nobody from releasing what is held.
        with contextlib.suppress(StepFailed):
            await attempt.flush()
    try:
        await destroyed
    except StepFailed as failure:
        state.cleanup_pending = True
        attempt.trace("cleanup", {"pending": failure.error.model_dump(mode="json")})
    if attempt.supervision is not None and not attempt.supervision.done():
        attempt.supervision.cancel()
    return StepOutcome.DONE


async def _destroy(attempt: Attempt, workspace: WorkspaceId) -> Acknowledgement:
    return await attempt.on_node(
        NodeActivities.destroy_workspace,
        WorkspaceRef(workspace_id=workspace, provider=attempt.spec.provider),
        summary="destroy the workspace",
        within=attempt.budgets.cleanup,
    )
