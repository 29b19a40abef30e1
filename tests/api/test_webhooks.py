"""Webhooks over HTTP: made with a secret that is nowhere kept, refused where they could not go, looked at."""

from typing import Any

import httpx2
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from domain.names import Scope
from domain.signatures import SigningKeys, shown
from domain.webhooks import MOST_OF_A_PROJECT
from tests.api.harness import Api, serve, settings_for
from workflows.gateway import Gateway

PUBLIC = "https://1.1.1.1/hook"
EVENTS = ["task.created", "task.completed"]


async def make(api: Api, headers: dict[str, str], **body: Any) -> httpx2.Response:
    """Ask for a webhook."""
    return await api.client.post("/v1/webhooks", json={"url": PUBLIC, "events": EVENTS} | body, headers=headers)


async def made(api: Api, **body: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Give a webhook and the header of its admin, in a project of its own."""
    project = f"p-{len(api.keys)}"
    api.keys[project] = ""
    admin = await api.key(*Scope, project=project)
    answer = await make(api, admin, **body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json()), admin


async def test_a_webhook_is_made_listed_and_deleted(api: Api) -> None:
    """201 with its secret, a list without it, 204, and a 404 from then on."""
    webhook, admin = await made(api, description="for the pager")
    assert (webhook["url"], webhook["events"], webhook["description"]) == (PUBLIC, sorted(EVENTS), "for the pager")
    assert webhook["secret"].startswith("whsec_")
    listed = (await api.client.get("/v1/webhooks", headers=admin)).json()["items"]
    assert listed == [{name: value for name, value in webhook.items() if name != "secret"}]
    path = f"/v1/webhooks/{webhook['id']}"
    assert (await api.client.get(f"{path}/deliveries", headers=admin)).json()["items"] == []
    assert (await api.client.delete(path, headers=admin)).status_code == 204
    for method, target in (("DELETE", path), ("GET", f"{path}/deliveries"), ("POST", f"{path}/rotate")):
        assert (await api.client.request(method, target, headers=admin)).status_code == 404


async def test_a_secret_is_nowhere_kept(api: Api) -> None:
    """No column of any table holds it, nor what a repeat's answer is made from; the repeat shows it all the same."""
    webhook, admin = await made(api)
    headers = admin | {"Idempotency-Key": "secret-1"}
    first, again = [await make(api, headers) for _ in range(2)]
    rotated = await api.client.post(f"/v1/webhooks/{webhook['id']}/rotate", headers=admin)
    assert first.json() == again.json()
    secrets = {answer["secret"] for answer in (webhook, first.json(), rotated.json())}
    assert len(secrets) == 3
    async with api.database.read() as connection:
        for table in ("webhooks", "deliveries", "idempotency"):
            rows = (await connection.execute(text(f"SELECT t::text FROM {table} t"))).scalars().all()  # noqa: S608
            assert [row for row in rows for secret in secrets if secret[6:] in row] == []


async def test_a_rotation_gives_the_next_secret(api: Api) -> None:
    """Another one, that of the next generation, and until when the one before signs, too."""
    webhook, admin = await made(api)
    rotated = (await api.client.post(f"/v1/webhooks/{webhook['id']}/rotate", headers=admin)).json()
    signing = SigningKeys.parse(api.settings.webhook_keys.get_secret_value())
    assert signing is not None
    expected = [signing.secret("k1", webhook["id"], generation) for generation in (1, 2)]
    assert [webhook["secret"], rotated["secret"]] == [shown(secret or b"") for secret in expected]
    assert webhook["previous_until"] is None
    assert rotated["previous_until"] is not None


@pytest.mark.parametrize(
    "url",
    [
        "http://1.1.1.1/",
        "https://user:pw@1.1.1.1/",
        "https://1.1.1.1:22/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://10.0.0.1/",
        "https://172.16.3.4/",
        "https://192.168.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::1]/",
        "https://[::]/",
        "https://[fd00:ec2::254]/",
        "https://[fe80::1]/",
        "https://[ff02::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:8.8.8.8]/",
        "https://[64:ff9b::a00:1]/",
        "https://[2002:a00:1::]/",
        "https://[2001:db8::1]/",
    ],
)
async def test_an_address_inside_is_refused_at_the_door(api: Api, url: str) -> None:
    """422 that names the field, and nothing is changed."""
    admin = await api.key(*Scope, project="refused")
    answer = await make(api, admin, url=url)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), answer.text
    assert [error["field"] for error in answer.json()["errors"]] == ["url"]
    assert (await api.client.get("/v1/webhooks", headers=admin)).json()["items"] == []


@pytest.mark.parametrize(
    "body", [{"events": []}, {"events": ["task.exploded"]}, {"url": 1}, {"description": "x" * 201}, {"secret": "x"}]
)
async def test_a_body_that_is_no_webhook_is_refused(api: Api, body: dict[str, Any]) -> None:
    """422."""
    assert (await make(api, await api.key(*Scope), **body)).status_code == 422


async def test_a_project_has_a_number_of_them(api: Api) -> None:
    """409 `too_many` beyond it."""
    _, admin = await made(api)
    for _ in range(MOST_OF_A_PROJECT - 1):
        assert (await make(api, admin)).status_code == 201
    answer = await make(api, admin)
    assert (answer.status_code, answer.json()["code"]) == (409, "too_many")


async def test_deliveries_are_pages(api: Api) -> None:
    """Newest first, by state, with what is known of the last try; another project sees nothing."""
    admin = await api.key(*Scope)
    webhook = (await make(api, admin, events=["task.created"])).json()
    tasks = [(await api.create(start=False))["id"] for _ in range(5)]
    path, seen, cursor = f"/v1/webhooks/{webhook['id']}/deliveries", [], None
    while True:
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await api.client.get(path, params=params, headers=admin)).json()
        seen += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [item["task_id"] for item in seen] == tasks[::-1]
    assert {(item["type"], item["seq"], item["state"], item["tries"]) for item in seen} == {
        ("task.created", 1, "pending", 0)
    }
    for state, count in (("pending", 5), ("delivered", 0), ("exhausted", 0)):
        page = (await api.client.get(path, params={"state": state}, headers=admin)).json()
        assert len(page["items"]) == count
    assert (await api.client.get(path, params={"state": "lost"}, headers=admin)).status_code == 422
    foreign = await api.key(*Scope, project="elsewhere")
    assert (await api.client.get(path, headers=foreign)).status_code == 404


async def test_a_delivery_is_asked_for_again(api: Api) -> None:
    """Pending with no try; 404 for one of another webhook; 409 where the receiver has gone."""
    admin = await api.key(*Scope)
    webhook = (await make(api, admin, events=["task.created"])).json()
    await api.create(start=False)
    path = f"/v1/webhooks/{webhook['id']}/deliveries"
    (item,) = (await api.client.get(path, headers=admin)).json()["items"]
    async with api.database.begin("test") as connection:
        await connection.execute(
            text("UPDATE deliveries SET state = 'exhausted', tries = 9 WHERE id = :id"), {"id": item["id"]}
        )
    again = await api.client.post(f"{path}/{item['id']}/redeliver", headers=admin)
    assert (again.status_code, again.json()["state"], again.json()["tries"]) == (200, "pending", 0)
    assert (await api.client.post(f"{path}/none/redeliver", headers=admin)).status_code == 404
    async with api.database.begin("test") as connection:
        await connection.execute(
            text("UPDATE webhooks SET disabled_at = now(), disabled_reason = 'gone' WHERE id = :id"),
            {"id": webhook["id"]},
        )
    refused = await api.client.post(f"{path}/{item['id']}/redeliver", headers=admin)
    assert (refused.status_code, refused.json()["code"]) == (409, "webhook_disabled")
    shown_again = (await api.client.get("/v1/webhooks", headers=admin)).json()["items"]
    assert [each["disabled_reason"] for each in shown_again if each["id"] == webhook["id"]] == ["gone"]


async def test_without_a_key_there_are_no_webhooks(database_url: str, nowhere: Gateway) -> None:
    """409 `webhooks_off`, which names the setting."""
    settings = settings_for(database_url).model_copy(update={"webhook_keys": SecretStr("")})
    async for api in serve(database_url, nowhere, settings):
        answer = await make(api, await api.key(Scope.ADMIN))
        assert (answer.status_code, answer.json()["code"]) == (409, "webhooks_off")
        assert "TASKRUNNER_WEBHOOK_KEYS" in answer.json()["detail"]
