"""What a barrier makes of the run's state."""

import json
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.reducers import BadUpdate, merged
from domain.run_spec import STATE_BYTES, Reducer

REPLACE, APPEND, MERGE, SUM = Reducer.REPLACE, Reducer.APPEND, Reducer.MERGE, Reducer.SUM


@pytest.mark.parametrize(
    ("reducer", "held", "updates", "expected"),
    [
        pytest.param(REPLACE, 1, [2, "three"], "three", id="the last one wins"),
        pytest.param(REPLACE, [1], [None], None, id="null is a value"),
        pytest.param(APPEND, [1], [[2, 3], 4], [1, 2, 3, 4], id="lists are joined, another value is added"),
        pytest.param(APPEND, [], [{"a": 1}, None, [[5]]], [{"a": 1}, None, [5]], id="a list in a list stays one"),
        pytest.param(MERGE, {"a": {"x": 1}, "b": 1}, [{"a": {"y": 2}}], {"a": {"y": 2}, "b": 1}, id="shallow"),
        pytest.param(SUM, 1, [2, 0.5], 3.5, id="numbers of both kinds"),
    ],
)
def test_a_reducer_folds_what_the_members_bring(reducer: Reducer, held: Any, updates: list[Any], expected: Any) -> None:
    """What is held, then each contribution in its order."""
    contributions = [(f"m{place}", {"key": value}) for place, value in enumerate(updates)]
    assert merged({"key": held}, {"key": 1}, contributions, {"key": reducer}) == ({"key": expected}, {"key": 2})


@pytest.mark.parametrize(
    ("reducer", "value", "expected"),
    [(REPLACE, 1, 1), (APPEND, 1, [1]), (APPEND, [1], [1]), (MERGE, {"a": 1}, {"a": 1}), (SUM, 7, 7)],
)
def test_a_key_that_is_new_begins_with_nothing(reducer: Reducer, value: Any, expected: Any) -> None:
    """It has the version 1."""
    assert merged({}, {}, [("m", {"key": value})], {"key": reducer}) == ({"key": expected}, {"key": 1})


def test_a_key_without_a_reducer_is_replaced() -> None:
    """As if `replace` had been named."""
    assert merged({"key": [1]}, {"key": 1}, [("m", {"key": 2})], {})[0] == {"key": 2}


def test_a_version_rises_once_for_each_barrier_that_changed_its_key() -> None:
    """However many members wrote it; not for a key that is as it was, and not for one that nobody named."""
    state = {"total": 3, "same": {"a": 1, "b": 2}, "there": 1, "kind": 1}
    versions = {"total": 4, "same": 2, "there": 1, "kind": 1}
    contributions: list[tuple[str, dict[str, Any]]] = [
        ("one", {"total": 1, "same": {"b": 2, "a": 1}, "new": 1}),
        ("two", {"total": 1, "kind": True}),
    ]
    assert merged(state, versions, contributions, {"total": SUM})[1] == {
        "total": 5,
        "same": 2,
        "there": 1,
        "kind": 2,
        "new": 1,
    }


@pytest.mark.parametrize(
    ("reducer", "held", "value", "says"),
    [
        (APPEND, "text", 1, "append: takes a list, not text"),
        (APPEND, None, 1, "append: takes a list, not null"),
        (MERGE, {"a": 1}, [1], "merge: takes an object, not a list"),
        (MERGE, [1], {"a": 1}, "merge: takes an object, not a list"),
        (SUM, 1, "2", "sum: takes a number, not text"),
        (SUM, 1, True, "sum: takes a number, not a boolean"),
        (SUM, {}, 1, "sum: takes a number, not an object"),
        (SUM, 1e308, 1e308, "sum: the sum is too large for a number"),
        (SUM, 0.5, 10**400, "sum: the sum is too large for a number"),
        (SUM, 0, 10**400, "sum: the sum is too large for a number"),
    ],
)
def test_what_a_reducer_cannot_take_names_the_member_and_the_key(
    reducer: Reducer, held: Any, value: Any, says: str
) -> None:
    """BadUpdate, and nothing is merged."""
    state, versions = {"key": held}, {"key": 1}
    with pytest.raises(BadUpdate) as bad:
        merged(state, versions, [("good", {"other": 1}), ("bad", {"key": value})], {"key": reducer})
    assert (bad.value.member, bad.value.key, bad.value.message) == ("bad", "key", says)
    assert str(bad.value) == f"bad: state.key: {says}"
    assert (state, versions) == ({"key": held}, {"key": 1})


def _filled(size: int) -> dict[str, Any]:
    """Return a state of so many bytes, beside the key `small`."""
    frame = len(json.dumps({"large": "", "small": 1}, separators=(",", ":")))
    return {"large": "ü" + "x" * (size - frame - 2)}


def test_a_state_of_the_limit_is_taken() -> None:
    """Bytes are counted, not characters."""
    state, _ = merged(_filled(STATE_BYTES), {}, [("m", {"small": 1})], {})
    assert len(json.dumps(state, ensure_ascii=False, separators=(",", ":")).encode()) == STATE_BYTES


def test_a_state_over_the_limit_is_refused() -> None:
    """One byte is enough; who wrote the largest of the keys last is named."""
    with pytest.raises(BadUpdate) as bad:
        merged({}, {}, [("one", {"small": 0}), ("two", _filled(STATE_BYTES + 1)), ("three", {"small": 1})], {})
    assert (bad.value.member, bad.value.key) == ("two", "large")
    assert bad.value.message == "the state would have 256,001 bytes; it may have 256,000"


SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=2)
KEYS = st.sampled_from("abc")
UPDATES = st.fixed_dictionaries(
    {},
    optional={
        "replaced": SCALARS | st.lists(SCALARS, max_size=2),
        "appended": SCALARS | st.lists(SCALARS, max_size=3),
        "merged": st.dictionaries(KEYS, SCALARS),
        "summed": st.integers(-5, 5),
    },
)
OF_EACH = {"appended": APPEND, "merged": MERGE, "summed": SUM}


@given(st.lists(UPDATES, max_size=5), st.lists(UPDATES, max_size=5))
def test_two_barriers_make_what_one_makes(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    """The state is the same; and neither state nor contributions are changed by merging them."""
    one, two = [("one", update) for update in first], [("two", update) for update in second]
    before = json.dumps([one, two])
    between, versions = merged({}, {}, one, OF_EACH)
    kept = json.dumps(between)
    assert merged(between, versions, two, OF_EACH)[0] == merged({}, {}, one + two, OF_EACH)[0]
    assert (json.dumps([one, two]), json.dumps(between)) == (before, kept)


def test_many_appends_cost_what_they_bring() -> None:
    """20,000 of them take less than a second of processor time: the list is not copied for each."""
    began = process_time()
    state, _ = merged(
        {}, {}, [(f"m{n}", {"all": [n], "of": {str(n % 100): n}}) for n in range(20_000)], {"all": APPEND, "of": MERGE}
    )
    assert len(state["all"]) == 20_000
    assert process_time() - began < 1
