"""How an attempt ends: its last events, and whether another attempt follows."""

from datetime import datetime
from typing import Any

from temporalio import workflow

from domain.errors import Category, TaskError
from domain.events import EVENT_OF_OUTCOME, EventType
from domain.lifecycle import TaskStatus
from domain.messages import Answer, Conclusion
from workflows.attempt import Attempt
from workflows.mirrored import StepFailed
from workflows.ports import MirrorActivities


def _can_be_mended(attempt: Attempt) -> bool:
    """Return whether a failed attempt is one that another may mend."""
    state, retry = attempt.state, attempt.spec.retry
    return (
        state.outcome is TaskStatus.FAILED
        and state.error is not None
        and retry.helps_against(state.error.category, retryable=state.error.retryable)
    )


def will_retry(attempt: Attempt) -> bool:
    """Return whether a failed attempt is followed by another: a try is left, and trying again can help."""
    return _can_be_mended(attempt) and attempt.argument.attempt < attempt.spec.retry.max_attempts


async def conclude(attempt: Attempt) -> None:
    """Write the end, release what the ledger says is held, and store the next attempt's start: one transaction.

    A cancel that is in the mirror by then prevents the next attempt: the end is written anew, as cancelled.
    """
    attempt.concluding = True
    try:
        with attempt.provisionally():
            answer = await _write_end(attempt)
            if not answer.withheld:
                attempt.obey(answer)
                return
        attempt.state.outcome, attempt.state.error = TaskStatus.CANCELLED, cancelled(attempt)
        attempt.obey(await _write_end(attempt))
    except StepFailed as refused:
        # Trying again is useless, and a workflow that cannot end is worse: the row is the reconciler's now.
        attempt.state.outcome, attempt.state.error = TaskStatus.FAILED, refused.error


async def _write_end(attempt: Attempt) -> Answer:
    next_at = _emit_end(attempt)
    pending = attempt.state.cleanup_pending
    conclusion = Conclusion(
        **attempt.batch().model_dump(),
        destroyed=not pending,
        next_attempt_at=next_at,
        lease=attempt.policy.supervision.lease if pending else None,
        node_lost=attempt.deserted,
        kept=attempt.state.workspace_id if attempt.state.kept else None,
        keep_for=attempt.spec.keep_workspace.for_ if attempt.state.kept else None,
    )
    return await attempt.mirror(MirrorActivities.conclude, conclusion)


def _emit_end(attempt: Attempt) -> datetime | None:
    """Note the terminal events; returns when the next attempt may start, or None."""
    state, number = attempt.state, attempt.argument.attempt
    error = state.error.model_dump(mode="json") if state.error else None
    cleanup: dict[str, Any] = {"cleanup": "pending"} if state.cleanup_pending else {}
    began = state.began_at or workflow.info().workflow_start_time
    duration = (workflow.now() - began).total_seconds()
    kept = attempt.spec.keep_workspace.for_.total_seconds() if state.kept else None
    attempt.emit(EventType.ATTEMPT_CLEANED, **cleanup, workspace_kept_seconds=kept)
    if will_retry(attempt):
        jitter = 0.5 + workflow.random().random()
        delay = attempt.spec.retry.delay_after(number) * jitter
        if state.cleanup_pending and not attempt.deserted:
            # The old agent may live on where nobody reaches it, until its lease runs out: never two on one task. On a
            # lost node it has run out for who was last heard when the node was; of any other the row knows.
            delay = max(delay, attempt.policy.supervision.lease)
        next_at = workflow.now() + delay
        attempt.emit(EventType.ATTEMPT_FAILED, error=error, duration_seconds=duration, **cleanup)
        attempt.emit(EventType.TASK_QUEUED, attempt=number + 1, reason="retry", not_before=next_at.isoformat())
        return next_at
    exhausted = number >= attempt.spec.retry.max_attempts > 1
    if _can_be_mended(attempt) and exhausted:
        attempt.emit(EventType.TASK_RETRIES_EXHAUSTED, attempts=number)
    outcome = state.outcome or TaskStatus.FAILED
    attempt.emit(
        EVENT_OF_OUTCOME[outcome],
        outcome=outcome,
        result=state.result if outcome is TaskStatus.COMPLETED else None,
        error=error,
        duration_seconds=duration,
        **cleanup,
    )
    return None


def cancelled(attempt: Attempt) -> TaskError:
    """Return the error of an attempt that somebody cancelled."""
    return attempt.error("cancelled", Category.CANCELLED, "The task was cancelled.")
