"""Release all that this attempt holds, on every way out."""

import asyncio
import contextlib

from temporalio import workflow

from domain.lifecycle import StepOutcome
from domain.messages import Acknowledgement, WorkspaceRef
from domain.names import WorkspaceId
from workflows.attempt import Attempt
from workflows.conclusion import will_retry
from workflows.mirrored import StepFailed
from workflows.policies import VISIBLE
from workflows.ports import NodeActivities


async def cleanup(attempt: Attempt) -> StepOutcome:
    """Destroy the workspace, or keep its files; slot and ledger are released by the conclusion, by the ledger.

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


def _keeps(attempt: Attempt) -> bool:
    """Only the last attempt keeps its workspace: another one that follows by itself gets a fresh workspace."""
    outcome = attempt.state.outcome
    if outcome is None or attempt.state.superseded or will_retry(attempt):
        return False
    return attempt.spec.keep_workspace.after(outcome)


async def _destroy(attempt: Attempt, workspace: WorkspaceId) -> None:
    ref = WorkspaceRef(workspace_id=workspace, provider=attempt.spec.provider)
    if _keeps(attempt):
        stopped = await _end(attempt, ref.model_copy(update={"keep": True}), "stop the workspace, keep its files")
        # A node that has no files of it has kept none: then its id is closed for good, as ever.
        attempt.state.kept = stopped.details.get("kept") is True
    if not attempt.state.kept:
        await _end(attempt, ref, "destroy the workspace")


async def _end(attempt: Attempt, ref: WorkspaceRef, summary: str) -> Acknowledgement:
    return await attempt.on_node(NodeActivities.destroy_workspace, ref, summary=summary, within=attempt.budgets.cleanup)
