"""The edges of a plan as its orchestrator follows them: by the places of members."""

from typing import Final

from domain.graph import Edge, EdgeKind, Graph
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
