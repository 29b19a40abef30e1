"""How many requests a caller may make: a token bucket for each, in this process."""

import time
from collections.abc import Callable
from typing import Final

# So many seconds' worth may come at once.
BURST: Final = 2
_MOST_CALLERS: Final = 10_000


class Rates:
    """Admits `per_second` requests of each caller, 0 for any number."""

    def __init__(self, per_second: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        # When the bucket will be full again: one number holds both its level and its time (the virtual scheduling
        # of ITU-T I.371's generic cell rate algorithm).
        self._full_at: dict[str, float] = {}

    def admit(self, caller: str) -> bool:
        """Return whether this request is within the caller's rate; only then it counts."""
        if not self._per_second:
            return True
        present = self._clock()
        full_at = max(present, self._full_at.get(caller, present)) + 1 / self._per_second
        if full_at > present + BURST:
            return False
        if len(self._full_at) >= _MOST_CALLERS:
            self._full_at = {name: at for name, at in self._full_at.items() if at > present}
        self._full_at[caller] = full_at
        return True
