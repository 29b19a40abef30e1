"""What a command may make of a run's graph."""

from time import process_time
from typing import Any

import pytest

from domain.plan import BadRun, Planned, commanded, plan_of
from domain.run_spec import RunCommand
from tests.domain.plans import drawn, edge, refusal, some

NEW = {"name": "new", "task": {"command": ["true"]}}
LOST = [
    {"from": "a", "to": "new"},
    {"from": "b", "to": "new", "when": "failed"},
    {"from": "new", "to": "c", "when": "failed"},
]
# Of a, b and c, one after the other, a has ended and c waits.
COMMANDS: dict[str, tuple[dict[str, Any], tuple[str, str, str]]] = {
    "a cycle": (
        {"append": {"edges": [{"from": "c", "to": "new"}, {"from": "new", "to": "c"}], "members": [NEW]}},
        ("cycle", "edges", "members wait for each other: c → new → c"),
    ),
    "a cycle through what is there": (
        {"append": {"edges": [{"from": "c", "to": "b"}]}},
        ("cycle", "edges", "members wait for each other: b → c → b"),
    ),
    "a name that is taken": (
        {"append": {"members": [NEW | {"name": "a"}]}},
        ("duplicate_member", "members", "more than one member has the name: a"),
    ),
    "an edge to nobody": (
        {"append": {"edges": [{"from": "a", "to": "x"}]}},
        ("unknown_member", "edges", "no member has the name: x"),
    ),
    "an edge that is there": (
        {"append": {"edges": [{"from": "b", "to": "c", "when": "finished"}]}},
        ("duplicate_edge", "edges", "there more than once: b → c"),
    ),
    "an edge into what has begun": (
        {"append": {"members": [NEW], "edges": [{"from": "new", "to": "b"}, {"from": "new", "to": "a"}]}},
        ("not_waiting", "append.edges", "has begun or ended, and can wait for nothing: b, a"),
    ),
    "what has begun as the next": (
        {"replace": ["c", "b"]},
        ("not_waiting", "replace", "has begun or ended: b"),
    ),
    "what has ended as the next": ({"replace": ["a"]}, ("not_waiting", "replace", "has begun or ended: a")),
    "nobody as the next": ({"replace": ["x"]}, ("unknown_member", "replace", "no member has the name: x")),
    "to skip what has begun": (
        {"replace": ["c"], "skip": ["b", "a"]},
        ("not_waiting", "skip", "has begun or ended: b, a"),
    ),
    "to skip nobody": ({"replace": ["c"], "skip": ["x"]}, ("unknown_member", "skip", "no member has the name: x")),
    "what nothing can reach": (
        {"append": {"members": [NEW], "edges": LOST}},
        ("unreachable_member", "edges", "no outcome of their upstreams can reach: c"),
    ),
}


def command(body: dict[str, Any]) -> Planned:
    """Give a command to the run of a, b and c."""
    return commanded(some("a", "b", "c"), drawn("a>b b>c"), ["c"], RunCommand.model_validate(body))


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_is_checked_like_a_new_graph(case: str) -> None:
    """A code, the field, and a sentence that names the offenders."""
    body, said = COMMANDS[case]
    assert refusal(lambda: command(body)) == said


def test_a_command_adds_at_the_end() -> None:
    """Members and edges that are there keep their places; what is implied comes last."""
    added = [NEW, NEW | {"name": "each", "fan_out": {"items_from": "a#"}}]
    edges = [
        {"from": "b", "to": "new"},
        {"from": "new", "to": "c"},
        {"from": "new", "to": "a", "kind": "preferred_order"},
    ]
    with pytest.raises(BadRun, match="wait for each other"):
        command({"append": {"members": added, "edges": edges}})
    made = command({"append": {"members": added, "edges": edges[:2]}, "replace": ["new"], "skip": ["c"]})
    assert made.plan.names == ["a", "b", "c", "new", "each"]
    assert [(each.from_, each.to) for each in made.edges] == [
        ("a", "b"),
        ("b", "c"),
        ("b", "new"),
        ("new", "c"),
        ("a", "each"),
    ]


def test_a_command_that_asks_nothing_changes_nothing() -> None:
    """The same plan."""
    assert command({}).plan == plan_of(some("a", "b", "c"), drawn("a>b b>c"))


def test_a_command_to_a_run_of_10000_is_checked_in_less_than_two_seconds() -> None:
    """Of processor time: the whole graph that it would make."""
    members = some(*(f"m{n}" for n in range(9_999)))
    edges = [edge(f"m{n}>m{n + 1}") for n in range(9_998)]
    command = RunCommand.model_validate({"append": {"members": [{"name": "new", "task": {"command": ["true"]}}]}})
    began = process_time()
    made = commanded(members, edges, [member.name for member in members], command)
    assert process_time() - began < 2
    assert len(made.plan.names) == 10_000
