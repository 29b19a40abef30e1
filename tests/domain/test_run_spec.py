"""The body of a run: what is accepted, and what is refused at the door with its field and its reason."""

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.run_spec import (
    EDGE_LIMIT,
    ITEM_LIMIT,
    STATE_BYTES,
    Condition,
    FanOut,
    Operator,
    Outcome,
    RunCommand,
    RunMode,
    RunSpec,
    size_of,
)
from domain.spec import json_of

TASK = {"command": ["true"]}
LONG = "x" * 101


def member(name: str = "a", **fields: Any) -> dict[str, Any]:
    """Return a member."""
    return {"name": name, "task": TASK} | fields


def body(**fields: Any) -> dict[str, Any]:
    """Return the smallest good body of two members, with these fields instead."""
    return {"members": [member("a"), member("b")]} | fields


def fanned(**fan_out: Any) -> dict[str, Any]:
    """Return a body whose one member fans out."""
    return {"members": [member(fan_out=fan_out)]}


def edged(**fields: Any) -> dict[str, Any]:
    """Return a body with one edge."""
    return body(edges=[{"from": "a", "to": "b"} | fields])


def stated(state: Any, **reducers: str) -> dict[str, Any]:
    """Return a body that begins with a state."""
    return body(mode="superstep", state=state, reducers=reducers)


EDGE: tuple[str | int, ...] = ("edges", 0)
MEMBER: tuple[str | int, ...] = ("members", 0)
FAN: tuple[str | int, ...] = (*MEMBER, "fan_out")
NONE_OF_THREE = "exactly one of `items`, `count` and `items_from` is needed"

# (body, the field that is named, the reason)
REFUSED: dict[str, tuple[Any, tuple[str | int, ...], str]] = {
    "no object": ([], (), "valid dictionary"),
    "no members": ({"members": []}, ("members",), "at least 1 item"),
    "no field of members": ({}, ("members",), "Field required"),
    "10,001 members": ({"members": [member(f"m{n}") for n in range(10_001)]}, ("members",), "at most 10000 items"),
    "a member without a task": ({"members": [{"name": "a"}]}, (*MEMBER, "task"), "Field required"),
    "a task of a member that is none": (
        {"members": [member(task={"command": []})]},
        (*MEMBER, "task", "command"),
        "at least 1 item",
    ),
    "a member without a name": ({"members": [{"task": TASK}]}, (*MEMBER, "name"), "Field required"),
    "an empty name": ({"members": [member("")]}, (*MEMBER, "name"), "pattern"),
    "a name with a hash": ({"members": [member("a#1")]}, (*MEMBER, "name"), "pattern"),
    "a name with a line end": ({"members": [member("a\n")]}, (*MEMBER, "name"), "pattern"),
    "a name that begins with a dot": ({"members": [member(".a")]}, (*MEMBER, "name"), "pattern"),
    "a name of 101 characters": ({"members": [member(LONG)]}, (*MEMBER, "name"), "at most 100 characters"),
    "a name that is a number": ({"members": [member(7)]}, (*MEMBER, "name"), "valid string"),  # type: ignore[arg-type]
    "an input that is no object": (
        {"members": [member(task=TASK | {"input": [1]})]},
        (*MEMBER, "task"),
        "`input` of a member must be an object",
    ),
    "an expectation of nothing": ({"members": [member(expected=0)]}, (*MEMBER, "expected"), "longer than zero"),
    "a misspelt field": (body(member=[]), ("member",), "Extra inputs are not permitted"),
    "a misspelt field of a member": ({"members": [member(fanout={})]}, (*MEMBER, "fanout"), "Extra inputs"),
    "a misspelt field of a task": (
        {"members": [member(task=TASK | {"comand": []})]},
        (*MEMBER, "task", "comand"),
        "Extra inputs",
    ),
    "a misspelt field of an edge": (edged(form="a"), (*EDGE, "form"), "Extra inputs"),
    "a misspelt field of a fan-out": (fanned(count=1, max=1), (*FAN, "max"), "Extra inputs"),
    "a misspelt field of a condition": (
        edged(when={"point": "/a"}),
        (*EDGE, "when", "condition", "point"),
        "Extra inputs",
    ),
    "a misspelt field of breakpoints": (body(breakpoints={"befor": []}), ("breakpoints", "befor"), "Extra inputs"),
    "an edge from nowhere": (body(edges=[{"to": "b"}]), (*EDGE, "from"), "Field required"),
    "an edge that is none": (body(edges=[{"from": "a", "to": "b"}, 1]), ("edges", 1), "valid dictionary"),
    "an edge of an unknown kind": (edged(kind="weak"), (*EDGE, "kind"), "'blocking' or 'preferred_order'"),
    "an outcome that does not exist": (
        edged(when="exploded"),
        (*EDGE, "when", "outcome"),
        "'completed', 'failed' or 'finished'",
    ),
    "a when that is neither": (edged(when=7), (*EDGE, "when", "outcome"), "'completed', 'failed' or 'finished'"),
    "a preferred order with a when": (
        edged(kind="preferred_order", when="failed"),
        EDGE,
        "`when` is for blocking edges",
    ),
    "an unknown operator": (edged(when={"op": "like"}), (*EDGE, "when", "condition", "op"), "'eq', 'ne', 'lt'"),
    "a pointer without a slash": (
        edged(when={"pointer": "a", "value": 1}),
        (*EDGE, "when", "condition", "pointer"),
        "pattern",
    ),
    "a pointer with a bad escape": (
        edged(when={"pointer": "/a~2", "value": 1}),
        (*EDGE, "when", "condition", "pointer"),
        "pattern",
    ),
    "in what is no list": (
        edged(when={"op": "in", "value": "abc"}),
        (*EDGE, "when", "condition"),
        "`in` needs a list as `value`",
    ),
    "exists without true or false": (
        edged(when={"op": "exists"}),
        (*EDGE, "when", "condition"),
        "`exists` needs true or false as `value`",
    ),
    "more than a list": (
        edged(when={"op": "gt", "value": []}),
        (*EDGE, "when", "condition"),
        "`gt` needs a number or text as `value`",
    ),
    "less than true": (
        edged(when={"op": "le", "value": True}),
        (*EDGE, "when", "condition"),
        "`le` needs a number or text as `value`",
    ),
    "50,001 edges": (
        body(edges=[{"from": "a", "to": "b"}] * (EDGE_LIMIT + 1)),
        ("edges",),
        "at most 50000 items",
    ),
    "a fan-out of 0": (fanned(count=0), (*FAN, "count"), "greater than or equal to 1"),
    "a fan-out of -1": (fanned(count=-1), (*FAN, "count"), "greater than or equal to 1"),
    "a fan-out of 100,000": (fanned(count=100_000), (*FAN, "count"), "less than or equal to 10000"),
    "a fan-out of a truth": (fanned(count=True), (*FAN, "count"), "valid integer"),
    "a fan-out of no items": (fanned(items=[]), (*FAN, "items"), "at least 1 item"),
    "a fan-out of 10,001 items": (fanned(items=[0] * (ITEM_LIMIT + 1)), (*FAN, "items"), "at most 10000 items"),
    "a fan-out of nothing": (fanned(), FAN, NONE_OF_THREE),
    "a fan-out of two things": (fanned(items=[1], count=1), FAN, NONE_OF_THREE),
    "none at once": (fanned(count=1, max_parallel=0), (*FAN, "max_parallel"), "greater than or equal to 1"),
    "items with a NUL": (fanned(items=["\x00"]), (*FAN, "items", 0), "NUL"),
    "items from a member alone": (fanned(items_from="a"), (*FAN, "items_from"), "must be member#/json/pointer"),
    "items from nobody": (fanned(items_from="#/a"), (*FAN, "items_from"), "must be member#/json/pointer"),
    "items from what is no name": (fanned(items_from="ü#/a"), (*FAN, "items_from"), "must be member#/json/pointer"),
    "items from a path": (fanned(items_from="a#b"), (*FAN, "items_from"), "must be member#/json/pointer"),
    "items from a bad escape": (fanned(items_from="a#/~2"), (*FAN, "items_from"), "must be member#/json/pointer"),
    "items from a NUL": (fanned(items_from="a#/\x00"), (*FAN, "items_from"), "NUL"),
    "an unknown mode": (body(mode="lazy"), ("mode",), "'eager' or 'superstep'"),
    "an unknown way to fail": (body(on_failure="panic"), ("on_failure",), "'fail_fast', 'continue' or"),
    "nothing at once": (body(max_parallel=0), ("max_parallel",), "greater than or equal to 1"),
    "10,001 at once": (body(max_parallel=10_001), ("max_parallel",), "less than or equal to 10000"),
    "a breakpoint at what is no name": (body(breakpoints={"after": ["a b"]}), ("breakpoints", "after", 0), "pattern"),
    "a state of an eager run": (body(state={"a": 1}), (), "`state` and `reducers` are for the mode superstep"),
    "reducers of an eager run": (body(reducers={"a": "sum"}), (), "`state` and `reducers` are for the mode superstep"),
    "a state that is no object": (stated([]), ("state",), "valid dictionary"),
    "a state with a NUL in a key": (stated({"\x00": 1}), ("state", "\x00", "[key]"), "NUL"),
    "a state with a NUL": (stated({"a": ["\x00"]}), ("state", "a"), "NUL"),
    "a state that is too large": (stated({"a": "ü" * (STATE_BYTES // 2)}), (), "`state` has 256,008 bytes"),
    "an unknown reducer": (stated({}, a="mean"), ("reducers", "a"), "'replace', 'append', 'merge' or 'sum'"),
    "a sum of text": (stated({"a": "1"}, a="sum"), (), "`state.a` must be a number: its reducer is sum"),
    "a sum of true": (stated({"a": True}, a="sum"), (), "`state.a` must be a number: its reducer is sum"),
    "an end of no list": (stated({"a": {}}, a="append"), (), "`state.a` must be a list: its reducer is append"),
    "a merge of no object": (stated({"a": []}, a="merge"), (), "`state.a` must be an object: its reducer is merge"),
    "a priority of 6": (body(priority=6), ("priority",), "less than or equal to 5"),
    "a bad label": (body(labels={"a b": "c"}), ("labels", "a b", "[key]"), "pattern"),
    "a name of blanks": (body(name=" "), ("name",), "at least 1 character"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_by_field_and_reason(case: str) -> None:
    """One error, that names the field and says what is wrong with it."""
    given_body, field, reason = REFUSED[case]
    with pytest.raises(ValidationError) as refused:
        RunSpec.model_validate(given_body)
    [error] = refused.value.errors()
    assert error["loc"] == field
    assert reason in error["msg"]


BAD_COMMANDS: dict[str, tuple[dict[str, Any], tuple[str | int, ...], str]] = {
    "an unknown field": ({"apend": {}}, ("apend",), "Extra inputs"),
    "an unknown field of what is appended": ({"append": {"member": []}}, ("append", "member"), "Extra inputs"),
    "a next frontier of nobody": ({"replace": []}, ("replace",), "at least 1 item"),
    "a name that is replaced to twice": ({"replace": ["a", "b", "a"]}, ("replace",), "named twice: a"),
    "a name that is skipped twice": ({"skip": ["a", "a"]}, ("skip",), "named twice: a"),
    "what shall run and shall not": ({"replace": ["a", "b"], "skip": ["b"]}, (), "both in `replace` and in `skip`: b"),
    "a bad member": ({"append": {"members": [member("a b")]}}, ("append", "members", 0, "name"), "pattern"),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_a_bad_command_is_refused_by_field_and_reason(case: str) -> None:
    """One error, that names the field and says what is wrong with it."""
    command, field, reason = BAD_COMMANDS[case]
    with pytest.raises(ValidationError) as refused:
        RunCommand.model_validate(command)
    [error] = refused.value.errors()
    assert error["loc"] == field
    assert reason in error["msg"]


def test_a_whole_body_is_accepted_and_comes_back() -> None:
    """Every field; what was stored is read again to the same value."""
    whole = {
        "name": "  all of it  ",
        "members": [
            member("lint", expected="PT5M", task=TASK | {"input": {"a": [1, None]}}),
            member("test-1.x_", fan_out={"items": ["a", {"b": 1}, None], "max_parallel": 2}, affinity="lint"),
            member("count", fan_out={"count": 3}),
            member("each", fan_out={"items_from": "lint#/files/~1a~0/0"}),
            member("whole", fan_out={"items_from": "lint#"}, expected=90),
        ],
        "edges": [
            {"from": "lint", "to": "test-1.x_"},
            {"from": "lint", "to": "count", "when": "completed"},
            {"from": "lint", "to": "each", "kind": "blocking", "when": "finished"},
            {"from": "count", "to": "each", "kind": "preferred_order"},
            {"from": "count", "to": "whole", "when": {"pointer": "/0/ok", "op": "in", "value": [True, 1]}},
            {"from": "each", "to": "whole", "when": {"value": 3}},
        ],
        "mode": "superstep",
        "max_parallel": 4,
        "on_failure": "continue",
        "breakpoints": {"before": ["each"], "after": ["lint"], "each_step": True},
        "state": {"total": 0.5, "log": [], "by name": {"ü": None}},
        "reducers": {"total": "sum", "log": "append", "by name": "merge", "new": "replace"},
        "labels": {"team/x": "y"},
        "priority": 1,
    }
    spec = RunSpec.model_validate(whole)
    assert spec.name == "all of it"
    assert spec.members[0].expected == timedelta(minutes=5)
    assert [edge.when for edge in spec.edges[:3]] == [None, Outcome.COMPLETED, Outcome.FINISHED]
    assert spec.edges[4].when == Condition(pointer="/0/ok", op=Operator.IN, value=[True, 1])
    assert RunSpec.model_validate(json.loads(json.dumps(json_of(spec)))) == spec


def test_what_was_left_out_is_not_stored() -> None:
    """The stored body holds what the caller said; an explicit `completed` is a wish, and stays."""
    said = {
        "members": [{"name": "a", "task": TASK}, {"name": "b", "task": TASK}],
        "edges": [{"from": "a", "to": "b", "when": "completed"}],
    }
    assert json_of(RunSpec.model_validate(said)) == said


def test_the_defaults_are_the_contracts() -> None:
    """Eager, what depends on a failure is skipped, no limit, no breakpoint, blocking edges."""
    spec = RunSpec.model_validate(edged())
    assert (spec.mode, spec.on_failure, spec.max_parallel, spec.name) == ("eager", "skip_dependents", None, "run")
    assert not spec.breakpoints
    assert (spec.edges[0].kind, spec.edges[0].when) == ("blocking", None)


@pytest.mark.parametrize("breakpoints", [{"before": ["a"]}, {"after": ["a"]}, {"each_step": True}])
def test_any_breakpoint_counts(breakpoints: dict[str, Any]) -> None:
    """Of the three kinds."""
    assert RunSpec.model_validate(body(breakpoints=breakpoints)).breakpoints


@pytest.mark.parametrize(
    ("fan_out", "size", "source"),
    [
        ({"items": [1, 2]}, 2, None),
        ({"count": 7}, 7, None),
        ({"items_from": "a#/b/c"}, None, ("a", "/b/c")),
        ({"items_from": "a#"}, None, ("a", "")),
        ({"items_from": "a#/b#c"}, None, ("a", "/b#c")),
    ],
)
def test_a_fan_out_knows_its_size_or_its_source(
    fan_out: dict[str, Any], size: int | None, source: tuple[str, str] | None
) -> None:
    """One of the two."""
    fan = FanOut.model_validate(fan_out)
    assert (fan.size, fan.source) == (size, source)


def test_a_state_of_the_limit_is_taken() -> None:
    """256,000 bytes of JSON, not characters."""
    state = {"a": "ü" * ((STATE_BYTES - len('{"a":""}')) // 2)}
    assert size_of(state) == STATE_BYTES
    assert RunSpec.model_validate(stated(state)).mode is RunMode.SUPERSTEP


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=8))
def test_a_value_is_taken_or_refused_and_never_an_accident(value: Any) -> None:
    """In every place where the body takes JSON: an item, a state, a condition."""
    bodies = [fanned(items=[value]), stated({"a": value}), edged(when={"value": value}), edged(when=value)]
    for given_body in [*bodies, stated({str(value): 1}), fanned(items_from=value), body(edges=value)]:
        try:
            spec = RunSpec.model_validate(given_body)
        except ValidationError:
            continue
        assert RunSpec.model_validate(json.loads(json.dumps(json_of(spec), allow_nan=False))) == spec
