"""Artifacts: left by workspaces, downloaded by everybody."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, StreamingResponse

from api import transfer
from api.deps import Ctx, Reader, Token
from api.problems import Problem
from api.schemas.files import ArtifactOut, StoredOut, represent
from api.schemas.pages import LARGEST_INT, Page
from domain.names import TaskId
from store import artifacts
from store.artifacts import Admission

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
of_workspace = APIRouter(prefix="/v1/workspaces/{workspace_id}", tags=["callbacks"])

MOST_ARTIFACTS: Final = 1000  # of one attempt: the list of them is one page
REFUSED: Final = {
    Admission.STALE: "stale_attempt",
    Admission.ENDED: "attempt_ended",
    Admission.TOO_MANY: "too_many",
}
Attempt = Annotated[int | None, Query(ge=1, le=LARGEST_INT, description="The current one if it is left out.")]


@of_workspace.put(
    "/artifacts/{name:path}",
    response_model=StoredOut,
    openapi_extra=transfer.BODY,
    summary="Leave a file",
)
async def leave(ctx: Ctx, token: Token, request: Request, name: str) -> JSONResponse:
    """Replace a file of the same name; the name may have folders."""
    name = transfer.relative_path(name)
    async with ctx.database.read() as connection:
        _admitted(await artifacts.admit(connection, token, name, most=MOST_ARTIFACTS))
    stored = await transfer.receive(ctx, request, limit=ctx.settings.limits.artifact)
    try:
        async with ctx.database.begin("artifacts.put") as connection:
            # Asked again: the attempt may have ended while the file came in.
            _admitted(await artifacts.admit(connection, token, name, most=MOST_ARTIFACTS))
            await artifacts.put(
                connection, token, name=name, media_type=transfer.media_type_of(request), blob=stored.blob
            )
    except BaseException:
        await transfer.discard(ctx, stored)
        raise
    return JSONResponse({"name": name, "size": stored.size, "sha256": stored.sha256})


@router.get(
    "/{task_id}/artifacts",
    response_model=Page[ArtifactOut],
    summary="List the files that an attempt left",
)
async def index(ctx: Ctx, caller: Reader, task_id: str, attempt: Attempt = None) -> JSONResponse:
    """Show all of them, by name, in one page."""
    async with ctx.database.read() as connection:
        rows = await artifacts.page(connection, caller.project, TaskId(task_id), attempt=attempt)
    if rows is None:
        raise Problem("not_found")
    return JSONResponse({"items": [represent(task_id, row) for row in rows], "next_cursor": None})


@router.get(
    "/{task_id}/artifacts/{name:path}",
    response_class=StreamingResponse,
    responses=transfer.DOWNLOAD,
    summary="Download a file that an attempt left",
)
async def download(ctx: Ctx, caller: Reader, task_id: str, name: str, attempt: Attempt = None) -> StreamingResponse:
    """Send it for saving, under its own media type."""
    async with ctx.database.read() as connection:
        row = await artifacts.get(connection, caller.project, TaskId(task_id), name, attempt=attempt)
    if row is None:
        raise Problem("not_found")
    return transfer.send(ctx, row)


def _admitted(admission: Admission) -> None:
    if admission in REFUSED:
        raise Problem(REFUSED[admission])
