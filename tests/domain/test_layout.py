"""Where members stand in a picture."""

import time
from itertools import combinations, pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.graph import BLOCKING, Edge, EdgeKind, Graph
from domain.layout import PASSED_AT_MOST, Layout, Place, layout
from tests.domain.graphs import edges, printed


def by_dice(dice: Random, size: int, between: int) -> Graph:
    """Return a graph of that many members and about that many edges, most of them between neighbours."""
    names = [f"m{n}" for n in range(size)]
    pairs: dict[tuple[int, int], EdgeKind] = {}
    for _ in range(between):
        source = dice.randrange(size - 1)
        target = min(size - 1, source + 1 + int(dice.expovariate(0.1)))
        pairs[source, target] = dice.choice([*EdgeKind, BLOCKING])
    return Graph.of(names, [Edge(names[source], names[target], kind) for (source, target), kind in pairs.items()])


def test_a_diamond_is_drawn_as_one() -> None:
    """Columns by layer, each centred on the others."""
    assert layout(Graph.of("abcd", edges("ab", "ac", "bd", "cd"))) == Layout(
        {"a": Place(0, 0.5), "b": Place(1, 0), "c": Place(1, 1), "d": Place(2, 0.5)},
        dict.fromkeys(edges("ab", "ac", "bd", "cd"), ()),
    )


def test_a_line_that_passes_a_column_keeps_a_row_free() -> None:
    """The edge from the first to the last of three passes beside the second."""
    made = layout(Graph.of("abc", edges("ab", "bc", "ac")))
    assert made.passes[Edge("a", "c")] == (Place(1, 1),)
    assert made.places == {"a": Place(0, 0.5), "b": Place(1, 0), "c": Place(2, 0.5)}


def test_lines_that_nobody_could_follow_keep_nothing_free() -> None:
    """With more passes than are followed, members alone have rows: a chain with shortcuts lies in one."""
    names = [f"m{n}" for n in range(PASSED_AT_MOST + 3)]
    chain = [Edge(*pair) for pair in pairwise(names)]
    assert any(layout(Graph.of(names, [*chain, Edge(names[1], names[-1])])).passes.values())
    made = layout(Graph.of(names, [*chain, Edge(names[0], names[-1])]))
    assert not any(made.passes.values())
    assert {place.y for place in made.places.values()} == {0}


def test_what_is_crossed_is_put_straight() -> None:
    """Three lines side by side, declared crosswise, do not cross in the picture."""
    places = layout(Graph.of("abcxyzpqr", edges("az", "by", "cx", "zq", "yp", "xr"))).places
    assert [places[member].y for member in "abc"] == [places[member].y for member in "zyx"] == [0, 1, 2]
    assert [places[member].y for member in "qpr"] == [0, 1, 2]


def crossings(made: Layout, graph: Graph) -> int:
    """Return how many pairs of lines between two columns cross."""
    lines: dict[int, list[tuple[float, float]]] = {}
    for edge, passes in made.passes.items():
        for here, there in pairwise([made.places[edge.source], *passes, made.places[edge.target]]):
            lines.setdefault(here.x, []).append((here.y, there.y))
    assert sum(map(len, lines.values())) >= len([edge for edge in graph.edges if edge.kind is BLOCKING])
    return sum(
        (first[0] - second[0]) * (first[1] - second[1]) < 0
        for between in lines.values()
        for first, second in combinations(between, 2)
    )


def test_few_lines_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over twenty graphs of 30 members, less than half of the crossings that there are without the sweeps."""
    graphs = [by_dice(Random(seed), 30, 40) for seed in range(20)]  # noqa: S311
    sorted_out = sum(crossings(layout(graph), graph) for graph in graphs)
    monkeypatch.setattr("domain.layout.SWEEPS", 0)
    assert sorted_out < sum(crossings(layout(graph), graph) for graph in graphs) / 2


@given(st.integers(0, 10**9), st.integers(2, 40), st.integers(0, 120))
def test_every_member_has_a_place_of_its_own(seed: int, size: int, between: int) -> None:
    """Rows of halves within the picture, one step apart; passes beside members; each edge to a later column."""
    graph = by_dice(Random(seed), size, between)  # noqa: S311
    made = layout(graph)
    assert [*made.places] == [*graph.members]
    assert [[m for m in graph.members if made.places[m].layer == x] for x in range(len(graph.layers()))] == [
        list(layer) for layer in graph.layers()
    ]
    taken = [*made.places.values(), *(place for passes in made.passes.values() for place in passes)]
    assert len(set(taken)) == len(taken)
    for column in range(len(graph.layers())):
        rows = sorted(place.y for place in taken if place.x == column)
        assert all(after - before == 1 for before, after in pairwise(rows))
        assert all(row >= 0 and (2 * row).is_integer() for row in rows)
    blocking = [edge for edge in graph.edges if edge.kind is BLOCKING]
    assert [*made.passes] == blocking
    for edge in blocking:
        way = [made.places[edge.source], *made.passes[edge], made.places[edge.target]]
        assert [place.x for place in way] == list(range(way[0].x, way[-1].x + 1))
        assert len(way) > 1


SAME_EVERYWHERE = """
from random import Random
from domain.graph import Edge, Graph
from domain.layout import layout
dice = Random(1)
print(layout(Graph.of([f"m{n}" for n in range(200)], [
    Edge(f"m{a}", f"m{b}") for a, b in sorted({tuple(sorted(dice.sample(range(200), 2))) for _ in range(600)})
])))
"""


def test_the_same_graph_is_laid_out_the_same_everywhere() -> None:
    """Two interpreters that hash names differently print the same."""
    assert len(printed(SAME_EVERYWHERE)) == 1


@pytest.mark.parametrize(("between", "passing"), [(2_000, True), (8_000, False)])
def test_two_thousand_members_are_laid_out_in_a_second(between: int, *, passing: bool) -> None:
    """Of processor time of this thread, with passes kept free and without."""
    graph = by_dice(Random(2), 2_000, between)  # noqa: S311
    began = time.thread_time()
    made = layout(graph)
    assert time.thread_time() - began < 1
    assert any(made.passes.values()) is passing
