"""`/livez` and `/readyz`: for whoever restarts this process or sends it traffic. They need no key."""

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse

from api.deps import Ctx
from api.problems import Problem
from api.schemas.probes import LiveOut, ReadyOut
from store import probe

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
