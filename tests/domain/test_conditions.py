"""Conditions on results: JSON Pointers, and comparisons that never fail."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.conditions import Miss, holds, resolve
from domain.run_spec import Condition, Operator

# RFC 6901, section 5
RFC: dict[str, Any] = {
    "foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8,
}  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("", RFC),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_a_pointer_leads_where_the_rfc_says(pointer: str, found: Any) -> None:
    """The examples of RFC 6901."""
    assert resolve(pointer, RFC) == found


def test_escapes_are_undone_in_their_order() -> None:
    """`~01` is `~1`, never a slash."""
    assert resolve("/~01", {"~1": "right", "/": "wrong"}) == "right"


@pytest.mark.parametrize(
    ("pointer", "at", "part"),
    [
        ("/bar", "", "bar"),
        ("/foo/2", "/foo", "2"),
        ("/foo/-", "/foo", "-"),
        ("/foo/-1", "/foo", "-1"),
        ("/foo/01", "/foo", "01"),
        ("/foo/+1", "/foo", "+1"),
        ("/foo/1e0", "/foo", "1e0"),
        ("/foo/\N{ARABIC-INDIC DIGIT ONE}", "/foo", "\N{ARABIC-INDIC DIGIT ONE}"),
        ("/foo/" + "9" * 5_000, "/foo", "9" * 5_000),
        ("/foo/0/0", "/foo/0", "0"),
        ("/a~1b/c", "/a~1b", "c"),
        ("foo", "", "foo"),
        ("/m~n", "", "m~n"),
        ("/m~", "", "m~"),
    ],
)
def test_a_pointer_to_nothing_is_a_miss(pointer: str, at: str, part: str) -> None:
    """Which says how far it led, and what is not there; a pointer that is none leads nowhere."""
    with pytest.raises(Miss) as caught:
        resolve(pointer, RFC)
    assert (caught.value.pointer, caught.value.at, caught.value.part) == (pointer, at, part)
    assert len(str(caught.value)) < 300


def test_a_miss_says_so() -> None:
    """In one sentence, with the kind of what it came to."""
    with pytest.raises(Miss, match=r"^/foo/2 leads to nothing: no 2 in /foo, an array$"):
        resolve("/foo/2", RFC)
    with pytest.raises(Miss, match=r"^/x leads to nothing: no x in the document, null$"):
        resolve("/x", None)


def places(document: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Give the pointer to each value within."""
    yield pointer, document
    inner = (
        enumerate(document) if isinstance(document, list) else document.items() if isinstance(document, dict) else ()
    )
    for key, value in inner:
        yield from places(value, f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")


@given(JSON)
def test_there_is_a_pointer_to_everything(document: Any) -> None:
    """Each value of any document is found by its pointer."""
    for pointer, value in places(document):
        assert resolve(pointer, document) is value


@pytest.mark.parametrize(
    ("found", "op", "value", "expected"),
    [
        (3, "eq", 3, True),
        (3, "eq", 3.0, True),
        (1, "eq", True, False),
        ([{"a": 1}], "eq", [{"a": 1.0}], True),
        ([{"a": 1}], "eq", [{"a": True}], False),
        ([1, 2], "eq", [2, 1], False),
        ([1], "eq", [1, 2], False),
        ({"a": 1, "b": 2}, "eq", {"b": 2, "a": 1}, True),
        ({"a": 1}, "eq", {"a": 1, "b": 2}, False),
        (None, "eq", None, True),
        (None, "eq", False, False),
        ("3", "eq", 3, False),
        (3, "ne", 4, True),
        (3, "ne", 3, False),
        ("3", "ne", 3, True),
        (True, "ne", 1, True),
        (3, "lt", 3.5, True),
        (3, "lt", 3, False),
        (3, "le", 3, True),
        (4, "gt", 3, True),
        (3, "gt", 3, False),
        (3, "ge", 3, True),
        ("a", "lt", "b", True),
        ("b", "ge", "a", True),
        ("3", "lt", 4, False),
        (3, "lt", "4", False),
        (False, "lt", 1, False),
        (True, "ge", True, False),
        (None, "le", None, False),
        ([1], "lt", [2], False),
        ({}, "le", {}, False),
        (10**400, "gt", 1.5, True),
        ("b", "in", ["a", "b"], True),
        (1, "in", [True, "1"], False),
        ([1], "in", [[1.0]], True),
        ("b", "in", "abc", False),
        (["a", "b"], "contains", "b", True),
        ([True], "contains", 1, False),
        ([[1]], "contains", [1], True),
        ("abc", "contains", "b", True),
        ("123", "contains", 2, False),
        ({"a": 1}, "contains", "a", True),
        ({"a": 1}, "contains", 1, False),
        ({"a": 1}, "contains", ["a"], False),
        (5, "contains", 5, False),
        (None, "contains", None, False),
        (None, "exists", True, True),
        (0, "exists", True, True),
        (0, "exists", False, False),
        (0, "exists", 1, False),
    ],
)
def test_what_holds(found: Any, op: str, value: Any, *, expected: bool) -> None:
    """Each operator on what it is for; unlike kinds are unequal and in no order, and a boolean is no number."""
    assert holds("", Operator(op), value, found) is expected
    assert holds("/x/1", Operator(op), value, {"x": [None, found]}) is expected


@pytest.mark.parametrize("op", Operator)
@pytest.mark.parametrize("value", [True, False, None, 0, "", [], [None], {}])
def test_of_nothing_only_its_absence_holds(op: Operator, value: Any) -> None:
    """A pointer that misses holds for no operator and no value but `exists: false`."""
    assert holds("/gone", op, value, {"here": 1}) is (op is Operator.EXISTS and value is False)


@given(JSON, st.sampled_from(Operator), JSON)
def test_every_comparison_has_an_answer(found: Any, op: Operator, value: Any) -> None:
    """True or False, whatever is compared: never an exception; and `ne` is that `eq` does not hold."""
    assert holds("", op, value, found) in (True, False)
    assert holds("", Operator.NE, value, found) is not holds("", Operator.EQ, value, found)


@given(JSON)
def test_what_was_stored_is_equal(document: Any) -> None:
    """A document equals what its JSON is read as."""
    assert holds("", Operator.EQ, json.loads(json.dumps(document)), document)


def test_depth_does_not_matter() -> None:
    """Results nested 100,000 deep are compared and looked through."""
    one: list[Any] = []
    other: list[Any] = []
    for _ in range(100_000):
        one, other = [one], [other]
    assert holds("", Operator.EQ, one, other)
    assert not holds("", Operator.EQ, one, [other])
    assert resolve("/0" * 100_000, one) == []


def test_a_condition_of_a_body_can_be_asked() -> None:
    """As the body of a run has it."""
    when = Condition.model_validate({"pointer": "/metrics/accuracy", "op": "ge", "value": 0.9})
    assert holds(when.pointer, when.op, when.value, {"metrics": {"accuracy": 0.93}})
    assert not holds(when.pointer, when.op, when.value, {"metrics": {"accuracy": 0.89}})
    assert not holds(when.pointer, when.op, when.value, None)
