"""`/v1/runs/{id}/graph`: the members and edges of a run, with places to draw them at."""

import asyncio

from fastapi import APIRouter
from starlette.responses import JSONResponse

from api.deps import Ctx, Reader
from api.problems import Problem
from api.schemas.run_graph import GraphOut, Picture
from domain.names import RunId
from domain.run import Questions
from store import run_graph, run_results

router = APIRouter(prefix="/v1/runs", tags=["runs"])


@router.get("/{run_id}/graph", response_model=GraphOut, summary="Show a run's graph")
async def show(ctx: Ctx, caller: Reader, run_id: str) -> JSONResponse:
    """Show how far each member is, what is ready, what blocks the others, and which way is critical."""
    async with ctx.database.read() as connection:
        rows = await run_graph.read(connection, caller.project, run_id)
    if rows is None:
        raise Problem("not_found")
    # A large graph takes a second, in which others are served.
    picture = await asyncio.to_thread(Picture, rows)
    asked = Questions(run_id=RunId(run_id), edges=picture.questions())
    async with ctx.database.read() as connection:
        found = await run_results.find_out(connection, asked)
    return JSONResponse(await asyncio.to_thread(picture.represent, found.edges))
