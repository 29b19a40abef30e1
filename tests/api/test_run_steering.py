"""Steering of runs over HTTP: what is answered, what is refused, what is in the row."""

from typing import Any

import pytest
from sqlalchemy import text

from domain.lifecycle import RunStatus, TaskStatus
from domain.names import RunId
from tests.api.harness import Api
from tests.store.runs import Orchestrator

TASK = {"command": ["true"], "provider": "external"}


async def make(api: Api, **body: Any) -> tuple[str, Orchestrator]:
    """Give the path of a run that has begun, and who writes its rows."""
    run = RunId((await api.create_run(**body))["id"])
    await api.runs.close()
    orchestrator = Orchestrator(api.database, run)
    await orchestrator.begin()
    return f"/v1/runs/{run}", orchestrator


async def post(api: Api, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    """Post, and return the answer, whose status is this one."""
    answer = await api.client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json())


async def test_a_pause_is_requested_then_applied_then_resumed(api: Api) -> None:
    """202 with a token; 200 with the same one once it holds; resumed by it, and by no other."""
    path, orchestrator = await make(api)
    asked = await post(api, f"{path}/pause", 202, reason="a look")
    assert (asked["result"], asked["repeated"], asked["reason"]) == ("requested", False, "a look")
    row = (await api.client.get(path)).json()
    assert (row["paused"], row["pause_token"], row["pause_reason"]) == (False, asked["token"], "a look")
    await orchestrator.hold(asked["token"])
    again = await post(api, f"{path}/pause")
    assert (again["result"], again["repeated"], again["token"]) == ("applied", True, asked["token"])
    assert (await api.client.get(path)).json()["paused"] is True
    assert (await post(api, f"{path}/resume", 409, token="other"))["code"] == "stale_token"
    assert (await post(api, f"{path}/resume", token=asked["token"]))["result"] == "applied"
    assert (await post(api, f"{path}/resume", 409, token=asked["token"]))["code"] == "not_paused"
    row = (await api.client.get(path)).json()
    assert (row["paused"], row["pause_token"]) == (False, None)


async def test_breakpoints_are_put_and_shown(api: Api) -> None:
    """The answer and the run say them; an unknown name is 422 and changes nothing."""
    path, _ = await make(api)
    wanted = {"before": ["d"], "after": ["a"], "each_step": False}
    answer = await api.client.put(f"{path}/breakpoints", json=wanted)
    assert (answer.status_code, answer.json()) == (200, wanted)
    bad = await api.client.put(f"{path}/breakpoints", json={"after": ["gone"]})
    assert (bad.status_code, bad.json()["code"]) == (422, "unknown_member")
    assert bad.json()["errors"] == [{"field": "after", "reason": "no member has the name: gone"}]
    assert (await api.client.get(path)).json()["breakpoints"] == wanted


async def test_a_command_grows_the_graph_of_a_paused_run(api: Api) -> None:
    """Its number and what it has added; the graph has it; it is told in the run's events."""
    path, orchestrator = await make(api)
    append = {"members": [{"name": "e", "task": TASK}], "edges": [{"from": "d", "to": "e"}]}
    assert (await post(api, f"{path}/commands", 409, append=append))["code"] == "not_paused"
    await orchestrator.hold("t")
    assert await post(api, f"{path}/commands", append=append, skip=["b"]) == {"n": 1, "members": ["e"], "edges": 1}
    graph = (await api.client.get(f"{path}/graph")).json()
    assert graph["leaves"] == ["e"]
    assert graph["blocked"]["e"] == ["d"]
    events = (await api.client.get(f"{path}/events", params={"type": "run.commanded"})).json()["items"]
    assert [event["data"]["skip"] for event in events] == [["b"]]


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "cycle": ({"append": {"edges": [{"from": "d", "to": "a"}]}}, "cycle", "a → b → d → a"),
    "duplicate": ({"append": {"members": [{"name": "a", "task": TASK}]}}, "duplicate_member", "a"),
    "unknown": ({"append": {"edges": [{"from": "a", "to": "gone"}]}}, "unknown_member", "gone"),
    "skip twice": ({"skip": ["a", "a"]}, "invalid", "a"),
    "skip of nobody": ({"skip": ["gone"]}, "unknown_member", "gone"),
    "replace without supersteps": ({"replace": ["b"]}, "not_superstep", "replace"),
    "10,001 members": (
        {"append": {"members": [{"name": "e", "task": TASK, "fan_out": {"count": 9_997}}]}},
        "invalid",
        "10,001 tasks",
    ),
    "an attachment that is not there": (
        {"append": {"members": [{"name": "e", "task": TASK | {"attachments": ["gone"]}}]}},
        "unknown_attachment",
        "gone",
    ),
    "a task that outlives its token": (
        {"append": {"members": [{"name": "e", "task": TASK | {"timeouts": {"running_absolute": "P3D"}}}]}},
        "invalid",
        "append.members.0.task.timeouts",
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_command_is_named_and_changes_nothing(api: Api, case: str) -> None:
    """422 with its code, and the graph is as before."""
    path, orchestrator = await make(api)
    await orchestrator.hold("t")
    before = (await api.client.get(f"{path}/graph")).json()
    sent, code, named = BAD[case]
    problem = await post(api, f"{path}/commands", 422, **sent)
    assert problem["code"] == code
    assert named in problem["detail"] + str(problem["errors"])
    assert (await api.client.get(f"{path}/graph")).json() == before


async def test_a_command_that_is_too_large_is_413(api: Api) -> None:
    """It is carried through the orchestrator's history."""
    path, orchestrator = await make(api)
    await orchestrator.hold("t")
    large = {"members": [{"name": "e", "task": {"command": ["x" * 130_000, "y" * 130_000]}}]}
    assert (await post(api, f"{path}/commands", 413, append=large))["code"] == "too_large"


async def test_a_cancel_is_requested_once(api: Api) -> None:
    """202, then 200 with the same body; `cancel_requested_at` in the run."""
    path, orchestrator = await make(api)
    assert await post(api, f"{path}/cancel", 202) == {"result": "requested", "status": "in_progress"}
    assert await post(api, f"{path}/cancel") == {"result": "requested", "status": "in_progress"}
    assert (await api.client.get(path)).json()["cancel_requested_at"]
    await orchestrator.finish(RunStatus.CANCELLED)
    assert await post(api, f"{path}/cancel") == {"result": "applied", "status": "cancelled"}


async def test_a_run_that_was_never_started_is_cancelled_at_once(api: Api) -> None:
    """200 `applied`, every member cancelled."""
    made = await api.create_run()
    await api.runs.close()
    async with api.database.begin("test") as connection:
        untried = text("UPDATE run_intents SET tries = 0, leased_until = NULL, last_error = NULL WHERE run_id = :run")
        await connection.execute(untried, {"run": made["id"]})
    assert await post(api, f"/v1/runs/{made['id']}/cancel") == {"result": "applied", "status": "cancelled"}
    row = (await api.client.get(f"/v1/runs/{made['id']}")).json()
    assert (row["status"], row["counts"]["cancelled"], row["error"]["code"]) == ("cancelled", 4, "cancelled")


async def test_a_failed_run_is_retried_once(api: Api) -> None:
    """200, queued at attempt 2; the second click is 409 with both numbers; completed is 409."""
    path, orchestrator = await make(api)
    assert (await post(api, f"{path}/retry", 409))["code"] == "not_ended"
    await orchestrator.fail()
    row = await post(api, f"{path}/retry", from_attempt=1)
    assert (row["status"], row["attempt"], row["counts"]["waiting"]) == ("queued", 2, 4)
    late = await post(api, f"{path}/retry", 409, from_attempt=1)
    assert (late["code"], late["attempt"], late["from_attempt"]) == ("attempt_mismatch", 2, 1)
    following = Orchestrator(api.database, orchestrator.run, attempt=2)
    await following.begin()
    await following.finish(RunStatus.COMPLETED)
    for part, code in (("retry", "already_completed"), ("cancel", "already_ended"), ("pause", "already_ended")):
        problem = await post(api, f"{path}/{part}", 409)
        assert (problem["code"], problem["run_status"]) == (code, "completed")


async def test_a_retry_waits_for_a_task_that_outlived_its_run(api: Api) -> None:
    """409 `not_ended` that names the task."""
    path, orchestrator = await make(api)
    task = await orchestrator.start("a")
    await orchestrator.finish(RunStatus.FAILED)
    problem = await post(api, f"{path}/retry", 409)
    assert (problem["code"], task in problem["detail"]) == ("not_ended", True)


async def test_a_run_is_deleted_with_its_tasks(api: Api) -> None:
    """409 while it lives; then 204, and every address of it and of its tasks is 404."""
    path, orchestrator = await make(api)
    refused = await api.client.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_ended")
    task = await orchestrator.fail()
    deleted = await api.client.delete(path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    for address in (path, f"{path}/graph", f"{path}/events", f"{path}/stream", f"/v1/tasks/{task}"):
        assert (await api.client.get(address)).status_code == 404, address
    assert (await api.client.delete(path)).status_code == 404


async def test_a_task_of_a_run_belongs_to_it(api: Api) -> None:
    """Neither retried nor deleted by itself: 409 `belongs_to_run`, with what to do; cancelled it may be."""
    path, orchestrator = await make(api)
    task = await orchestrator.start("b")
    answer = await api.client.post(f"/v1/tasks/{task}/cancel", json={})
    assert answer.is_success
    await orchestrator.end_task(task, TaskStatus.CANCELLED)
    retried = await post(api, f"/v1/tasks/{task}/retry", 409)
    assert (retried["code"], f"{path}/retry" in retried["detail"]) == ("belongs_to_run", True)
    deleted = await api.client.delete(f"/v1/tasks/{task}")
    assert (deleted.status_code, deleted.json()["code"]) == (409, "belongs_to_run")
