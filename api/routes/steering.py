"""`/v1/tasks/{id}/pause`, `/resume` and `/breakpoints`: hold a task, and let it go on."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse

from api import bodies
from api.deps import INTENT_LEASE, Context, Ctx, Writer, now
from api.idempotency import REPLAYED, Done, IdempotencyKey, keep, once
from api.schemas.steering import PauseBody, PauseOut, PauseResult, ResumeBody, ResumeOut
from api.steered import changed, paused
from domain.ids import new_id
from domain.lifecycle import TaskStatus
from domain.names import TaskId
from domain.spec import Breakpoints
from store import holds
from store.holds import SteeredTask

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.post(
    "/{task_id}/pause",
    response_model=PauseOut,
    responses={202: {"model": PauseOut, "description": "Requested: it holds as soon as the step under way lets it"}},
    openapi_extra=bodies.describe(PauseBody, required=False),
    summary="Pause a task",
)
async def pause(
    ctx: Ctx,
    caller: Writer,
    task_id: str,
    body: Annotated[bodies.Body[PauseBody], Depends(bodies.json_of(PauseBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Answer 200 `applied` if the task holds by now, else 202 `requested`; asked again, with the same token.

    A wait is held at once, its clock stops; a command that runs goes on to its end, and the task holds after it.
    """

    async def work(connection: AsyncConnection) -> Done:
        found = await holds.pause(
            connection,
            caller.project,
            TaskId(task_id),
            reason=body.value.reason,
            token=new_id(),
            now=now(),
            lease_to=ctx.courier.name,
            lease=INTENT_LEASE,
        )
        steered = changed(found, "task")
        status, content = paused(steered, _where(steered.row))
        return Done(status=status, content=content, after=_sender(ctx, steered))

    answer = await once(ctx, "tasks.pause", project=caller.project, key=key, digest=body.digest, work=work)
    asked = PauseOut.model_validate_json(bytes(answer.body))
    if REPLAYED in answer.headers or asked.result is PauseResult.APPLIED or asked.status is TaskStatus.READY:
        return answer
    held = await ctx.gateway.pause(TaskId(task_id), asked.attempt)
    if held is None or held.token != asked.token:
        return answer
    asked.result, asked.step = PauseResult.APPLIED, held.step
    applied = Done(status=200, content=asked.model_dump(mode="json"))
    if key is not None:
        async with ctx.database.commit("tasks.pause_applied") as connection:
            await keep(ctx, connection, project=caller.project, key=key, digest=body.digest, done=applied)
    return JSONResponse(applied.content, applied.status)


@router.post(
    "/{task_id}/resume",
    response_model=ResumeOut,
    openapi_extra=bodies.describe(ResumeBody),
    summary="Resume a task that is paused",
)
async def resume(
    ctx: Ctx,
    caller: Writer,
    task_id: str,
    body: Annotated[bodies.Body[ResumeBody], Depends(bodies.json_of(ResumeBody))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """End the hold of this token, or the request for it; 409 `not_paused` or `stale_token` changes nothing."""

    async def work(connection: AsyncConnection) -> Done:
        found = await holds.resume(
            connection,
            caller.project,
            TaskId(task_id),
            token=body.value.token,
            now=now(),
            lease_to=ctx.courier.name,
            lease=INTENT_LEASE,
        )
        steered = changed(found, "task")
        content = {"result": PauseResult.APPLIED, **_where(steered.row)}
        return Done(status=200, content=content, after=_sender(ctx, steered))

    return await once(ctx, "tasks.resume", project=caller.project, key=key, digest=body.digest, work=work)


@router.put(
    "/{task_id}/breakpoints",
    response_model=Breakpoints,
    openapi_extra=bodies.describe(Breakpoints),
    summary="Set the steps at which a task holds",
)
async def set_breakpoints(
    ctx: Ctx,
    caller: Writer,
    task_id: str,
    body: Annotated[bodies.Body[Breakpoints], Depends(bodies.json_of(Breakpoints))],
) -> JSONResponse:
    """Replace all of them. A hold that is in effect stays; a visit that has passed its breakpoint does not go back.

    The attempt has been told when this answers, unless Temporal or every worker is away: then it is as soon as it can.
    """
    async with ctx.database.begin("tasks.set_breakpoints") as connection:
        found = await holds.set_breakpoints(
            connection,
            caller.project,
            TaskId(task_id),
            body.value,
            lease_to=ctx.courier.name,
            lease=INTENT_LEASE,
        )
    steered = changed(found, "task")
    _sender(ctx, steered)()
    if steered.intent is not None:
        await ctx.gateway.pause(TaskId(task_id), steered.intent.attempt)
    return JSONResponse(body.value.model_dump(mode="json"))


def _where(row: dict[str, Any]) -> dict[str, Any]:
    return {"status": row["status"], "step": row["step"]}


def _sender(ctx: Context, steered: SteeredTask) -> Callable[[], None]:
    """Return what tells the attempt, and those who watch, once it is committed."""
    intent = steered.intent
    if intent is not None:
        return lambda: ctx.courier.send(intent)
    return lambda: ctx.courier.grown(TaskId(steered.row["id"]))
