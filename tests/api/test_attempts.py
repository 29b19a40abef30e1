"""Attempts, derived from the log."""

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from api.schemas.attempts import AttemptOut, attempts_of
from domain.events import EventType
from domain.lifecycle import Step
from domain.names import SignalName, TaskId
from tests.api.harness import Api, serve
from tests.workflows.scenes import external
from tests.workflows.stage import stage_on
from tests.workflows.test_renewal import SHORT, pad, renewed
from workflows.gateway import Gateway

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
ERROR = {"code": "x", "category": "workspace", "message": "m"}


def event(second: float, kind: EventType, attempt: int = 1, step: Step | None = None, **data: Any) -> dict[str, Any]:
    """Give an event, so many seconds after the first."""
    return {"ts": BEGAN + timedelta(seconds=second), "type": kind, "attempt": attempt, "step": step, "data": data}


def test_durations_and_outcomes_are_those_of_the_log(nowhere: Gateway) -> None:
    """Visits of a step add up, a skipped one took none, what lasts has no duration yet."""
    log = [
        event(0, EventType.TASK_QUEUED),
        event(1, EventType.ATTEMPT_STARTED),
        event(1, EventType.STEP_SKIPPED, step=Step.NODE_PROVISIONING, reason="no need"),
        event(1, EventType.STEP_STARTED, step=Step.RUNNING),
        event(3, EventType.STEP_FINISHED, step=Step.RUNNING),
        event(4, EventType.STEP_STARTED, step=Step.RUNNING),
        event(8, EventType.STEP_FAILED, step=Step.RUNNING, error=ERROR),
        event(9, EventType.ATTEMPT_FAILED, error=ERROR),
        event(9, EventType.TASK_QUEUED, 2),
        event(20, EventType.ATTEMPT_STARTED, 2),
        event(20, EventType.STEP_STARTED, 2, Step.WORKSPACE_READY),
    ]
    first, second = attempts_of(TaskId("t"), log, nowhere)
    for attempt in (first, second):
        AttemptOut.model_validate(attempt)
    assert (first["outcome"], first["error"], first["seconds"]) == ("failed", ERROR, 8.0)
    assert first["durations"] == {"node_provisioning": 0.0, "running": 6.0}
    assert [(visit["outcome"], visit["reason"]) for visit in first["steps"]] == [
        ("skipped", "no need"),
        ("finished", None),
        ("failed", "m"),
    ]
    assert (second["attempt"], second["outcome"], second["durations"]) == (2, None, {})
    assert second["steps"][0]["seconds"] is None
    assert second["workflow_id"] == "task-t-a2"


async def test_every_attempt_stays_readable(api: Api) -> None:
    """A task that was retried shows both, with their errors and the addresses of their histories."""
    attempt = await api.live()
    await (await attempt.next()).end()
    page = (await api.client.get(f"/v1/tasks/{attempt.task}/attempts")).json()
    assert [(item["attempt"], item["outcome"]) for item in page["items"]] == [(1, "failed"), (2, "completed")]
    assert page["items"][1]["temporal_url"].endswith(f"task-{attempt.task}-a2")


async def test_a_task_that_was_never_started_has_none(api: Api) -> None:
    """An empty list, not a 404."""
    task = await api.create(start=False)
    page = (await api.client.get(f"/v1/tasks/{task['id']}/attempts")).json()
    assert page == {"items": [], "next_cursor": None}


async def test_an_attempt_that_continued_as_new_is_one(temporal: WorkflowEnvironment, database_url: str) -> None:
    """One item, under the one workflow id, with each visit of a step once and an end: its runs are not to be seen."""
    async with (
        stage_on(temporal, database_url) as stage,
        asynccontextmanager(serve)(database_url, stage.gateway) as api,
    ):
        task = await external(stage, Step.WORKSPACE_READY, policy=SHORT)
        await pad(task)
        await renewed(task)
        await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        await task.end()
        assert len(await task.runs()) > 1
        page = (await api.client.get(f"/v1/tasks/{task.task}/attempts")).json()
        (found,) = page["items"]
        assert (found["attempt"], found["outcome"], found["workflow_id"]) == (1, "completed", task.handle.id)
        begun = [event.step for event in await task.events() if event.type is EventType.STEP_STARTED]
        assert [visit["step"] for visit in found["steps"] if visit["outcome"] != "skipped"] == begun
        assert found["seconds"] > 0


@pytest.mark.parametrize("kind", [EventType.TASK_COMPLETED, EventType.TASK_CANCELLED])
def test_the_end_of_a_task_is_the_end_of_its_attempt(nowhere: Gateway, kind: EventType) -> None:
    """Outcome and time come from the terminal event."""
    (found,) = attempts_of(TaskId("t"), [event(0, EventType.TASK_QUEUED), event(2, kind)], nowhere)
    assert (found["outcome"], found["seconds"]) == (kind.removeprefix("task."), 2.0)
