"""The edges of a plan as its orchestrator follows them: by the places of members, and by what they wait for."""

from collections.abc import Mapping
from typing import Final

from domain.graph import Edge, EdgeKind, Graph
from domain.lifecycle import MemberStatus
from domain.run import Plan
from domain.run_spec import Outcome

# What an edge's `when` is beside an outcome.
CONDITION: Final = "?"
PREFERRED: Final = "~"
_KINDS: Final = {True: EdgeKind.PREFERRED_ORDER, False: EdgeKind.BLOCKING}


class Wiring:
    """Of each member the blocking edges, by their numbers, that lead `out` of it and `into` it, and its `rank`.

    The rank is the place in an order that respects every edge; a preferred order does nothing else.
    """

    def __init__(self, plan: Plan) -> None:
        self.edges = plan.edges
        self.places = {name: place for place, name in enumerate(plan.names)}
        edges = [Edge(plan.names[e.source], plan.names[e.target], _KINDS[e.when == PREFERRED]) for e in plan.edges]
        self.rank = [0] * len(plan.names)
        for rank, name in enumerate(Graph.of(plan.names, edges).topological_order()):
            self.rank[self.places[name]] = rank
        self.out: list[list[int]] = [[] for _ in plan.names]
        self.into: list[list[int]] = [[] for _ in plan.names]
        for number, edge in enumerate(plan.edges):
            if edge.when != PREFERRED:
                self.out[edge.source].append(number)
                self.into[edge.target].append(number)

    def asks_for_ends(self, member: int) -> bool:
        """Whether it is there for the failure of others: then it is judged as ever when the run fails fast."""
        return any(self.edges[number].when in (Outcome.FAILED, Outcome.FINISHED) for number in self.into[member])


# By which ends of its upstream an edge holds; a condition is asked of the result, which only one that completed has.
_ENDS: Final[Mapping[str, frozenset[MemberStatus]]] = {
    "": frozenset({MemberStatus.COMPLETED}),
    Outcome.COMPLETED: frozenset({MemberStatus.COMPLETED}),
    Outcome.FAILED: frozenset({MemberStatus.FAILED}),
    Outcome.FINISHED: frozenset(status for status in MemberStatus if status.ended),
    CONDITION: frozenset(),
}


def holds(when: str, upstream: MemberStatus, *, judged: bool | None, either_will_do: bool) -> bool | None:
    """Return whether an upstream has ended as an edge wants it; None while that is open.

    `judged` is what was found of a condition. `either_will_do`: an edge without a `when` takes a failure too.
    """
    if not upstream.ended:
        return None
    if when == CONDITION and upstream is MemberStatus.COMPLETED:
        return judged
    return upstream in _ENDS[when] or (when == "" and either_will_do and upstream is MemberStatus.FAILED)


def why_not(when: str, upstream: MemberStatus) -> str:
    """Return the reason for which the target of an edge that does not hold is skipped."""
    wants_an_end = when in (Outcome.FAILED, CONDITION) and upstream is MemberStatus.COMPLETED
    return "condition" if wants_an_end else "upstream"
