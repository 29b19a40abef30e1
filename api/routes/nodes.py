"""`/v1/nodes`: the machines that host workspaces. They serve all projects."""

import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse

from api import bodies
from api.auth import Caller
from api.deps import Context, Ctx, Operator, Reader
from api.idempotency import Done, IdempotencyKey, once
from api.problems import Problem
from api.schemas.nodes import BeatBody, DrainBody, NodeBody, NodeOut, RegisteredOut, ReportBody, ReportedOut, represent
from api.schemas.pages import Limit, Page, Position, page_of
from domain.lifecycle import NodeStatus
from domain.names import NodeId, WorkspaceId
from domain.rotation import payload_keys
from store import nodes

ELSEWHERE: Final = "give this one a node and a token of its own, or end the other one; a lost one does not count"

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
    response_model=RegisteredOut,
    responses={200: {"model": RegisteredOut, "description": "It was there, and is renewed"}},
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
    node_id = node.id or caller.node_id
    if node_id is None:
        raise Problem("invalid", "only a node's own token names the node by itself", errors=[("id", "is missing")])
    _own(caller, node_id)
    if node.home is not None and caller.node_id is None:
        raise Problem(
            "forbidden", "a machine joins by a token of its own (`taskrunner nodes tokens create`), by no key"
        )

    async def work(connection: AsyncConnection) -> Done:
        registered = await nodes.register(
            connection,
            node=NodeId(node_id),
            home=node.home,
            slots=node.slots,
            labels=json.dumps(node.labels),
            facts=json.dumps(node.facts),
        )
        if registered is None:
            raise Problem("node_elsewhere", ELSEWHERE)
        new, row = registered
        return Done(status=201 if new else 200, content=represent(row) | _told(ctx))

    return await once(ctx, "nodes.register", project=caller.project, key=key, digest=body.digest, work=work)


@router.post(
    "/{node_id}/ready",
    response_model=ReportedOut,
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
    """Tell the attempts that wait for it, grant its slots to those who wait for any, and say what is not its own."""
    _own(caller, node_id)
    found = [WorkspaceId(workspace) for workspace in body.value.workspaces]

    async def work(connection: AsyncConnection) -> Done:
        await _at_home(connection, node_id, body.value.home)
        row = await nodes.report(connection, NodeId(node_id))
        if row is None:
            raise Problem("not_found")
        not_own = await nodes.not_own(connection, NodeId(node_id), found)
        return Done(status=200, content=represent(row) | {"not_own": not_own})

    return await once(ctx, "nodes.report", project=caller.project, key=key, digest=body.digest, work=work)


@router.post(
    "/{node_id}/heartbeat",
    response_model=NodeOut,
    openapi_extra=bodies.describe(BeatBody, required=False),
    summary="The node is there",
)
async def heartbeat(
    ctx: Ctx,
    caller: Operator,
    node_id: str,
    body: Annotated[bodies.Body[BeatBody], Depends(bodies.json_of(BeatBody, required=False))],
) -> JSONResponse:
    """Note it, and what the node measures. The answer's status tells the node what it is taken for."""
    _own(caller, node_id)
    cpu, memory = body.value.cpu, body.value.memory
    async with ctx.database.begin("nodes.beat") as connection:
        await _at_home(connection, node_id, body.value.home)
        load = ctx.settings.placement.load(cpu=cpu, memory=memory)
        row = await nodes.beat(connection, NodeId(node_id), cpu=cpu, memory=memory, load=load)
    if row is None:
        raise Problem("not_found")
    return JSONResponse(represent(row))


@router.post(
    "/{node_id}/drain",
    response_model=NodeOut,
    openapi_extra=bodies.describe(DrainBody, required=False),
    summary="Give the node no more tasks",
)
async def drain(
    ctx: Ctx,
    caller: Operator,
    node_id: str,
    body: Annotated[bodies.Body[DrainBody], Depends(bodies.json_of(DrainBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Let it end what it has; without any it is `gone`. One that is `gone` already loses what it had: it is retried."""
    _own(caller, node_id)
    change = nodes.remove if body.value.gone else nodes.drain

    async def work(connection: AsyncConnection) -> Done:
        row = await change(connection, NodeId(node_id))
        if row is None:
            raise Problem("not_found")
        if row["status"] == NodeStatus.LOST:
            raise Problem("node_lost", "it drains when it is back; `gone` says that it does not come back")
        return Done(status=200, content=represent(row))

    return await once(ctx, "nodes.drain", project=caller.project, key=key, digest=body.digest, work=work)


def _own(caller: Caller, node: str) -> None:
    """Refuse a node's token for another node."""
    if caller.node_id is not None and caller.node_id != node:
        raise Problem("forbidden", "this token belongs to another node")


async def _at_home(connection: AsyncConnection, node: str, home: str | None) -> None:
    """Refuse a machine in whose stead another one has joined."""
    if home is not None and await nodes.elsewhere(connection, NodeId(node), home=home):
        raise Problem("node_elsewhere", ELSEWHERE)


def _told(ctx: Context) -> dict[str, Any]:
    """Return what a node is told when it is registered: addresses and numbers, and nothing that opens anything."""
    settings, (address, namespace) = ctx.settings, ctx.gateway.address
    keys = payload_keys(settings.payload_keys.get_secret_value())
    return {
        "heartbeat_seconds": settings.supervision.heartbeat.total_seconds(),
        "temporal": {
            "address": settings.node_temporal_address or address,
            "namespace": namespace,
            "payload_key": next(iter(keys), None),
        },
    }
