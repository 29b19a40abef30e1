"""Explanations: where a task is, and why."""

from typing import Any

from pydantic import ConfigDict

from api.schemas.times import rfc3339
from domain.explain import Explanation
from domain.facts import Facts
from domain.lifecycle import Step, TaskStatus


class ExplanationOut(Explanation):
    """What a task waits for, since when and until when, and what happens when it comes or does not."""

    model_config = ConfigDict(title="Explanation", extra="forbid")

    task_id: str
    status: TaskStatus
    step: Step | None
    attempt: int


def represent(facts: Facts, explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON values."""
    return {
        "task_id": facts.task_id,
        "status": facts.status,
        "step": facts.step,
        "attempt": facts.attempt,
        **explanation.model_dump(mode="json", exclude={"since", "until"}),
        "since": rfc3339(explanation.since),
        "until": rfc3339(explanation.until),
    }
