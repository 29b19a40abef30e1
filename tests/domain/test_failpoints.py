"""Failpoints are passed in silence, until somebody arms them."""

from collections.abc import Iterator

import pytest

from domain import failpoints
from domain.failpoints import boundary


@pytest.fixture
def reached() -> Iterator[list[str]]:
    """Give the names that were reached."""
    names: list[str] = []
    failpoints.arm(names.append)
    yield names
    failpoints.arm(None)


def test_both_sides_are_reached_in_order(reached: list[str]) -> None:
    """`{name}:before`, the work, `{name}:after`."""
    with boundary("tasks.create"):
        reached.append("work")
    assert reached == ["tasks.create:before", "work", "tasks.create:after"]


def test_work_that_fails_reaches_no_end(reached: list[str]) -> None:
    """Only `:before`: what was rolled back has no other side."""
    with pytest.raises(ValueError, match="refused"), boundary("tasks.create"):
        raise ValueError("refused")
    assert reached == ["tasks.create:before"]


def test_what_an_armed_failpoint_raises_is_raised_there() -> None:
    """The work is done, and its reply is lost."""
    done = []

    def lose(name: str) -> None:
        if name.endswith(failpoints.AFTER):
            raise OSError(name)

    failpoints.arm(lose)
    try:
        with pytest.raises(OSError, match="flush:after"), boundary("mirror.flush"):
            done.append("written")
    finally:
        failpoints.arm(None)
    assert done == ["written"]


def test_disarmed_they_are_silent() -> None:
    """Nothing, twice."""
    with boundary("tasks.create"), boundary("tasks.create"):
        pass
