"""Durations as people write them: seconds or ISO-8601; in code always `timedelta`."""

from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

# A deadline is a date: a longer duration would lead out of the calendar somewhere, and helps nobody.
LONGEST: Final = timedelta(days=366)


def _seconds(value: Any) -> Any:
    """Read a bare number in a string as seconds: environment variables have no other type."""
    if isinstance(value, bool):
        raise ValueError("must be seconds or an ISO-8601 duration")  # noqa: TRY004 - pydantic reports ValueErrors
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _positive(value: timedelta) -> timedelta:
    if not timedelta(0) < value <= LONGEST:
        raise ValueError(f"must be longer than zero and at most {LONGEST.days} days")
    return value


Span = Annotated[
    timedelta,
    BeforeValidator(_seconds),
    AfterValidator(_positive),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST.total_seconds()},
                {"type": "string", "format": "duration"},
            ],
            "description": "Seconds, or an ISO-8601 duration.",
        }
    ),
]
