"""Pause, resume and breakpoints over HTTP while Temporal is away: all is stored, and bad input changes nothing."""

from typing import Any

import httpx2
import pytest

from domain.events import EventType
from tests.api.harness import Api


async def ask(api: Api, task: str, command: str, **body: Any) -> httpx2.Response:
    """Post a command."""
    return await api.client.post(f"/v1/tasks/{task}/{command}", json=body)


async def test_a_pause_is_stored_with_temporal_away(api: Api) -> None:
    """202 `requested`, with token and reason in the row; resumed, and none of it is left."""
    attempt = await api.live()
    answer = await ask(api, attempt.task, "pause", reason="lunch")
    assert (answer.status_code, answer.json()["result"], answer.json()["status"]) == (202, "requested", "delegated")
    shown = (await api.client.get(f"/v1/tasks/{attempt.task}")).json()
    assert (shown["paused"], shown["pause_token"], shown["pause_reason"]) == (False, answer.json()["token"], "lunch")
    again = await ask(api, attempt.task, "pause", reason="dinner")
    assert again.json() == answer.json() | {"repeated": True}
    resumed = await ask(api, attempt.task, "resume", token=answer.json()["token"])
    assert (resumed.status_code, resumed.json()["result"]) == (200, "applied")
    shown = (await api.client.get(f"/v1/tasks/{attempt.task}")).json()
    assert (shown["pause_token"], shown["pause_reason"]) == (None, None)
    kinds = [event["type"] for event in await api.events(attempt.task, "task.pause_requested", "task.resumed")]
    assert kinds == ["task.pause_requested", "task.resumed"]


async def test_the_attempt_is_told_by_every_answer(api: Api) -> None:
    """Token, reason and breakpoints come back with a flush; a hold counts only if the row asks for it."""
    attempt = await api.live()
    token = (await ask(api, attempt.task, "pause", reason="lunch")).json()["token"]
    await api.client.put(f"/v1/tasks/{attempt.task}/breakpoints", json={"each_step": True})
    answer = await attempt.flush()
    assert (answer["pause"], answer["pause_reason"], answer["breakpoints"]["each_step"]) == (token, "lunch", True)
    other = attempt.event(EventType.TASK_PAUSED, data={"token": "old", "at": "wait"})
    at_breakpoint = attempt.event(EventType.TASK_PAUSED, data={"token": "b", "at": "wait", "breakpoint": True})
    for hold in (other, at_breakpoint):
        assert (await attempt.flush(hold))["pause"] == token
        assert (await api.client.get(f"/v1/tasks/{attempt.task}")).json()["paused"] is False
    await attempt.flush(attempt.event(EventType.TASK_PAUSED, data={"token": token, "reason": "lunch", "at": "wait"}))
    assert (await api.client.get(f"/v1/tasks/{attempt.task}")).json()["paused"] is True
    assert (await ask(api, attempt.task, "pause")).json()["result"] == "applied"
    await ask(api, attempt.task, "resume", token=token)
    assert (await attempt.flush(at_breakpoint))["pause"] == "b"
    assert len(await api.events(attempt.task, "task.paused")) == 2


@pytest.mark.parametrize(
    ("command", "body", "status", "code"),
    [
        ("resume", {"token": "x"}, 409, "not_paused"),
        ("resume", {}, 422, "invalid"),
        ("resume", {"token": ""}, 422, "invalid"),
        ("resume", {"token": "x" * 65}, 422, "invalid"),
        ("resume", {"token": "x", "force": True}, 422, "invalid"),
        ("resume", {"token": 1}, 422, "invalid"),
        ("pause", {"reason": "x" * 1001}, 422, "invalid"),
        ("pause", {"reason": "\0"}, 422, "invalid"),
        ("pause", {"reason": " "}, 422, "invalid"),
        ("pause", {"why": "lunch"}, 422, "invalid"),
        ("breakpoints", {"before": ["lunch"]}, 422, "invalid"),
        ("breakpoints", {"before": ["cleanup"]}, 422, "invalid"),
        ("breakpoints", {"after": ["running"] * 13}, 422, "invalid"),
        ("breakpoints", {"each_step": "yes"}, 422, "invalid"),
        ("breakpoints", {"at": ["running"]}, 422, "invalid"),
    ],
)
async def test_bad_input_is_a_clear_problem(
    api: Api, command: str, body: dict[str, Any], status: int, code: str
) -> None:
    """Refused with its code, and neither row nor log has changed."""
    attempt = await api.live()
    path = f"/v1/tasks/{attempt.task}"
    before = (await api.client.get(path)).json()
    method = "PUT" if command == "breakpoints" else "POST"
    answer = await api.client.request(method, f"{path}/{command}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await api.client.get(path)).json() == before


async def test_an_old_token_is_stale(api: Api) -> None:
    """409 `stale_token`; the pause stays."""
    attempt = await api.live()
    old = (await ask(api, attempt.task, "pause")).json()["token"]
    await ask(api, attempt.task, "resume", token=old)
    token = (await ask(api, attempt.task, "pause")).json()["token"]
    answer = await ask(api, attempt.task, "resume", token=old)
    assert (answer.status_code, answer.json()["code"]) == (409, "stale_token")
    assert (await api.client.get(f"/v1/tasks/{attempt.task}")).json()["pause_token"] == token
