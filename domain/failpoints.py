"""Failpoints: the boundaries between this process and the world, by name, so that a test can make it fail there.

Every transaction, every call to the engine and every call to a provider lies within a `boundary`. In production
nobody arms them, and passing one costs a comparison. The same names are those by which calls are counted and timed.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

Reached = Callable[[str], None]

BEFORE: Final = ":before"
AFTER: Final = ":after"

# The name, the seconds that it took, and whether it raised.
Passed = Callable[[str, float, bool], None]

_reached: Reached | None = None
_passed: Passed | None = None


def arm(reached: Reached | None) -> None:
    """Call this with the name of every failpoint that is reached from now on; None disarms them.

    What it raises is raised there, as if the reply had been lost; it may as well end the process.
    """
    global _reached  # noqa: PLW0603 - one hook for the whole process is the point
    _reached = reached


def count(passed: Passed | None) -> None:
    """Call this for every boundary that is left from now on; None stops it."""
    global _passed  # noqa: PLW0603
    _passed = passed


class boundary:  # noqa: N801 - used as a statement
    """Reach `{name}:before` on entering, and `{name}:after` on leaving, if nothing was raised between."""

    __slots__ = ("_began", "_name")

    def __init__(self, name: str) -> None:
        self._name = name
        self._began = time.perf_counter()

    def __enter__(self) -> None:
        if _reached is not None:
            _reached(self._name + BEFORE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if _passed is not None:
            _passed(self._name, time.perf_counter() - self._began, kind is not None)
        if _reached is not None and kind is None:
            _reached(self._name + AFTER)
