"""From the body of a run to its plan: what the shape of a body cannot tell is checked here, and named.

A command is checked by the same function, as the whole graph that it would make.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from domain.errors import TaskrunnerError
from domain.graph import Cycles, DuplicateEdge, DuplicateMember, Edge, EdgeKind, Graph, GraphError, SelfLoop, listed
from domain.graph import UnknownMember as UnknownInGraph
from domain.run import EdgePlan, FanPlan, Plan
from domain.run_spec import (
    EDGE_LIMIT,
    MEMBER_LIMIT,
    TASK_LIMIT,
    Condition,
    Member,
    OnFailure,
    Outcome,
    RunBreakpoints,
    RunCommand,
    RunEdge,
)
from domain.wiring import CONDITION, PREFERRED

# What a problem is called, and the field of the body that it is about.
_CODES: Final[Mapping[type[GraphError], tuple[str, str]]] = {
    DuplicateMember: ("duplicate_member", "members"),
    UnknownInGraph: ("unknown_member", "edges"),
    SelfLoop: ("self_loop", "edges"),
    DuplicateEdge: ("duplicate_edge", "edges"),
    Cycles: ("cycle", "edges"),
}


class BadRun(TaskrunnerError):  # noqa: N818 - a fact about the body
    """A body or a command that makes no run: `code` and `field` say what is wrong, the message names the offenders."""

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, its edges (with those that `items_from` implies) in the plan's order, and its graph."""

    plan: Plan
    edges: Sequence[RunEdge]
    graph: Graph


def planned(
    members: Sequence[Member],
    edges: Sequence[RunEdge],
    *,
    breakpoints: RunBreakpoints | None = None,
    on_failure: OnFailure = OnFailure.SKIP_DEPENDENTS,
) -> Planned:
    """Return the plan of these members and edges. Raises BadRun with all offenders of the first kind of fault."""
    every = [*edges, *_implied(members, edges)]
    _small_enough(len(members), MEMBER_LIMIT, "members")
    _small_enough(len(every), EDGE_LIMIT, "edges")
    names = [member.name for member in members]
    sources = (member.fan_out.source for member in members if member.fan_out)
    _known(names, (source[0] for source in sources if source), "members.fan_out.items_from")
    try:
        graph = Graph.of(names, (Edge(edge.from_, edge.to, edge.kind) for edge in every))
    except GraphError as error:
        code, field = _CODES[type(error)]
        raise BadRun(code, field, str(error)) from None
    tasks = sum((member.fan_out.size or 1) if member.fan_out else 1 for member in members)
    _small_enough(tasks, TASK_LIMIT, "tasks", "members")
    _known(names, breakpoints.before if breakpoints else (), "breakpoints.before")
    _known(names, breakpoints.after if breakpoints else (), "breakpoints.after")
    _upstream(members, graph)
    _with_a_result(members, edges)
    _reachable(graph, every, on_failure)
    return Planned(plan_of(members, every), every, graph)


def plan_of(members: Sequence[Member], edges: Iterable[RunEdge]) -> Plan:
    """Return members and edges as the orchestrator has them, unchecked."""
    places = {member.name: place for place, member in enumerate(members)}
    return Plan(
        names=[member.name for member in members],
        edges=[EdgePlan(source=places[e.from_], target=places[e.to], when=when(e)) for e in edges],
        fans={
            places[member.name]: FanPlan(size=member.fan_out.size, max_parallel=member.fan_out.max_parallel)
            for member in members
            if member.fan_out is not None
        },
    )


def when(edge: RunEdge) -> str:
    """Return an edge's `when` as a plan has it."""
    if edge.kind is EdgeKind.PREFERRED_ORDER:
        return PREFERRED
    if isinstance(edge.when, Condition):
        return CONDITION
    return edge.when or ""


def commanded(
    members: Sequence[Member],
    edges: Sequence[RunEdge],
    waiting: Iterable[str],
    command: RunCommand,
    *,
    on_failure: OnFailure = OnFailure.SKIP_DEPENDENTS,
) -> Planned:
    """Return the plan with what a command adds. Raises BadRun for one that cannot be: the run stays as it is.

    Only `waiting` members, and those that the command adds, can be replaced to or skipped, or get another upstream.
    """
    added = command.append
    result = planned([*members, *added.members], [*edges, *added.edges], on_failure=on_failure)
    free = {*waiting, *(member.name for member in added.members)}
    for field, names in (("replace", command.replace or ()), ("skip", command.skip)):
        _known(result.plan.names, names, field)
        if taken := [name for name in names if name not in free]:
            raise BadRun("not_waiting", field, f"has begun or ended: {listed(taken)}")
    late = [edge.to for edge in added.edges if edge.to not in free and edge.kind is EdgeKind.BLOCKING]
    if late:
        text = f"has begun or ended, and can wait for nothing: {listed([*dict.fromkeys(late)])}"
        raise BadRun("not_waiting", "append.edges", text)
    return result


def _small_enough(count: int, limit: int, what: str, field: str | None = None) -> None:
    if count > limit:
        raise BadRun("too_large", field or what, f"{count:,} {what}; a run has at most {limit:,}")


def _implied(members: Iterable[Member], edges: Iterable[RunEdge]) -> Iterator[RunEdge]:
    """Give the edges from the members whose results say how far others fan out, where nobody has drawn them."""
    drawn = {(edge.from_, edge.to) for edge in edges if edge.kind is EdgeKind.BLOCKING}
    for member in members:
        source = member.fan_out.source if member.fan_out else None
        if source is not None and (source[0], member.name) not in drawn:
            yield RunEdge.model_validate({"from": source[0], "to": member.name})


def _known(names: Sequence[str], asked: Iterable[str], field: str) -> None:
    known = set(names)
    unknown = [name for name in dict.fromkeys(asked) if name not in known]
    if unknown:
        raise BadRun("unknown_member", field, f"no member has the name: {listed(unknown)}")


def _upstream(members: Sequence[Member], graph: Graph) -> None:
    """Refuse an affinity to a member that is no direct upstream."""
    asked = [(member.name, member.affinity) for member in members if member.affinity is not None]
    _known([member.name for member in members], (upstream for _, upstream in asked), "members.affinity")
    wrong = [name for name, upstream in asked if upstream not in graph.dependencies(name)]
    if wrong:
        raise BadRun("not_upstream", "members.affinity", f"`affinity` names no direct upstream of: {listed(wrong)}")


def _with_a_result(members: Sequence[Member], edges: Iterable[RunEdge]) -> None:
    """Refuse a fan-out over the result of a member that must have failed: it has none."""
    failed = {(edge.from_, edge.to) for edge in edges if edge.when is Outcome.FAILED}
    sources = [(member.fan_out.source, member.name) for member in members if member.fan_out]
    wrong = [name for source, name in sources if source is not None and (source[0], name) in failed]
    if wrong:
        text = f"`items_from` asks a result of one that must have failed, and has none: {listed(wrong)}"
        raise BadRun("no_result", "members.fan_out.items_from", text)


def _reachable(graph: Graph, edges: Sequence[RunEdge], on_failure: OnFailure) -> None:
    """Refuse members that no outcome can reach: one of their upstreams would have to complete and to fail.

    What a condition on a result can be is not known here. Of each upstream that somebody waits to fail, a member
    carries whether it needs that one to complete, and to fail: two bits. Where a run continues after failures, an edge
    without a `when` needs an upstream that has run, and nothing else.
    """
    either_will_do = on_failure is OnFailure.CONTINUE
    blocking = [edge for edge in edges if edge.kind is EdgeKind.BLOCKING]
    awaited = dict.fromkeys(edge.from_ for edge in blocking if edge.when is Outcome.FAILED)
    failing = {name: 1 << place for place, name in enumerate(awaited)}
    if not failing:
        return
    into: dict[str, list[RunEdge]] = {}
    for edge in blocking:
        into.setdefault(edge.to, []).append(edge)
    needs: dict[str, tuple[int, int]] = {}
    unreachable = []
    for name in graph.topological_order():
        complete = fail = 0
        for edge in into.get(name, ()):
            if edge.when is Outcome.FINISHED:
                continue
            above = needs[edge.from_]
            bit = 0 if edge.when is None and either_will_do else failing.get(edge.from_, 0)
            complete |= above[0] | (0 if edge.when is Outcome.FAILED else bit)
            fail |= above[1] | (bit if edge.when is Outcome.FAILED else 0)
        needs[name] = (complete, fail)
        if complete & fail:
            unreachable.append(name)
    if unreachable:
        text = f"no outcome of their upstreams can reach: {listed(unreachable)}"
        raise BadRun("unreachable_member", "edges", text)
