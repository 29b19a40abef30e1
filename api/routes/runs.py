"""`/v1/runs`: make, show, list."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse

from api import bodies, members
from api.deps import Ctx, Reader, Writer, now
from api.idempotency import Done, IdempotencyKey, once
from api.problems import Problem
from api.schemas.pages import Labels, Limit, Page, Position, page_of
from api.schemas.runs import RunOut, represent
from domain.ids import new_id
from domain.lifecycle import RunStatus
from domain.names import RunId
from domain.plan import planned
from domain.run_spec import RunSpec
from store import runs
from telemetry.traces import current

router = APIRouter(prefix="/v1/runs", tags=["runs"])


@router.post("", status_code=201, response_model=RunOut, openapi_extra=bodies.describe(RunSpec), summary="Create a run")
async def create(
    ctx: Ctx,
    caller: Writer,
    body: Annotated[bodies.Body[RunSpec], Depends(bodies.json_of(RunSpec))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Check the whole graph, then write the run with its members; tasks follow as their members become ready.

    What is wrong with the graph is 422, named: `cycle`, `unknown_member`, `duplicate_member` and the like.
    """
    spec, run, traceparent = body.value, RunId(new_id()), current()
    plan = await asyncio.to_thread(
        planned, spec.members, spec.edges, breakpoints=spec.breakpoints, on_failure=spec.on_failure
    )
    members.check(ctx, spec.members)

    async def work(connection: AsyncConnection) -> Done:
        await members.check_attachments(connection, caller.project, spec.members)
        row = await runs.create(
            connection,
            run=run,
            project=caller.project,
            spec=spec,
            planned=plan,
            now=now(),
            traceparent=traceparent,
        )
        counts = await runs.counts(connection, [run])
        content = represent(row, counts[run], ctx.gateway)
        return Done(status=201, content=content, after=lambda: ctx.told(run))

    return await once(ctx, "runs.create", project=caller.project, key=key, digest=body.digest, work=work)


@router.get("", response_model=Page[RunOut], summary="List runs, newest first")
async def index(
    *,
    ctx: Ctx,
    caller: Reader,
    limit: Limit,
    position: Position,
    labels: Labels,
    status: Annotated[list[RunStatus], Query()] = [],  # noqa: B006 - FastAPI copies defaults
    q: Annotated[str | None, Query(max_length=200, description="Part of the name.")] = None,
) -> JSONResponse:
    """Narrow by any of the filters; `status` and `label` may be repeated."""
    filters = runs.Filters(status=status, labels=labels, q=q)
    async with ctx.database.read() as connection:
        rows = await runs.page(connection, caller.project, filters, before=position, limit=limit + 1)
        counts = await runs.counts(connection, [row["id"] for row in rows])
    return JSONResponse(page_of([represent(row, counts[row["id"]], ctx.gateway) for row in rows], limit))


@router.get("/{run_id}", response_model=RunOut, summary="Show a run")
async def show(ctx: Ctx, caller: Reader, run_id: str) -> JSONResponse:
    """Read from the mirror: it works with the engine away."""
    async with ctx.database.read() as connection:
        row = await runs.get(connection, caller.project, run_id)
        counts = await runs.counts(connection, [run_id])
    if row is None:
        raise Problem("not_found")
    return JSONResponse(represent(row, counts[run_id], ctx.gateway))
