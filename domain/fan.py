"""A fan-out that was begun: which of its children come next, how many are open, and whether all have ended."""

from collections import deque
from typing import Final

from domain.lifecycle import MemberStatus

M: Final = MemberStatus


class Fan:
    """The children of one fan-out, by item from 1. What a start or an end costs does not depend on how many there are.

    `parts` is written in place: it belongs to whoever carries it on.
    """

    def __init__(self, parts: list[MemberStatus], max_parallel: int | None) -> None:
        self.parts = parts
        self.open = sum(part is M.IN_PROGRESS for part in parts)
        self._waiting = deque(place for place, part in enumerate(parts) if part is M.WAITING)
        self._limit = max_parallel or len(parts)

    @property
    def hungry(self) -> bool:
        """Whether one more child may start, as far as the fan-out's own limit goes."""
        return bool(self._waiting) and self.open < self._limit

    @property
    def over(self) -> bool:
        """Whether every child has ended."""
        return not self._waiting and not self.open

    def start(self) -> int:
        """Start the next child, and return its item."""
        place = self._waiting.popleft()
        self.parts[place] = M.IN_PROGRESS
        self.open += 1
        return place + 1

    def is_open(self, item: int) -> bool:
        """Whether this child was started and has not ended."""
        return 1 <= item <= len(self.parts) and self.parts[item - 1] is M.IN_PROGRESS

    def end(self, item: int, status: MemberStatus) -> None:
        """Take in that an open child has ended."""
        self.parts[item - 1] = status
        self.open -= 1

    def stop(self) -> None:
        """Start no more children. What was not begun counts as cancelled: the fan-out has not done all of its work."""
        for place in self._waiting:
            self.parts[place] = M.CANCELLED
        self._waiting.clear()
