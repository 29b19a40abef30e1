"""Durations as people write them: seconds or ISO-8601; in code always `timedelta`."""

from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator


def _seconds(value: Any) -> Any:
    """Read a bare number in a string as seconds: environment variables have no other type."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than zero")
    return value


Span = Annotated[timedelta, BeforeValidator(_seconds), AfterValidator(_positive)]
