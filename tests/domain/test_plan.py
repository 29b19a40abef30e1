"""The graph of a run: what makes none."""

from itertools import product
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.graph import EdgeKind
from domain.plan import planned
from domain.run import EdgePlan, FanPlan, Plan
from domain.run_spec import EDGE_LIMIT, Condition, Member, OnFailure, Outcome, RunBreakpoints, RunEdge
from tests.domain.plans import drawn, edge, refusal, some

FAN: dict[str, Any] = {"fan_out": {"count": 10}}
FROM_A: dict[str, Any] = {"fan_out": {"items_from": "a#/files"}}

# (members, edges, code, field, the message)
BAD: dict[str, tuple[list[Member], list[RunEdge], str, str, str]] = {
    "an unknown member": (
        some("a"),
        drawn("a>x y>a"),
        "unknown_member",
        "edges",
        "no member has the name: x, y",
    ),
    "a duplicate": (
        some("a", "b", "a", "b", "a"),
        [],
        "duplicate_member",
        "members",
        "more than one member has the name: a, b",
    ),
    "a self-loop": (some("a"), drawn("a>a"), "self_loop", "edges", "a member cannot come after itself: a → a"),
    "an edge twice": (
        some("a", "b"),
        drawn("a>b a>b:failed"),
        "duplicate_edge",
        "edges",
        "there more than once: a → b",
    ),
    "a cycle": (
        some("a", "b", "c", "d"),
        drawn("a>b b>c c>a c>d"),
        "cycle",
        "edges",
        "members wait for each other: a → b → c → a",
    ),
    "a cycle of what is preferred": (
        some("a", "b"),
        [*drawn("a>b"), edge("b>a", kind=EdgeKind.PREFERRED_ORDER)],
        "cycle",
        "edges",
        "members wait for each other: a → b → a",
    ),
    "a cycle by items": (
        some("a", f=FROM_A),
        drawn("f>a"),
        "cycle",
        "edges",
        "members wait for each other: a → f → a",
    ),
    "items from nobody": (
        some("b", f=FROM_A),
        [],
        "unknown_member",
        "members.fan_out.items_from",
        "no member has the name: a",
    ),
    "items from itself": (some(a=FROM_A), [], "self_loop", "edges", "a member cannot come after itself: a → a"),
    "items from what must have failed": (
        some("a", f=FROM_A),
        drawn("a>f:failed"),
        "no_result",
        "members.fan_out.items_from",
        "`items_from` asks a result of one that must have failed, and has none: f",
    ),
    "an affinity to nobody": (
        some(a={"affinity": "x"}),
        [],
        "unknown_member",
        "members.affinity",
        "no member has the name: x",
    ),
    "an affinity to itself": (
        some(a={"affinity": "a"}),
        [],
        "not_upstream",
        "members.affinity",
        "`affinity` names no direct upstream of: a",
    ),
    "an affinity to one that is not directly above": (
        some("a", "b", c={"affinity": "a"}),
        drawn("a>b b>c"),
        "not_upstream",
        "members.affinity",
        "`affinity` names no direct upstream of: c",
    ),
    "an affinity to a preferred one": (
        some("a", c={"affinity": "a"}),
        [edge("a>c", kind=EdgeKind.PREFERRED_ORDER)],
        "not_upstream",
        "members.affinity",
        "`affinity` names no direct upstream of: c",
    ),
    "a member that nothing can reach": (
        some("a", "b", "c", "d", "e"),
        drawn("a>b a>c:failed b>d c>d d>e"),
        "unreachable_member",
        "edges",
        "no outcome of their upstreams can reach: d, e",
    ),
    "10,001 members": (
        some(*(f"m{n}" for n in range(10_001))),
        [],
        "too_large",
        "members",
        "10,001 members; a run has at most 10,000",
    ),
    "10,001 tasks": (
        some("a", b={"fan_out": {"count": 10_000}}),
        [],
        "too_large",
        "members",
        "10,001 tasks; a run has at most 10,000",
    ),
    "50,001 edges": (
        some("a", "b"),
        drawn("a>b") * (EDGE_LIMIT + 1),
        "too_large",
        "edges",
        "50,001 edges; a run has at most 50,000",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_graph_is_refused_and_named(case: str) -> None:
    """A code, the field of the body, and a sentence that names the offenders."""
    members, edges, code, field, message = BAD[case]
    assert refusal(lambda: planned(members, edges)) == (code, field, message)


def test_no_more_than_ten_are_named() -> None:
    """A message stays one that a person reads."""
    _, _, message = refusal(
        lambda: planned(some("a"), [], breakpoints=RunBreakpoints(before=[f"x{n}" for n in range(1_012)]))
    )
    assert message == "no member has the name: x0, x1, x2, x3, x4, x5, x6, x7, x8, x9 and 1,002 more"


@pytest.mark.parametrize("kind", ["before", "after"])
def test_a_breakpoint_at_nobody_is_refused(kind: str) -> None:
    """Each name that no member has, once."""
    breakpoints = RunBreakpoints.model_validate({kind: ["a", "x", "x", "y"]})
    said = refusal(lambda: planned(some("a"), [], breakpoints=breakpoints))
    assert said == ("unknown_member", f"breakpoints.{kind}", "no member has the name: x, y")


def test_a_plan_is_places() -> None:
    """Edges by the places of their ends, with what they wait for; fan-outs by theirs."""
    members = some("a", "b", f={"fan_out": {"items": [1, 2], "max_parallel": 1}}, g=FROM_A)
    condition = {"pointer": "/ok", "value": True}
    edges = [edge("a>b", "completed"), edge("b>f", condition), edge("a>f", kind=EdgeKind.PREFERRED_ORDER), edge("b>g")]
    assert planned(members, edges).plan == Plan(
        names=["a", "b", "f", "g"],
        edges=[
            EdgePlan(source=0, target=1, when="completed"),
            EdgePlan(source=1, target=2, when="?"),
            EdgePlan(source=0, target=2, when="~"),
            EdgePlan(source=1, target=3),
            EdgePlan(source=0, target=3),
        ],
        fans={2: FanPlan(size=2, max_parallel=1), 3: FanPlan()},
    )


@pytest.mark.parametrize(
    ("edges", "implied"),
    [
        pytest.param([], 1, id="nobody drew it"),
        pytest.param([edge("a>f")], 0, id="it is drawn"),
        pytest.param([edge("a>f", "finished")], 0, id="it is drawn with a when"),
        pytest.param([edge("a>f", kind=EdgeKind.PREFERRED_ORDER)], 1, id="a preferred order blocks nobody"),
    ],
)
def test_items_of_a_result_imply_an_edge(edges: list[RunEdge], implied: int) -> None:
    """A blocking one from the member whose result it is, unless there is one."""
    made = planned(some("a", f=FROM_A), edges)
    assert made.edges == [*edges, *[edge("a>f")] * implied]
    assert made.graph.dependencies("f") == ("a",)


def test_an_affinity_to_a_direct_upstream_is_taken() -> None:
    """Also to one that only `items_from` puts before it."""
    planned(some("a", b={"affinity": "a"}, f=FROM_A | {"affinity": "a"}), drawn("a>b"))


# --- what can be reached --------------------------------------------------------------------------------------------

WHENS = (None, Outcome.COMPLETED, Outcome.FAILED, Outcome.FINISHED, Condition(pointer="/a", value=1), "preferred")


@st.composite
def small_graphs(draw: st.DrawFn) -> tuple[list[Member], list[RunEdge]]:
    """Give up to six members, with edges of every kind."""
    names = "abcdef"[: draw(st.integers(2, 6))]
    pairs = [f"{a}>{b}" for a, b in product(names, names) if a < b]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=10))
    edges = []
    for pair in chosen:
        when = draw(st.sampled_from(WHENS))
        edges.append(edge(pair, kind=EdgeKind.PREFERRED_ORDER) if when == "preferred" else edge(pair, when))
    return some(*names), edges


def reached(members: list[Member], edges: list[RunEdge], on_failure: OnFailure) -> set[str]:
    """Return the members that run under some outcome of the tasks, whatever conditions hold: every one is tried."""
    completes = {
        Outcome.COMPLETED: {"completed"},
        Outcome.FAILED: {"failed"},
        Outcome.FINISHED: {"completed", "failed", "skipped"},
    }
    default = {"completed", "failed"} if on_failure is OnFailure.CONTINUE else {"completed"}
    blocking = [each for each in edges if each.kind is EdgeKind.BLOCKING]
    found: set[str] = set()
    for outcomes in product(("completed", "failed"), repeat=len(members)):
        status: dict[str, str] = {}
        for member, outcome in zip(members, outcomes, strict=True):
            runs = True
            for each in blocking:
                wanted = {"completed"} if isinstance(each.when, Condition) else default
                wanted = completes.get(each.when, wanted) if isinstance(each.when, Outcome) else wanted
                runs = runs and (each.to != member.name or status[each.from_] in wanted)
            status[member.name] = outcome if runs else "skipped"
        found |= {name for name, ended in status.items() if ended != "skipped"}
    return found


@settings(max_examples=400)
@given(small_graphs(), st.sampled_from([OnFailure.SKIP_DEPENDENTS, OnFailure.CONTINUE]))
def test_exactly_what_no_outcome_reaches_is_refused(
    graph: tuple[list[Member], list[RunEdge]], on_failure: OnFailure
) -> None:
    """Against every outcome of every member."""
    members, edges = graph
    lost = [member.name for member in members if member.name not in reached(members, edges, on_failure)]
    if lost:
        _, _, message = refusal(lambda: planned(members, edges, on_failure=on_failure))
        assert message == f"no outcome of their upstreams can reach: {', '.join(lost)}"
    else:
        planned(members, edges, on_failure=on_failure)


def test_who_continues_after_failures_reaches_more() -> None:
    """One that has run is enough for an edge without a `when`; an explicit `completed` asks for more."""
    members, edges = some("a", "b", "c", "d"), drawn("a>b a>c:failed b>d c>d")
    assert planned(members, edges, on_failure=OnFailure.CONTINUE)
    assert refusal(lambda: planned(members, edges))[0] == "unreachable_member"
    explicit = drawn("a>b:completed a>c:failed b>d c>d")
    assert refusal(lambda: planned(members, explicit, on_failure=OnFailure.CONTINUE))[0] == "unreachable_member"


# --- what it costs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whens", [(None,), ("failed", "finished")])
def test_a_chain_of_10000_is_planned_in_less_than_a_second(whens: tuple[str | None, ...]) -> None:
    """Of processor time; also when everybody waits for a failure."""
    members = some(*(f"m{n}" for n in range(10_000)))
    edges = [edge(f"m{n}>m{n + 1}", whens[n % len(whens)]) for n in range(9_999)]
    began = process_time()
    planned(members, edges)
    assert process_time() - began < 1
