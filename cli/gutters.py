"""The lines between two columns of a drawing, as characters: from where they begin, on the left, to where they end.

A line runs right from its begin, up or down on the track that all lines of its net share, and right again. It stays
clear where each leads: a line that comes upon another net's track is interrupted there, unless that only joins it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# A character by where it leads: up, down, left, right.
BOXES: Final[Mapping[tuple[bool, bool, bool, bool], str]] = {
    (True, True, False, False): "│",
    (True, False, True, False): "┘",
    (True, False, False, True): "└",
    (False, True, True, False): "┐",
    (False, True, False, True): "┌",
    (True, True, True, False): "┤",
    (True, True, False, True): "├",
    (True, False, True, True): "┴",
    (False, True, True, True): "┬",
    (True, True, True, True): "┼",
}
DETOUR: Final = 3  # is as bad as so many crossings


@dataclass(frozen=True, slots=True)
class Net:
    """Lines from each begin to each end: rows on the left and on the right, all of them even, from 0."""

    begins: tuple[int, ...]
    ends: tuple[int, ...]

    @property
    def straight(self) -> bool:
        """Whether it needs no track."""
        return self.begins == self.ends and len(self.ends) == 1

    def __contains__(self, row: int) -> bool:
        rows = (*self.begins, *self.ends)
        return min(rows) <= row <= max(rows)


def nets(lines: Mapping[int, Iterable[int]]) -> list[Net]:
    """Return the nets of the lines from each begin to its ends: begins with the same ends have one in common."""
    begins: dict[tuple[int, ...], list[int]] = {}
    for begin in sorted(lines):
        begins.setdefault(tuple(sorted(lines[begin])), []).append(begin)
    return [Net(tuple(rows), ends) for ends, rows in begins.items()]


def gutter(lines: Mapping[int, Iterable[int]], height: int) -> list[str]:
    """Return that many rows, all of one width, with the lines from each begin to its ends on them."""
    found = nets(lines)
    order = _order([net for net in found if not net.straight])
    # A line that would run into one that ends in its row takes the odd row below, in which no line ends.
    starts = {
        net: {begin: begin + any(begin in left.ends for left in order[:place]) for begin in net.begins}
        for place, net in enumerate(order)
    }
    first = 1 + any(start % 2 for rows in starts.values() for start in rows.values())
    tracks = _tracks({net: (*starts[net].values(), *net.ends) for net in order}, first)
    width = max(tracks.values(), default=0) + 2
    rows = [[" "] * width for _ in range(height)]
    for net in found:
        if net.straight:
            rows[net.ends[0]][:] = "─" * width
    for net, track in tracks.items():
        for begin, start in starts[net].items():
            rows[start][:track] = "─" * track
            if begin != start:
                rows[begin][:first], rows[start][:first] = "─┐", " └"
        for end in net.ends:
            rows[end][track + 1 :] = "─" * (width - track - 1)
    for net, track in tracks.items():
        touched = (*starts[net].values(), *net.ends)
        for row in range(min(touched), max(touched) + 1):
            joins = net.ends == (row,) and rows[row][track - 1] == "─"
            left = row in starts[net].values() or joins
            rows[row][track] = BOXES[row > min(touched), row < max(touched), left, row in net.ends]
    return ["".join(row) for row in rows]


def _order(found: Sequence[Net]) -> list[Net]:
    """Return the nets from left to right, each put in where it is crossed least."""
    order: list[Net] = []
    for net in found:
        costs = [
            sum(_cost(left, net) for left in order[:place]) + sum(_cost(net, right) for right in order[place:])
            for place in range(len(order) + 1)
        ]
        order.insert(costs.index(min(costs)), net)
    return order


def _cost(left: Net, right: Net) -> int:
    """Return what it costs to have these two in this order: crossings, and detours."""
    coming = sum(DETOUR if begin in left.ends else begin in left for begin in right.begins)
    return coming + sum(end in right for end in left.ends if right.ends != (end,))


def _tracks(touched: Mapping[Net, Sequence[int]], first: int) -> dict[Net, int]:
    """Return the place of each net's track, as far left as the order allows; every second place is free."""
    tracks: dict[Net, int] = {}
    for net, rows in touched.items():
        beside = [
            track
            for other, track in tracks.items()
            if min(rows) <= max(touched[other]) and min(touched[other]) <= max(rows)
        ]
        tracks[net] = max(beside, default=first - 2) + 2
    return tracks
