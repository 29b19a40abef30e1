"""`/v1/sessions`: a short session in the place of a key, for browsers: an EventSource cannot send headers."""

import hashlib
import json
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse, Response

from api import bodies
from api.deps import SESSION_COOKIE, Anybody, Context, Ctx
from api.idempotency import REPLAYED, Done, IdempotencyKey, once
from api.schemas.tasks import CommandBody
from api.schemas.times import rfc3339
from domain.ids import new_id
from store import keys, sessions

router = APIRouter(prefix="/v1/sessions", tags=["keys"])


class SessionOut(BaseModel):
    """A session; its text is in the cookie only."""

    model_config = ConfigDict(title="Session", extra="forbid")

    expires_at: str


@router.post(
    "",
    status_code=201,
    response_model=SessionOut,
    openapi_extra=bodies.describe(CommandBody, required=False),
    summary="Begin a session",
)
async def begin(
    ctx: Ctx,
    caller: Anybody,
    body: Annotated[bodies.Body[CommandBody], Depends(bodies.json_of(CommandBody, required=False))],
    key: IdempotencyKey = None,
) -> JSONResponse:
    """Set a cookie that reads what the key may read, by GET and by nothing else, until it expires.

    A repeat with the same Idempotency-Key sets the same cookie: its text is derived anew, and nowhere stored.
    """
    lasts, nonce = ctx.settings.session, new_id()

    async def work(connection: AsyncConnection) -> Done:
        text = ctx.tokens.session(caller.key_id, nonce)
        expires_at = await sessions.begin(connection, sha256=keys.sha256_of(text), key_id=caller.key_id, lasts=lasts)
        return Done(status=201, content={"expires_at": rfc3339(expires_at), "nonce": nonce})

    # Another key of the project must not repeat this one's request.
    digest = hashlib.sha256(body.digest + caller.key_id.encode()).digest()
    answer = await once(ctx, "sessions.begin", project=caller.project, key=key, digest=digest, work=work)
    kept = json.loads(bytes(answer.body))
    text = ctx.tokens.session(caller.key_id, kept.pop("nonce"))
    response = JSONResponse(kept, answer.status_code)
    if REPLAYED in answer.headers:
        response.headers[REPLAYED] = answer.headers[REPLAYED]
    _set(response, ctx, text, int(lasts.total_seconds()))
    return response


@router.delete("", status_code=204, summary="End this session")
async def end(ctx: Ctx, request: Request) -> Response:
    """Forget the session of the cookie, if there is one, and the cookie."""
    sha256 = keys.sha256_of(request.cookies.get(SESSION_COOKIE, ""))
    async with ctx.database.commit("sessions.end") as connection:
        await sessions.end(connection, sha256)
    ctx.keys.forget(sha256)
    response = Response(status_code=204)
    _set(response, ctx, "", 0)
    return response


def _set(response: Response, ctx: Context, text: str, seconds: int) -> None:
    response.set_cookie(
        SESSION_COOKIE,
        text,
        max_age=seconds,
        path="/",
        httponly=True,
        samesite="strict",
        secure=ctx.settings.public_url.startswith("https:"),
    )
