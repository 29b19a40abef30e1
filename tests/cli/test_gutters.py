"""The lines between two columns of a drawing: read back as a person reads them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.gutters import gutter
from tests.cli.reading import followed

ROWS = st.integers(0, 7).map(lambda row: 2 * row)


@given(st.dictionaries(ROWS, st.sets(ROWS, min_size=1), max_size=7))
def test_every_line_leads_where_it_should(lines: dict[int, set[int]]) -> None:
    """From each begin, a reader comes to its ends and to no other; rows are of one width, and begin nowhere else."""
    rows = gutter(lines, 16)
    assert len(rows) == 16
    assert len({len(row) for row in rows}) == 1
    assert {begin: {row for row, _ in followed(rows, begin)} for begin in lines} == lines
    assert {row for row, line in enumerate(rows) if line[0] == "─"} == set(lines)
    assert {row for row, line in enumerate(rows) if line[-1] == "─"} == set().union(*lines.values())


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        ({0: [0]}, ["──", "  ", "  ", "  "]),
        ({0: [0, 2]}, ["─┬─", " │ ", " └─", "   "]),
        ({0: [2], 2: [2]}, ["─┐ ", " │ ", "─┴─", "   "]),
        ({0: [0, 2], 2: [0, 2]}, ["─┬─", " │ ", "─┴─", "   "]),
        ({0: [2], 2: [0]}, ["─┐┌───", " └│─┐ ", "──┘ └─", "      "]),
    ],
)
def test_lines_look_as_a_person_would_draw_them(lines: dict[int, list[int]], rows: list[str]) -> None:
    """Straight, forked, joined, both at once, and crosswise with a detour."""
    assert gutter(lines, 4) == rows
