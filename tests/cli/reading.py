"""Lines of a drawing, followed as a person follows them."""

from collections.abc import Sequence

from cli.gutters import BOXES

LEADS = {character: leads for leads, character in BOXES.items()} | {"─": (False, False, True, True)}
UP, DOWN, RIGHT = (-1, 0), (1, 0), (0, 1)


def followed(rows: Sequence[str], row: int, place: int = 0) -> set[tuple[int, int]]:
    """Return all places, behind the last character or at an arrow, where a line that goes right can be taken to lead.

    What comes from the left upon a character that leads nowhere to the left goes on behind it.
    """
    todo, seen, ends = [(row, place, RIGHT)], set(), set()
    while todo:
        row, place, way = here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        if place == len(rows[row]) or rows[row][place] == "▶":
            ends.add((row, place))
            continue
        above, below, left, right = LEADS[rows[row][place]]
        if way == RIGHT and not left:
            todo.append((row, place + 1, RIGHT))
            continue
        assert way == RIGHT or (above if way == DOWN else below), "a vertical line meets what leads to it"
        onward = [(above and way != DOWN, UP), (below and way != UP, DOWN), (right, RIGHT)]
        todo += [(row + step[0], place + step[1], step) for leads, step in onward if leads]
    return ends
