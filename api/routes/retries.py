"""`/v1/tasks/{id}/retry`: the next attempt, by hand."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse

from api import bodies
from api.deps import INTENT_LEASE, Context, Ctx, Writer, now
from api.idempotency import Done, IdempotencyKey, once
from api.problems import Problem
from api.schemas.tasks import RetryBody, TaskOut, represent
from domain.names import TaskId
from store import retries
from store.outbox import Intent
from store.retries import Refusal

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.post(
    "/{task_id}/retry",
    response_model=TaskOut,
    openapi_extra=bodies.describe(RetryBody, required=False),
    summary="Retry a task that failed or was cancelled",
)
async def retry(
    ctx: Ctx,
    caller: Writer,
    task_id: str,
    body: Annotated[bodies.Body[RetryBody], Depends(bodies.json_of(RetryBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Queue the next attempt; a task that has not ended, or has completed, is 409.

    With `from_step` it begins there, in the files that the last attempt has left; 409 `nothing_to_resume` if none are
    kept.
    """

    async def work(connection: AsyncConnection) -> Done:
        retried = await retries.retry(
            connection,
            caller.project,
            TaskId(task_id),
            from_attempt=body.value.from_attempt,
            resume=body.value.from_step is not None,
            agent_lease=ctx.policy.supervision.lease,
            now=now(),
            lease_to=ctx.courier.name,
            lease=INTENT_LEASE,
        )
        if retried is None:
            raise Problem("not_found")
        if retried.refused is not None:
            raise _problem(retried.refused, retried.row, body.value)
        return Done(status=200, content=represent(retried.row, ctx.gateway), after=_sender(ctx, retried.intent))

    return await once(ctx, "tasks.retry", project=caller.project, key=key, digest=body.digest, work=work)


def _problem(refusal: Refusal, row: dict[str, Any], asked: RetryBody) -> Problem:
    if refusal is Refusal.ATTEMPT_MISMATCH:
        detail = f"the task is at attempt {row['attempt']}, not at {asked.from_attempt}"
        return Problem(refusal, detail, attempt=row["attempt"], from_attempt=asked.from_attempt)
    if refusal is Refusal.BELONGS_TO_RUN:
        run = row["run_id"]
        return Problem(refusal, f"retry its run: POST /v1/runs/{run}/retry", run_id=run)
    if refusal is Refusal.NOTHING_TO_RESUME:
        return Problem(refusal, f"attempt {row['attempt']} has kept no workspace in which its agent had begun")
    return Problem(refusal, f"the task is {row['status']}", task_status=row["status"])


def _sender(ctx: Context, intent: Intent | None) -> Callable[[], None] | None:
    """Return what starts the attempt once it is committed; its argument is read from the row, as any later start."""
    return None if intent is None else lambda: ctx.courier.send(intent)
