"""Follow-ups and close over HTTP, with the whole control plane behind."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from domain.lifecycle import Step
from domain.names import SignalName
from tests.api.harness import Api, serve
from tests.workflows.scenes import external
from tests.workflows.stage import Running, Stage
from tests.workflows.test_followups import listening
from tests.workflows.test_renewal import SHORT, pad, renewed
from workflows.gateway import Sent


@pytest.fixture(scope="module")
async def api(stage: Stage) -> AsyncIterator[Api]:
    """Give the API of the stage."""
    async for served in serve(stage.url, stage.gateway):
        yield served


async def say(api: Api, task: Running, message: str = "go on", key: str | None = None) -> httpx2.Response:
    """Post a message."""
    headers = {"Idempotency-Key": key} if key else None
    return await api.client.post(f"/v1/tasks/{task.task}/followups", json={"message": message}, headers=headers)


async def close(api: Api, task: Running, key: str | None = None) -> httpx2.Response:
    """Post a close."""
    headers = {"Idempotency-Key": key} if key else None
    return await api.client.post(f"/v1/tasks/{task.task}/close", json={}, headers=headers)


async def conversing(api: Api, stage: Stage, **body: Any) -> tuple[Running, dict[str, str]]:
    """Give an external task whose first turn has ended, told over HTTP, and that turn's token."""
    task = Running(stage, (await api.create(followup=True, **body))["id"])
    await task.until("workspace_dispatch")
    token = await api.claim(task.workspace)
    assert (await finish(api, task, token, "one")).json() == {"result": "applied"}
    await task.until("awaiting_followup")
    return task, token


async def finish(api: Api, task: Running, token: dict[str, str], result: str) -> httpx2.Response:
    """Tell the end of a turn."""
    path, body = f"/v1/workspaces/{task.workspace}/finished", {"exit_code": 0, "result": result}
    return await api.client.post(path, json=body, headers=token)


async def test_a_second_turn_has_a_token_and_an_end_of_its_own(api: Api, stage: Stage) -> None:
    """Its `finished` is applied and no duplicate of the first; the first turn's token tells nothing of it."""
    task, first = await conversing(api, stage)
    answer = await say(api, task, "and now?")
    assert (answer.status_code, answer.json()) == (200, {"turn": 2})
    await task.until("running")
    again = await finish(api, task, first, "one")
    assert (again.status_code, again.json()["result"]) == (200, "duplicate")
    second = await api.claim(task.workspace, turn=2)
    assert second != first
    assert (await finish(api, task, second, "two")).json() == {"result": "applied"}
    await listening(task, 2)
    closed = await close(api, task)
    assert (closed.status_code, closed.json()) == (200, {"result": "applied"})
    row = await task.end()
    assert (row["status"], row["result"]) == ("completed", "two")
    ended = [event.data["turn"] for event in await task.events() if event.type == "agent.finished"]
    said = [event.data for event in await task.events() if event.type == "agent.followup"]
    assert (ended, said) == ([1, 2], [{"turn": 2, "message": "and now?"}])


async def test_each_turn_has_its_output(api: Api, stage: Stage) -> None:
    """By the token that wrote it, at positions that count over all turns; a turn without output has none."""
    task, first = await conversing(api, stage)
    path = f"/v1/workspaces/{task.workspace}/logs"
    await api.client.post(path, params={"offset": 0}, content=b"one\n", headers=first)
    await say(api, task)
    await task.until("running")
    second = await api.claim(task.workspace, turn=2)
    for offset in (4, 4, 8):
        await api.client.post(path, params={"offset": offset}, content=b"two\n", headers=second)

    async def read(**params: int) -> tuple[bytes, str]:
        answer = await api.client.get(f"/v1/tasks/{task.task}/logs", params=params)
        return answer.content, answer.headers["X-Next-Offset"]

    assert await read() == (b"one\ntwo\ntwo\n", "12")
    assert await read(turn=1) == (b"one\n", "4")
    assert await read(turn=2) == (b"two\ntwo\n", "12")
    assert await read(turn=2, offset=9) == (b"wo\n", "12")
    assert await read(turn=3) == (b"", "12")
    assert (await api.client.get(f"/v1/tasks/{task.task}/logs", params={"turn": 0})).status_code == 422
    assert (await finish(api, task, second, "two")).json() == {"result": "applied"}
    await listening(task, 2)
    await close(api, task)
    await task.end()


async def test_a_repeat_is_the_same_turn(api: Api, stage: Stage) -> None:
    """Turn 2 for the same key, also while it runs and when all is over; another body is a conflict."""
    task, _ = await conversing(api, stage)
    key = f"say-{task.task}"
    answers = await asyncio.gather(*(say(api, task, key=key) for _ in range(5)))
    told = [answer for answer in answers if answer.status_code == 200]
    assert told
    assert {answer.json()["code"] for answer in answers if answer.status_code != 200} <= {"in_progress"}
    assert [answer.json() for answer in told] == [{"turn": 2}] * len(told)
    await task.until("running")
    again = await say(api, task, key=key)
    assert (again.status_code, again.json(), again.headers["idempotent-replayed"]) == (200, {"turn": 2}, "true")
    assert (await say(api, task, "another", key=key)).json()["code"] == "idempotency_conflict"
    await task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=0)
    await listening(task, 2)
    ends = [await close(api, task, key=f"close-{task.task}") for _ in range(2)]
    assert [(end.status_code, end.json()) for end in ends] == [(200, {"result": "applied"})] * 2
    await task.end()
    assert (await task.story()).count("agent.followup") == 1


async def test_a_repeat_is_known_in_a_later_run(stage: Stage) -> None:
    """The same turn, though the server knows the ids of one run only."""
    task = await external(stage, Step.AWAITING_FOLLOWUP, policy=SHORT)
    assert (await stage.gateway.follow_up(task.task, 1, "go on", update="u")).turn == 2
    await task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=0)
    await listening(task, 2)
    await pad(task)
    await renewed(task)
    assert (await stage.gateway.follow_up(task.task, 1, "go on", update="u")).turn == 2
    assert (await task.row())["step"] == "awaiting_followup"
    assert (await stage.gateway.close(task.task, 1, update="c")).sent is Sent.DELIVERED
    assert (await task.end())["status"] == "completed"


async def test_who_does_not_wait_is_not_spoken_to(api: Api, stage: Stage) -> None:
    """409 `not_awaiting_followup`, with status and step: before, between and after, and for a task that never will."""
    task = Running(stage, (await api.create(followup=True))["id"])
    await task.until("workspace_dispatch")
    never = await api.create()
    for asked, status in ((task, "delegated"), (Running(stage, never["id"]), None)):
        for answer in (await say(api, asked), await close(api, asked)):
            assert (answer.status_code, answer.json()["code"]) == (409, "not_awaiting_followup")
            assert status in (None, answer.json()["task_status"])
    await task.handle.cancel()
    assert (await task.end())["status"] == "cancelled"
    assert (await say(api, task)).json()["task_status"] == "cancelled"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "invalid"),
        ({"message": ""}, 422, "invalid"),
        ({"message": " \n"}, 422, "invalid"),
        ({"message": 1}, 422, "invalid"),
        ({"message": "\0"}, 422, "invalid"),
        ({"message": "x", "turn": 3}, 422, "invalid"),
        ({"message": "ä" * 128_001}, 413, "too_large"),
    ],
    ids=["none", "empty", "blank", "a number", "NUL", "unknown field", "large"],
)
async def test_bad_messages_are_refused(api: Api, stage: Stage, body: dict[str, Any], status: int, code: str) -> None:
    """A clear problem, and the conversation is where it was."""
    task, _ = await conversing(api, stage)
    answer = await api.client.post(f"/v1/tasks/{task.task}/followups", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await close(api, task)).status_code == 200
    await task.end()
    assert (await task.story()).count("agent.followup") == 0


async def test_silence_and_a_cancel_end_a_conversation(api: Api, stage: Stage) -> None:
    """Completed when nobody says anything in time; cancelled at once when somebody cancels."""
    silent, _ = await conversing(api, stage, timeouts={"awaiting_followup": 1})
    assert (await silent.end())["status"] == "completed"
    cancelled, _ = await conversing(api, stage)
    await api.client.post(f"/v1/tasks/{cancelled.task}/cancel")
    assert (await cancelled.end())["status"] == "cancelled"


async def test_nothing_is_said_while_every_worker_is_away(bare_stage: Stage) -> None:
    """503 with Retry-After; sent again with its key when one is back, it is one turn."""
    async for api in serve(bare_stage.url, bare_stage.gateway):
        async with bare_stage.worker():
            task, _ = await conversing(api, bare_stage)
        away = await say(api, task, key="k")
        assert (away.status_code, away.json()["code"], away.json()["retryable"]) == (503, "engine_unavailable", True)
        assert int(away.headers["retry-after"]) > 0
        async with bare_stage.worker():
            assert (await say(api, task, key="k")).json() == {"turn": 2}
            await task.signal(SignalName.WORKSPACE_FINISHED, turn=2, exit_code=0)
            await listening(task, 2)
            await close(api, task)
            await task.end()
        assert (await task.story()).count("agent.followup") == 1
