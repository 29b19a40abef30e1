"""For whoever watches this process: `/livez` and `/readyz`, which need no key, and `/metrics`, which needs one."""

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response

from api.deps import Admin, Ctx
from api.problems import Problem
from api.schemas.probes import LiveOut, ReadyOut
from domain.names import DEFAULT_PROJECT
from store import probe
from telemetry.metrics import CONTENT_TYPE

router = APIRouter(tags=["probes"])


@router.get("/livez", response_model=LiveOut, summary="Whether the process answers")
async def livez() -> JSONResponse:
    """Look at nothing else: a restart would not mend the database."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", response_model=ReadyOut, summary="Whether requests can be served")
async def readyz(ctx: Ctx) -> JSONResponse:
    """Ready means the database answers; the engine is a detail, because tasks are accepted without it."""
    try:
        async with ctx.database.read() as connection:
            await probe.answer(connection)
    except SQLAlchemyError:
        raise Problem("database_unavailable") from None
    engine = "ok" if await ctx.gateway.reachable() else "unreachable"
    return JSONResponse({"status": "ok", "database": "ok", "engine": engine})


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "For Prometheus"}},
    summary="What this process counts",
)
async def metrics(ctx: Ctx, caller: Admin) -> Response:
    """Only for an admin of the project `default`; `TASKRUNNER_METRICS_PORT` tells the same without a key."""
    if caller.project != DEFAULT_PROJECT:
        raise Problem("forbidden", f"only an admin of the project {DEFAULT_PROJECT} sees what belongs to no project")
    return Response(await ctx.metrics.exposition(), media_type=CONTENT_TYPE)
