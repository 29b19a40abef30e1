"""`GET /v1/tasks/{id}/explain`."""

from datetime import timedelta

from api.schemas.explanations import ExplanationOut
from domain.events import EventType
from domain.lifecycle import Step
from domain.names import Scope
from tests.api.harness import Api


async def explained(api: Api, task: str) -> ExplanationOut:
    """The explanation of a task."""
    response = await api.client.get(f"/v1/tasks/{task}/explain")
    assert response.status_code == 200, response.text
    return ExplanationOut.model_validate(response.json())


async def test_a_step_is_explained_with_its_budget(api: Api) -> None:
    """The step, since when, until when by the task's own timeouts, and both ways on."""
    attempt = await api.live(timeouts={"workspace_ready": "PT5M"})
    await attempt.flush(attempt.event(EventType.STEP_STARTED, step=Step.WORKSPACE_READY))
    told = await explained(api, attempt.task)
    assert (told.task_id, told.status, told.step, told.attempt) == (attempt.task, "delegated", "workspace_ready", 1)
    assert told.waits_for.code == "workspace_ready"
    assert told.until == told.since + timedelta(minutes=5)
    assert told.next is not None
    assert told.on_failure is not None
    assert (told.next.code, told.on_failure.code) == ("running", "workspace_ready_timeout")


async def test_an_engine_that_is_away_is_what_a_task_waits_for(api: Api) -> None:
    """Its start was refused, and is tried again."""
    task = await api.create()
    await api.dispatcher.close()
    told = await explained(api, task["id"])
    assert told.waits_for.code == "engine"
    assert told.on_failure is not None
    assert told.on_failure.code == "retried"


async def test_a_task_that_was_not_started_waits_for_somebody(api: Api) -> None:
    """`start`, without a deadline."""
    told = await explained(api, (await api.create(start=False))["id"])
    assert (told.waits_for.code, told.until) == ("start", None)


async def test_another_projects_task_is_unknown(api: Api) -> None:
    """404, as for an id that nobody knows."""
    task = await api.create(start=False)
    foreign = await api.key(Scope.TASKS_READ, project="other")
    for path, headers in ((task["id"], foreign), ("unknown", {})):
        response = await api.client.get(f"/v1/tasks/{path}/explain", headers=headers)
        assert (response.status_code, response.json()["code"]) == (404, "not_found")
