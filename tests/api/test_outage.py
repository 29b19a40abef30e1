"""The database away: nothing is accepted, everything says so, and all goes on when it is back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from cli.embedded.postgres import Postgres
from store.migrate import upgrade
from tests.api.harness import Api, serve
from workflows.gateway import Gateway


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[Postgres]:
    """Give a PostgreSQL that a test may stop and start."""
    server = Postgres(tmp_path / "pg", fsync=False)
    await server.start()
    yield server
    await server.stop()


async def test_an_outage_is_told_and_outlived(own_server: Postgres, nowhere: Gateway) -> None:
    """503 with `Retry-After` on every route while it lasts; the callback that was refused is taken afterwards."""
    await asyncio.to_thread(upgrade, own_server.url())
    async for api in serve(own_server.url(), nowhere):
        attempt = await api.live()
        await own_server.stop()
        answers = [
            await attempt.tell("ready", {}),
            await attempt.tell("heartbeat", {}),
            await api.client.get(f"/v1/tasks/{attempt.task}"),
            await api.client.get("/v1/tasks"),
            await api.client.post("/v1/tasks", json={"command": ["true"]}),
            await api.client.post("/v1/attachments?name=x", content=b"x"),
            await api.client.get("/readyz"),
        ]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
            (503, "database_unavailable")
        ] * len(answers)
        assert all(answer.json()["retryable"] and answer.headers["retry-after"] == "2" for answer in answers)
        assert (await api.client.get("/livez")).status_code == 200
        await own_server.start()
        assert (await attempt.tell("ready", {})).json() == {"result": "accepted"}


async def test_killed_connections_cost_one_answer_at_most(api: Api) -> None:
    """The pool notices, says 503 once, and serves the next request on a new connection."""
    await api.create()
    async with api.database.begin("test") as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        await connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))
    first = await api.client.get("/v1/tasks")
    assert first.status_code in {200, 503}
    assert (await api.client.get("/v1/tasks")).status_code == 200
