"""The matrix: every route of the application with every kind of credential that does not fit it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from api.app import assemble
from api.auth import new_key
from codec import Codec, decode_json
from domain.ids import new_id
from domain.names import Scope
from tests.api.harness import EVERY_SCOPE, Api, serve
from tests.security.table import TABLE, Door, Rule, completed_run, delivery
from workflows.gateway import Gateway


def routes(app: FastAPI) -> Iterator[str]:
    """Give every route of an application, hidden ones too."""
    for route in iter_route_contexts(app.routes):
        for method in sorted((route.methods or set()) - {"HEAD"}):
            yield f"{method} {(route.path or '').replace(':path', '')}"


BY_KEY = [route for route, rule in TABLE.items() if rule.scopes]
BY_TOKEN = [route for route, rule in TABLE.items() if rule.door is Door.TOKEN]

CREDENTIALS = ["none", "malformed", "unknown", "revoked", "basic", "token or key"]
UNFIT = [(route, credential) for route in BY_KEY + BY_TOKEN for credential in CREDENTIALS]
UNFIT += [(route, "foreign token") for route in BY_TOKEN]
NOT_FOR_SESSIONS = [route for route in BY_KEY if not route.startswith("GET ")] + BY_TOKEN


@dataclass(kw_only=True)
class Scene:
    """A project with one of each thing, and another project that is empty."""

    api: Api
    ids: dict[str, str]
    token: dict[str, str]
    other_token: dict[str, str]
    foreign: dict[str, str]
    revoked: dict[str, str]

    async def ask(self, route: str, headers: dict[str, str], **ids: str) -> httpx2.Response:
        """Send the request of a route with these credentials."""
        method, path = route.split(" ")
        rule = TABLE[route]
        json = rule.body if method in ("POST", "PUT") else None
        return await self.api.client.request(
            method, path.format(**self.ids | ids), params=dict(rule.params), json=json, headers=headers
        )


@pytest.fixture(scope="module")
async def scene(database_url: str, nowhere: Gateway) -> AsyncIterator[Scene]:
    """Give a scene whose task has completed: its stream ends, and nothing that is asked of it changes anything."""
    async for api in serve(database_url, nowhere):

        async def decode(document: bytes) -> bytes:
            return await decode_json(Codec({"k": bytes(32)}), document)

        api.app.state.context.decode = decode
        admin = await api.key(Scope.ADMIN)
        made = (await api.client.post("/v1/keys", json={"name": "x", "scopes": ["admin"]}, headers=admin)).json()
        attachment = (await api.client.post("/v1/attachments?name=x", content=b"x")).json()["id"]
        attempt, other = await api.live(attachments=[attachment]), await api.live()
        artifact = f"/v1/workspaces/{attempt.workspace}/artifacts/left"
        assert (await api.client.put(artifact, content=b"x", headers=attempt.token)).is_success
        await attempt.end()
        assert (await api.client.delete(f"/v1/keys/{made['id']}", headers=admin)).status_code == 204
        assert (await api.client.post("/v1/nodes", json={"id": "scene", "slots": 0})).is_success
        ids = {"task_id": attempt.task, "workspace_id": attempt.workspace, "name": "left", "key_id": made["id"]}
        ids |= await delivery(api) | await completed_run(api)
        yield Scene(
            api=api,
            ids=ids | {"attachment_id": attachment, "node_id": "scene"},
            token=attempt.token,
            other_token=other.token,
            foreign=await api.key(*Scope, project="other"),
            revoked={"Authorization": f"Bearer {made['key']}"},
        )


def body(response: httpx2.Response) -> dict[str, Any]:
    """Give a problem without the id of its request."""
    content = dict(response.json())
    assert content.pop("request_id") == response.headers["x-request-id"]
    return content


def test_every_route_has_a_row() -> None:
    """A new route says who may use it, or this fails; a row without a route is taken out."""
    assert sorted(routes(assemble())) == sorted(TABLE)


@pytest.mark.parametrize(("route", "credential"), UNFIT)
async def test_the_wrong_credential_is_always_the_same_401(scene: Scene, route: str, credential: str) -> None:
    """Whatever is wrong, whatever is asked for, whether it exists or not: one status, one body, byte for byte."""
    by_token = TABLE[route].door is Door.TOKEN
    headers = {
        "none": {"Authorization": ""},
        "malformed": {"Authorization": "Bearer tr_short"},
        "unknown": {"Authorization": f"Bearer {new_key()}"},
        "revoked": scene.revoked,
        "basic": {"Authorization": "Basic dHI6dHI="},
        "token or key": await scene.api.key(*Scope) if by_token else scene.token,
        "foreign token": scene.other_token,
    }[credential]
    reference = body(await scene.api.client.get("/v1/tasks", headers={"Authorization": ""}))
    for ids in ({}, {name: new_id() for name in scene.ids}):
        answer = await scene.ask(route, headers, **ids)
        assert (answer.status_code, body(answer)) == (401, reference)
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "route", [route for route in BY_KEY + BY_TOKEN if not route.startswith("GET ")] + BY_TOKEN[-1:]
)
async def test_a_session_changes_nothing(scene: Scene, route: str) -> None:
    """A browser's cookie reads and does nothing else, though its key may do everything; no callback route takes it."""
    method, path = route.split(" ")
    key = await scene.api.key(*Scope)
    begun = await scene.api.client.post("/v1/sessions", headers=key)
    cookie = {"Cookie": begun.headers["set-cookie"].partition(";")[0]}
    async with httpx2.AsyncClient(transport=scene.api.client._transport, base_url="http://api.test") as browser:
        assert (await browser.get("/v1/tasks", headers=cookie)).status_code == 200
        answer = await browser.request(method, path.format(**scene.ids), headers=cookie)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    scene.api.client.cookies.clear()


@pytest.mark.parametrize("cookie", ["none", "unknown", "ended", "of a revoked key", "a key as cookie", "foreign"])
async def test_no_other_cookie_opens_anything(scene: Scene, cookie: str) -> None:
    """The same 401 as for a wrong key; a foreign project's session sees the same 404 as its key."""
    client = scene.api.client
    admin = await scene.api.key(Scope.ADMIN)
    made = (await client.post("/v1/keys", json={"name": "x", "scopes": ["tasks:read"]}, headers=admin)).json()
    key = scene.foreign if cookie == "foreign" else {"Authorization": f"Bearer {made['key']}"}
    begun = await client.post("/v1/sessions", headers=key)
    name, _, value = begun.headers["set-cookie"].partition(";")[0].partition("=")
    client.cookies.clear()
    real = {"Cookie": f"{name}={value}"}
    async with httpx2.AsyncClient(transport=client._transport, base_url="http://api.test") as browser:
        if cookie == "ended":
            assert (await browser.delete("/v1/sessions", headers=real)).status_code == 204
        elif cookie == "of a revoked key":
            assert (await client.delete(f"/v1/keys/{made['id']}", headers=admin)).status_code == 204
        sent = {
            "none": {},
            "unknown": {"Cookie": f"{name}={value[:-4]}AAAA"},
            "a key as cookie": {"Cookie": f"{name}={made['key']}"},
        }.get(cookie, real)
        answer = await browser.get(f"/v1/tasks/{scene.ids['task_id']}", headers=sent)
    reference = body(await client.get("/v1/tasks", headers={"Authorization": ""}))
    if cookie == "foreign":
        assert answer.status_code == 404
    else:
        assert (answer.status_code, body(answer)) == (401, reference)


@pytest.mark.parametrize("route", BY_KEY + BY_TOKEN)
async def test_nothing_is_read_before_the_credential(scene: Scene, route: str) -> None:
    """A body that is not JSON, too large or endless, bad parameters and cursors: still 401."""
    method, path = route.split(" ")
    answer = await scene.api.client.request(
        method,
        path.format(**scene.ids),
        params={"limit": "x", "cursor": "%%", "fromSeq": "x", "offset": "x", "attempt": "x"},
        headers={"Authorization": "", "Content-Length": "99999999", "Idempotency-Key": "\x01"},
        content=b"{" * 10,
    )
    assert answer.status_code == 401


@pytest.mark.parametrize("route", [route for route in BY_KEY if not set(TABLE[route].scopes).issuperset(EVERY_SCOPE)])
async def test_a_scope_that_is_too_small_is_403(scene: Scene, route: str) -> None:
    """A key with all scopes but those that open the route; the answer names those, and the task's end is untouched."""
    rule = TABLE[route]
    small = [scope for scope in EVERY_SCOPE if scope not in rule.scopes]
    answer = await scene.ask(route, await scene.api.key(*small))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert all(scope in answer.json()["detail"] for scope in rule.scopes)


@pytest.mark.parametrize("route", TABLE)
async def test_the_right_credential_opens_it(scene: Scene, route: str) -> None:
    """Each of the scopes by itself, an admin's, the token: neither 401 nor 403 nor a fault; so the table is no wish."""
    rule = TABLE[route]
    if rule.door is Door.TOKEN:
        credentials = [scene.token]
    elif rule.door is Door.OPEN:
        credentials = [{"Authorization": ""}]
    else:
        credentials = [await scene.api.key(scope) for scope in (*rule.scopes, Scope.ADMIN)]
    for headers in credentials:
        answer = await scene.ask(route, headers, **await rule.spends(scene.api))
        assert answer.status_code not in (401, 403, 404, 405, 422), answer.text
        assert answer.status_code < 500


@pytest.mark.parametrize("route", [route for route in BY_KEY if TABLE[route].hides])
async def test_a_foreign_id_is_like_an_unknown_one(scene: Scene, route: str) -> None:
    """404 with the same body, byte for byte, although the foreign key may do everything in its own project."""
    hidden = str(TABLE[route].hides)
    foreign = await scene.ask(route, scene.foreign)
    unknown = await scene.ask(route, await scene.api.key(*Scope), **{hidden: new_id()})
    assert (foreign.status_code, unknown.status_code) == (404, 404)
    assert body(foreign) == body(unknown)
    assert set(foreign.headers) == set(unknown.headers)


@pytest.mark.parametrize("route", [route for route in BY_KEY if not TABLE[route].hides])
async def test_a_foreign_key_sees_nothing_of_this_project(scene: Scene, route: str) -> None:
    """What has no id in its path answers with the other project's own things, or only to an operator."""
    rule: Rule = TABLE[route]
    method, path = route.split(" ")
    if rule.operators:
        assert (await scene.ask(route, scene.foreign)).status_code == 403
        return
    if method != "GET" or not rule.page:
        return
    answer = await scene.api.client.get(path, headers=scene.foreign)
    assert answer.status_code == 200
    shared = {"scene", "of-the-table"}  # nodes serve all projects
    seen = {item["id"] for item in answer.json()["items"]} - shared
    assert seen.isdisjoint(scene.ids.values())
    for name, value in scene.ids.items():
        narrowed = await scene.api.client.get(path, params={name: value, "run_id": value}, headers=scene.foreign)
        assert value not in narrowed.text or value in shared
