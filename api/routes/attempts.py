"""`/v1/tasks/{id}/attempts`: each execution with its outcome, its error and where its time went."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from api.deps import Ctx, Reader
from api.problems import Problem
from api.schemas.attempts import TYPES, AttemptOut, attempts_of
from api.schemas.pages import Page
from domain.names import TaskId
from store import events, tasks

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.get("/{task_id}/attempts", response_model=Page[AttemptOut], summary="List a task's attempts")
async def index(ctx: Ctx, caller: Reader, task_id: str) -> JSONResponse:
    """Derive them from the log; all earlier errors stay readable here."""
    async with ctx.database.read() as connection:
        if await tasks.get(connection, caller.project, task_id) is None:
            raise Problem("not_found")
        log = await events.of_types(connection, caller.project, task_id, TYPES)
    return JSONResponse({"items": attempts_of(TaskId(task_id), log, ctx.gateway), "next_cursor": None})
