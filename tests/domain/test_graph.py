"""The graph of a run: what it refuses, what it answers, and that it is as fast as runs need it."""

import time
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from domain.graph import (
    NAMED_AT_MOST,
    CriticalPath,
    Cycles,
    DuplicateEdge,
    DuplicateMember,
    Edge,
    Graph,
    GraphError,
    SelfLoop,
    UnknownEdge,
    UnknownMember,
    cycles,
)
from tests.domain.graphs import PREFERRED, diamond, edges, printed

LONG = 10_000


# What is refused


@pytest.mark.parametrize(
    ("members", "between", "fault", "offenders", "says"),
    [
        ("abcba", [], DuplicateMember, ("a", "b"), "more than one member has the name: a, b"),
        ("ab", edges("ax", "ya", "xb"), UnknownMember, ("x", "y"), "no member has the name: x, y"),
        ("abc", edges("aa", "ab", "cc"), SelfLoop, (*edges("aa", "cc"),), "itself: a → a, c → c"),
        ("abc", edges("ab", "bc", "ab", "ab"), DuplicateEdge, (*edges("ab"),), "there more than once: a → b"),
    ],
)
def test_a_fault_names_all_its_offenders(
    members: str, between: list[Edge], fault: type[GraphError], offenders: tuple[Any, ...], says: str
) -> None:
    """Every offender of the kind, as an attribute in order, and in the message."""
    with pytest.raises(fault) as caught:
        Graph.of(members, between)
    assert next(iter(vars(caught.value).values())) == offenders
    assert str(caught.value).endswith(says)


def test_there_is_a_path_for_each_knot_of_members() -> None:
    """Two components with cycles are two closed walks, the shortest through the member declared first."""
    knots = edges("ab", "bc", "ca", "ba", "cd", "de", "ef", "fd")
    with pytest.raises(Cycles, match=r"wait for each other: a → b → a; d → e → f → d$") as caught:
        Graph.of("abcdef", knots)
    assert caught.value.paths == (("a", "b", "a"), ("d", "e", "f", "d"))


def test_what_is_preferred_may_not_contradict_what_is_needed() -> None:
    """A cycle of both kinds of edge is refused: no order of the members would respect it."""
    with pytest.raises(Cycles, match="a → b → a"):
        Graph.of("ab", [Edge("a", "b"), Edge("b", "a", PREFERRED)])


def test_an_edge_may_be_needed_and_preferred() -> None:
    """One pair, two kinds: no duplicate."""
    assert Graph.of("ab", [Edge("a", "b"), Edge("a", "b", PREFERRED)]).dependencies("b") == ("a",)


@pytest.mark.parametrize(
    ("make", "of"),
    [
        (lambda: Graph.of([f"m{n % LONG}" for n in range(2 * LONG)]), lambda fault: fault.members),
        (lambda: Graph.of([], [Edge(f"m{n}", f"n{n}") for n in range(LONG // 2)]), lambda fault: fault.members),
        (lambda: Graph.of([f"m{n}" for n in range(LONG)], [Edge(f"m{n}", f"m{n}") for n in range(LONG)]), None),
        (lambda: ring(LONG), lambda fault: fault.paths[0][:-1]),
    ],
)
def test_a_message_stays_readable(make: Callable[[], Graph], of: Callable[[Any], Any] | None) -> None:
    """10,000 offenders are all there as attributes; the message names ten and counts the rest."""
    with pytest.raises(GraphError, match=r"\b9,9\d\d more\b") as caught:
        make()
    assert len((of or (lambda fault: fault.edges))(caught.value)) == LONG
    assert len(str(caught.value)) < 300


def ring(length: int) -> Graph:
    """Return members in a circle, which no graph is."""
    names = [f"m{n}" for n in range(length)]
    return Graph.of(names, [Edge(*pair) for pair in pairwise([*names, names[0]])])


def test_a_walk_of_ten_is_written_out() -> None:
    """Nothing is left out that would fit."""
    with pytest.raises(Cycles, match=f"^[^,]*{'.*'.join(f'm{n} →' for n in range(NAMED_AT_MOST - 1))} m0$"):
        ring(NAMED_AT_MOST - 1)


@pytest.mark.parametrize(
    "ask",
    [
        Graph.dependencies,
        Graph.dependents,
        Graph.ancestors,
        Graph.descendants,
        Graph.induced_subgraph,
        Graph.without_node,
        lambda graph, name: graph.is_ready(name, ()),
        lambda graph, name: graph.subgraph(["a", name]),
    ],
)
def test_a_question_about_nobody_is_refused(ask: Callable[[Graph, str], Any]) -> None:
    """UnknownMember, with the name."""
    with pytest.raises(UnknownMember, match="nobody") as caught:
        ask(diamond(), "nobody")
    assert caught.value.members == ("nobody",)


@pytest.mark.parametrize("edge", [Edge("a", "d"), Edge("a", "b", PREFERRED), Edge("x", "a")])
def test_an_edge_that_is_not_there_cannot_be_left_out(edge: Edge) -> None:
    """UnknownEdge, with the edge; the kind counts."""
    with pytest.raises(UnknownEdge) as caught:
        diamond().without_edge(edge.source, edge.target, edge.kind)
    assert caught.value.edges == (edge,)


# What is answered


def test_neighbours_are_in_the_order_of_the_edges() -> None:
    """Direct ones, of one kind; what is preferred is asked for by name."""
    graph = diamond()
    assert graph.dependents("a") == ("c", "b")
    assert graph.dependencies("d") == ("b", "c")
    assert graph.dependencies("a") == graph.dependents("e") == ()
    assert graph.dependencies("a", PREFERRED) == ("e",)
    assert graph.dependents("e", PREFERRED) == ("a",)


def test_what_is_further_away_is_in_the_order_of_declaration() -> None:
    """Ancestors and descendants over any distance, by blocking edges, each once, without the member itself."""
    graph = diamond()
    assert graph.ancestors("d") == ("c", "b", "a")
    assert graph.descendants("a") == ("d", "c", "b")
    assert graph.ancestors("a") == graph.descendants("e") == ()


def test_roots_and_leaves_go_by_what_blocks() -> None:
    """`a` is a root although `e` would rather come first."""
    assert diamond().roots() == ("a", "e")
    assert diamond().leaves() == ("d", "e")


def test_ready_is_what_waits_for_nobody_any_more() -> None:
    """In topological order, so that what is preferred comes first; what has ended is not ready."""
    graph = diamond()
    assert graph.ready(()) == ("e", "a")
    assert graph.ready({"a"}) == ("e", "c", "b")
    assert graph.ready({"a", "e", "b"}) == ("c",)
    assert graph.ready(set("abcde")) == ()
    assert [member for member in "abcde" if graph.is_ready(member, {"a", "b"})] == ["c", "e"]


def test_blocked_names_the_blockers() -> None:
    """Direct ones that have not ended, in the order of the edges; a preferred order blocks nobody."""
    graph = diamond()
    assert graph.blocked(()) == {"d": ("b", "c"), "c": ("a",), "b": ("a",)}
    assert graph.blocked({"a", "b"}) == {"d": ("c",)}
    assert graph.blocked({"d"}) == {"c": ("a",), "b": ("a",)}


def test_the_order_is_that_of_declaration_where_edges_leave_a_choice() -> None:
    """Edges of both kinds are respected, then the position in the declaration decides."""
    assert diamond().topological_order() == ("e", "a", "c", "b", "d")
    assert Graph.of("cab").topological_order() == ("c", "a", "b")
    assert Graph.of("cab", edges("bc", kind=PREFERRED)).topological_order() == ("a", "b", "c")


def test_the_critical_path_is_the_heaviest_way() -> None:
    """From a root to a leaf with its weight; the first of equals; what has no weight weighs nothing."""
    graph = diamond()
    assert graph.critical_path({"a": 1, "b": 2.5, "c": 2, "d": 1, "e": 4}) == CriticalPath(("a", "b", "d"), 4.5)
    assert graph.critical_path({"e": 9, "a": 1}) == (("e",), 9)
    assert graph.critical_path({"b": 2, "c": 2}) == (("a", "b", "d"), 2)
    assert Graph.of(()).critical_path({}) == ((), 0)


def test_layers_go_by_the_longest_way_from_a_root() -> None:
    """Each in the order of declaration; a shortcut moves nobody forward, and a preferred order nobody back."""
    assert diamond().layers() == (("a", "e"), ("c", "b"), ("d",))
    assert Graph.of("abc", edges("ab", "bc", "ac")).layers() == (("a",), ("b",), ("c",))
    assert Graph.of(()).layers() == ()


@pytest.mark.parametrize(
    ("graph", "whole"),
    [
        (diamond(), True),
        (diamond().without_edge("e", "a", PREFERRED), False),
        (Graph.of("a"), True),
        (Graph.of("ab"), False),
        (Graph.of(""), True),
    ],
)
def test_a_graph_is_connected_by_edges_of_either_kind(graph: Graph, *, whole: bool) -> None:
    """Whatever their direction; nothing and a single member are in one piece."""
    assert graph.is_connected() is whole


def test_parts_of_a_graph_keep_its_order() -> None:
    """Members as they were declared, with the edges among them; the graph itself does not change."""
    graph = diamond()
    assert graph.subgraph("bade") == Graph.of("dbae", [*edges("ab", "bd"), Edge("e", "a", PREFERRED)])
    assert graph.induced_subgraph("b") == Graph.of("dba", edges("ab", "bd"))
    assert graph.without_node("b") == Graph.of("dcae", [*edges("ac", "cd"), Edge("e", "a", PREFERRED)])
    assert graph.without_edge("b", "d").dependencies("d") == ("c",)
    assert graph == diamond()
    assert hash(graph) == hash(diamond())
    with pytest.raises(AttributeError):
        graph.members = ()  # type: ignore[misc]


def test_a_chain_of_ten_thousand_is_a_graph_like_others() -> None:
    """Every question is answered: nothing is recursive."""
    names = [f"m{n}" for n in range(LONG)]
    between = [Edge(*pair) for pair in pairwise(names)]
    graph = Graph.of(names[::-1], between)
    assert graph.topological_order() == tuple(names)
    assert len(graph.ancestors(names[-1])) == len(graph.descendants(names[0])) == LONG - 1
    assert graph.critical_path(dict.fromkeys(names, 1)) == (tuple(names), LONG)
    assert len(graph.layers()) == LONG
    assert graph.is_connected()
    assert len(graph.blocked(())) == LONG - 1
    assert graph.induced_subgraph(names[5]) == graph
    assert [len(path) for path in cycles(names, [*between, Edge(names[-1], names[0])])] == [LONG + 1]


# Workflows


SAME_EVERYWHERE = """
from random import Random
from domain.graph import Cycles, Edge, EdgeKind, Graph, cycles
dice = Random(1)
names = [f"m{n}" for n in range(200)]
pairs = sorted({tuple(sorted(dice.sample(range(200), 2))) for _ in range(600)})
edges = [Edge(names[a], names[b], dice.choice(list(EdgeKind))) for a, b in pairs]
dice.shuffle(names)
graph = Graph.of(names, edges)
print(graph, graph.topological_order(), graph.ready(set(names[::3])), graph.blocked(set(names[::3])), graph.layers(),
      graph.critical_path({name: dice.randrange(5) for name in names}), graph.ancestors(names[7]),
      graph.subgraph(set(names[::2])), graph.induced_subgraph(names[9]),
      cycles(names, [*edges, *(Edge(edge.target, edge.source) for edge in edges[::50])]))
"""


def test_no_answer_depends_on_the_order_of_a_set() -> None:
    """Two interpreters that hash names differently print the same: a workflow may decide by it."""
    assert len(printed(SAME_EVERYWHERE)) == 1


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of this thread that it takes, the least of five: a busy machine counts little."""
    taken = []
    for _ in range(5):
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return min(taken)


def test_five_thousand_members_are_no_burden() -> None:
    """Made with their 20,000 edges, as objects too, in under 200 ms, and their critical path in under 100 ms."""
    dice = Random(5)  # noqa: S311
    names = [f"member-{n}" for n in range(5_000)]
    pairs: dict[tuple[int, ...], None] = {}
    while len(pairs) < 20_000:
        pairs[tuple(sorted(dice.sample(range(5_000), 2)))] = None
    graph = Graph.of(names, [Edge(names[source], names[target]) for source, target in pairs])
    weights = {name: dice.random() for name in names}
    assert seconds(lambda: Graph.of(names, [Edge(names[source], names[target]) for source, target in pairs])) < 0.2
    assert seconds(lambda: graph.critical_path(weights)) < 0.1
