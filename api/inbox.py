"""Callbacks by the contract's table: commit the inbox row, then signal, then answer."""

from datetime import timedelta
from typing import Any, Final

from api.deps import Context
from api.problems import Problem
from domain.names import CallbackKind
from domain.tokens import Claims
from store import callbacks, tasks
from store.callbacks import Reception
from store.outbox import Undelivered
from workflows.gateway import Sent

# Longer than the signal's own limit, so that the loop does not send what is being sent.
LEASE: Final = timedelta(seconds=5)
REFUSED: Final = {
    Reception.CONFLICT: "conflicting_callback",
    Reception.ALREADY_FAILED: "already_failed",
    Reception.STALE: "stale_attempt",
    Reception.ENDED: "attempt_ended",
}


def admit(reception: Reception) -> None:
    """Raise the problem of a callback that has no effect."""
    if reception in REFUSED:
        raise Problem(REFUSED[reception])


async def receive(ctx: Context, claims: Claims, kind: CallbackKind, body: dict[str, Any]) -> tuple[int, str]:
    """Take in a callback and signal it; returns status and result. Once the row is committed nothing is lost."""
    async with ctx.database.commit("callbacks.receive") as connection:
        reception = await callbacks.receive(connection, claims, kind, body, lease=LEASE)
    admit(reception)
    if reception is Reception.DUPLICATE:
        return 200, "duplicate"
    callback = Undelivered(
        workspace_id=claims.workspace_id,
        attempt=claims.attempt,
        kind=kind,
        turn=claims.turn,
        task_id=claims.task_id,
        body=body,
        tries=0,
        over=False,
    )
    sent, ours = await ctx.deliveries.deliver(callback)
    if sent is Sent.DELIVERED:
        return 200, "applied" if ours else "duplicate"
    if sent is Sent.NOT_FOUND:
        async with ctx.database.read() as connection:
            live = await tasks.is_live(connection, claims.task_id, claims.attempt)
            taken = not live and await callbacks.taken(connection, claims, kind)
        if taken:
            # The attempt's own flush had read it from the inbox: it ended before the signal could reach it.
            return 200, "applied"
        if not live:
            raise Problem("attempt_ended")
    return 202, "accepted"
