"""`DELETE /v1/tasks/{id}`: a task that has ended, with all that belongs to it."""

from fastapi import APIRouter
from starlette.responses import Response

from api.deps import Ctx, Writer
from api.problems import Problem
from domain.names import TaskId
from store import deletions
from store.deletions import Deletion

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.delete("/{task_id}", status_code=204, response_class=Response, summary="Delete a task that has ended")
async def delete(ctx: Ctx, caller: Writer, task_id: str) -> Response:
    """Delete it with events, output, artifacts and callbacks; a task that has not ended is 409 `not_ended`."""
    async with ctx.database.begin("tasks.delete") as connection:
        deletion = await deletions.delete(connection, caller.project, TaskId(task_id))
    if deletion is None:
        raise Problem("not_found")
    if deletion is Deletion.BELONGS_TO_RUN:
        raise Problem(deletion, "delete its run (DELETE /v1/runs/…), which takes it along")
    if deletion is Deletion.NOT_ENDED:
        raise Problem("not_ended", "cancel it first")
    return Response(status_code=204)
