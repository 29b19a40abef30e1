"""The pace of messages to a run: some may follow each other at once, then one comes in each interval."""

from domain.names import RunId


class Pace:
    """Says which runs have to rest before they are told more. Times are seconds of any one clock."""

    def __init__(self, *, interval: float, at_once: int) -> None:
        self._interval = interval
        self._ahead = interval * (at_once - 1)
        # When each run will have had an interval for each message, as long as that is to come (GCRA, ITU-T I.371).
        self._even: dict[RunId, float] = {}

    def told(self, run: RunId, now: float) -> None:
        """Note that a run is told something."""
        self._even[run] = max(self._even.get(run, now), now) + self._interval

    def rests(self, now: float) -> dict[RunId, float]:
        """Return the runs that rest, each with for how long it still does."""
        self._even = {run: even for run, even in self._even.items() if even > now}
        left = {run: even - self._ahead - now for run, even in self._even.items()}
        return {run: seconds for run, seconds in left.items() if seconds > 0}
