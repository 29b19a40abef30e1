"""Deliveries under way: parallel repeats of one callback share one signal."""

import asyncio
import time
from collections import OrderedDict
from datetime import timedelta
from typing import Final, Protocol

from store.outbox import Undelivered
from workflows.gateway import Sent

# The courier notes a delivery in the database a moment later; until then it is remembered here.
REMEMBERED: Final = timedelta(seconds=5)

Key = tuple[str, int, str, int]


class Carrier(Protocol):
    """Who sends a callback's signal."""

    async def deliver(self, callback: Undelivered) -> Sent:
        """Send it now."""


class Deliveries:
    """Sends each callback's signal once at a time, and knows for a few seconds which ones have arrived."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._under_way: dict[Key, asyncio.Task[Sent]] = {}
        self._arrived: OrderedDict[Key, float] = OrderedDict()

    async def deliver(self, callback: Undelivered) -> tuple[Sent, bool]:
        """Return what became of the signal, and whether this call is the one that sent it."""
        key = (callback.workspace_id, callback.attempt, callback.kind, callback.turn)
        if key in self._arrived:
            return Sent.DELIVERED, False
        under_way = self._under_way.get(key)
        if under_way is not None:
            return await asyncio.shield(under_way), False
        # A task of its own: a caller who hangs up must not cut off those who share the delivery.
        task = asyncio.ensure_future(self._carrier.deliver(callback))
        self._under_way[key] = task
        task.add_done_callback(lambda done: self._note(key, done))
        return await asyncio.shield(task), True

    def _note(self, key: Key, done: asyncio.Task[Sent]) -> None:
        self._under_way.pop(key, None)
        if done.cancelled() or done.exception() or done.result() is not Sent.DELIVERED:
            return
        present = time.monotonic()
        self._arrived[key] = present + REMEMBERED.total_seconds()
        while self._arrived and next(iter(self._arrived.values())) < present:
            self._arrived.popitem(last=False)
