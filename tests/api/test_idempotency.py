"""`Idempotency-Key`: one effect, one answer."""

import asyncio
from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import ProjectId
from store import idempotency
from store.models import Idempotency
from tests.api.harness import Api

BODY = {"command": ["true"], "provider": "external"}


async def test_the_same_key_and_body_make_one_task(api: Api) -> None:
    """The repeat gets the first answer, byte for byte, although the task has moved on."""
    headers = {"Idempotency-Key": "order-1"}
    first = await api.client.post("/v1/tasks", json=BODY, headers=headers)
    await api.client.post(f"/v1/tasks/{first.json()['id']}/cancel")
    again = await api.client.post("/v1/tasks", json=BODY, headers=headers)
    assert (again.status_code, again.json()) == (201, first.json())
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")


async def test_the_same_key_with_another_request_is_a_conflict(api: Api) -> None:
    """409 `idempotency_conflict` for another body, and for another address."""
    headers = {"Idempotency-Key": "order-2"}
    task = (await api.client.post("/v1/tasks", json=BODY, headers=headers)).json()
    other = await api.client.post("/v1/tasks", json=BODY | {"priority": 1}, headers=headers)
    elsewhere = await api.client.post(f"/v1/tasks/{task['id']}/cancel", json={}, headers=headers)
    assert [(answer.status_code, answer.json()["code"]) for answer in (other, elsewhere)] == [
        (409, "idempotency_conflict")
    ] * 2


async def test_a_key_is_the_projects_own(api: Api) -> None:
    """Another project's request with the same key is another request."""
    headers = {"Idempotency-Key": "order-3"}
    first = await api.client.post("/v1/tasks", json=BODY, headers=headers)
    other = await api.client.post("/v1/tasks", json=BODY, headers=headers | await api.key(project="other"))
    assert (other.status_code, other.json()["id"] == first.json()["id"]) == (201, False)


async def test_a_key_in_flight_is_retryable(api: Api) -> None:
    """409 `in_progress` while another transaction holds the key, then the request goes through."""
    headers = {"Idempotency-Key": "order-4"}

    async def held(connection: AsyncConnection) -> bool:
        return await idempotency.lock(connection, ProjectId("default"), "order-4")

    async with api.database.begin("test") as connection:
        assert await held(connection)
        answer = await api.client.post("/v1/tasks", json=BODY, headers=headers)
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (409, "in_progress", True)
    assert answer.headers["retry-after"] == "1"
    assert (await api.client.post("/v1/tasks", json=BODY, headers=headers)).status_code == 201


async def test_parallel_repeats_make_one_task(api: Api) -> None:
    """Ten at once: each answer is the one task or `in_progress`."""
    headers = {"Idempotency-Key": "order-5"}
    answers = await asyncio.gather(*(api.client.post("/v1/tasks", json=BODY, headers=headers) for _ in range(10)))
    made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    assert {answer.json().get("code") for answer in answers if answer.status_code != 201} <= {"in_progress"}


async def test_what_failed_is_tried_anew(api: Api) -> None:
    """A problem leaves no trace: the same key may be used for the corrected request."""
    headers = {"Idempotency-Key": "order-6"}
    bad = await api.client.post("/v1/tasks", json=BODY | {"attachments": ["none"]}, headers=headers)
    good = await api.client.post("/v1/tasks", json=BODY, headers=headers)
    assert (bad.status_code, good.status_code) == (422, 201)


async def test_an_answer_is_kept_for_a_day(api: Api) -> None:
    """After that the key is new again."""
    headers = {"Idempotency-Key": "order-7"}
    first = await api.client.post("/v1/tasks", json=BODY, headers=headers)
    async with api.database.begin("test") as connection:
        aged = update(Idempotency).where(Idempotency.key == "order-7")
        await connection.execute(aged.values(created_at=Idempotency.created_at - timedelta(hours=25)))
    again = await api.client.post("/v1/tasks", json=BODY, headers=headers)
    assert (again.status_code, again.json()["id"] == first.json()["id"]) == (201, False)
    async with api.database.begin("test") as connection:
        expired = update(Idempotency).values(created_at=Idempotency.created_at - timedelta(hours=25))
        await connection.execute(expired)
    await api.client.post("/v1/tasks", json=BODY, headers={"Idempotency-Key": "order-8"})
    async with api.database.begin("test") as connection:
        assert (await connection.execute(select(Idempotency.key))).scalars().all() == ["order-8"]


async def test_a_key_that_no_header_should_hold_is_refused(api: Api) -> None:
    """422: it is 1 to 255 printable characters."""
    for key in ("", "x" * 256, "a b", "caf\xe9"):
        answer = await api.client.post("/v1/tasks", json=BODY, headers=[(b"Idempotency-Key", key.encode("latin-1"))])
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Idempotency-Key"), key
