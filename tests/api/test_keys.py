"""API keys: what they open, and that they are shown once."""

import hashlib

import pytest
from sqlalchemy import select

from api.auth import REMEMBERED, KeyRing
from domain.names import Scope
from store.models import ApiKey, Idempotency
from tests.api.harness import Api

TASK = {"command": ["true"], "provider": "external"}


async def test_a_key_is_shown_once_and_works_until_it_is_revoked(api: Api) -> None:
    """201 with its text, a list without it, 401 right after the revocation, which may be repeated."""
    admin = await api.key(Scope.ADMIN)
    made = (await api.client.post("/v1/keys", json={"name": "ci", "scopes": ["tasks:read"]}, headers=admin)).json()
    bearer = {"Authorization": f"Bearer {made['key']}"}
    assert len(made["key"]) == 46
    assert (await api.client.get("/v1/tasks", headers=bearer)).status_code == 200
    listed = (await api.client.get("/v1/keys", headers=admin)).json()["items"]
    assert made["id"] in [key["id"] for key in listed]
    assert all("key" not in key for key in listed)
    for _ in range(2):
        assert (await api.client.delete(f"/v1/keys/{made['id']}", headers=admin)).status_code == 204
    assert (await api.client.get("/v1/tasks", headers=bearer)).status_code == 401
    assert (await api.client.delete("/v1/keys/none", headers=admin)).status_code == 404


async def test_only_the_hash_of_a_key_is_kept(api: Api) -> None:
    """Neither its row nor a kept answer holds its text; a repeat gets the answer without it."""
    admin = await api.key(Scope.ADMIN) | {"Idempotency-Key": "key-1"}
    body = {"name": "x", "scopes": ["tasks:read"]}
    made = (await api.client.post("/v1/keys", json=body, headers=admin)).json()
    again = (await api.client.post("/v1/keys", json=body, headers=admin)).json()
    assert again == made | {"key": None}
    async with api.database.begin("test") as connection:
        row = (await connection.execute(select(ApiKey.sha256).where(ApiKey.id == made["id"]))).scalar_one()
        kept = (await connection.execute(select(Idempotency.response).where(Idempotency.key == "key-1"))).scalar_one()
    assert row == hashlib.sha256(made["key"].encode()).digest()
    assert made["key"] not in str(kept)


@pytest.mark.parametrize(
    ("scope", "method", "path", "allowed"),
    [
        (Scope.TASKS_READ, "GET", "/v1/tasks", True),
        (Scope.TASKS_READ, "POST", "/v1/tasks", False),
        (Scope.TASKS_WRITE, "POST", "/v1/tasks", True),
        (Scope.TASKS_WRITE, "GET", "/v1/tasks", False),
        (Scope.WORKSPACES_WRITE, "GET", "/v1/workspaces", True),
        (Scope.WORKSPACES_WRITE, "GET", "/v1/tasks", False),
        (Scope.NODES_WRITE, "POST", "/v1/nodes", True),
        (Scope.TASKS_WRITE, "POST", "/v1/nodes", False),
        (Scope.TASKS_READ, "GET", "/v1/nodes", True),
        (Scope.TASKS_WRITE, "GET", "/v1/keys", False),
        (Scope.TASKS_WRITE, "POST", "/v1/attachments?name=x", True),
        (Scope.ADMIN, "GET", "/v1/keys", True),
        (Scope.ADMIN, "POST", "/v1/nodes", True),
        (Scope.ADMIN, "GET", "/v1/tasks", True),
    ],
)
async def test_scopes(api: Api, scope: Scope, method: str, path: str, allowed: bool) -> None:  # noqa: FBT001 - a column
    """A key without the scope is 403 and told which one is needed; `admin` has them all."""
    body = {"id": "scoped", "slots": 0} if path == "/v1/nodes" else TASK
    response = await api.client.request(
        method, path, json=body if method == "POST" else None, headers=await api.key(scope)
    )
    assert (response.status_code != 403) is allowed, response.text
    assert response.is_success is allowed
    if not allowed:
        assert response.json()["code"] == "forbidden"


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic dHI6", "Bearer tr_" + "a" * 43, "Bearer \xe9", "tr_x"]
)
async def test_no_key_but_a_known_one_is_admitted(api: Api, header: str) -> None:
    """401 with the same body, and the way to authenticate."""
    response = await api.client.get("/v1/tasks", headers=[(b"Authorization", header.encode("latin-1"))])
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_a_key_revoked_elsewhere_is_refused_soon(api: Api) -> None:
    """Another process remembers a key for three seconds at most, and then asks again."""
    present = 0.0
    elsewhere = KeyRing(api.database, clock=lambda: present)
    admin = await api.key(Scope.ADMIN)
    made = (await api.client.post("/v1/keys", json={"name": "x", "scopes": ["tasks:read"]}, headers=admin)).json()
    assert await elsewhere.caller(made["key"])
    assert (await api.client.delete(f"/v1/keys/{made['id']}", headers=admin)).status_code == 204
    present = REMEMBERED.total_seconds() - 0.01
    assert await elsewhere.caller(made["key"])
    present = REMEMBERED.total_seconds()
    assert await elsewhere.caller(made["key"]) is None
    assert REMEMBERED.total_seconds() <= 3


async def test_an_admin_of_another_project_stays_in_it(api: Api) -> None:
    """Only an admin of `default` makes keys of other projects."""
    body = {"name": "x", "scopes": ["tasks:read"], "project": "third"}
    operator = await api.client.post("/v1/keys", json=body, headers=await api.key(Scope.ADMIN))
    other = await api.client.post("/v1/keys", json=body, headers=await api.key(Scope.ADMIN, project="second"))
    assert (operator.status_code, operator.json()["project"]) == (201, "third")
    assert (other.status_code, other.json()["code"]) == (403, "forbidden")
