"""Durations: as people write them, and within reason."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from domain.durations import LONGEST, Span

SPAN: TypeAdapter[timedelta] = TypeAdapter(Span)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90),
        (1.5, 1.5),
        ("90", 90),
        ("0.25", 0.25),
        ("PT1M30S", 90),
        ("PT0.5S", 0.5),
        ("P1DT1H", 90_000),
        ("01:30:00", 5400),
        (timedelta(minutes=2), 120),
    ],
)
def test_a_duration_is_seconds_or_iso_8601(text: Any, seconds: float) -> None:
    """Numbers, numbers as text (the environment knows no other) and ISO-8601 mean the same."""
    assert SPAN.validate_python(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", [0, -1, "0", "-PT1H", "P9999D", 1e18, "1e300", "inf", "nan", "soon", "", None, [], True, False, "5 minutes"]
)
def test_what_is_no_duration_is_refused(text: Any) -> None:
    """Zero, the past, another age, truths and words: ValidationError, never another exception."""
    with pytest.raises(ValidationError):
        SPAN.validate_python(text)


@given(st.timedeltas(timedelta(microseconds=1), LONGEST))
def test_a_duration_comes_back_from_json(span: timedelta) -> None:
    """To the microsecond."""
    assert SPAN.validate_json(SPAN.dump_json(span)) == span


@given(st.one_of(st.floats(), st.integers(), st.text(), st.binary()))
def test_no_input_is_an_accident(value: Any) -> None:
    """A duration within the limits, or a ValidationError."""
    try:
        span = SPAN.validate_python(value)
    except ValidationError:
        return
    assert timedelta(0) < span <= LONGEST
