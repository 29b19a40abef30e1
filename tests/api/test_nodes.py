"""Nodes over HTTP: registered, reporting in."""

import pytest
from sqlalchemy import insert, select, update

from domain.names import Scope
from store.models import Node, Outbox, Waiter
from tests.api.conftest import NOBODY
from tests.api.harness import Api

CALLS = ("ready", "heartbeat", "drain")


async def test_a_node_is_registered_once_and_renewed(api: Api) -> None:
    """201, then 200 with the new facts; it is `provisioning` until it reports in."""
    body = {"id": "node-1", "slots": 2, "labels": {"gpu": "no"}}
    first = await api.client.post("/v1/nodes", json=body)
    again = await api.client.post("/v1/nodes", json=body | {"slots": 3, "facts": {"cpus": 4}})
    assert (first.status_code, first.json()["status"]) == (201, "provisioning")
    assert (again.status_code, again.json()["slots"], again.json()["facts"]) == (200, 3, {"cpus": 4})
    ready = await api.client.post("/v1/nodes/node-1/ready", json={})
    assert (ready.status_code, ready.json()["status"], ready.json()["used"]) == (200, "ready", 0)
    assert ready.json()["last_heartbeat_at"]
    listed = (await api.client.get("/v1/nodes", params={"limit": 500})).json()["items"]
    assert {name: value for name, value in ready.json().items() if name != "not_own"} in listed


async def test_a_report_tells_those_who_wait_and_grants_the_slots(api: Api) -> None:
    """Who waits for this node is signalled; who waits for any slot gets one, in the same transaction."""
    await api.client.post("/v1/nodes", json={"id": "node-2", "slots": 1, "labels": {"pool": "b"}})
    named, anyone, late = [(await api.create(provider="local"))["id"] for _ in range(3)]
    async with api.database.begin("test") as connection:
        for task, awaits, priority in ((named, "node-2", 3), (anyone, None, 1), (late, None, 3)):
            row = {"task_id": task, "attempt": 1, "project": "default", "labels": {"pool": "b"}}
            await connection.execute(insert(Waiter).values(**row, awaits=awaits, priority=priority))
    answer = await api.client.post("/v1/nodes/node-2/ready")
    assert (answer.status_code, answer.json()["used"]) == (200, 1)
    async with api.database.begin("test") as connection:
        mine = Outbox.task_id.in_([named, anyone, late])
        rows = await connection.execute(
            select(Outbox.task_id, Outbox.name, Outbox.body).where(mine, Outbox.kind == "signal").order_by(Outbox.id)
        )
        told = [(row.task_id, row.name, row.body) for row in rows]
    assert told == [
        (named, "node_ready", {"node_id": "node-2"}),
        (anyone, "slot_granted", {"node_id": "node-2"}),
    ]


async def test_a_nodes_key_speaks_for_that_node_only(api: Api) -> None:
    """Another node's report is 403; an unknown node's is 404."""
    own = await api.key(Scope.NODES_WRITE, node="node-3")
    assert (await api.client.post("/v1/nodes", json={"id": "node-3", "slots": 1}, headers=own)).status_code == 201
    assert (await api.client.post("/v1/nodes", json={"id": "node-4", "slots": 1}, headers=own)).status_code == 403
    for call in CALLS:
        assert (await api.client.post(f"/v1/nodes/node-4/{call}", headers=own)).status_code == 403
        assert (await api.client.post(f"/v1/nodes/node-5/{call}")).status_code == 404
        assert (await api.client.post(f"/v1/nodes/node-3/{call}", headers=own)).status_code == 200


async def test_a_nodes_token_need_not_say_which_node_it_is(api: Api) -> None:
    """It registers its own node, and is told where Temporal is, and no secret; another key that names none is 422."""
    own = await api.key(Scope.NODES_WRITE, node="node-6")
    made = await api.client.post("/v1/nodes", json={"slots": 1}, headers=own)
    assert (made.status_code, made.json()["id"]) == (201, "node-6")
    assert made.json()["temporal"] == {"address": NOBODY, "namespace": "default", "payload_key": None}
    assert made.json()["heartbeat_seconds"] == 15.0
    assert (await api.client.post("/v1/nodes", json={"slots": 1})).status_code == 422


async def test_a_nodes_token_opens_nothing_but_its_own(api: Api) -> None:
    """403 for tasks, workspaces and keys, whatever scopes its row has."""
    own = await api.key(*Scope, node="node-7")
    for method, path in (("GET", "/v1/tasks"), ("GET", "/v1/workspaces"), ("GET", "/v1/nodes"), ("GET", "/v1/keys")):
        assert (await api.client.request(method, path, headers=own)).status_code == 403


async def test_only_operators_make_tokens_of_nodes(api: Api) -> None:
    """An admin of `default`; another project's is 403: a node serves all. With another scope it is 422."""
    body = {"name": "node", "scopes": ["nodes:write"], "node_id": "node-8"}
    operator, other = await api.key(Scope.ADMIN), await api.key(Scope.ADMIN, project="second")
    made = await api.client.post("/v1/keys", json=body, headers=operator)
    assert (made.status_code, made.json()["node_id"]) == (201, "node-8")
    assert (await api.client.post("/v1/keys", json=body, headers=other)).status_code == 403
    for scopes in (["nodes:write", "tasks:read"], ["admin"]):
        refused = await api.client.post("/v1/keys", json=body | {"scopes": scopes}, headers=operator)
        assert refused.status_code == 422


async def test_a_lost_node_is_drained_only_by_saying_that_it_is_gone(api: Api) -> None:
    """409 node_lost; then gone."""
    await api.client.post("/v1/nodes", json={"id": "node-9", "slots": 1})
    await api.client.post("/v1/nodes/node-9/ready")
    async with api.database.begin("test") as connection:
        await connection.execute(update(Node).where(Node.id == "node-9").values(status="lost"))
    refused = await api.client.post("/v1/nodes/node-9/drain")
    assert (refused.status_code, refused.json()["code"]) == (409, "node_lost")
    gone = await api.client.post("/v1/nodes/node-9/drain", json={"gone": True})
    assert (gone.status_code, gone.json()["status"]) == (200, "gone")


async def test_a_node_is_one_machine_at_a_time(api: Api) -> None:
    """409 node_elsewhere for the second machine with its token, and nothing of the node is changed."""
    own = await api.key(Scope.NODES_WRITE, node="node-10")
    first, second = {"slots": 1, "home": "first"}, {"slots": 7, "home": "second"}
    assert (await api.client.post("/v1/nodes", json=first, headers=own)).status_code == 201
    assert (await api.client.post("/v1/nodes/node-10/ready", json={"home": "first"}, headers=own)).status_code == 200
    for path, body in (
        ("", second),
        ("/node-10/ready", {"home": "second"}),
        ("/node-10/heartbeat", {"home": "second"}),
    ):
        refused = await api.client.post(f"/v1/nodes{path}", json=body, headers=own)
        assert (refused.status_code, refused.json()["code"]) == (409, "node_elsewhere")
    assert (await api.client.post("/v1/nodes", json=first, headers=own)).json()["slots"] == 1
    assert (await api.client.post("/v1/nodes/node-10/heartbeat", headers=own)).status_code == 200


@pytest.mark.parametrize(("status", "by"), [("provisioning", ()), ("lost", ("ready", "lost")), ("gone", ("gone",))])
async def test_another_machine_may_take_the_place_of_one_that_is_away(
    api: Api, status: str, by: tuple[str, ...]
) -> None:
    """200; and whoever was there before is told 409 node_elsewhere with its next heartbeat."""
    node = f"node-11-{status}"
    own = await api.key(Scope.NODES_WRITE, node=node)
    await api.client.post("/v1/nodes", json={"slots": 1, "home": "first"}, headers=own)
    async with api.database.begin("test") as connection:
        for each in by:
            await connection.execute(update(Node).where(Node.id == node).values(status=each))
    taken = await api.client.post("/v1/nodes", json={"slots": 1, "home": "second"}, headers=own)
    assert (taken.status_code, taken.json()["id"]) == (200, node)
    refused = await api.client.post(f"/v1/nodes/{node}/heartbeat", json={"home": "first"}, headers=own)
    assert (refused.status_code, refused.json()["code"]) == (409, "node_elsewhere")


@pytest.mark.parametrize(("used", "status"), [(0, "gone"), (1, "draining")])
async def test_a_node_without_a_token_gets_no_more_tasks(api: Api, used: int, status: str) -> None:
    """It drains with its last token, and not before: it could make no workspace, and each task of it would fail."""
    operator, node = await api.key(Scope.ADMIN), f"node-13-{used}"
    tokens = []
    for _ in range(2):
        body = {"name": node, "scopes": ["nodes:write"], "node_id": node}
        tokens.append((await api.client.post("/v1/keys", json=body, headers=operator)).json())
    own = {"Authorization": f"Bearer {tokens[1]['key']}"}
    await api.client.post("/v1/nodes", json={"slots": 1}, headers=own)
    await api.client.post(f"/v1/nodes/{node}/ready", headers=own)
    async with api.database.begin("test") as connection:
        await connection.execute(update(Node).where(Node.id == node).values(used=used))
    for token, then in zip(tokens, ("ready", status), strict=True):
        assert (await api.client.delete(f"/v1/keys/{token['id']}", headers=operator)).status_code == 204
        async with api.database.read() as connection:
            assert (await connection.execute(select(Node.status).where(Node.id == node))).scalar_one() == then


async def test_no_machine_joins_by_a_key(api: Api) -> None:
    """403 for an admin's: it opens no callback token, so each task that such a node got would fail."""
    refused = await api.client.post("/v1/nodes", json={"id": "node-12", "slots": 1, "home": "first"})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert "nodes tokens create" in refused.json()["detail"]


@pytest.mark.parametrize("body", [{"cpu": 1.5}, {"memory": -0.1}, {"cpu": "x"}, {"load": 1}])
async def test_a_heartbeat_of_nonsense_is_refused(api: Api, body: dict[str, object]) -> None:
    """422."""
    assert (await api.client.post("/v1/nodes/node-9/heartbeat", json=body)).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        {"id": "No", "slots": 1},
        {"id": "a", "slots": -1},
        {"id": "a", "slots": 2**40},
        {"id": "a", "slots": 1, "labels": {"a b": "c"}},
        {"id": "a", "slots": 1, "facts": {"a": "\x00"}},
        {"id": "a"},
    ],
)
async def test_bad_nodes_are_refused(api: Api, body: dict[str, object]) -> None:
    """422 with the field."""
    response = await api.client.post("/v1/nodes", json=body)
    assert (response.status_code, bool(response.json()["errors"])) == (422, True)
