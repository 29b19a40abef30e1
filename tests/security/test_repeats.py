"""`Idempotency-Key` on every POST of the application, by the table of the routes."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select, text, update

from api.app import assemble
from domain.names import ProjectId, Scope
from domain.tokens import TokenKeys
from store import idempotency
from store.models import Attachment, Blob, Idempotency
from tests.api.harness import Api
from tests.security.table import TABLE, Elsewhere, Repeat, Rule

ROOT = Path(__file__).parents[2]

KEYED = [route for route, rule in TABLE.items() if isinstance(rule.repeat, Repeat)]
ONCE = {"POST /v1/keys": ("key", None)}  # what a repeat does not show again


class Post:
    """One request of a route, to be sent again and again."""

    def __init__(self, api: Api, route: str, headers: dict[str, str], ids: dict[str, str]) -> None:
        self.api = api
        self.rule: Rule = TABLE[route]
        assert isinstance(self.rule.repeat, Repeat)
        self.path = route.split(" ")[1].format(**ids)
        self.headers = headers
        self.body = self.rule.repeat.body

    @classmethod
    async def of(cls, api: Api, route: str) -> "Post":
        """Make what the route acts on."""
        repeat = TABLE[route].repeat
        assert isinstance(repeat, Repeat)
        return cls(api, route, await api.key(*Scope), await repeat.path(api))

    async def send(
        self, key: str, *, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx2.Response:
        """Send it."""
        return await self.api.client.post(
            self.path,
            params=dict(self.rule.params),
            content=self.body if body is None else body,
            headers=self.headers | {"Idempotency-Key": key} | (headers or {}),
        )


def test_every_post_says_how_it_is_repeated() -> None:
    """By a key, which its document names then, or by a reason why it needs none."""
    document = assemble().openapi()["paths"]
    posts = {f"POST {path}": operations["post"] for path, operations in document.items() if "post" in operations}
    assert posts.keys() == {route for route, rule in TABLE.items() if rule.repeat is not None}
    taking = {
        route
        for route, operation in posts.items()
        if "Idempotency-Key" in [parameter["name"] for parameter in operation.get("parameters", [])]
    }
    elsewhere = {route for route, rule in TABLE.items() if isinstance(rule.repeat, Elsewhere)}
    assert taking == {*KEYED, *elsewhere}
    for route in elsewhere:
        file, _, name = str(TABLE[route].repeat).partition("::")
        assert f"async def {name}(" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("route", KEYED)
async def test_the_same_key_and_body_get_the_same_answer(api: Api, route: str) -> None:
    """Byte for byte, and marked; a key's text is shown once."""
    post = await Post.of(api, route)
    first, again = (
        await post.send(f"same {route}".replace(" ", "-")),
        await post.send(f"same {route}".replace(" ", "-")),
    )
    assert first.is_success, first.text
    shown = dict(first.json())
    if route in ONCE:
        name, value = ONCE[route]
        assert shown[name] != value
        shown[name] = value
    assert (again.status_code, again.json()) == (first.status_code, shown)
    assert (first.headers.get("idempotent-replayed"), again.headers.get("idempotent-replayed")) == (None, "true")


@pytest.mark.parametrize("route", KEYED)
async def test_another_body_is_a_conflict(api: Api, route: str) -> None:
    """409 `idempotency_conflict`, and the first answer stays."""
    post, key = await Post.of(api, route), f"other-{KEYED.index(route)}"
    first = await post.send(key)
    other = await post.send(key, body=post.body + b" ")
    assert (first.is_success, other.status_code, other.json()["code"]) == (True, 409, "idempotency_conflict")
    assert (await post.send(key)).headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("route", KEYED)
async def test_a_key_in_flight_is_retryable(api: Api, route: str) -> None:
    """409 `in_progress` with Retry-After while another request holds it; then the request goes through."""
    post, key = await Post.of(api, route), f"flight-{KEYED.index(route)}"
    async with api.database.begin("test.hold") as connection:
        assert await idempotency.lock(connection, ProjectId("default"), key)
        refused = await post.send(key)
    assert (refused.status_code, refused.json()["code"], refused.json()["retryable"]) == (409, "in_progress", True)
    assert refused.headers["retry-after"] == "1"
    assert (await post.send(key)).headers.get("idempotent-replayed") is None


@pytest.mark.parametrize("route", KEYED)
async def test_a_key_is_the_projects_own(api: Api, route: str) -> None:
    """The same key of another project is another request: it never gets this project's answer."""
    post, key = await Post.of(api, route), f"project-{KEYED.index(route)}"
    first = await post.send(key)
    foreign = await post.send(key, headers=await api.key(*Scope, project="other"))
    assert first.is_success
    assert foreign.status_code == (404 if post.rule.hides else 403 if post.rule.operators else first.status_code)
    assert "idempotent-replayed" not in foreign.headers


@pytest.mark.parametrize("route", KEYED)
async def test_a_key_is_new_again_after_a_day(api: Api, route: str) -> None:
    """Its request is done, or refused, anew."""
    post, key = await Post.of(api, route), f"day-{KEYED.index(route)}"
    assert (await post.send(key)).is_success
    async with api.database.begin("test.age") as connection:
        aged = update(Idempotency).where(Idempotency.key == key)
        await connection.execute(aged.values(created_at=Idempotency.created_at - timedelta(hours=25)))
    assert "idempotent-replayed" not in (await post.send(key)).headers


@pytest.mark.parametrize("route", KEYED)
async def test_parallel_repeats_have_one_effect(api: Api, route: str) -> None:
    """Ten at once: one does it, the others get its answer or `in_progress`."""
    post, key = await Post.of(api, route), f"parallel-{KEYED.index(route)}"
    answers = await asyncio.gather(*(post.send(key) for _ in range(10)))
    did = [answer for answer in answers if answer.is_success and "idempotent-replayed" not in answer.headers]
    assert len(did) == 1
    assert {answer.json().get("code") for answer in answers if not answer.is_success} <= {"in_progress"}


async def test_no_kept_answer_holds_a_secret(api: Api) -> None:
    """Neither a key's text nor a callback token stands in the table, though the token is answered again."""
    key, token = (
        await Post.of(api, "POST /v1/keys"),
        await Post.of(api, "POST /v1/workspaces/{workspace_id}/callback-token"),
    )
    made, claimed = (await key.send("secret-1")).json()["key"], (await token.send("secret-2")).json()["token"]
    async with api.database.begin("test.look") as connection:
        rows = (await connection.execute(text("SELECT i::text FROM idempotency i"))).scalars().all()
    assert rows
    assert not [row for row in rows if made in row or claimed in row or claimed.rpartition(".")[2] in row]
    assert (await token.send("secret-2")).json()["token"] == claimed
    headers = {"Authorization": f"Bearer {claimed}"}
    assert (await api.client.post(token.path.replace("callback-token", "heartbeat"), headers=headers)).is_success


async def test_a_nodes_answer_is_not_repeated_for_another_key(api: Api) -> None:
    """A node's key opens workspaces of other projects; a key of its own project that repeats its request does not."""
    attempt = await api.live()
    async with api.database.begin("test.place") as connection:
        moved = {"id": attempt.workspace}
        await connection.execute(text("UPDATE workspaces SET node_id = 'n', provider = 'local' WHERE id = :id"), moved)
    path = f"/v1/workspaces/{attempt.workspace}/callback-token"
    node = await api.key(Scope.NODES_WRITE, project="nodes", node="n") | {"Idempotency-Key": "node-1"}
    other = await api.key(Scope.WORKSPACES_WRITE, project="nodes") | {"Idempotency-Key": "node-1"}
    granted = await api.client.post(path, headers=node)
    assert granted.is_success, granted.text
    repeated = await api.client.post(path, headers=other)
    assert repeated.status_code == 409
    assert granted.json()["token"] not in repeated.text


async def test_a_repeated_upload_leaves_no_bytes(api: Api) -> None:
    """One attachment and one blob, whether the repeat was the same, another one, or refused."""

    async def counted() -> tuple[Any, ...]:
        async with api.database.begin("test.count") as connection:
            of = [select(func.count()).select_from(model) for model in (Attachment, Blob)]
            return tuple([(await connection.execute(statement)).scalar_one() for statement in of])

    post = await Post.of(api, "POST /v1/attachments")
    before = await counted()
    statuses = [(await post.send("upload-1", body=body)).status_code for body in (b"one", b"one", b"two")]
    async with api.database.begin("test.hold") as connection:
        assert await idempotency.lock(connection, ProjectId("default"), "upload-2")
        statuses.append((await post.send("upload-2")).status_code)
    assert statuses == [201, 201, 409, 409]
    assert await counted() == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize(
    ("route", "bodies"),
    [
        ("ready", ({"details": {"n": 1}}, {"details": {"n": 2}})),
        ("failed", ({"error": {"code": "a", "message": "b"}}, {"error": {"code": "c", "message": "d"}})),
        ("finished", ({"exit_code": 0}, {"exit_code": 1})),
    ],
)
async def test_the_inbox_is_the_key_of_a_callback(api: Api, route: str, bodies: tuple[Any, Any]) -> None:
    """The same again is no second effect, other content is 409; one row is kept, whatever header comes along."""
    attempt = await api.live()
    answers = [await attempt.tell(route, body) for body in (bodies[0], bodies[0], bodies[1])]
    assert [answer.status_code for answer in answers] == [202, 202, 409]
    assert answers[2].json()["code"] == "conflicting_callback"
    async with api.database.begin("test.look") as connection:
        query = text("SELECT count(*) FROM callbacks WHERE workspace_id = :w AND kind = :k")
        assert (await connection.execute(query, {"w": attempt.workspace, "k": route})).scalar_one() == 1


async def test_heartbeat_progress_and_output_may_be_repeated(api: Api) -> None:
    """Twice the same leaves what once leaves."""
    attempt = await api.live()
    for _ in range(2):
        assert (await attempt.tell("heartbeat")).is_success
        assert (await attempt.tell("progress", {"percent": 10})).is_success
        await _of_another_second(api)
        path = f"/v1/workspaces/{attempt.workspace}/logs?offset=0"
        answer = await api.client.post(path, content=b"out\n", headers=attempt.token)
        assert answer.json() == {"next_offset": 4, "truncated": False}
    assert (await api.client.get(f"/v1/tasks/{attempt.task}/logs")).content == b"out\n"
    assert len(await api.events(attempt.task, "agent.progress")) == 1


async def _of_another_second(api: Api) -> None:
    """Let what was told by now count as told earlier: what a second brings is one event anyway."""
    earlier = "UPDATE events SET key = key || '-earlier' WHERE type = 'agent.progress' AND key NOT LIKE '%-earlier'"
    async with api.database.begin("test") as connection:
        await connection.execute(text(earlier))


async def test_a_repeated_claim_survives_a_rotation(api: Api) -> None:
    """The repeat is signed by the key of today, and opens the same as before."""
    post = await Post.of(api, "POST /v1/workspaces/{workspace_id}/callback-token")
    context = api.app.state.context
    old = context.tokens
    first = (await post.send("rotated")).json()["token"]
    context.tokens = TokenKeys.parse(f"k2:{'cd' * 32},k1:{'ab' * 32}")
    try:
        again = (await post.send("rotated")).json()["token"]
        assert (first[:3], again[:3]) == ("k1.", "k2.")
        for token in (first, again):
            path, headers = post.path.replace("callback-token", "heartbeat"), {"Authorization": f"Bearer {token}"}
            assert (await api.client.post(path, headers=headers)).is_success
    finally:
        context.tokens = old
