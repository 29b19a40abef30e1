"""Pause, resume and breakpoints over HTTP, with the whole control plane behind."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from domain.lifecycle import Step
from domain.names import SignalName
from tests.api.harness import Api, serve
from tests.workflows.stage import Running, Stage
from tests.workflows.steering import held


@pytest.fixture(scope="module")
async def api(stage: Stage) -> AsyncIterator[Api]:
    """Give the API of the stage."""
    async for served in serve(stage.url, stage.gateway):
        yield served


async def ask(api: Api, task: Running, command: str, key: str | None = None, **body: Any) -> httpx2.Response:
    """Post a command."""
    headers = {"Idempotency-Key": key} if key else None
    return await api.client.post(f"/v1/tasks/{task.task}/{command}", json=body, headers=headers)


async def made(api: Api, stage: Stage, **body: Any) -> Running:
    """Give an external task that was made over HTTP."""
    task = await api.create(**body)
    return Running(stage, task["id"])


async def finish(task: Running) -> dict[str, Any]:
    """Let the command end, and return the row at the end."""
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    return await task.end()


async def test_a_pause_of_a_wait_is_applied_at_once(api: Api, stage: Stage) -> None:
    """200 `applied` with token and step; the repeat with its key gets the same; resumed by the token, it completes."""
    task = await made(api, stage)
    await task.until("workspace_dispatch")
    answer = await ask(api, task, "pause", key="p", reason="lunch")
    assert answer.status_code == 200
    told = answer.json()
    shown = (await api.client.get(f"/v1/tasks/{task.task}")).json()
    assert told == {
        "result": "applied",
        "repeated": False,
        "token": shown["pause_token"],
        "reason": "lunch",
        "status": "delegated",
        "step": "workspace_dispatch",
        "attempt": 1,
    }
    assert (shown["paused"], shown["pause_reason"]) == (True, "lunch")
    again = await ask(api, task, "pause", key="p", reason="lunch")
    assert (again.status_code, again.json(), again.headers["idempotent-replayed"]) == (200, told, "true")
    keyless = await ask(api, task, "pause", reason="another")
    assert (keyless.status_code, keyless.json()) == (200, told | {"repeated": True})
    [listed] = (await api.client.get("/v1/tasks", params={"paused": "true"})).json()["items"]
    assert listed["id"] == task.task
    resumed = await ask(api, task, "resume", token=told["token"])
    assert (resumed.status_code, resumed.json()["result"]) == (200, "applied")
    assert (await finish(task))["status"] == "completed"


async def test_a_pause_of_a_running_command_is_requested(api: Api, stage: Stage) -> None:
    """202 `requested`; applied when the command has ended; a resume before that takes the request back."""
    task = await made(api, stage)
    await task.until("workspace_dispatch")
    await task.signal(SignalName.WORKSPACE_READY)
    await task.until("running")
    first = await ask(api, task, "pause")
    assert (first.status_code, first.json()["result"], first.json()["step"]) == (202, "requested", "running")
    assert (await ask(api, task, "resume", token=first.json()["token"])).status_code == 200
    second = await ask(api, task, "pause")
    assert second.json()["token"] != first.json()["token"]
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    assert (await held(task))["pause_token"] == second.json()["token"]
    stale = await ask(api, task, "resume", token=first.json()["token"])
    assert (stale.status_code, stale.json()["code"]) == (409, "stale_token")
    assert (await ask(api, task, "resume", token=second.json()["token"])).status_code == 200
    assert (await task.end())["status"] == "completed"


async def test_a_task_that_is_ready_is_held_when_it_starts(api: Api, stage: Stage) -> None:
    """202 for what has not begun; started, it holds before its first step."""
    task = await made(api, stage, start=False)
    asked = await ask(api, task, "pause", reason="not yet")
    assert (asked.status_code, asked.json()["status"]) == (202, "ready")
    await ask(api, task, "start")
    row = await held(task)
    assert (row["pause_token"], row["pause_reason"], row["step"]) == (
        *(asked.json()["token"], "not yet"),
        "node_selection",
    )
    await ask(api, task, "resume", token=row["pause_token"])
    await task.until("workspace_dispatch")
    assert (await finish(task))["status"] == "completed"


async def test_two_resumes_at_once(api: Api, stage: Stage) -> None:
    """One 200, the others 409 `not_paused`, and one event."""
    task = await made(api, stage)
    await task.until("workspace_dispatch")
    token = (await ask(api, task, "pause")).json()["token"]
    answers = await asyncio.gather(*(ask(api, task, "resume", token=token) for _ in range(10)))
    told = sorted((answer.status_code, answer.json().get("code")) for answer in answers if answer.status_code != 200)
    assert told == [(409, "not_paused")] * 9
    await finish(task)
    assert (await task.story()).count("task.resumed") == 1


async def test_explain_says_until_when_it_is_held(api: Api, stage: Stage) -> None:
    """It waits for a resume, until its cap, and fails then; a cancel comes before that."""
    task = await made(api, stage, retry={"max_attempts": 4})
    await task.until("workspace_dispatch")
    await ask(api, task, "pause", reason="lunch")
    told = (await api.client.get(f"/v1/tasks/{task.task}/explain")).json()
    shown = (await api.client.get(f"/v1/tasks/{task.task}")).json()
    assert (told["waits_for"]["code"], told["since"], told["until"]) == (
        *("resume", shown["paused_at"]),
        shown["paused_until"],
    )
    assert (told["on_failure"]["code"], told["on_failure"]["status"]) == ("cap_paused", "failed")
    assert "lunch" in told["waits_for"]["text"]
    await ask(api, task, "cancel")
    assert (await task.end())["status"] == "cancelled"


async def test_what_has_ended_is_not_steered(api: Api, stage: Stage) -> None:
    """409 `already_ended`, and `not_paused` for a resume."""
    task = await made(api, stage)
    await task.until("workspace_dispatch")
    await finish(task)
    assert (await ask(api, task, "pause")).json()["code"] == "already_ended"
    assert (await ask(api, task, "resume", token="x")).json()["code"] == "not_paused"
    answer = await api.client.put(f"/v1/tasks/{task.task}/breakpoints", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "already_ended")


async def test_breakpoints_are_replaced_as_a_whole(api: Api, stage: Stage) -> None:
    """What was put is what is shown, and what holds; none at all takes them away."""
    task = await made(api, stage, breakpoints={"before": ["node_selection"]})
    row = await held(task)
    path = f"/v1/tasks/{task.task}/breakpoints"
    put = await api.client.put(path, json={"after": ["workspace_dispatch"]})
    wanted = {"before": [], "after": ["workspace_dispatch"], "each_step": False}
    assert (put.status_code, put.json()) == (200, wanted)
    assert (await api.client.get(f"/v1/tasks/{task.task}")).json()["breakpoints"] == wanted
    await ask(api, task, "resume", token=row["pause_token"])
    await task.until("workspace_dispatch")
    await task.signal(SignalName.WORKSPACE_READY)
    row = await held(task, but=row["pause_token"])
    assert (row["step"], row["pause_reason"]) == (Step.WORKSPACE_DISPATCH, "breakpoint after workspace_dispatch")
    assert (await api.client.put(path, json={})).status_code == 200
    assert (await api.client.get(f"/v1/tasks/{task.task}")).json()["breakpoints"] is None
    await ask(api, task, "resume", token=row["pause_token"])
    assert (await finish(task))["status"] == "completed"
