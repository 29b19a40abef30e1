"""The words at the end of a run."""

import pytest

from domain.lifecycle import RunStatus
from domain.run_end import error_of, listed


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("", "nothing"),
        ("a", "a"),
        ("abcde", "a, b, c, d, e"),
        ("abcdefg", "a, b, c, d, e and 2 more"),
    ],
)
def test_five_are_named(names: str, said: str) -> None:
    """The others are counted."""
    assert listed(names) == said


@pytest.mark.parametrize(
    ("outcome", "code", "category"),
    [(RunStatus.FAILED, "member_failed", "agent"), (RunStatus.CANCELLED, "cancelled", "cancelled")],
)
def test_an_error_says_who_and_how_many(outcome: RunStatus, code: str, category: str) -> None:
    """With a code, a category, and the context that it is given."""
    error = error_of(outcome, ["a", "b"], of=7, context={"member": "a"})
    assert (error.code, error.category, error.context) == (code, category, {"member": "a"})
    assert error.message == f"2 of 7 members {outcome}: a, b."
