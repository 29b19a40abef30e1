from enum import StrEnum
from typing import Literal

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from domain.reasons import reason_of


class Colour(StrEnum):
    """Two words."""

    RED = "red"
    BLUE = "blue"


class Body(BaseModel):
    """What a caller may send."""

    named: Literal[Colour.RED, Colour.BLUE] = Colour.RED
    even: int = 0

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


@pytest.mark.parametrize(
    ("body", "reason"), [({"named": "green"}, "Input should be 'red' or 'blue'"), ({"even": 1}, "must be even")]
)
def test_a_reason_has_no_word_of_python(body: dict[str, object], reason: str) -> None:
    """Neither the name of an enum nor of an exception."""
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(body)
    assert [reason_of(error) for error in caught.value.errors()] == [reason]
