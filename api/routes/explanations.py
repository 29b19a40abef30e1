"""`/v1/tasks/{id}/explain`: what a task waits for, until when, and what happens then."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from api.deps import Ctx, Reader
from api.problems import Problem
from api.schemas.explanations import ExplanationOut, represent
from domain.explain import explain
from store import facts

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.get("/{task_id}/explain", response_model=ExplanationOut, summary="Explain where a task is")
async def show(ctx: Ctx, caller: Reader, task_id: str) -> JSONResponse:
    """Decide by the same function as the reconciler; it works with the engine away."""
    async with ctx.database.read() as connection:
        found = await facts.of_task(connection, caller.project, task_id, budgets=ctx.policy.budgets)
    if found is None:
        raise Problem("not_found")
    return JSONResponse(represent(found, explain(found, now=found.read_at)))
