"""JSON on its way into PostgreSQL."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import jsonb

good_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | good_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(good_text, inner, max_size=4),
    max_leaves=10,
)
any_text = st.text(st.characters() | st.characters(categories=["Cs"]))


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("a\x00b", "a\ufffdb"),
        ("\\u0000", "\\u0000"),
        ("\\\\\x00\\", "\\\\\ufffd\\"),
        ("\ud800", "?"),
        ({"\x00": [math.nan, math.inf, 1.5]}, {"\ufffd": [None, None, 1.5]}),
    ],
)
def test_what_jsonb_cannot_hold_is_replaced(value: Any, kept: Any) -> None:
    """NUL, half a surrogate pair, NaN and the infinities; a backslash before `u0000` as text is left alone."""
    assert json.loads(jsonb.dumps(value)) == kept


@given(json_values)
def test_everything_else_comes_back(value: Any) -> None:
    """Any other JSON value is the same after a round trip."""
    assert json.loads(jsonb.dumps(value)) == value


@given(any_text)
def test_no_text_stops_a_write(value: str) -> None:
    """What comes out is Unicode without NUL, whatever went in."""
    read = json.loads(jsonb.dumps([value]))[0]
    assert "\x00" not in read
    assert read.encode().decode() == read
    assert len(read) == len(value)
