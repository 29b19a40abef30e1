"""What is said of the end of a run, for a person."""

from collections.abc import Sequence
from typing import Any, Final

from domain.errors import Category, TaskError
from domain.lifecycle import RunStatus

# Members that an error or the Temporal UI names.
NAMED: Final = 5
GUIDANCE: Final = "Look at the tasks of the members that failed, then retry the run: what has completed stays."
_CODES: Final = {
    RunStatus.FAILED: ("member_failed", Category.AGENT),
    RunStatus.CANCELLED: ("cancelled", Category.CANCELLED),
}


def error_of(outcome: RunStatus, names: Sequence[str], *, of: int, context: dict[str, Any]) -> TaskError:
    """Return why a run has failed, or that it was cancelled: `names` are the members that have ended so."""
    code, category = _CODES[outcome]
    message = f"{len(names)} of {of} members {outcome}: {listed(names)}."
    return TaskError(code=code, category=category, message=message, guidance=GUIDANCE, context=context)


def listed(names: Sequence[str]) -> str:
    """Return the first of these names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (", ".join(names[:NAMED]) or "nothing") + more
