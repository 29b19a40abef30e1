"""`/v1/workspaces`: for nodes and for controllers of `external` workspaces."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse

from api import bodies
from api.deps import Claimant, Ctx, WorkspaceReader, now
from api.idempotency import Done, IdempotencyKey, once
from api.problems import Problem
from api.schemas.callbacks import TokenBody, TokenOut
from api.schemas.pages import Limit, Page, Position, page_of
from api.schemas.times import rfc3339
from api.schemas.workspaces import WorkspaceOut, represent
from domain.lifecycle import WorkspaceStatus
from domain.names import WorkspaceId
from domain.spec import Provider
from domain.tokens import Claims
from store import workspaces

router = APIRouter(prefix="/v1/workspaces", tags=["workspaces"])

# A `ready` that comes within this time tells the workflow of the claim as well, which saves it a whole workflow task;
# without one, the step that waits for the claim is still readable within the second that the contract allows.
CLAIM_AFTER: Final = timedelta(milliseconds=500)


@router.get("", response_model=Page[WorkspaceOut], summary="List workspaces, those of the newest tasks first")
async def index(
    *,
    ctx: Ctx,
    caller: WorkspaceReader,
    limit: Limit,
    position: Position,
    status: Annotated[list[WorkspaceStatus], Query()] = [],  # noqa: B006
    provider: Annotated[list[Provider], Query()] = [],  # noqa: B006
    task_id: Annotated[str | None, Query(max_length=64)] = None,
) -> JSONResponse:
    """Show a controller of `external` workspaces which ones it should make."""
    async with ctx.database.read() as connection:
        rows = await workspaces.page(
            connection,
            caller.project,
            status=status,
            provider=provider,
            task=task_id,
            before=position,
            limit=limit + 1,
        )
    return JSONResponse(page_of([represent(row) for row in rows], limit))


@router.post(
    "/{workspace_id}/callback-token",
    response_model=TokenOut,
    openapi_extra=bodies.describe(TokenBody, required=False),
    summary="Claim the callback token",
)
async def callback_token(
    ctx: Ctx,
    caller: Claimant,
    workspace_id: str,
    body: Annotated[bodies.Body[TokenBody], Depends(bodies.json_of(TokenBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """May be repeated: each answer is a token of its own, and all of them are good until they expire.

    A repeat with the same Idempotency-Key gets the same token: it is signed anew, and nowhere stored.
    """

    def content(granted: Mapping[str, Any]) -> dict[str, Any]:
        claims = Claims(
            task_id=granted["task_id"],
            workspace_id=WorkspaceId(workspace_id),
            attempt=granted["attempt"],
            turn=body.value.turn,
            expires_at=datetime.fromtimestamp(granted["expires"], UTC),
        )
        return {
            "token": ctx.tokens.sign(claims),
            "expires_at": rfc3339(claims.expires_at),
            "callback_url": f"{ctx.settings.public_url}/v1/workspaces/{workspace_id}",
        }

    async def work(connection: AsyncConnection) -> Done:
        claimed = await workspaces.claim(
            connection, workspace_id, project=caller.project, node=caller.node_id, after=CLAIM_AFTER
        )
        if claimed is None:
            raise Problem("not_found")
        if not claimed.current or claimed.over:
            raise Problem("attempt_ended" if claimed.current else "stale_attempt")
        expires = int((now() + ctx.settings.callback_token).timestamp())
        granted = {"task_id": claimed.task_id, "attempt": claimed.attempt, "expires": expires}
        return Done(status=200, content=content(granted), kept=granted)

    # A node's token opens workspaces of every project: another key of its project must not repeat its request.
    digest = hashlib.sha256(body.digest + (caller.node_id or "").encode()).digest()
    return await once(
        ctx,
        "workspaces.claim",
        project=caller.project,
        key=key,
        digest=digest,
        work=work,
        again=content,
        one_statement=True,
    )
