"""The graph of a run: members by name, and edges of two kinds between them.

    GraphError
    ├── DuplicateMember    two members of one name
    ├── UnknownMember      a name, in an edge or a question, that no member has
    ├── SelfLoop           an edge from a member to itself
    ├── DuplicateEdge      two edges of one kind between the same two members
    ├── UnknownEdge        an edge to be left out that is not there
    └── Cycles             members that wait for each other

Workflows decide by this module: no result depends on the order of a set, and nothing is recursive, so that a
chain of 10,000 members is as good as any other graph.
"""

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from typing import Any, Final, NamedTuple, Self

from domain.errors import TaskrunnerError
from domain.walks import Neighbours, closed_walks, reached

NAMED_AT_MOST: Final = 10  # offenders in a message, so that it stays one that a person reads; the attributes have all


class EdgeKind(StrEnum):
    """What an edge does: a `blocking` one keeps its target waiting, `preferred_order` only sorts what is ready."""

    BLOCKING = "blocking"
    PREFERRED_ORDER = "preferred_order"


BLOCKING: Final = EdgeKind.BLOCKING


@dataclass(frozen=True, slots=True)
class Edge:
    """`target` comes after `source`."""

    source: str
    target: str
    kind: EdgeKind = BLOCKING

    def __str__(self) -> str:
        return f"{self.source} → {self.target}"


class GraphError(TaskrunnerError):
    """The root of what can be wrong with a graph, or with a question to it."""


class _OfMembers(GraphError):  # noqa: N818 - this and what follows is named for the fact
    says = ""

    def __init__(self, members: Iterable[str]) -> None:
        self.members = tuple(members)
        super().__init__(f"{self.says}: {listed(self.members)}")


class DuplicateMember(_OfMembers):
    """Names that more than one member has, in the order of the members: `members`."""

    says = "more than one member has the name"


class UnknownMember(_OfMembers):
    """Names that no member has, in the order of their first mention: `members`."""

    says = "no member has the name"


class _OfEdges(GraphError):  # noqa: N818
    says = ""

    def __init__(self, edges: Iterable[Edge]) -> None:
        self.edges = tuple(edges)
        super().__init__(f"{self.says}: {listed([*map(str, self.edges)])}")


class SelfLoop(_OfEdges):
    """Edges from a member to itself, in their order: `edges`."""

    says = "a member cannot come after itself"


class DuplicateEdge(_OfEdges):
    """Edges that are there more than once with the same kind, each once, in their order: `edges`."""

    says = "there more than once"


class UnknownEdge(_OfEdges):
    """Edges that are not there: `edges`."""

    says = "there is no edge"


class Cycles(GraphError):  # noqa: N818
    """Members that wait for each other: `paths`, as `cycles` gives them."""

    def __init__(self, paths: Iterable[Sequence[str]]) -> None:
        self.paths = tuple(tuple(path) for path in paths)
        super().__init__(f"members wait for each other: {listed([*map(_walk, self.paths)], '; ')}")


class CriticalPath(NamedTuple):
    """The heaviest way from a root to a leaf, and the sum of its weights."""

    members: tuple[str, ...]
    total: float


@dataclass(frozen=True, slots=True)
class Graph:
    """Members in the order of their declaration, and the edges between them: checked when made, and never changed.

    Both kinds of edge together have no cycle: what is preferred would otherwise contradict what is needed, and
    there would be no order of the members that respects every edge.

    What is said of readiness, of ways and of layers goes by the blocking edges alone. Every tuple of members is in
    the order of declaration unless it says otherwise. A name that no member has raises UnknownMember.
    """

    members: tuple[str, ...]
    edges: tuple[Edge, ...]
    _sources: Mapping[EdgeKind, Neighbours] = field(init=False, repr=False, compare=False)
    _targets: Mapping[EdgeKind, Neighbours] = field(init=False, repr=False, compare=False)
    _order: tuple[str, ...] = field(init=False, repr=False, compare=False)

    @classmethod
    def of(cls, members: Sequence[str], edges: Iterable[Edge] = ()) -> Self:
        """Return the graph of them.

        Raises the first of DuplicateMember, UnknownMember, SelfLoop, DuplicateEdge and Cycles that there is a case
        of, with all its cases.
        """
        return cls(tuple(members), tuple(edges))

    def __post_init__(self) -> None:
        _check(self.members, self.edges)
        sources, targets = _nobody(self.members), _nobody(self.members)
        for edge in self.edges:
            sources[edge.kind][edge.target].append(edge.source)
            targets[edge.kind][edge.source].append(edge.target)
        order = _ordered(self.members, self.edges)
        for name, value in (("_sources", sources), ("_targets", targets), ("_order", order)):
            object.__setattr__(self, name, value)

    def dependencies(self, member: str, kind: EdgeKind = BLOCKING) -> tuple[str, ...]:
        """Return the members that it comes directly after, in the order of the edges."""
        return tuple(_at(self._sources[kind], member))

    def dependents(self, member: str, kind: EdgeKind = BLOCKING) -> tuple[str, ...]:
        """Return the members that come directly after it, in the order of the edges."""
        return tuple(_at(self._targets[kind], member))

    def ancestors(self, member: str) -> tuple[str, ...]:
        """Return all members that must have ended before it."""
        return self._all(self._sources[BLOCKING], member)

    def descendants(self, member: str) -> tuple[str, ...]:
        """Return all members that must wait for it."""
        return self._all(self._targets[BLOCKING], member)

    def roots(self) -> tuple[str, ...]:
        """Return the members that wait for nobody."""
        return tuple(member for member in self.members if not self._sources[BLOCKING][member])

    def leaves(self) -> tuple[str, ...]:
        """Return the members that nobody waits for."""
        return tuple(member for member in self.members if not self._targets[BLOCKING][member])

    def is_ready(self, member: str, ended: Container[str]) -> bool:
        """Return whether it has not ended and all that it waits for has."""
        return member not in ended and all(source in ended for source in _at(self._sources[BLOCKING], member))

    def ready(self, ended: Container[str]) -> tuple[str, ...]:
        """Return the members that could begin, in topological order.

        It looks at the whole graph; what the end of one member makes ready is among its dependents.
        """
        return tuple(member for member in self._order if self.is_ready(member, ended))

    def blocked(self, ended: Container[str]) -> dict[str, tuple[str, ...]]:
        """Return each member that still waits, with what it waits for directly, in the order of the edges."""
        waiting = {
            member: tuple(source for source in sources if source not in ended)
            for member, sources in self._sources[BLOCKING].items()
            if member not in ended
        }
        return {member: blockers for member, blockers in waiting.items() if blockers}

    def topological_order(self) -> tuple[str, ...]:
        """Return the members, each after all that an edge of either kind puts before it.

        Of those that could come next it is always the one declared first.
        """
        return self._order

    def critical_path(self, weights: Mapping[str, float]) -> CriticalPath:
        """Return the heaviest way from a root to a leaf; a member without a weight weighs nothing.

        Among ways of one weight it prefers what comes first in topological order, or among the edges.
        """
        total: dict[str, float] = {}
        before: dict[str, str] = {}
        for member in self._order:
            sources = self._sources[BLOCKING][member]
            if sources:
                before[member] = max(sources, key=total.__getitem__)
            total[member] = weights.get(member, 0) + (total[before[member]] if sources else 0)
        ends = [member for member in self._order if not self._targets[BLOCKING][member]]
        if not ends:
            return CriticalPath((), 0)
        path = [max(ends, key=total.__getitem__)]
        heaviest = total[path[0]]
        while path[-1] in before:
            path.append(before[path[-1]])
        return CriticalPath(tuple(reversed(path)), heaviest)

    def layers(self) -> tuple[tuple[str, ...], ...]:
        """Return the members by the length of the longest way to them from a root."""
        found: dict[str, int] = {}
        for member in self._order:
            sources = self._sources[BLOCKING][member]
            found[member] = 1 + max((found[source] for source in sources), default=-1)
        made: list[list[str]] = [[] for _ in range(1 + max(found.values(), default=-1))]
        for member in self.members:
            made[found[member]].append(member)
        return tuple(map(tuple, made))

    def is_connected(self) -> bool:
        """Return whether edges of either kind, taken in both directions, lead from each member to every other."""
        around: dict[str, list[str]] = {member: [] for member in self.members}
        for edge in self.edges:
            around[edge.source].append(edge.target)
            around[edge.target].append(edge.source)
        return all(len({first: first} | reached(first, around)) == len(self.members) for first in self.members[:1])

    def subgraph(self, members: Collection[str]) -> Self:
        """Return these members alone, in the order that they have here, with the edges among them."""
        wanted = dict.fromkeys(members)
        if unknown := [name for name in wanted if name not in self._sources[BLOCKING]]:
            raise UnknownMember(unknown)
        edges = (edge for edge in self.edges if edge.source in wanted and edge.target in wanted)
        return self.of([member for member in self.members if member in wanted], edges)

    def induced_subgraph(self, member: str) -> Self:
        """Return what has to do with a member: itself, its ancestors and its descendants, with the edges among them."""
        return self.subgraph((member, *self.ancestors(member), *self.descendants(member)))

    def without_node(self, member: str) -> Self:
        """Return the graph without a member and its edges: those before it no longer come before those after it."""
        _at(self._sources[BLOCKING], member)
        return self.subgraph([other for other in self.members if other != member])

    def without_edge(self, source: str, target: str, kind: EdgeKind = BLOCKING) -> Self:
        """Return the graph without an edge; raises UnknownEdge if it is not there."""
        gone = Edge(source, target, kind)
        if gone not in self.edges:
            raise UnknownEdge([gone])
        return self.of(self.members, (edge for edge in self.edges if edge != gone))

    def _all(self, neighbours: Neighbours, member: str) -> tuple[str, ...]:
        _at(neighbours, member)
        found = reached(member, neighbours)
        return tuple(each for each in self.members if each in found)


def cycles(members: Iterable[str], edges: Iterable[Edge]) -> list[list[str]]:
    """Return one cycle for each set of members that all reach each other, by edges of either kind.

    A cycle is a closed walk: it begins and ends with the same member, the one of them declared first, and is the
    shortest one through it. A self-loop is one too. Members that only edges name are taken as declared last.
    """
    after: dict[str, list[str]] = {member: [] for member in members}
    for edge in edges:
        after.setdefault(edge.source, []).append(edge.target)
        after.setdefault(edge.target, [])
    return closed_walks(after)


def _nobody(members: Sequence[str]) -> dict[EdgeKind, dict[str, list[str]]]:
    return {kind: {member: [] for member in members} for kind in EdgeKind}


def _at(neighbours: Neighbours, member: str) -> Sequence[str]:
    try:
        return neighbours[member]
    except KeyError:
        raise UnknownMember([member]) from None


def _check(members: Sequence[str], edges: Sequence[Edge]) -> None:
    """Raise the first fault that needs no walk."""
    known = Counter(members)
    named = dict.fromkeys(name for edge in edges for name in (edge.source, edge.target))
    faults: tuple[tuple[type[_OfMembers | _OfEdges], list[Any]], ...] = (
        (DuplicateMember, [member for member, times in known.items() if times > 1]),
        (UnknownMember, [name for name in named if name not in known]),
        (SelfLoop, [edge for edge in edges if edge.source == edge.target]),
        (DuplicateEdge, [edge for edge, times in Counter(edges).items() if times > 1]),
    )
    for fault, offenders in faults:
        if offenders:
            raise fault(offenders)


def _ordered(members: Sequence[str], edges: Iterable[Edge]) -> tuple[str, ...]:
    """Return the members in topological order, by Kahn's algorithm; raises Cycles."""
    before: dict[str, list[str]] = {member: [] for member in members}
    for edge in edges:
        before[edge.target].append(edge.source)
    sorter = TopologicalSorter(before)
    try:
        sorter.prepare()
    except CycleError:
        raise Cycles(cycles(members, edges)) from None
    position = {member: place for place, member in enumerate(members)}
    order: list[str] = []
    next_ones: list[int] = []
    while sorter.is_active():
        for member in sorter.get_ready():
            heappush(next_ones, position[member])
        order.append(members[heappop(next_ones)])
        sorter.done(order[-1])
    return tuple(order)


def _walk(path: Sequence[str]) -> str:
    if len(path) > NAMED_AT_MOST:
        path = (*path[: NAMED_AT_MOST - 2], f"{len(path) - NAMED_AT_MOST + 1:,} more", path[-1])
    return " → ".join(path)


def listed(offenders: Collection[str], separator: str = ", ") -> str:
    """Return names as a message has them: the first ten, and how many more there are."""
    more = len(offenders) - NAMED_AT_MOST
    return separator.join([*offenders][:NAMED_AT_MOST]) + (f" and {more:,} more" if more > 0 else "")
