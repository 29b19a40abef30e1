"""What a node's load comes to."""

import pytest

from domain.placement import Placement


@pytest.mark.parametrize(
    ("cpu", "memory", "expected"),
    [
        (0.0, 0.0, 0.0),
        (0.5, 0.5, 0.5),
        (0.9, 0.0, 0.36),
        (0.0, 0.85, 0.51),
        (0.91, 0.0, 1.364),
        (0.0, 0.86, 1.516),
        (1.0, 1.0, 2.0),
        (None, 0.5, None),
        (0.5, None, None),
    ],
)
def test_the_load_of_a_node(cpu: float | None, memory: float | None, expected: float | None) -> None:
    """Two parts processor, three parts memory; busy above either threshold, and then more than any that is not."""
    load = Placement().load(cpu=cpu, memory=memory)
    assert load == (pytest.approx(expected) if expected is not None else None)
