"""`/v1/nodes`: the machines that host workspaces. They serve all projects."""

import json
from typing import Annotated

from fastapi import APIRouter, Depends
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse

from api import bodies
from api.auth import Caller
from api.deps import Ctx, Operator, Reader
from api.idempotency import Done, IdempotencyKey, once
from api.problems import Problem
from api.schemas.nodes import NodeBody, NodeOut, ReportBody, represent
from api.schemas.pages import Limit, Page, Position, page_of
from domain.names import NodeId
from store import nodes

router = APIRouter(prefix="/v1/nodes", tags=["nodes"])


@router.get("", response_model=Page[NodeOut], summary="List nodes")
async def index(ctx: Ctx, _: Reader, limit: Limit, position: Position) -> JSONResponse:
    """Show them by id."""
    async with ctx.database.read() as connection:
        rows = await nodes.page(connection, after=position, limit=limit + 1)
    return JSONResponse(page_of([represent(row) for row in rows], limit))


@router.post(
    "",
    status_code=201,
    response_model=NodeOut,
    responses={200: {"model": NodeOut, "description": "It was there, and is renewed"}},
    openapi_extra=bodies.describe(NodeBody),
    summary="Register a node, or renew what is known of it",
)
async def register(
    ctx: Ctx,
    caller: Operator,
    body: Annotated[bodies.Body[NodeBody], Depends(bodies.json_of(NodeBody))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Give it slots once it has reported in; slots that are taken stay taken."""
    node = body.value
    _own(caller, node.id)

    async def work(connection: AsyncConnection) -> Done:
        new, row = await nodes.register(
            connection,
            node=NodeId(node.id),
            slots=node.slots,
            labels=json.dumps(node.labels),
            facts=json.dumps(node.facts),
        )
        return Done(status=201 if new else 200, content=represent(row))

    return await once(ctx, "nodes.register", project=caller.project, key=key, digest=body.digest, work=work)


@router.post(
    "/{node_id}/ready",
    response_model=NodeOut,
    openapi_extra=bodies.describe(ReportBody, required=False),
    summary="The node reports in",
)
async def ready(
    ctx: Ctx,
    caller: Operator,
    node_id: str,
    body: Annotated[bodies.Body[ReportBody], Depends(bodies.json_of(ReportBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Tell the attempts that wait for it, and grant its slots to those who wait for any."""
    _own(caller, node_id)

    async def work(connection: AsyncConnection) -> Done:
        row = await nodes.report(connection, NodeId(node_id))
        if row is None:
            raise Problem("not_found")
        return Done(status=200, content=represent(row))

    return await once(ctx, "nodes.report", project=caller.project, key=key, digest=body.digest, work=work)


def _own(caller: Caller, node: str) -> None:
    """Refuse a node's key for another node."""
    if caller.node_id is not None and caller.node_id != node:
        raise Problem("forbidden", "this key belongs to another node")
