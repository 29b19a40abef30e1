"""`DELETE /v1/tasks/{id}`."""

import pytest

from domain.lifecycle import TaskStatus
from tests.api.harness import Api


@pytest.mark.parametrize("status", [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED])
async def test_a_task_that_has_ended_is_deleted(api: Api, status: TaskStatus) -> None:
    """204 without a body; from then on every address of it is 404, and so is a repeat."""
    attempt = await api.live()
    await api.client.post(f"/v1/workspaces/{attempt.workspace}/logs?offset=0", content=b"said", headers=attempt.token)
    left = await api.client.put(f"/v1/workspaces/{attempt.workspace}/artifacts/a", content=b"b", headers=attempt.token)
    assert left.status_code == 200
    await attempt.end(status)
    path = f"/v1/tasks/{attempt.task}"
    answer = await api.client.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    for part in ("", "/events", "/attempts", "/logs", "/artifacts", "/artifacts/a"):
        assert (await api.client.get(path + part)).status_code == 404, part
    again = await api.client.delete(path)
    assert (again.status_code, again.json()["code"]) == (404, "not_found")
    listed = await api.client.get("/v1/workspaces", params={"task_id": attempt.task})
    assert listed.json()["items"] == []


async def test_a_workspace_of_a_deleted_task_is_told_to_stop(api: Api) -> None:
    """410 to whatever it tells, and nothing is written."""
    attempt = await api.live()
    await attempt.end(TaskStatus.FAILED)
    assert (await api.client.delete(f"/v1/tasks/{attempt.task}")).status_code == 204
    for kind in ("ready", "finished", "heartbeat"):
        assert (await attempt.tell(kind)).json()["code"] == "attempt_ended", kind
    logs = await api.client.post(
        f"/v1/workspaces/{attempt.workspace}/logs?offset=0", content=b"late", headers=attempt.token
    )
    assert (logs.status_code, logs.json()["code"]) == (410, "attempt_ended")


async def test_a_live_task_is_a_conflict(api: Api) -> None:
    """409 `not_ended`, and the task goes on."""
    attempt = await api.live()
    answer = await api.client.delete(f"/v1/tasks/{attempt.task}")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_ended")
    assert (await api.client.get(f"/v1/tasks/{attempt.task}")).json()["status"] == "delegated"
    assert (await attempt.tell("heartbeat")).status_code == 200


async def test_another_projects_task_is_the_same_404_as_an_unknown_one(api: Api) -> None:
    """404 with the same body, and the task stays."""
    attempt = await api.live()
    await attempt.end(TaskStatus.FAILED)
    stranger = await api.key(project="elsewhere")
    bodies = []
    for task in (attempt.task, "01000000-0000-7000-8000-000000000000", "no-id"):
        answer = await api.client.delete(f"/v1/tasks/{task}", headers=stranger)
        assert answer.status_code == 404
        bodies.append(answer.json() | {"request_id": ""})
    assert all(body == bodies[0] for body in bodies)
    assert (await api.client.get(f"/v1/tasks/{attempt.task}")).status_code == 200
