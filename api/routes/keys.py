"""`/v1/keys`: API keys of the project, for its admins."""

from typing import Annotated

from fastapi import APIRouter, Depends
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse, Response

from api import bodies
from api.auth import new_key
from api.deps import Admin, Ctx
from api.idempotency import Done, IdempotencyKey, once
from api.problems import Problem
from api.schemas.keys import KeyBody, KeyOut, NewKeyOut, represent
from api.schemas.pages import Limit, Page, Position, page_of
from domain.names import DEFAULT_PROJECT, NodeId, ProjectId
from store import keys, nodes

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.get("", response_model=Page[KeyOut], summary="List keys, newest first")
async def index(ctx: Ctx, caller: Admin, limit: Limit, position: Position) -> JSONResponse:
    """Show revoked ones too; none with its text."""
    async with ctx.database.read() as connection:
        rows = await keys.page(connection, caller.project, before=position, limit=limit + 1)
    return JSONResponse(page_of([represent(row) for row in rows], limit))


@router.post(
    "", status_code=201, response_model=NewKeyOut, openapi_extra=bodies.describe(KeyBody), summary="Make a key"
)
async def create(
    ctx: Ctx,
    caller: Admin,
    body: Annotated[bodies.Body[KeyBody], Depends(bodies.json_of(KeyBody))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Show its text this once: only its hash is kept, in the answer that an Idempotency-Key keeps as well."""
    wanted = body.value
    project = ProjectId(wanted.project or caller.project)
    if caller.project not in {project, DEFAULT_PROJECT}:
        raise Problem("forbidden", f"only an admin of the project {DEFAULT_PROJECT} makes keys of other projects")
    if wanted.node_id is not None and caller.project != DEFAULT_PROJECT:
        raise Problem("forbidden", f"only an admin of the project {DEFAULT_PROJECT} makes tokens of nodes")
    made = new_key()

    async def work(connection: AsyncConnection) -> Done:
        row = await keys.ensure(
            connection,
            sha256=keys.sha256_of(made),
            project=project,
            name=wanted.name,
            scopes=wanted.scopes,
            node_id=NodeId(wanted.node_id) if wanted.node_id else None,
        )
        shown = represent(row)
        return Done(status=201, content=shown | {"key": made}, kept=shown | {"key": None})

    return await once(ctx, "keys.create", project=caller.project, key=key, digest=body.digest, work=work)


@router.delete("/{key_id}", status_code=204, summary="Revoke a key")
async def revoke(ctx: Ctx, caller: Admin, key_id: str) -> Response:
    """Refuse it from now on: here at once, in other API processes within three seconds.

    A node whose last token it was could make no workspace: it drains.
    """
    async with ctx.database.commit("keys.revoke") as connection:
        revoked = await keys.revoke(connection, caller.project, key_id)
        if revoked is None:
            raise Problem("not_found")
        sha256, node = revoked
        if node is not None:
            await nodes.drain(connection, node)
    ctx.keys.forget(sha256)
    return Response(status_code=204)
