import pytest

from domain.versions import BASE_BITS, LAST_BASE, base_after


def test_a_version_has_room_for_every_run() -> None:
    """The highest version of the last possible run is a bigint's highest value."""
    assert (LAST_BASE << BASE_BITS) + 2**BASE_BITS - 1 == 2**63 - 1


@pytest.mark.parametrize("base", [0, 1, LAST_BASE - 1])
@pytest.mark.parametrize("rest", [1, 2**BASE_BITS - 1])
def test_what_begins_anew_writes_above_all_that_was_written(base: int, rest: int) -> None:
    """The next base, whatever stands below the last one."""
    assert base_after(base << BASE_BITS | rest) == base + 1


def test_the_first_one_begins_at_nothing() -> None:
    """0."""
    assert base_after(0) == 0
