"""The pulse: tells the API that this workspace lives, and stops the agent when nobody has heard for too long."""

from __future__ import annotations

import threading
from collections.abc import Callable

from workspaces.inside.callbacks import Callbacks, Unheard, now


class Pulse:
    """Heartbeats from a thread of its own. `on_lease` is called once when the lease ran out, if given.

    The lease is the fence against two agents on one task: a new attempt starts its agent only after it.
    """

    def __init__(
        self, callbacks: Callbacks, *, period: float, lease: float, on_lease: Callable[[], None] | None = None
    ) -> None:
        self._callbacks = callbacks
        self._period = period
        self._lease = lease
        self._on_lease = on_lease
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="pulse", daemon=True).start()

    def end(self) -> None:
        """Beat no more, and let the lease run out without consequence."""
        self._ended.set()

    def _beat(self) -> None:
        due = now() + self._period
        tick = min(1.0, self._lease / 4, self._period)
        while not self._ended.wait(tick):
            if self._on_lease and now() - self._callbacks.last_contact > self._lease:
                self._on_lease()
                return
            if now() >= due:
                due = now() + (self._period if self._heard() else min(self._period, self._lease / 8))

    def _heard(self) -> bool:
        try:
            return self._callbacks.post("heartbeat", {}, patience=0) < 300  # noqa: PLR2004 - the 2xx
        except Unheard:
            return False
