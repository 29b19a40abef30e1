"""Callbacks by the contract's table, one case a row; the workflow's part is written by the test."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from temporalio.testing import WorkflowEnvironment

from domain import failpoints
from domain.events import EventType
from domain.lifecycle import Step, TaskStatus
from domain.names import TaskId, workflow_id
from store.engine import Database
from store.models import Callback, Outbox, Workspace
from tests.api.harness import Api, Attempt

FAILED = {"error": {"code": "clone_failed", "message": "no such repository"}}
OTHER = {"status": "recovery", "details": {"n": 1}}
ONCE, WAY, NEXT = {"result": "applied"}, {"result": "duplicate"}, {"result": "accepted"}
Given = Callable[[Attempt], Awaitable[Any]]


async def nothing(attempt: Attempt) -> None:
    """Give the attempt as its workspace was claimed."""


async def waiting(attempt: Attempt) -> None:
    """The workflow waits for ready."""
    await attempt.flush(attempt.event(EventType.STEP_STARTED, step=Step.WORKSPACE_READY))


def told(kind: str, body: dict[str, Any] | None = None) -> Given:
    """Give an attempt that told this before, and whose signal has been noted as delivered."""

    async def before(attempt: Attempt) -> None:
        response = await attempt.tell(kind, body)
        assert response.status_code == 200, response.text
        await attempt.api.dispatcher.close()

    return before


async def superseded(attempt: Attempt) -> None:
    """A later attempt has taken over."""
    await attempt.next()


async def ended(attempt: Attempt) -> None:
    """The attempt ended, and the task with it."""
    await attempt.end()


TABLE: list[tuple[str, Given, str, dict[str, Any] | None, int, dict[str, str] | str]] = [
    ("first ready", waiting, "ready", {}, 200, ONCE),
    ("ready without a body", waiting, "ready", None, 200, ONCE),
    ("ready before the workflow waits", nothing, "ready", {"status": "running", "details": {}}, 200, ONCE),
    ("ready again, same content", told("ready", {}), "ready", {"status": "running"}, 200, WAY),
    ("ready again, other content", told("ready", {}), "ready", OTHER, 409, "conflicting_callback"),
    ("failed", waiting, "failed", FAILED, 200, ONCE),
    ("failed after ready", told("ready", {}), "failed", FAILED, 200, ONCE),
    ("failed again", told("failed", FAILED), "failed", FAILED, 200, WAY),
    ("ready after failed", told("failed", FAILED), "ready", {}, 409, "already_failed"),
    ("finished without ready", waiting, "finished", {"exit_code": 0}, 200, ONCE),
    ("finished after ready", told("ready", {}), "finished", {"exit_code": 1, "result": {"a": [1]}}, 200, ONCE),
    ("finished again, same", told("finished", {"exit_code": 0}), "finished", {"exit_code": 0}, 200, WAY),
    ("finished again, other", told("finished", {"exit_code": 0}), "finished", {}, 409, "conflicting_callback"),
    ("ready of an earlier attempt", superseded, "ready", {}, 410, "stale_attempt"),
    ("failed of an earlier attempt", superseded, "failed", FAILED, 410, "stale_attempt"),
    ("heartbeat of an earlier attempt", superseded, "heartbeat", {}, 410, "stale_attempt"),
    ("progress of an earlier attempt", superseded, "progress", {"percent": 1}, 410, "stale_attempt"),
    ("ready after the end", ended, "ready", {}, 410, "attempt_ended"),
    ("finished after the end", ended, "finished", {"exit_code": 0}, 410, "attempt_ended"),
    ("heartbeat after the end", ended, "heartbeat", {}, 410, "attempt_ended"),
    ("progress after the end", ended, "progress", {"message": "x"}, 410, "attempt_ended"),
    ("heartbeat", nothing, "heartbeat", {}, 200, ONCE),
    ("progress", nothing, "progress", {"percent": 50, "message": "half"}, 200, ONCE),
    ("ready with an unknown field", nothing, "ready", {"state": "x"}, 422, "invalid"),
    ("ready with NUL", nothing, "ready", {"details": {"a": "\x00"}}, 422, "invalid"),
    ("failed without an error", nothing, "failed", {}, 422, "invalid"),
    ("finished with a huge exit code", nothing, "finished", {"exit_code": 2**40}, 422, "invalid"),
    ("finished with a result over its limit", nothing, "finished", {"result": "x" * 64_001}, 413, "result_too_large"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "kind", "body", "status", "answer"), [case[1:] for case in TABLE], ids=[case[0] for case in TABLE]
)
async def test_the_table_of_callbacks(
    *, engine_api: Api, given: Given, kind: str, body: dict[str, Any] | None, status: int, answer: dict[str, str] | str
) -> None:
    """Each row of the contract's table gives its answer."""
    attempt = await engine_api.live()
    await given(attempt)
    response = await attempt.tell(kind, body)
    found = response.json()
    assert (response.status_code, found["code"] if isinstance(answer, str) else found) == (status, answer)


async def test_what_is_refused_leaves_nothing(engine_api: Api) -> None:
    """A conflict, a late and a stale callback change neither inbox nor row; stale is noted once per kind."""
    attempt = await engine_api.live()
    await attempt.tell("ready", {})
    await attempt.tell("ready", OTHER)
    await attempt.next()
    for _ in range(3):
        await attempt.tell("ready", OTHER)
        await attempt.tell("failed", FAILED)
    bodies = await attempt.inbox()
    assert bodies["ready"] == {"status": "running", "details": {}}
    assert bodies.keys() == {"claimed", "ready"}
    stale = await engine_api.events(attempt.task, "callback.stale")
    assert [(event["attempt"], event["data"]["kind"]) for event in stale] == [(1, "ready"), (1, "failed")]


async def test_nothing_follows_the_end_of_a_log(engine_api: Api) -> None:
    """A stale, a late and a repeated callback add no event to a task that is over."""
    attempt = await engine_api.live()
    await attempt.tell("ready", {})
    following = await attempt.next()
    following.token = await engine_api.claim(following.workspace)
    await following.end()
    assert (await attempt.tell("failed", FAILED)).json()["code"] == "stale_attempt"
    assert (await following.tell("finished", {})).json()["code"] == "attempt_ended"
    assert (await engine_api.events(attempt.task))[-1]["type"] == "task.completed"


async def test_a_duplicate_is_noted_once_per_kind(engine_api: Api) -> None:
    """However often it comes, the log has one `callback.duplicate` of each kind."""
    attempt = await engine_api.live()
    for kind, body in (("ready", {}), ("finished", {"exit_code": 0})):
        for _ in range(3):
            assert (await attempt.tell(kind, body)).status_code == 200
    noted = await engine_api.events(attempt.task, "callback.duplicate")
    assert [event["data"]["kind"] for event in noted] == ["ready", "finished"]


async def test_twenty_parallel_readies_have_one_effect(engine_api: Api, temporal: WorkflowEnvironment) -> None:
    """One `applied` and nineteen `duplicate`; one row, and one signal in the history."""
    attempt = await engine_api.live()
    answers = await asyncio.gather(*(attempt.tell("ready", {}) for _ in range(20)))
    results = sorted(answer.json()["result"] for answer in answers)
    assert results == ["applied", *["duplicate"] * 19]
    assert list(await attempt.inbox()) == ["claimed", "ready"]
    history = await temporal.client.get_workflow_handle(workflow_id(attempt.task, 1)).fetch_history()
    signals = [event for event in history.events if event.HasField("workflow_execution_signaled_event_attributes")]
    assert [event.workflow_execution_signaled_event_attributes.signal_name for event in signals] == ["workspace_ready"]


async def test_a_claim_is_told_only_once_and_later(engine_api: Api) -> None:
    """The row waits half a second for a `ready` that carries it; a second claim adds nothing."""
    task = await engine_api.create()
    attempt = Attempt(api=engine_api, task=TaskId(task["id"]))
    await attempt.reserve()
    for _ in range(2):
        attempt.token = await engine_api.claim(attempt.workspace)
    async with engine_api.database.begin("test") as connection:
        due = select(Callback.due_at - Callback.received_at).where(Callback.workspace_id == attempt.workspace)
        delay = (await connection.execute(due)).scalar_one()
        claimed = select(Workspace.claimed_at).where(Workspace.id == attempt.workspace)
        assert (await connection.execute(claimed)).scalar_one() is not None
    assert delay == pytest.approx(timedelta(milliseconds=500), abs=timedelta(milliseconds=50))
    await attempt.tell("ready", {})
    await engine_api.dispatcher.close()
    async with engine_api.database.begin("test") as connection:
        left = select(Callback.kind).where(Callback.workspace_id == attempt.workspace, Callback.delivered_at.is_(None))
        assert (await connection.execute(left)).all() == []


async def test_a_local_workspace_is_not_claimed_by_its_node(engine_api: Api) -> None:
    """Its acknowledgement comes from the node: the inbox gets no `claimed`."""
    task = await engine_api.create(provider="local")
    attempt = Attempt(api=engine_api, task=TaskId(task["id"]))
    await attempt.reserve(provider="local")
    await engine_api.claim(attempt.workspace)
    assert await attempt.inbox() == {}


async def test_an_undelivered_callback_is_signalled_again(engine_api: Api, api: Api) -> None:
    """202 while Temporal is away; the same again once it is back is sent and `applied`."""
    attempt = await engine_api.live()
    attempt.api = api
    away = await attempt.tell("ready", {})
    assert (away.status_code, away.json()) == (202, NEXT)
    attempt.api = engine_api
    back = await attempt.tell("ready", {})
    assert (back.status_code, back.json()) == (200, ONCE)


async def test_a_callback_for_a_workflow_that_is_not_there_yet_is_kept(engine_api: Api, api: Api) -> None:
    """Started later: 202 `accepted`; ended meanwhile: 410 `attempt_ended`."""
    attempt = await api.live()
    attempt.api = engine_api
    answer = await attempt.tell("ready", {})
    assert (answer.status_code, answer.json()) == (202, NEXT)


@pytest.mark.parametrize(("taken", "expected"), [(True, 200), (False, 410)])
async def test_a_callback_that_the_attempts_own_flush_took_in_was_applied(
    *, engine_api: Api, api: Api, taken: bool, expected: int
) -> None:
    """The attempt ends between the inbox row and the signal: 200 if by this callback, else 410."""
    attempt = await api.live()
    attempt.api = engine_api

    def end_meanwhile(point: str) -> None:
        if point == "engine.signal:before":
            failpoints.arm(None)
            ending = threading.Thread(target=lambda: asyncio.run(end()))
            ending.start()
            ending.join()

    async def end() -> None:
        database = Database(engine_api.settings.database_url, pool=1)
        elsewhere = replace(attempt, api=replace(engine_api, database=database))
        if taken:
            await elsewhere.flush(elsewhere.event(EventType.AGENT_FINISHED, data={"turn": 1, "exit_code": 0}))
        await elsewhere.end()
        await database.close()

    failpoints.arm(end_meanwhile)
    try:
        answer = await attempt.tell("finished", {"exit_code": 0})
    finally:
        failpoints.arm(None)
    assert answer.status_code == expected


async def test_progress_is_kept_on_the_workspace_and_noted_at_most_once_a_second(engine_api: Api) -> None:
    """Ten reports in a row leave the last one, and no more events than seconds went by."""
    attempt = await engine_api.live()
    began = datetime.now(UTC)
    for percent in range(10):
        assert (await attempt.tell("progress", {"percent": percent})).status_code == 200
    seconds = (datetime.now(UTC) - began).total_seconds()
    found = await engine_api.client.get("/v1/workspaces", params={"task_id": attempt.task})
    (workspace,) = found.json()["items"]
    assert workspace["progress"]["percent"] == 9
    assert workspace["last_activity_at"] is not None
    assert len(await engine_api.events(attempt.task, "agent.progress")) <= seconds + 2


async def test_ready_then_finished_are_applied_and_kept(engine_api: Api) -> None:
    """200 `applied` each, one row of the inbox each, all of them noted as delivered, nothing left to send."""
    attempt = await engine_api.live()
    for kind in ("ready", "finished"):
        response = await attempt.tell(kind, {})
        assert (response.status_code, response.json()) == (200, ONCE)
    await engine_api.dispatcher.close()
    async with engine_api.database.begin("test") as connection:
        mine = Callback.workspace_id == attempt.workspace
        rows = await connection.execute(select(Callback.kind, Callback.delivered_at).where(mine))
        assert {row.kind: row.delivered_at is not None for row in rows} == dict.fromkeys(
            ("claimed", "ready", "finished"), True
        )
        assert (await connection.execute(select(Outbox.id).where(Outbox.task_id == attempt.task))).all() == []


async def test_a_failure_keeps_its_category_and_gets_its_guidance(engine_api: Api) -> None:
    """Without a category it is the workspace's, which another attempt may mend."""
    attempt = await engine_api.live()
    await attempt.tell("failed", FAILED)
    error = (await attempt.inbox())["failed"]["error"]
    assert (error["code"], error["category"], error["retryable"]) == ("clone_failed", "workspace", True)
    assert error["guidance"]
    other = await engine_api.live()
    await other.tell("failed", {"error": {"code": "repo_not_found", "message": "x", "category": "input"}})
    error = (await other.inbox())["failed"]["error"]
    assert (error["category"], error["retryable"]) == ("input", False)


async def test_an_ended_attempt_needs_no_signal(engine_api: Api) -> None:
    """Temporal says NOT_FOUND and the row says that it is over: 410, as the table has it."""
    attempt = await engine_api.live()
    await attempt.end(TaskStatus.FAILED)
    answer = await attempt.tell("failed", FAILED)
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (410, "attempt_ended", False)
