"""Attachments: uploaded for tasks to come, downloaded by their workspaces."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, StreamingResponse

from api import transfer
from api.deps import Ctx, Token, Writer
from api.problems import Problem
from api.schemas.files import AttachmentOut
from domain.ids import new_id
from domain.names import AttachmentId
from store import attachments

router = APIRouter(prefix="/v1/attachments", tags=["attachments"])
of_workspace = APIRouter(prefix="/v1/workspaces/{workspace_id}", tags=["callbacks"])


@router.post(
    "",
    status_code=201,
    response_model=AttachmentOut,
    openapi_extra=transfer.BODY,
    summary="Upload a file for tasks to come",
)
async def upload(
    ctx: Ctx, caller: Writer, request: Request, name: Annotated[str, Query(description="The file's name.")]
) -> JSONResponse:
    """Send the file itself as the body, not a form: `curl --data-binary @file '…/v1/attachments?name=file'`."""
    media_type = transfer.media_type_of(request)
    if media_type == "multipart/form-data":
        raise Problem("unsupported_media_type", "send the file itself as the body, with its name in `?name=`")
    name = transfer.file_name(name)
    stored = await transfer.receive(ctx, request, limit=ctx.settings.limits.attachment)
    attachment = AttachmentId(new_id())
    async with ctx.database.commit("attachments.add") as connection:
        await attachments.add(
            connection,
            attachment=attachment,
            project=caller.project,
            name=name,
            media_type=media_type,
            blob=stored.blob,
        )
    content = {"id": attachment, "name": name, "media_type": media_type, "size": stored.size, "sha256": stored.sha256}
    return JSONResponse(content, 201)


@of_workspace.get(
    "/attachments/{attachment_id}",
    response_class=StreamingResponse,
    responses=transfer.DOWNLOAD,
    summary="Download an attachment of the workspace's task",
)
async def attachment(ctx: Ctx, token: Token, attachment_id: str) -> StreamingResponse:
    """Give only what the task's body names."""
    async with ctx.database.read() as connection:
        row = await attachments.of_task(connection, token.task_id, token.attempt, attachment_id)
    if row is None:
        raise Problem("not_found")
    if row["stale"] or row["over"]:
        raise Problem("stale_attempt" if row["stale"] else "attempt_ended")
    return transfer.send(ctx, row)
