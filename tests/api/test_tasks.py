"""Tasks over HTTP: made, shown, listed, started, cancelled."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from api.schemas.tasks import TaskOut
from domain.events import Event, fold
from domain.lifecycle import TaskStatus
from domain.names import TaskId
from domain.runner import RunnerInput
from store import tasks
from store.models import Outbox
from tests.api.harness import Api

TASK: dict[str, Any] = {"command": ["true"], "provider": "external"}


async def test_a_created_task_is_there_with_its_events_while_the_engine_is_away(api: Api) -> None:
    """201 with the whole representation; the log holds `created` and `queued`, numbered 1 and 2."""
    task = await api.create(name="first", labels={"team": "a"}, priority=2)
    shown = (await api.client.get(f"/v1/tasks/{task['id']}")).json()
    TaskOut.model_validate(shown)
    assert task == shown
    assert (task["status"], task["attempt"], task["last_seq"]) == ("queued", 1, 2)
    assert [(event["seq"], event["type"]) for event in await api.events(task["id"])] == [
        (1, "task.created"),
        (2, "task.queued"),
    ]


async def test_the_log_of_a_created_task_folds_into_its_row(api: Api) -> None:
    """Every column that the fold knows is the same in the row."""
    task = await api.create()
    row = (await api.client.get(f"/v1/tasks/{task['id']}")).json()
    folded = fold(Event.model_validate(event) for event in await api.events(task["id"]))
    assert folded.model_dump(mode="json").items() <= row.items()


async def test_the_start_intent_is_leased_to_its_writer_and_makes_the_same_argument(api: Api) -> None:
    """The dispatcher that finds the intent later starts with what the API would have started with."""
    body = TASK | {"timeouts": {"running": "PT2H"}, "retry": {"max_attempts": 2}, "keep_workspace": {"for": "PT2H"}}
    task = await api.create(**body)
    async with api.database.begin("test") as connection:
        row = await tasks.start_argument(connection, TaskId(task["id"]), 1)
        intent = (await connection.execute(select(Outbox).where(Outbox.task_id == task["id"]))).one()
    assert intent.kind == "start"
    assert row is not None
    argument = RunnerInput(**row)
    assert argument.spec.timeouts.running == timedelta(hours=2)
    assert (argument.name, argument.spec.keep_workspace.for_, task["max_attempts"]) == ("true", timedelta(hours=2), 2)


async def test_a_task_waits_for_its_start_if_told_so(api: Api) -> None:
    """`start: false` leaves it `ready`, without a workflow; `start` queues it, and again is the same 200."""
    task = await api.create(start=False)
    assert (task["status"], task["workflow_id"], task["last_seq"]) == ("ready", None, 1)
    started = await api.client.post(f"/v1/tasks/{task['id']}/start")
    again = await api.client.post(f"/v1/tasks/{task['id']}/start", json={})
    assert (started.status_code, started.json()["status"], started.json()["last_seq"]) == (200, "queued", 2)
    assert (again.status_code, again.json()["last_seq"]) == (200, 2)
    log = [Event.model_validate(event) for event in await api.events(task["id"])]
    assert fold(log).status is TaskStatus.QUEUED


async def test_a_ready_task_is_cancelled_at_once(api: Api) -> None:
    """200 `applied` with Temporal away; again is the same; a start after it is 409 `already_ended`."""
    task = await api.create(start=False)
    path = f"/v1/tasks/{task['id']}"
    first, again = [await api.client.post(f"{path}/cancel", json={}) for _ in range(2)]
    assert [(first.status_code, first.json()["result"]), (again.status_code, again.json()["result"])] == [
        (200, "applied"),
        (200, "applied"),
    ]
    row = (await api.client.get(path)).json()
    assert (row["status"], row["outcome"], row["error"]["category"]) == ("cancelled", "cancelled", "cancelled")
    folded = fold(Event.model_validate(event) for event in await api.events(task["id"]))
    assert folded.model_dump(mode="json").items() <= row.items()
    refused = await api.client.post(f"{path}/start")
    assert (refused.status_code, refused.json()["code"]) == (409, "already_ended")


async def test_a_task_whose_start_nobody_leased_is_cancelled_at_once(api: Api) -> None:
    """The intent is taken back in the transaction that writes `cancelled`."""
    task = await api.create()
    await api.dispatcher.close()
    async with api.database.begin("test") as connection:
        mine = Outbox.task_id == task["id"]
        await connection.execute(update(Outbox).where(mine).values(leased_by=None, tries=0, last_error=None))
    answer = await api.client.post(f"/v1/tasks/{task['id']}/cancel")
    assert (answer.status_code, answer.json()) == (200, {"result": "applied", "status": "cancelled"})
    async with api.database.begin("test") as connection:
        assert (await connection.execute(select(Outbox.id).where(mine))).all() == []


async def test_a_cancel_of_a_started_task_is_requested_and_kept(api: Api) -> None:
    """202 `requested`, then 200 `requested`: one event and one intent, while Temporal is away."""
    task = await api.create()
    answers = [await api.client.post(f"/v1/tasks/{task['id']}/cancel", json={}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 200, 200]
    assert {answer.json()["result"] for answer in answers} == {"requested"}
    assert len(await api.events(task["id"], "task.cancel_requested")) == 1
    await api.dispatcher.close()
    async with api.database.begin("test") as connection:
        mine = Outbox.task_id == task["id"]
        kinds = (await connection.execute(select(Outbox.kind).where(mine).order_by(Outbox.id))).scalars().all()
        await connection.execute(delete(Outbox).where(mine))
    assert kinds == ["start", "cancel"]


@pytest.mark.parametrize("status", [TaskStatus.COMPLETED, TaskStatus.FAILED])
async def test_a_task_that_ended_otherwise_cannot_be_cancelled(api: Api, status: TaskStatus) -> None:
    """409 `already_ended`, with the status it has."""
    attempt = await api.live()
    await attempt.end(status)
    answer = await api.client.post(f"/v1/tasks/{attempt.task}/cancel")
    assert (answer.status_code, answer.json()["code"], answer.json()["task_status"]) == (409, "already_ended", status)


async def test_pages_neither_repeat_nor_skip_while_tasks_are_added(api: Api) -> None:
    """What was there at the first page comes once, newest first, whatever is added meanwhile."""
    label = {"paging": "yes"}
    made = [(await api.create(labels=label))["id"] for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        params: dict[str, Any] = {"label": "paging:yes", "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await api.client.get("/v1/tasks", params=params)).json()
        seen += [task["id"] for task in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await api.create(labels=label)
    assert seen == made[::-1]


async def test_lists_are_narrowed_by_each_filter(api: Api) -> None:
    """Each filter alone finds the one task that it fits."""
    one = await api.create(name="100%_sure", labels={"only": "a:b"})
    other = await api.create(start=False, name="1000 sure", labels={"only": "c"})
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({"q": "100%_"}, {one["id"]}),
        ({"q": "SURE"}, {one["id"], other["id"]}),
        ({"label": "only:a:b"}, {one["id"]}),
        ({"q": "sure", "status": "ready"}, {other["id"]}),
        ({"q": "sure", "status": ["ready", "queued"]}, {one["id"], other["id"]}),
        ({"q": "sure", "created_after": one["created_at"]}, {other["id"]}),
        ({"q": "sure", "paused": "true"}, set()),
        ({"q": "sure", "step": "running"}, set()),
        ({"q": "sure", "run_id": "none"}, set()),
    ]
    for params, found in cases:
        page = (await api.client.get("/v1/tasks", params=params)).json()
        assert {task["id"] for task in page["items"]} == found, params


@pytest.mark.parametrize(
    "path", ["", "/events", "/attempts", "/logs", "/artifacts", "/artifacts/x", "/start", "/cancel", "/retry"]
)
async def test_another_projects_task_is_the_same_404_as_an_unknown_one(api: Api, path: str) -> None:
    """Status and body are equal, but for the request's id."""
    task = await api.create()
    stranger = await api.key(project="elsewhere")
    method = "POST" if path in ("/start", "/cancel", "/retry") else "GET"
    bodies = []
    for identity in (task["id"], "01000000-0000-7000-8000-000000000000", "no-id", "%00", "é%20\u2603", "x" * 3000):
        response = await api.client.request(method, f"/v1/tasks/{identity}{path}", headers=stranger)
        assert response.status_code == 404
        bodies.append(response.json() | {"request_id": ""})
    assert all(body == bodies[0] for body in bodies)
    assert bodies[0]["code"] == "not_found"


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("unknown field", TASK | {"comand": ["x"]}, "comand"),
    ("wrong type", TASK | {"priority": "high"}, "priority"),
    ("both command and agent", TASK | {"agent": {"preset": "claude", "prompt": "x"}}, "body"),
    ("neither", {"provider": "external"}, "body"),
    ("a kept workspace of somebody else", TASK | {"keep_workspace": {"on": "failure"}}, "body"),
    ("a breakpoint where nothing is held", TASK | {"breakpoints": {"before": ["cleanup"]}}, "breakpoints.before.0"),
    ("empty argv", TASK | {"command": []}, "command"),
    ("ext url", TASK | {"repo": {"url": "ext::sh -c true"}}, "repo.url"),
    ("option url", TASK | {"repo": {"url": "--upload-pack=x"}}, "repo.url"),
    ("long name", TASK | {"name": "n" * 10_000}, "name"),
    ("NUL in an argument", TASK | {"command": ["a\x00b"]}, "command.0"),
    ("NUL in the input", TASK | {"input": {"deep": ["a\x00b"]}}, "input.deep.0"),
    ("NUL in a key", TASK | {"input": {"a\x00b": 1}}, "input"),
    ("priority out of range", TASK | {"priority": 9}, "priority"),
    ("negative timeout", TASK | {"timeouts": {"running": -1}}, "timeouts.running"),
    ("unknown attachment", TASK | {"attachments": ["nope"]}, "attachments"),
    ("reserved name", TASK | {"env": {"TASKRUNNER_X": "1"}}, "body"),
    ("unknown provider", TASK | {"provider": "cloud"}, "provider"),
]


@pytest.mark.parametrize(("body", "field"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
async def test_bad_bodies_are_told_by_field_and_reason(api: Api, body: dict[str, Any], field: str) -> None:
    """422 with the field and a reason; the value is not sent back."""
    response = await api.client.post("/v1/tasks", json=body)
    problem = response.json()
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert field in [error["field"] for error in problem["errors"]]
    assert all(error["reason"] for error in problem["errors"])
    assert "Value error" not in response.text
    assert len(response.content) < 2000
    assert {"type", "title", "status", "code", "retryable", "request_id"} <= problem.keys()


RAW: list[tuple[str, bytes, int, str]] = [
    ("no JSON", b"{", 400, "malformed_json"),
    ("empty", b"", 400, "malformed_json"),
    ("no UTF-8", b'{"name": "\xff"}', 400, "malformed_json"),
    ("half a surrogate", b'{"command": ["\\ud800"]}', 400, "malformed_json"),
    ("too deep", b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "malformed_json"),
    ("not a number", b'{"command": ["x"], "input": NaN}', 400, "malformed_json"),
    ("beyond a double", b'{"command": ["x"], "input": 1e999}', 422, "invalid"),
    ("digits without end", b'{"command": ["x"], "input": ' + b"9" * 5000 + b"}", 400, "malformed_json"),
    ("a list", b"[]", 422, "invalid"),
    ("larger than a body may be", b'{"command": ["' + b"x" * 1_000_001 + b'"]}', 413, "too_large"),
]


@pytest.mark.parametrize(("raw", "status", "code"), [case[1:] for case in RAW], ids=[case[0] for case in RAW])
async def test_bytes_that_are_no_body_are_a_problem_and_no_fault(api: Api, raw: bytes, status: int, code: str) -> None:
    """4xx with a code, never 5xx."""
    response = await api.client.post("/v1/tasks", content=raw, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_a_body_that_grows_beyond_the_limit_is_cut_off(api: Api) -> None:
    """413 although no Content-Length told of it, before the rest was read."""
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        yield b'{"name": "'
        while True:
            sent += 100_000
            yield b"x" * 100_000

    response = await api.client.post("/v1/tasks", content=endless(), headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (413, "too_large")
    assert sent < 2_000_000


async def test_a_form_is_told_what_to_send(api: Api) -> None:
    """415, which names the type that is taken."""
    response = await api.client.post("/v1/tasks", data={"command": "true"})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    assert "application/json" in response.json()["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=501", "limit=x", "limit=99999999999999999999", "status=gone", "label=x", "label=:x",
        "created_after=yesterday", "paused=maybe", f"q={'x' * 201}", "run_id=" + "x" * 100, "step=",
    ],
)  # fmt: skip
async def test_bad_queries_are_422(api: Api, query: str) -> None:
    """A problem that names the parameter."""
    response = await api.client.get(f"/v1/tasks?{query}")
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"].startswith(query.partition("=")[0])


@pytest.mark.parametrize("cursor", ["!", "é", "AAAA", "\u2603", "A" * 200, "Jw", "====", "%0d"])
async def test_cursors_that_are_not_ours_are_400(api: Api, cursor: str) -> None:
    """400 `bad_cursor`: a cursor is opaque."""
    response = await api.client.get("/v1/tasks", params={"cursor": cursor})
    assert (response.status_code, response.json()["code"]) == (400, "bad_cursor")


async def test_a_nul_in_a_query_is_422(api: Api) -> None:
    """PostgreSQL has no such text, and a filter that names it is a mistake."""
    response = await api.client.get("/v1/tasks?q=a%00b")
    assert (response.status_code, response.json()["code"]) == (422, "invalid")


async def test_numbers_beyond_the_database_are_422(api: Api) -> None:
    """A bigint that overflows is the caller's fault, not a 500."""
    task = await api.create()
    for path in (
        "events?fromSeq=9223372036854775808",
        "events?fromSeq=-1",
        "events?cursor=9223372036854775808",
        "logs?offset=9223372036854775808",
        "logs?attempt=2147483648",
        "artifacts?attempt=0",
    ):
        response = await api.client.get(f"/v1/tasks/{task['id']}/{path}")
        assert response.status_code == 422, path


async def test_the_log_is_paged_and_narrowed(api: Api) -> None:
    """`fromSeq` starts inclusive, `type` narrows, the cursor goes on where the page ended."""
    task = await api.create()
    path = f"/v1/tasks/{task['id']}/events"
    first = (await api.client.get(path, params={"limit": 1})).json()
    second = (await api.client.get(path, params={"limit": 1, "cursor": first["next_cursor"]})).json()
    third = (await api.client.get(path, params={"cursor": second["next_cursor"]})).json()
    assert [page["items"][0]["seq"] for page in (first, second)] == [1, 2]
    assert third == {"items": [], "next_cursor": None}
    assert [event["seq"] for event in (await api.client.get(path, params={"fromSeq": 2})).json()["items"]] == [2]
    assert [event["type"] for event in await api.events(task["id"], "task.created")] == ["task.created"]


async def test_every_answer_has_the_request_id_that_was_given(api: Api) -> None:
    """A sane id is taken over, any other replaced; a problem holds it too."""
    response = await api.client.get("/v1/tasks/none", headers={"X-Request-Id": "abc-1"})
    assert (response.headers["x-request-id"], response.json()["request_id"]) == ("abc-1", "abc-1")
    other = await api.client.get("/livez", headers={"X-Request-Id": "a b\t" + "c" * 99})
    assert len(other.headers["x-request-id"]) == 16
    assert other.headers["x-content-type-options"] == "nosniff"


async def test_unknown_addresses_and_methods_are_problems(api: Api) -> None:
    """404 and 405 have the shape of every other error, and routes of later issues do not exist."""
    unknown = await api.client.get("/v1/nothing")
    wrong = await api.client.patch("/v1/tasks")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["allow"]
    for path in ("/v1/tasks/x/retry", "/v1/tasks/x/pause", "/v1/nodes/x/heartbeat", "/v1/nodes/x/drain"):
        assert (await api.client.post(path, json={})).status_code == 404


async def test_the_probes_need_no_key(api: Api) -> None:
    """Alive and ready with the engine away, which is told as a detail."""
    bare = {"Authorization": ""}
    assert (await api.client.get("/livez", headers=bare)).json() == {"status": "ok"}
    ready = await api.client.get("/readyz", headers=bare)
    assert (ready.status_code, ready.json()["engine"]) == (200, "unreachable")
    assert json.loads((await api.client.get("/openapi.json", headers=bare)).text)["openapi"].startswith("3.1")


async def test_a_task_that_outlasts_its_callback_token_is_refused(api: Api) -> None:
    """422 that names the timeouts and the setting: its workspace could not tell its end."""
    body = {"command": ["true"], "provider": "external", "timeouts": {"running_absolute": "P3D"}}
    answer = await api.client.post("/v1/tasks", json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "timeouts"
    assert "running_absolute" in error["reason"]
    assert "TASKRUNNER_CALLBACK_TOKEN (6 days, 0:00:00)" in error["reason"]
    await api.create(timeouts={"running_absolute": "P1D"})
