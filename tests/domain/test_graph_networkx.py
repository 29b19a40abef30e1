"""A graph gives the same answers as networkx, with the order that we promise on top."""

from collections.abc import Iterable
from itertools import pairwise
from random import Random
from typing import Any

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.graph import Cycles, Edge, EdgeKind, Graph, SelfLoop, cycles


@st.composite
def drawn(draw: st.DrawFn, *, acyclic: bool = True) -> tuple[list[str], list[Edge]]:
    """Return members in an order that says nothing, and edges of both kinds in one, too; small ones in full variety."""
    size = draw(st.integers(0, 12))
    places = st.integers(0, size - 1)
    pairs = draw(st.lists(st.tuples(places, places, st.sampled_from(EdgeKind)), unique=True) if size else st.just([]))
    forward = [pair for pair in pairs if pair[0] < pair[1]] if acyclic else pairs
    members = draw(st.permutations([f"m{n}" for n in range(size)]))
    return members, [Edge(f"m{source}", f"m{target}", kind) for source, target, kind in forward]


@st.composite
def drawn_large(draw: st.DrawFn) -> tuple[list[str], list[Edge]]:
    """Return up to 2,000 members with up to five edges each, by dice."""
    dice = Random(draw(st.integers(0, 10**9)))  # noqa: S311
    size = draw(st.integers(500, 2_000))
    names = [f"m{n}" for n in range(size)]
    pairs = {tuple(sorted(dice.sample(range(size), 2))) for _ in range(dice.randrange(5 * size))}
    kinds = [*EdgeKind, EdgeKind.BLOCKING, EdgeKind.BLOCKING]
    between = [Edge(names[source], names[target], dice.choice(kinds)) for source, target in sorted(pairs)]
    dice.shuffle(names)
    dice.shuffle(between)
    return names, between


def theirs(members: Iterable[str], between: Iterable[Edge]) -> Any:
    """Return the same graph of networkx, without kinds."""
    made = nx.DiGraph()
    made.add_nodes_from(members)
    made.add_edges_from((edge.source, edge.target) for edge in between)
    return made


def agrees(members: list[str], between: list[Edge], ended: set[str], weights: dict[str, float]) -> None:
    """Assert that each answer is that of networkx, with the order that we promise on top."""
    graph = Graph.of(members, between)
    both = theirs(members, between)
    blocking = theirs(members, [edge for edge in between if edge.kind is EdgeKind.BLOCKING])
    position = {member: place for place, member in enumerate(members)}
    for member in members[:20]:
        assert graph.ancestors(member) == tuple(sorted(nx.ancestors(blocking, member), key=position.__getitem__))
        assert graph.descendants(member) == tuple(sorted(nx.descendants(blocking, member), key=position.__getitem__))
        assert set(graph.dependencies(member)) == set(blocking.predecessors(member))
        assert set(graph.dependents(member)) == set(blocking.successors(member))
        induced = graph.induced_subgraph(member)
        around = {member, *nx.ancestors(blocking, member), *nx.descendants(blocking, member)}
        assert theirs(induced.members, induced.edges).edges == both.subgraph(around).edges
    assert graph.roots() == tuple(member for member in members if not blocking.in_degree(member))
    assert graph.leaves() == tuple(member for member in members if not blocking.out_degree(member))
    order = graph.topological_order()
    assert order == tuple(nx.lexicographical_topological_sort(both, key=position.__getitem__))
    assert [list(layer) for layer in graph.layers()] == [
        sorted(layer, key=position.__getitem__) for layer in nx.topological_generations(blocking)
    ]
    assert graph.is_connected() is (not members or nx.is_weakly_connected(both))
    waits = {member: {each for each in blocking.predecessors(member) if each not in ended} for member in members}
    assert graph.ready(ended) == tuple(member for member in order if member not in ended and not waits[member])
    assert {member: set(blockers) for member, blockers in graph.blocked(ended).items()} == {
        member: blockers for member, blockers in waits.items() if blockers and member not in ended
    }
    path, total = graph.critical_path(weights)
    for source, target in blocking.edges:
        blocking[source][target]["weight"] = weights[target]
    blocking.add_weighted_edges_from(("", member, weights[member]) for member in graph.roots())
    assert total == nx.dag_longest_path_length(blocking) == sum(map(weights.__getitem__, path))
    assert all(pair in blocking.edges for pair in pairwise(path))


@given(drawn(), st.data())
def test_small_graphs_are_answered_as_by_networkx(made: tuple[list[str], list[Edge]], data: st.DataObject) -> None:
    """Every query on graphs of up to twelve members in all shapes, with any set of them ended, and whole weights."""
    members, _ = made
    ended = data.draw(st.sets(st.sampled_from(members))) if members else set()
    agrees(*made, ended, {member: data.draw(st.integers(0, 9)) for member in members})


@settings(max_examples=5)
@given(drawn_large(), st.randoms(use_true_random=False))
def test_large_graphs_are_answered_as_by_networkx(made: tuple[list[str], list[Edge]], dice: Random) -> None:
    """Every query on graphs of up to 2,000 members."""
    members, _ = made
    ended = {member for member in members if dice.random() < 0.5}
    agrees(*made, ended, {member: dice.randrange(100) for member in members})


@given(drawn(acyclic=False))
def test_cycles_are_found_where_networkx_finds_them(made: tuple[list[str], list[Edge]]) -> None:
    """One closed walk within each strongly connected component that has one, the shortest through its first member."""
    members, between = made
    both = theirs(members, between)
    knots = [
        knot
        for knot in nx.strongly_connected_components(both)
        if len(knot) > 1 or any(both.has_edge(member, member) for member in knot)
    ]
    found = cycles(members, between)
    assert sorted(map(sorted, knots)) == sorted(sorted(knot) for path in found for knot in knots if set(path) <= knot)
    assert [path[0] for path in found] == [member for member in members if member in {path[0] for path in found}]
    for path in found:
        knot = next(knot for knot in knots if path[0] in knot)
        assert path[0] == path[-1] == min(knot, key=members.index)
        assert all(both.has_edge(*pair) for pair in pairwise(path))
        back = [nx.shortest_path_length(both, each, path[0]) for each in both.successors(path[0]) if each in knot]
        assert len(path) - 1 == 1 + min(back)


@given(drawn(acyclic=False))
def test_a_graph_is_made_of_exactly_what_has_no_cycle(made: tuple[list[str], list[Edge]]) -> None:
    """What is refused has a cycle or a loop, what is accepted has neither."""
    members, between = made
    loops = tuple(edge for edge in between if edge.source == edge.target)
    if nx.is_directed_acyclic_graph(theirs(members, between)):
        assert Graph.of(members, between).edges == tuple(between)
        return
    with pytest.raises(SelfLoop if loops else Cycles) as caught:
        Graph.of(members, between)
    expected: tuple[object, ...] = loops or tuple(tuple(path) for path in cycles(members, between))
    assert next(iter(vars(caught.value).values())) == expected
