"""Attachments: uploaded for tasks to come, downloaded by their workspaces."""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse, StreamingResponse

from api import transfer
from api.deps import Ctx, Token, Writer
from api.idempotency import REPLAYED, Done, IdempotencyKey, once
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
    ctx: Ctx,
    caller: Writer,
    request: Request,
    name: Annotated[str, Query(description="The file's name.")],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Send the file itself as the body, not a form: `curl --data-binary @file '…/v1/attachments?name=file'`."""
    media_type = transfer.media_type_of(request)
    if media_type == "multipart/form-data":
        raise Problem("unsupported_media_type", "send the file itself as the body, with its name in `?name=`")
    name = transfer.file_name(name)
    stored = await transfer.receive(ctx, request, limit=ctx.settings.limits.attachment)

    async def work(connection: AsyncConnection) -> Done:
        attachment = AttachmentId(new_id())
        await attachments.add(
            connection,
            attachment=attachment,
            project=caller.project,
            name=name,
            media_type=media_type,
            blob=stored.blob,
        )
        content = {"id": attachment, "name": name, "media_type": media_type}
        return Done(status=201, content=content | {"size": stored.size, "sha256": stored.sha256})

    # No transaction may last as long as an upload, so a repeat is known only once it has come in whole.
    digest = hashlib.sha256(f"{request.url.path}\n{name}\n{media_type}\n{stored.sha256}".encode()).digest()
    try:
        answer = await once(
            ctx, "attachments.add", project=caller.project, key=key, digest=digest, work=work, one_statement=True
        )
    except BaseException:
        await transfer.discard(ctx, stored)
        raise
    if REPLAYED in answer.headers:
        await transfer.discard(ctx, stored)
    return answer


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
