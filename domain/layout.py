"""Where each member of a graph stands in a picture of it: in columns from left to right, so that lines cross little.

After Sugiyama, Tagawa and Toda (1981): a column for each layer; rows by sweeps to and fro, in which each column is
sorted by the mean row of what its members are connected with; and all columns centred.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from domain.graph import BLOCKING, Edge, Graph

# To the right and back, and a last one to the right, which leaves fewer crossings than one back; more change little.
SWEEPS: Final = 7
# Lines that pass a column keep a row of it free, unless there are more of them than anybody could follow.
PASSED_AT_MOST: Final = 2_000


@dataclass(frozen=True, slots=True)
class Place:
    """A point of the picture: `x` is the column, and the layer; `y` the row, from 0 at the top, a whole or a half."""

    x: int
    y: float

    @property
    def layer(self) -> int:
        """The length of the longest way from a root."""
        return self.x


@dataclass(frozen=True, slots=True)
class Layout:
    """The place of each member, and of each blocking edge the places, free of members, where it passes a column."""

    places: Mapping[str, Place]
    passes: Mapping[Edge, tuple[Place, ...]]


# What has a place: a member, or an edge in a column that it passes.
Point = str | tuple[Edge, int]


def layout(graph: Graph) -> Layout:
    """Return where the members stand, the same for the same graph: each column further right than all before it."""
    columns: list[list[Point]] = [[] for _ in graph.layers()]
    layer = {member: x for x, members in enumerate(graph.layers()) for member in members}
    for member in graph.topological_order():
        columns[layer[member]].append(member)
    blocking = [edge for edge in graph.edges if edge.kind is BLOCKING]
    passed = {edge: range(layer[edge.source] + 1, layer[edge.target]) for edge in blocking}
    if sum(map(len, passed.values())) > PASSED_AT_MOST:
        passed = dict.fromkeys(blocking, range(0))
    left: dict[Point, list[Point]] = {member: [] for member in graph.members}
    right: dict[Point, list[Point]] = {member: [] for member in graph.members}
    for edge, between in passed.items():
        points: list[Point] = [(edge, x) for x in between]
        for x, point in zip(between, points, strict=True):
            columns[x].append(point)
        for source, target in pairwise([edge.source, *points, edge.target]):
            right.setdefault(source, []).append(target)
            left.setdefault(target, []).append(source)
    rows = _rows(columns, left, right)
    places = {point: Place(x, rows[point]) for x, column in enumerate(columns) for point in column}
    return Layout(
        {member: places[member] for member in graph.members},
        {edge: tuple(places[edge, x] for x in between) for edge, between in passed.items()},
    )


def _rows(
    columns: list[list[Point]], left: Mapping[Point, list[Point]], right: Mapping[Point, list[Point]]
) -> dict[Point, float]:
    """Sort each column, and return the row of each point."""
    height = max(map(len, columns), default=0)
    rows: dict[Point, float] = {}

    def put(column: list[Point]) -> None:
        rows.update((point, (height - len(column)) / 2 + place) for place, point in enumerate(column))

    def sort(column: list[Point], beside: Mapping[Point, list[Point]]) -> None:
        near = {point: [rows[other] for other in beside.get(point, ())] or [rows[point]] for point in column}
        column.sort(key=lambda point: sum(near[point]) / len(near[point]))
        put(column)

    for column in columns:
        put(column)
    for sweep in range(SWEEPS):
        for column in columns if sweep % 2 == 0 else reversed(columns):
            sort(column, left if sweep % 2 == 0 else right)
    return rows
