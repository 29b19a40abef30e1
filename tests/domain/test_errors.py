"""Errors: ten categories, each with a sentence that helps."""

import pytest

from domain.errors import (
    GUIDANCE,
    TRANSIENT_CATEGORIES,
    Category,
    Failure,
    IllegalTransition,
    TaskError,
    TaskrunnerError,
)
from domain.lifecycle import TaskStatus


def test_the_categories_are_the_contracts() -> None:
    """Ten of them; six can be helped by a new attempt."""
    assert {str(category) for category in Category} == {
        "cancelled",
        "input",
        "capacity",
        "provisioning",
        "workspace",
        "agent",
        "timeout",
        "runtime_lost",
        "infrastructure",
        "internal",
    }
    assert set(Category) - TRANSIENT_CATEGORIES == {"cancelled", "input", "agent", "internal"}


@pytest.mark.parametrize("category", Category)
def test_every_category_says_what_to_do(category: Category) -> None:
    """One line that ends with a full stop."""
    assert GUIDANCE[category].endswith(".")
    assert "\n" not in GUIDANCE[category]


@pytest.mark.parametrize("transient", [True, False])
def test_a_failure_is_an_error_of_the_mirror(transient: bool) -> None:  # noqa: FBT001 - a table's column
    """Code, category, message, retryable; guidance by its category unless it has its own."""
    failure = Failure("no_route", "The host is not reachable.", category=Category.WORKSPACE, transient=transient)
    assert failure.error == TaskError(
        code="no_route",
        category=Category.WORKSPACE,
        message="The host is not reachable.",
        retryable=transient,
        guidance=GUIDANCE[Category.WORKSPACE],
    )
    assert str(failure) == "The host is not reachable."
    own = Failure("x", "y", category=Category.INPUT, guidance="Do this.", context={"a": 1}).error
    assert (own.guidance, own.context) == ("Do this.", {"a": 1})


def test_an_illegal_transition_is_said_in_words() -> None:
    """The machine and both ends, as they are written everywhere else."""
    error = IllegalTransition("task", TaskStatus.READY, TaskStatus.FAILED)
    assert str(error) == "task: no transition from 'ready' by or to 'failed'"
    assert isinstance(error, TaskrunnerError)


def test_an_error_comes_back_from_json() -> None:
    """What the mirror stored is what the API shows."""
    error = TaskError(code="c", category=Category.TIMEOUT, message="m", step="running", context={"try": 2})
    assert TaskError.model_validate_json(error.model_dump_json()) == error
