"""What the routes that hold tasks and those that hold runs answer alike."""

from typing import Any, TypeVar

from api.problems import Problem
from api.schemas.steering import PauseResult
from store.steering import Refusal, Steered

S = TypeVar("S", bound=Steered)


def changed(steered: S | None, noun: str) -> S:
    """Return what was steered. Raises Problem where there is no such task or run, or it refused."""
    if steered is None:
        raise Problem("not_found")
    if steered.refused is Refusal.ALREADY_ENDED:
        status = steered.row["status"]
        raise Problem(steered.refused, f"the {noun} is {status}", **{f"{noun}_status": status})
    if steered.refused is not None:
        raise Problem(steered.refused)
    return steered


def paused(steered: Steered, where: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return status and content of the answer to a pause: 200 if it holds by now, else 202."""
    row = steered.row
    content = {
        "result": PauseResult.APPLIED if row["paused"] else PauseResult.REQUESTED,
        "repeated": steered.repeated,
        "token": row["pause_token"],
        "reason": row["pause_reason"],
        **where,
        "attempt": row["attempt"],
    }
    return 200 if row["paused"] else 202, content
