"""`/v1/webhooks`: where a project's events are delivered to, for its admins."""

import asyncio
import socket
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse, Response

from api import bodies
from api.deps import Admin, Context, Ctx
from api.idempotency import Done, IdempotencyKey, once
from api.problems import Problem, invalid
from api.schemas.pages import Limit, Page, Position, page_of
from api.schemas.tasks import CommandBody
from api.schemas.webhooks import (
    DeliveryOut,
    NewWebhookOut,
    WebhookBody,
    WebhookOut,
    represent,
    represent_delivery,
)
from domain.addresses import may_be_called
from domain.ids import new_id
from domain.signatures import SigningKeys, shown
from domain.webhooks import MOST_OF_A_PROJECT, OVERLAP, target_of
from store import deliveries, webhooks
from store.models import DeliveryState

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
Empty = Annotated[bodies.Body[CommandBody], Depends(bodies.json_of(CommandBody, required=False))]
# A name that cannot be looked up in time may be known later; each try looks it up anew.
LOOK_UP: Final = timedelta(seconds=2)


@router.get("", response_model=Page[WebhookOut], summary="List webhooks, newest first")
async def index(ctx: Ctx, caller: Admin, limit: Limit, position: Position) -> JSONResponse:
    """Show disabled ones too; none with its secret."""
    async with ctx.database.read() as connection:
        rows = await webhooks.page(connection, caller.project, before=position, limit=limit + 1)
    return JSONResponse(page_of([represent(row) for row in rows], limit))


@router.post(
    "",
    status_code=201,
    response_model=NewWebhookOut,
    openapi_extra=bodies.describe(WebhookBody),
    summary="Have events delivered",
)
async def create(
    ctx: Ctx,
    caller: Admin,
    body: Annotated[bodies.Body[WebhookBody], Depends(bodies.json_of(WebhookBody))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Deliver the project's events of these types from now on, and show the secret that signs them, this once."""
    signing, wanted = _signing(ctx), body.value
    await _check(ctx, wanted.url)

    async def work(connection: AsyncConnection) -> Done:
        row = await webhooks.create(
            connection,
            caller.project,
            webhook=new_id(),
            url=wanted.url,
            events=sorted(set(wanted.events)),
            description=wanted.description,
            key_id=signing.first,
            most=MOST_OF_A_PROJECT,
        )
        if row is None:
            raise Problem("too_many", f"a project has at most {MOST_OF_A_PROJECT} webhooks")
        return _done(201, row, signing)

    again = _with_secret(signing)
    return await once(
        ctx, "webhooks.create", project=caller.project, key=key, digest=body.digest, work=work, again=again
    )


@router.post(
    "/{webhook_id}/rotate",
    response_model=NewWebhookOut,
    openapi_extra=bodies.describe(CommandBody, required=False),
    summary="Give a webhook another secret",
)
async def rotate(ctx: Ctx, caller: Admin, webhook_id: str, body: Empty, key: IdempotencyKey = None) -> JSONResponse:
    """Sign with the new secret and, for a day, with the one before: a receiver may change over in between."""
    signing = _signing(ctx)

    async def work(connection: AsyncConnection) -> Done:
        row = await webhooks.rotate(connection, caller.project, webhook_id, key_id=signing.first, overlap=OVERLAP)
        if row is None:
            raise Problem("not_found")
        return _done(200, row, signing)

    again = _with_secret(signing)
    return await once(
        ctx, "webhooks.rotate", project=caller.project, key=key, digest=body.digest, work=work, again=again
    )


@router.delete("/{webhook_id}", status_code=204, summary="Deliver no more")
async def delete(ctx: Ctx, caller: Admin, webhook_id: str) -> Response:
    """Delete a webhook, and its deliveries, pending ones too."""
    async with ctx.database.commit("webhooks.delete") as connection:
        found = await webhooks.delete(connection, caller.project, webhook_id)
    if not found:
        raise Problem("not_found")
    return Response(status_code=204)


@router.get(
    "/{webhook_id}/deliveries", response_model=Page[DeliveryOut], summary="List deliveries of a webhook, newest first"
)
async def delivered(
    ctx: Ctx,
    caller: Admin,
    webhook_id: str,
    limit: Limit,
    position: Position,
    *,
    state: Annotated[DeliveryState | None, Query(description="Only in this state.")] = None,
) -> JSONResponse:
    """Show what became of each, and of its last try."""
    async with ctx.database.read() as connection:
        rows = await deliveries.page(
            connection, caller.project, webhook_id, state=state, before=position, limit=limit + 1
        )
    if rows is None:
        raise Problem("not_found")
    return JSONResponse(page_of([represent_delivery(row) for row in rows], limit))


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    response_model=DeliveryOut,
    openapi_extra=bodies.describe(CommandBody, required=False),
    summary="Send a delivery again",
)
async def redeliver(
    ctx: Ctx, caller: Admin, webhook_id: str, delivery_id: str, body: Empty, *, key: IdempotencyKey = None
) -> JSONResponse:
    """Try it anew at once, whatever became of it, under the same id and with all its time before it."""

    async def work(connection: AsyncConnection) -> Done:
        row = await deliveries.redeliver(connection, caller.project, webhook_id, delivery_id)
        if row is None:
            raise Problem("not_found")
        if isinstance(row, deliveries.Refused):
            raise Problem("webhook_disabled")
        return Done(status=200, content=represent_delivery(row))

    return await once(ctx, "webhooks.redeliver", project=caller.project, key=key, digest=body.digest, work=work)


def _signing(ctx: Context) -> SigningKeys:
    if ctx.signing is None:
        raise Problem("webhooks_off")
    return ctx.signing


async def _check(ctx: Context, url: str) -> None:
    """Refuse an address that no delivery could go to. What counts is checked again whenever one is connected."""
    settings = ctx.settings.webhooks
    try:
        target = target_of(url, settings)
    except ValueError as error:
        raise invalid("url", str(error)) from None
    try:
        async with asyncio.timeout(LOOK_UP.total_seconds()):
            found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return
    if not any(may_be_called(ip_address(address[0]), settings.allowed_networks) for *_, address in found):
        raise invalid("url", "must lead to a public address")


def _done(status: int, row: Mapping[str, Any], signing: SigningKeys) -> Done:
    """Answer with the secret; keep what it is derived from instead."""
    kept = represent(row) | {"key_id": row["key_id"], "generation": row["generation"]}
    return Done(status=status, content=_with_secret(signing)(kept), kept=kept)


def _with_secret(signing: SigningKeys) -> Any:
    def again(kept: dict[str, Any]) -> dict[str, Any]:
        shown_row = {name: value for name, value in kept.items() if name in WebhookOut.model_fields}
        secret = signing.secret(kept["key_id"], kept["id"], kept["generation"])
        return shown_row | {"secret": shown(secret) if secret else None}

    return again
