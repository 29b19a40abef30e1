"""Callback tokens: what opens the callback routes of a workspace, and who may have one."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from domain.ids import new_id
from domain.names import Scope, TaskId, WorkspaceId
from domain.tokens import Claims, TokenKeys
from store.models import Workspace
from tests.api.harness import Api, Attempt

FAILED = {"error": {"code": "clone_failed", "message": "no such repository"}}


def mutations(token: str, claims: Claims, keys: TokenKeys) -> dict[str, str]:
    """Give twelve ways in which a token is not good."""
    name, body, mac = token.split(".")
    record = bytearray(base64.urlsafe_b64decode(body))

    def at(place: int) -> str:
        changed = record.copy()
        changed[place] ^= 1
        return base64.urlsafe_b64encode(bytes(changed)).decode().rstrip("=")

    def signed(**changes: Any) -> str:
        return keys.sign(Claims(**{**claims.__dict__, **changes}))

    return {
        "none": "",
        "garbage": "garbage",
        "long": "x" * 5000,
        "other task": f"{name}.{at(0)}.{mac}",
        "other workspace": f"{name}.{at(16)}.{mac}",
        "other attempt": f"{name}.{at(35)}.{mac}",
        "other turn": f"{name}.{at(39)}.{mac}",
        "later expiry": f"{name}.{at(44)}.{mac}",
        "no signature": f"{name}.{body}.",
        "unknown key": f"k9.{body}.{mac}",
        "expired": signed(expires_at=datetime.now(UTC) - timedelta(seconds=1)),
        "foreign": signed(workspace_id=WorkspaceId(new_id())),
        "forged": TokenKeys.parse(f"k1:{'cd' * 32}").sign(claims),
    }


WAYS = list(
    mutations(
        "k1." + base64.urlsafe_b64encode(bytes(48)).decode() + ".x",
        Claims(
            task_id=TaskId(new_id()),
            workspace_id=WorkspaceId(new_id()),
            attempt=1,
            turn=1,
            expires_at=datetime.now(UTC),
        ),
        TokenKeys.parse(f"k1:{'ab' * 32}"),
    )
)


@pytest.mark.parametrize("way", WAYS)
async def test_no_token_but_the_right_one_opens_anything(engine_api: Api, way: str) -> None:
    """401 with the same body for all of them, on every callback route."""
    attempt = await engine_api.live()
    good = attempt.token["Authorization"].removeprefix("Bearer ")
    keys = TokenKeys.parse(engine_api.settings.callback_keys.get_secret_value())
    claims = keys.verify(good, workspace=attempt.workspace, now=datetime.now(UTC))
    assert claims is not None
    attempt.token = {"Authorization": f"Bearer {mutations(good, claims, keys)[way]}", "X-Request-Id": "same"}
    expected = await engine_api.client.post(
        f"/v1/workspaces/{attempt.workspace}/ready", headers={"Authorization": "Bearer no", "X-Request-Id": "same"}
    )
    for kind, body in (("ready", {}), ("failed", FAILED), ("finished", {}), ("heartbeat", {}), ("progress", {})):
        answer = await attempt.tell(kind, body)
        assert (answer.status_code, answer.content) == (401, expected.content)
    assert list(await attempt.inbox()) == ["claimed"]


async def test_an_api_key_opens_no_callback_route(engine_api: Api) -> None:
    """Only the token of the workspace does."""
    attempt = await engine_api.live()
    attempt.token = await engine_api.key(Scope.ADMIN)
    assert (await attempt.tell("ready", {})).status_code == 401


async def test_who_may_claim_a_token(engine_api: Api) -> None:
    """An `external` one: the project's `workspaces:write`. A node's: its own token, and no other's, nor an admin's."""
    task = await engine_api.create()
    attempt = Attempt(api=engine_api, task=TaskId(task["id"]))
    await attempt.reserve()
    path = f"/v1/workspaces/{attempt.workspace}/callback-token"
    write, own = Scope.WORKSPACES_WRITE, Scope.NODES_WRITE
    for node, key, status in [
        (None, await engine_api.key(write), 200),
        (None, await engine_api.key(Scope.ADMIN), 200),
        (None, await engine_api.key(write, project="other"), 404),
        (None, await engine_api.key(own, node="node-a"), 404),
        (None, await engine_api.key(own), 403),
        ("node-a", await engine_api.key(write), 404),
        ("node-a", await engine_api.key(Scope.ADMIN), 404),
        ("node-a", await engine_api.key(own, project="other", node="node-a"), 200),
        ("node-a", await engine_api.key(own, node="node-b"), 404),
        ("node-a", await engine_api.key(write, node="node-a"), 403),
        ("node-a", await engine_api.key(Scope.TASKS_WRITE), 403),
        ("node-a", {"Authorization": "Bearer no"}, 401),
        ("node-a", {"Authorization": ""}, 401),
    ]:
        async with engine_api.database.begin("test") as connection:
            await connection.execute(update(Workspace).where(Workspace.id == attempt.workspace).values(node_id=node))
        assert (await engine_api.client.post(path, headers=key)).status_code == status, (node, status)
    async with engine_api.database.begin("test") as connection:
        await connection.execute(update(Workspace).where(Workspace.id == attempt.workspace).values(node_id=None))
    await attempt.end()
    over = await engine_api.client.post(path)
    assert (over.status_code, over.json()["code"]) == (410, "attempt_ended")


async def test_a_token_says_where_and_until_when(engine_api: Api) -> None:
    """The address is the workspace's own, the expiry lies as far ahead as the settings say."""
    attempt = await engine_api.live()
    path = f"/v1/workspaces/{attempt.workspace}/callback-token"
    answer = await engine_api.client.post(path, json={"turn": 2})
    content = answer.json()
    assert content["callback_url"] == f"{engine_api.settings.public_url}/v1/workspaces/{attempt.workspace}"
    until = datetime.fromisoformat(content["expires_at"]) - datetime.now(UTC)
    assert until == pytest.approx(engine_api.settings.callback_token, abs=timedelta(minutes=1))
    assert answer.headers["cache-control"] == "no-store"
