"""`Idempotency-Key`: the same key and body get the same answer, from the same transaction that did the work."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Header
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import JSONResponse

from api.deps import Context
from api.problems import Problem
from domain.names import ProjectId
from store import idempotency

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotent-Replayed"
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias=HEADER,
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="A repeat within 24 hours with the same key and body gets the same answer.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a request did: its answer, what of it may be kept, and what follows the commit."""

    status: int
    content: Any
    kept: Any = None
    after: Callable[[], None] | None = None


async def once(
    ctx: Context,
    name: str,
    *,
    project: ProjectId,
    key: str | None,
    digest: bytes,
    work: Callable[[AsyncConnection], Awaitable[Done]],
    again: Callable[[Any], Any] = lambda kept: kept,
    one_statement: bool = False,
) -> JSONResponse:
    """Do the work in one transaction of this name, and with a key at most once; a problem it raises leaves no trace.

    `again` makes the content of a repeat's answer from what was kept of the first one. `one_statement` says that the
    work is a transaction by itself.
    """
    if key is None:
        async with ctx.database.commit(name) if one_statement else ctx.database.begin(name) as connection:
            done = await work(connection)
    else:
        async with ctx.database.begin(name) as connection:
            known = await recall(ctx, connection, project=project, key=key, digest=digest, again=again)
            if known is not None:
                return known
            done = await work(connection)
            await keep(ctx, connection, project=project, key=key, digest=digest, done=done)
    if done.after is not None:
        # Only now is it committed: the engine must not hear of what may yet be rolled back.
        done.after()
    return JSONResponse(done.content, done.status)


async def recall(
    ctx: Context,
    connection: AsyncConnection,
    *,
    project: ProjectId,
    key: str,
    digest: bytes,
    again: Callable[[Any], Any] = lambda kept: kept,
) -> JSONResponse | None:
    """Return the answer that a request with this key got before; None when it is the first, or got none."""
    if not await idempotency.lock(connection, project, key):
        raise Problem("in_progress")
    known = await idempotency.find(connection, project, key, kept=ctx.settings.idempotency)
    if known is None:
        return None
    if known.digest != digest:
        raise Problem("idempotency_conflict")
    return JSONResponse(again(known.response), known.status, headers={REPLAYED: "true"})


async def keep(
    ctx: Context, connection: AsyncConnection, *, project: ProjectId, key: str, digest: bytes, done: Done
) -> None:
    """Keep an answer, or another one instead of it when the engine was asked meanwhile."""
    response = done.content if done.kept is None else done.kept
    answer = idempotency.Kept(digest=digest, status=done.status, response=response)
    await idempotency.keep(connection, project, key, answer, kept=ctx.settings.idempotency)
