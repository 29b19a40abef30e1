"""`/v1/tasks`: make, show, list, start, cancel."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse

from api import bodies
from api.deps import INTENT_LEASE, Context, Ctx, Reader, Writer, now
from api.idempotency import Done, IdempotencyKey, once
from api.problems import Problem, invalid
from api.schemas.pages import Labels, Limit, Page, Position, page_of
from api.schemas.tasks import CancelOut, CancelResult, CommandBody, TaskBody, TaskOut, represent
from domain.ids import new_id
from domain.lifecycle import Step, TaskStatus
from domain.names import TaskId
from domain.policy import outlived
from domain.runner import RunnerInput
from domain.spec import TaskSpec
from settings import PREFIX
from store import attachments, commands, tasks
from store.commands import Commanded, Outcome
from store.models import OutboxKind
from telemetry.traces import current

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])

CANCELS: Final = {Outcome.REQUESTED: CancelResult.REQUESTED, Outcome.FORCED: CancelResult.FORCED}


@router.post(
    "", status_code=201, response_model=TaskOut, openapi_extra=bodies.describe(TaskBody), summary="Create a task"
)
async def create(
    ctx: Ctx,
    caller: Writer,
    body: Annotated[bodies.Body[TaskBody], Depends(bodies.json_of(TaskBody))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Row, first events and start intent are one transaction; the answer does not wait for the engine."""
    spec, task, traceparent = body.value, TaskId(new_id()), current()
    token = ctx.settings.callback_token
    if reason := outlived(ctx.policy.budgets, spec.timeouts, callback_token=token, prefix=PREFIX):
        raise invalid("timeouts", reason)

    async def work(connection: AsyncConnection) -> Done:
        if spec.attachments:
            missing = await attachments.missing(connection, caller.project, spec.attachments)
            if missing:
                raise Problem("unknown_attachment", errors=[("attachments", f"no such attachment: {missing[0]}")])
        created = await tasks.create(
            connection,
            task=task,
            project=caller.project,
            spec=spec,
            start=spec.start,
            now=now(),
            lease_to=ctx.courier.name,
            lease=INTENT_LEASE,
            traceparent=traceparent,
        )

        def send() -> None:
            if created.intent:
                argument = RunnerInput(
                    task_id=task,
                    attempt=1,
                    project=caller.project,
                    spec=spec,
                    name=spec.title,
                    policy=ctx.policy,
                    breakpoints=spec.breakpoints or None,
                    traceparent=traceparent,
                )
                ctx.courier.send(created.intent, argument)

        return Done(status=201, content=represent(created.row, ctx.gateway), after=send)

    return await once(
        ctx,
        "tasks.create",
        project=caller.project,
        key=key,
        digest=body.digest,
        work=work,
        one_statement=not spec.attachments,
    )


@router.get("", response_model=Page[TaskOut], summary="List tasks, newest first")
async def index(
    *,
    ctx: Ctx,
    caller: Reader,
    limit: Limit,
    position: Position,
    labels: Labels,
    status: Annotated[list[TaskStatus], Query()] = [],  # noqa: B006 - FastAPI copies defaults
    step: Annotated[list[Step], Query()] = [],  # noqa: B006
    paused: bool | None = None,
    exhausted: Annotated[bool | None, Query(description="Failed because no try was left.")] = None,
    run_id: Annotated[str | None, Query(max_length=64)] = None,
    member: Annotated[str | None, Query(max_length=100, description="Of the run: a member's name.")] = None,
    q: Annotated[str | None, Query(max_length=200, description="Part of the name.")] = None,
    created_after: datetime | None = None,
) -> JSONResponse:
    """Narrow by any of the filters; `status`, `step` and `label` may be repeated."""
    if created_after is not None and created_after.tzinfo is None:
        created_after = created_after.replace(tzinfo=UTC)
    filters = tasks.Filters(
        status=status,
        step=step,
        paused=paused,
        exhausted=exhausted,
        run_id=run_id,
        member=member,
        labels=labels,
        q=q,
        created_after=created_after,
    )
    async with ctx.database.read() as connection:
        rows = await tasks.page(connection, caller.project, filters, before=position, limit=limit + 1)
    return JSONResponse(page_of([represent(row, ctx.gateway) for row in rows], limit))


@router.get("/{task_id}", response_model=TaskOut, summary="Show a task")
async def show(ctx: Ctx, caller: Reader, task_id: str) -> JSONResponse:
    """Read from the mirror: it works with the engine away."""
    async with ctx.database.read() as connection:
        row = await tasks.get(connection, caller.project, task_id)
    if row is None:
        raise Problem("not_found")
    return JSONResponse(represent(row, ctx.gateway))


@router.post(
    "/{task_id}/start",
    response_model=TaskOut,
    openapi_extra=bodies.describe(CommandBody, required=False),
    summary="Start a task that was created with `start: false`",
)
async def start(
    ctx: Ctx,
    caller: Writer,
    task_id: str,
    body: Annotated[bodies.Body[CommandBody], Depends(bodies.json_of(CommandBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Show a task that was started before as it is; one that was cancelled is 409 `already_ended`."""
    task = TaskId(task_id)

    async def work(connection: AsyncConnection) -> Done:
        found = await commands.start(
            connection, caller.project, task, now=now(), lease_to=ctx.courier.name, lease=INTENT_LEASE
        )
        commanded = _found(found)
        row = await tasks.get(connection, caller.project, task)
        return Done(status=200, content=represent(row or commanded.row, ctx.gateway), after=_sender(ctx, commanded))

    return await once(ctx, "tasks.start", project=caller.project, key=key, digest=body.digest, work=work)


@router.post(
    "/{task_id}/cancel",
    response_model=CancelOut,
    responses={202: {"model": CancelOut, "description": "Requested: the workflow will acknowledge it"}},
    openapi_extra=bodies.describe(CommandBody, required=False),
    summary="Cancel a task",
)
async def cancel(
    ctx: Ctx,
    caller: Writer,
    task_id: str,
    body: Annotated[bodies.Body[CommandBody], Depends(bodies.json_of(CommandBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Answer 202 `requested` the first time, and 200 for a repeat, or when nothing had begun: how it is by now."""

    async def work(connection: AsyncConnection) -> Done:
        found = await commands.cancel(
            connection, caller.project, TaskId(task_id), now=now(), lease_to=ctx.courier.name, lease=INTENT_LEASE
        )
        commanded = _found(found)
        result = CANCELS.get(commanded.outcome, CancelResult.APPLIED)
        requested = result is CancelResult.REQUESTED
        status = commanded.row["status"] if requested else TaskStatus.CANCELLED
        content = {"result": result, "status": status}
        return Done(status=202 if commanded.intent else 200, content=content, after=_sender(ctx, commanded))

    return await once(ctx, "tasks.cancel", project=caller.project, key=key, digest=body.digest, work=work)


def _found(commanded: Commanded | None) -> Commanded:
    if commanded is None:
        raise Problem("not_found")
    if commanded.outcome is Outcome.ALREADY_ENDED:
        raise Problem("already_ended", f"the task is {commanded.row['status']}", task_status=commanded.row["status"])
    return commanded


def _sender(ctx: Context, commanded: Commanded) -> Callable[[], None] | None:
    """Return what sends the command's intent once it is committed."""
    intent, row = commanded.intent, commanded.row
    if intent is None:
        return None
    if intent.kind is OutboxKind.CANCEL:
        return lambda: ctx.courier.send(intent)
    argument = RunnerInput(
        task_id=row["id"],
        attempt=row["attempt"],
        project=row["project"],
        spec=TaskSpec.model_validate(row["spec"]),
        name=row["name"],
        run_id=row["run_id"],
        policy=ctx.policy,
        traceparent=row["traceparent"],
        pause=row["pause_token"],
        pause_reason=row["pause_reason"],
        breakpoints=row["breakpoints"],
    )
    return lambda: ctx.courier.send(intent, argument)
