"""`/v1/runs/{id}/cancel`, `/retry` and `DELETE`: end a run, try it again, take it away."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse, Response

from api import bodies
from api.deps import Ctx, Writer, now
from api.idempotency import Done, IdempotencyKey, once
from api.problems import Problem
from api.schemas.run_steering import RunCancelOut, RunRetryBody
from api.schemas.runs import RunOut, represent
from api.schemas.tasks import CancelResult, CommandBody
from domain.lifecycle import RunStatus
from domain.names import RunId
from store import run_commands, run_deletions, runs
from store.deletions import Deletion
from store.run_commands import Outcome, Refusal, Retried

router = APIRouter(prefix="/v1/runs", tags=["runs"])


@router.post(
    "/{run_id}/cancel",
    response_model=RunCancelOut,
    responses={202: {"model": RunCancelOut, "description": "Requested: the workflow will acknowledge it"}},
    openapi_extra=bodies.describe(CommandBody, required=False),
    summary="Cancel a run",
)
async def cancel(
    ctx: Ctx,
    caller: Writer,
    run_id: str,
    body: Annotated[bodies.Body[CommandBody], Depends(bodies.json_of(CommandBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Answer 202 `requested` the first time, and 200 for a repeat, or when nothing had begun: how it is by now.

    Its open tasks are cancelled, and what has not begun is given up.
    """
    run = RunId(run_id)

    async def work(connection: AsyncConnection) -> Done:
        cancelled = await run_commands.cancel(connection, caller.project, run, now=now())
        if cancelled is None:
            raise Problem("not_found")
        status = cancelled.row["status"]
        if cancelled.outcome is Outcome.ALREADY_ENDED:
            raise Problem("already_ended", f"the run is {status}", run_status=status)
        requested = cancelled.outcome is Outcome.REQUESTED
        content = {
            "result": CancelResult.REQUESTED if requested else CancelResult.APPLIED,
            "status": status if requested else RunStatus.CANCELLED,
        }
        return Done(status=202 if cancelled.asked else 200, content=content, after=lambda: ctx.told(run))

    return await once(ctx, "runs.cancel", project=caller.project, key=key, digest=body.digest, work=work)


@router.post(
    "/{run_id}/retry",
    response_model=RunOut,
    openapi_extra=bodies.describe(RunRetryBody, required=False),
    summary="Retry a run that failed or was cancelled",
)
async def retry(
    ctx: Ctx,
    caller: Writer,
    run_id: str,
    body: Annotated[bodies.Body[RunRetryBody], Depends(bodies.json_of(RunRetryBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Queue the next attempt: what failed, was cancelled or skipped is done again, what has completed stays.

    A run that has not ended, one of whose tasks has not, or that has completed, is 409.
    """
    run = RunId(run_id)

    async def work(connection: AsyncConnection) -> Done:
        retried = await run_commands.retry(
            connection, caller.project, run, from_attempt=body.value.from_attempt, now=now()
        )
        if retried is None:
            raise Problem("not_found")
        if retried.refused is not None:
            raise _problem(retried, body.value)
        counts = await runs.counts(connection, [run])
        content: dict[str, Any] = represent(retried.row, counts[run], ctx.gateway)
        return Done(status=200, content=content, after=lambda: ctx.told(run))

    return await once(ctx, "runs.retry", project=caller.project, key=key, digest=body.digest, work=work)


@router.delete("/{run_id}", status_code=204, response_class=Response, summary="Delete a run that has ended")
async def delete(ctx: Ctx, caller: Writer, run_id: str) -> Response:
    """Delete it with its tasks and all that belongs to those; one that has not ended is 409 `not_ended`."""
    async with ctx.database.begin("runs.delete") as connection:
        deletion = await run_deletions.delete(connection, caller.project, RunId(run_id))
    if deletion is None:
        raise Problem("not_found")
    if deletion is Deletion.NOT_ENDED:
        raise Problem("not_ended", "cancel it first, and let its tasks end")
    return Response(status_code=204)


def _problem(retried: Retried, asked: RunRetryBody) -> Problem:
    row, refusal = retried.row, retried.refused
    if refusal is Refusal.ATTEMPT_MISMATCH:
        detail = f"the run is at attempt {row['attempt']}, not at {asked.from_attempt}"
        return Problem(refusal, detail, attempt=row["attempt"], from_attempt=asked.from_attempt)
    if retried.open_task is not None:
        return Problem("not_ended", f"its task {retried.open_task} has not ended: cancel it, or wait for it")
    return Problem(str(refusal), f"the run is {row['status']}", run_status=row["status"])
