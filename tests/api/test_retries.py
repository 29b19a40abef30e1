"""Retries by hand over HTTP."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx2
import pytest

from domain.events import EventType
from domain.ids import new_id
from domain.lifecycle import Step, TaskStatus
from domain.names import NodeId, Scope, TaskId
from store import mirror
from tests.api.harness import Api, Attempt


async def retry(api: Api, task: str, headers: dict[str, str] | None = None, **body: Any) -> httpx2.Response:
    """Post a retry."""
    return await api.client.post(f"/v1/tasks/{task}/retry", json=body, headers=headers)


async def failed(api: Api, **body: Any) -> Attempt:
    """Give a task whose first attempt failed."""
    attempt = await api.live(**body)
    error = {"code": "first", "category": "agent", "message": "It failed."}
    await attempt.flush(attempt.event(EventType.TASK_FAILED, data={"error": error}))
    return attempt


async def test_a_failed_task_gets_its_next_attempt(api: Api) -> None:
    """200 with the task, queued at attempt 2; every attempt's error stays readable."""
    attempt = await failed(api)
    before = (await api.client.get(f"/v1/tasks/{attempt.task}")).json()
    answer = await api.client.post(before["links"]["retry"])
    assert (answer.status_code, answer.json()["status"], answer.json()["attempt"]) == (200, "queued", 2)
    assert answer.json()["workflow_id"] == f"task-{attempt.task}-a2"
    assert answer.json() == (await api.client.get(f"/v1/tasks/{attempt.task}")).json()
    attempts = (await api.client.get(f"/v1/tasks/{attempt.task}/attempts")).json()["items"]
    assert [(seen["attempt"], seen["outcome"]) for seen in attempts] == [(1, "failed"), (2, None)]
    assert attempts[0]["error"]["code"] == "first"


async def test_a_workspace_of_the_old_attempt_is_told_to_stop(api: Api) -> None:
    """410 `stale_attempt` to whatever it tells from now on."""
    attempt = await failed(api)
    await retry(api, attempt.task)
    for kind in ("ready", "finished", "heartbeat"):
        answer = await attempt.tell(kind)
        assert (answer.status_code, answer.json()["code"]) == (410, "stale_attempt"), kind


async def test_a_double_click_makes_one_attempt(api: Api) -> None:
    """Of twenty at once one is 200; the others are 409 `attempt_mismatch`, which names both attempts."""
    attempt = await failed(api)
    answers = await asyncio.gather(*(retry(api, attempt.task, from_attempt=1) for _ in range(20)))
    refused = [answer.json() for answer in answers if answer.status_code != 200]
    assert len(refused) == 19
    assert {(problem["code"], problem["attempt"], problem["from_attempt"]) for problem in refused} == {
        ("attempt_mismatch", 2, 1)
    }
    assert len(await api.events(attempt.task, "task.queued")) == 2


async def test_an_idempotency_key_gives_the_same_answer(api: Api) -> None:
    """The repeat gets the first answer and makes no third attempt."""
    attempt = await failed(api)
    headers = {"Idempotency-Key": f"retry-{attempt.task}"}
    first, again = [await retry(api, attempt.task, headers) for _ in range(2)]
    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(
    ("status", "code"),
    [(None, "not_ended"), (TaskStatus.COMPLETED, "already_completed")],
    ids=["live", "completed"],
)
async def test_what_cannot_be_retried_is_a_conflict(api: Api, status: TaskStatus | None, code: str) -> None:
    """409 with the status that the task has."""
    attempt = await api.live()
    if status:
        await attempt.end(status)
    answer = await retry(api, attempt.task)
    expected = (409, code, status or TaskStatus.DELEGATED)
    assert (answer.status_code, answer.json()["code"], answer.json()["task_status"]) == expected


@pytest.mark.parametrize("body", [{"from_attempt": 0}, {"from_attempt": "1"}, {"attempt": 1}, {"from_step": "running"}])
async def test_a_bad_body_is_refused(api: Api, body: dict[str, Any]) -> None:
    """422 for a number that no attempt has, another type, an unknown field, another step."""
    attempt = await failed(api)
    assert (await retry(api, attempt.task, **body)).status_code == 422


async def test_exhausted_tasks_are_listed(api: Api) -> None:
    """`exhausted=true` narrows to those that failed because no try was left; the representation says it too."""
    attempt, other = [await api.live(labels={"of": "exhausted"}) for _ in range(2)]
    told = attempt.event(EventType.TASK_RETRIES_EXHAUSTED, data={"attempts": 1})
    await attempt.flush(told, attempt.event(EventType.TASK_FAILED, data={"error": None}))
    for narrowed, found in (("true", attempt.task), ("false", other.task)):
        params = {"label": "of:exhausted", "exhausted": narrowed}
        [task] = (await api.client.get("/v1/tasks", params=params)).json()["items"]
        assert (task["id"], str(task["exhausted"]).lower()) == (found, narrowed)


async def kept(api: Api, *, keep_for: timedelta = timedelta(hours=1)) -> Attempt:
    """Give a task whose attempt 1 failed on a node, which has kept its workspace."""
    node = NodeId(f"n-{new_id()}")
    await api.client.post("/v1/nodes", json={"id": node, "slots": 1})
    await api.client.post(f"/v1/nodes/{node}/ready")
    task = await api.create(provider="local", keep_workspace={"on": "failure"})
    await api.dispatcher.close()
    attempt = Attempt(api=api, task=TaskId(task["id"]))
    await attempt.reserve(provider="local", node=node)
    await attempt.flush(attempt.event(EventType.STEP_STARTED, step=Step.AGENT_SESSION))
    attempt.token = await claimed(api, attempt)
    failed = attempt.batch(attempt.event(EventType.TASK_FAILED, data={"error": None}))
    async with api.database.begin("test") as connection:
        await mirror.conclude(
            connection, failed, destroyed=True, next_attempt_at=None, kept=attempt.workspace, keep_for=keep_for
        )
    return attempt


async def claimed(api: Api, attempt: Attempt) -> dict[str, str]:
    """Give the header with a callback token, as the workspace's own node claims it."""
    own = await api.key(Scope.NODES_WRITE, node=(await workspace_of(api, attempt))["node_id"])
    answer = await api.client.post(f"/v1/workspaces/{attempt.workspace}/callback-token", json={}, headers=own)
    return {"Authorization": f"Bearer {answer.json()['token']}"}


async def workspace_of(api: Api, attempt: Attempt) -> dict[str, Any]:
    """Give the only workspace of a task."""
    [workspace] = (await api.client.get("/v1/workspaces", params={"task_id": attempt.task})).json()["items"]
    return dict(workspace)


async def test_a_retry_from_agent_session_goes_on_in_the_kept_workspace(api: Api) -> None:
    """200; the workspace is attempt 2's, the old token is stale, and a new one is issued on demand."""
    attempt = await kept(api)
    shown = await workspace_of(api, attempt)
    assert (shown["status"], shown["attempt"]) == ("retained", 1)
    assert shown["retained_until"] > shown["created_at"]
    assert (await attempt.tell("heartbeat")).json()["code"] == "attempt_ended"
    answer = await retry(api, attempt.task, from_attempt=1, from_step="agent_session")
    assert (answer.status_code, answer.json()["status"], answer.json()["attempt"]) == (200, "queued", 2)
    shown = await workspace_of(api, attempt)
    assert (shown["id"], shown["status"], shown["attempt"], shown["retained_until"]) == (
        *(attempt.workspace, "ready", 2),
        None,
    )
    assert (await attempt.tell("heartbeat")).json()["code"] == "stale_attempt"
    attempt.token = await claimed(api, attempt)
    assert (await attempt.tell("heartbeat")).status_code == 200
    queued = (await api.events(attempt.task, "task.queued"))[-1]["data"]
    assert queued == {
        "reason": "retry",
        "by_hand": True,
        "from_step": "agent_session",
        "workspace_id": attempt.workspace,
    }


async def test_there_may_be_nothing_to_resume(api: Api) -> None:
    """409 `nothing_to_resume` for a task without a kept workspace, or whose time is over; nothing is changed."""
    for attempt in (await failed(api), await kept(api, keep_for=timedelta(0))):
        before = (await api.client.get(f"/v1/tasks/{attempt.task}")).json()
        answer = await retry(api, attempt.task, from_step="agent_session")
        assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_resume")
        assert (await api.client.get(f"/v1/tasks/{attempt.task}")).json() == before
