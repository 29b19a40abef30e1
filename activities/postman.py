"""The postman: takes deliveries that are due, and posts each until it is delivered or its time is over.

Beside the dispatcher and apart from it: a receiver that hangs holds up no start and no signal, and no other receiver.
A message is sent at least once: who dies between sending and noting it leaves it to the next, under the same id.
"""

import asyncio
import contextlib
import json
import random
from collections import Counter
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from activities.post import Answer, Post
from domain.signatures import SigningKeys, signed
from domain.webhooks import TRY_LIMIT, Webhooks, next_try, target_of
from store import deliveries, webhooks
from store.deliveries import Due
from store.engine import Database

log = structlog.get_logger()

# Longer than a try, so that nobody sends what its owner is still sending.
LEASE: Final = 2 * TRY_LIMIT
LOOK_AGAIN: Final = 0.5
# A worker that stops has little time, and this is not its last duty.
CLOSING: Final = 3.0
MOST: Final = 64
MOST_OF_ONE: Final = 8


class Postman:
    """`run()` is the loop; any number of them may run beside each other."""

    def __init__(self, database: Database, post: Post, keys: SigningKeys, settings: Webhooks) -> None:
        self._database = database
        self._post = post
        self._keys = keys
        self._settings = settings
        self._flying: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._landed = asyncio.Event()

    async def run(self) -> None:
        """Deliver what is due, until cancelled."""
        while True:
            self._landed.clear()
            try:
                await self.sweep()
            except (SQLAlchemyError, OSError) as error:
                log.warning("webhooks.unreachable", error=str(error).splitlines()[0])
            except Exception:
                log.exception("webhooks.round_failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN):
                    # There may be more as soon as one of these has landed.
                    await self._landed.wait()

    async def sweep(self) -> int:
        """Take what is due and send it, in the background; returns how much was taken."""
        room = MOST - self._flying.total()
        if not room:
            return 0
        async with self._database.begin("webhooks.lease") as connection:
            taken = await deliveries.lease(connection, until=LEASE, each=MOST_OF_ONE, flying=self._flying, limit=room)
        for due in taken:
            self._flying[due.webhook_id] += 1
            task = asyncio.ensure_future(self._carry(due))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return len(taken)

    async def close(self) -> None:
        """Finish what is under way, but wait for no slow receiver: its message is the next one's."""
        if self._tasks:
            _, slow = await asyncio.wait(self._tasks, timeout=CLOSING)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
        await self._post.close()

    async def _carry(self, due: Due) -> None:
        try:
            await self._note(due, await self._send(due))
        except (SQLAlchemyError, OSError) as error:
            # The lease runs out, and it is sent again.
            log.warning("webhooks.note_failed", delivery=due.id, error=str(error).splitlines()[0])
        finally:
            self._flying[due.webhook_id] -= 1
            self._flying += Counter()  # drops what is 0
            self._landed.set()

    async def _send(self, due: Due) -> Answer:
        secrets = [self._keys.secret(due.key_id, due.webhook_id, due.generation)]
        if due.previous_key_id is not None:
            secrets.append(self._keys.secret(due.previous_key_id, due.webhook_id, due.generation - 1))
        known = [secret for secret in secrets if secret is not None]
        if secrets[0] is None:
            return Answer(error=f"webhook key {due.key_id!r} is not configured here")
        try:
            target = target_of(due.url, self._settings)
        except ValueError as error:
            return Answer(error=f"the address {error}")  # the settings have become stricter
        body = _message(due)
        return await self._post.send(target, signed(known, message=due.id, at=datetime.now(UTC), body=body), body)

    async def _note(self, due: Due, answer: Answer) -> None:
        status = answer.status
        if status is not None and HTTPStatus(200) <= status < HTTPStatus(300):
            async with self._database.commit("webhooks.delivered") as connection:
                await deliveries.delivered(connection, due.id, status=status)
            return
        log.info("webhooks.not_delivered", delivery=due.id, tries=due.tries, status=status, error=answer.error)
        if status == HTTPStatus.GONE:
            async with self._database.begin("webhooks.disable") as connection:
                await webhooks.disable(connection, due.webhook_id, reason="the receiver answered 410 Gone")
            return
        delay = next_try(due.tries, dice=random.random(), asked=answer.retry_after)  # noqa: S311 - no secret
        async with self._database.commit("webhooks.failed") as connection:
            await deliveries.failed(
                connection,
                due.id,
                status=status,
                error=answer.error or f"the receiver answered {status}",
                delay=delay,
                give_up=self._settings.give_up_after,
            )


def _message(due: Due) -> bytes:
    """Return the payload, the same at every try."""
    moment = due.ts.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    return f'{{"type":{json.dumps(due.type)},"timestamp":"{moment}","data":{due.envelope}}}'.encode()
