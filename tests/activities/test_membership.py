"""A node's life with a real API: what it is told, when it is heard, and what it does about the answers."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs
from temporalio.client import Client

from activities import membership
from activities.membership import Membership, NotJoined, facts
from activities.node import NodeWork
from api.auth import new_key
from domain.errors import Category, Failure
from domain.ids import new_id
from domain.lifecycle import NodeStatus
from domain.names import DEFAULT_PROJECT, NodeId, Scope
from store import keys
from tests.api.harness import Api, serve
from tests.store.rows import create_task
from tests.store.slots import reserve
from workflows.gateway import Gateway
from workspaces.local import LocalProvider, base_environment

SOON = timedelta(milliseconds=20)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a second in a test."""
    for name in ("AGAIN", "LOOK"):
        monkeypatch.setattr(membership, name, SOON)


@pytest.fixture(scope="module")
async def api(database_url: str) -> AsyncIterator[Api]:
    """Give an application whose engine is away."""
    async for served in serve(database_url, Gateway(await Client.connect("127.0.0.1:1", lazy=True))):
        yield served


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Return once this is so; fails when it is not within a minute."""
    async with asyncio.timeout(60):
        while True:
            if await true():
                return
            await asyncio.sleep(0.02)


def _yes(true: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return true()

    return asked


@dataclass(kw_only=True)
class Joined:
    """A node of its own, and the work that it does."""

    api: Api
    id: NodeId
    token: str
    membership: Membership
    work: NodeWork
    root: Path

    async def status(self) -> str:
        """Return what the row says."""
        async with self.api.database.read() as connection:
            query = text("SELECT status FROM nodes WHERE id = :id")
            return str((await connection.execute(query, {"id": self.id})).scalar_one())

    async def set(self, status: NodeStatus) -> None:
        """Have somebody else change the row."""
        async with self.api.database.begin("test") as connection:
            await connection.execute(text("UPDATE nodes SET status = :s WHERE id = :id"), {"s": status, "id": self.id})

    async def until(self, status: NodeStatus) -> None:
        """Wait until the row says so."""
        await until(lambda: self._is(status))

    async def _is(self, status: NodeStatus) -> bool:
        return await self.status() == status

    async def heard(self) -> bool:
        """Whether a heartbeat has told the node's load."""
        async with self.api.database.read() as connection:
            query = text("SELECT last_heartbeat_at IS NOT NULL AND cpu IS NOT NULL FROM nodes WHERE id = :id")
            return bool((await connection.execute(query, {"id": self.id})).scalar_one())

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[asyncio.Task[None]]:
        """Be heard meanwhile, and often."""
        self.membership._period = SOON
        keeping = asyncio.create_task(self.membership.keep(self.work))
        try:
            await self.until(NodeStatus.READY)
            yield keeping
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


@pytest.fixture
async def joined(api: Api, tmp_path: Path) -> AsyncIterator[Joined]:
    """Give a node that has registered with a token of its own."""
    node, token = NodeId(f"n-{new_id()}"), new_key()
    await allow(api, node, token)
    provider = LocalProvider(tmp_path / "w", environment=base_environment(os.environ), grace=timedelta(seconds=1))
    transport = httpx2.ASGITransport(app=api.app)
    async with httpx2.AsyncClient(transport=transport) as client:
        told = {"slots": 1, "labels": {"node": node}, "facts": facts(["local"])}
        member = Membership(client, url="http://api.test", token=token, told=told)
        await member.join(payload_keys=())
        work = NodeWork({"local": provider}, client=client, token=token)
        yield Joined(api=api, id=node, token=token, membership=member, work=work, root=tmp_path / "w")


async def allow(api: Api, node: NodeId, token: str) -> None:
    """Let the API know a node's token."""
    async with api.database.begin("test") as connection:
        await keys.ensure(
            connection,
            sha256=keys.sha256_of(token),
            project=DEFAULT_PROJECT,
            name="node",
            scopes=[Scope.NODES_WRITE],
            node_id=node,
        )


async def test_the_token_says_which_node_it_is(joined: Joined) -> None:
    """Registered under the token's node, with its slots, labels and facts; in service once it has reported in."""
    assert joined.membership.node_id == joined.id
    assert await joined.status() == "provisioning"
    async with joined.kept():
        listed = (await joined.api.client.get("/v1/nodes", params={"limit": 500})).json()["items"]
    row = next(each for each in listed if each["id"] == joined.id)
    assert (row["status"], row["slots"], row["labels"]) == ("ready", 1, {"node": joined.id})
    assert row["facts"]["cpus"] >= 1
    assert {"taskrunner", "temporalio", "python"} <= set(row["facts"]["versions"])


async def test_a_heartbeat_tells_the_load(joined: Joined) -> None:
    """Shares of processor and memory between 0 and 1, and the time."""
    async with joined.kept(), asyncio.timeout(60):
        while True:
            listed = (await joined.api.client.get("/v1/nodes", params={"limit": 500})).json()["items"]
            row = next(each for each in listed if each["id"] == joined.id)
            if row["cpu"] is not None:
                break
    assert 0 <= row["cpu"] <= 1
    assert 0 < row["memory"] < 1


async def test_a_node_that_was_taken_for_lost_destroys_what_is_not_its_own(joined: Joined) -> None:
    """Ready again; the workspace of an attempt that lives stays, that of nobody is gone."""
    task = await create_task(joined.api.database)
    async with joined.kept():
        await joined.until(NodeStatus.READY)
        own = (await reserve(joined.api.database, task, joined.id, 1))["workspace_id"]
        stranger = new_id()
        for workspace in (own, stranger):
            (joined.root / workspace / "control").mkdir(parents=True)
        await joined.set(NodeStatus.LOST)
        await joined.until(NodeStatus.READY)
        await until(_yes(lambda: not (joined.root / stranger).exists()))
        assert (joined.root / own).exists()


async def test_a_node_is_heard_while_it_destroys(joined: Joined, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes: a node that was lost is not lost again over what it has left."""
    begun, end = asyncio.Event(), asyncio.Event()

    async def slow(*_: object, **__: object) -> None:
        begun.set()
        await end.wait()

    async with joined.kept():
        monkeypatch.setattr(joined.work, "destroy_workspace", slow)
        (joined.root / new_id() / "control").mkdir(parents=True)
        await joined.set(NodeStatus.LOST)
        async with asyncio.timeout(60):
            await begun.wait()
        await joined.until(NodeStatus.READY)
        async with joined.api.database.begin("test") as connection:
            silent = text("UPDATE nodes SET last_heartbeat_at = NULL WHERE id = :id")
            await connection.execute(silent, {"id": joined.id})
        await until(joined.heard)
        end.set()


async def test_a_node_whose_engine_is_away_is_heard_and_reports_in_later(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has cannot be said yet: it gets no task, and goes on trying."""

    async def away(*_: object) -> None:
        raise Failure("engine_unreachable", "no engine", category=Category.INFRASTRUCTURE, transient=True)

    async with joined.kept() as keeping:
        with monkeypatch.context() as patched:
            patched.setattr(joined.work, "list_workspaces", away)
            await joined.set(NodeStatus.LOST)
            with capture_logs() as lines:
                await until(_yes(lambda: sum(line["event"] == "node.not_listed" for line in lines) > 1))
            assert (keeping.done(), await joined.status(), await joined.heard()) == (False, "lost", True)
        await joined.until(NodeStatus.READY)


async def test_a_node_that_drains_does_not_report_in(joined: Joined) -> None:
    """Its start was interrupted, or it was lost: what it said now would give it tasks."""
    joined.membership.draining = True
    joined.membership._period = SOON
    keeping = asyncio.create_task(joined.membership.keep(joined.work))
    await until(joined.heard)
    assert await joined.status() == "provisioning"
    await joined.set(NodeStatus.GONE)
    async with asyncio.timeout(60):
        await keeping


async def test_a_node_that_is_gone_ends(joined: Joined) -> None:
    """Whoever removed it is obeyed."""
    async with joined.kept() as keeping:
        await joined.set(NodeStatus.GONE)
        async with asyncio.timeout(60):
            await keeping


async def test_an_empty_node_that_drains_is_gone(joined: Joined) -> None:
    """True, at once."""
    async with joined.kept():
        assert await joined.membership.drain(timedelta(minutes=1)) is True
    assert await joined.status() == "gone"


async def test_a_node_with_work_drains_and_hands_over(joined: Joined) -> None:
    """False when its time is up: the task is left to the next start, and meanwhile nothing new is placed here."""
    task = await create_task(joined.api.database)
    async with joined.kept() as keeping:
        await reserve(joined.api.database, task, joined.id, 1)
        assert await joined.membership.drain(timedelta(milliseconds=200)) is False
        assert await joined.status() == "draining"
        assert not keeping.done()


async def test_a_drain_does_not_wait_for_an_api_that_is_away() -> None:
    """False, without waiting for the minute."""
    async with httpx2.AsyncClient() as client:
        member = Membership(client, url="http://127.0.0.1:1", token="tr_x", told={})
        async with asyncio.timeout(20):
            assert await member.drain(timedelta(minutes=1)) is False


async def test_a_revoked_token_is_told_in_the_nodes_log(joined: Joined) -> None:
    """A line that says so, each time; the node goes on with what it has."""
    async with joined.kept() as keeping:
        with capture_logs() as lines:
            async with joined.api.database.begin("test") as connection:
                revoked = text("UPDATE api_keys SET revoked_at = clock_timestamp() WHERE sha256 = :sha")
                await connection.execute(revoked, {"sha": keys.sha256_of(joined.token)})
            joined.api.app.state.context.keys.forget(keys.sha256_of(joined.token))
            await until(_yes(lambda: any(line["event"] == "node.token_refused" for line in lines)))
        assert not keeping.done()
    (line, *_) = [line for line in lines if line["event"] == "node.token_refused"]
    assert line["error"].startswith("401 ")
    assert joined.token not in str(lines)


async def test_a_machine_in_whose_stead_another_one_has_joined_ends(joined: Joined) -> None:
    """NotJoined by its next heartbeat: two that take work from the same queues would each miss half of it."""
    joined.membership._home = {"home": "first"}
    async with joined.kept() as keeping:
        async with joined.api.database.begin("test") as connection:
            await connection.execute(text("UPDATE nodes SET home = 'second' WHERE id = :id"), {"id": joined.id})
        with pytest.raises(NotJoined, match="409 Another machine has joined as this node"):
            async with asyncio.timeout(60):
                await keeping


@pytest.mark.parametrize("what", ["an unknown token", "a foreign id", "a missing payload key"])
async def test_a_node_that_is_not_let_in_says_why(joined: Joined, what: str) -> None:
    """NotJoined with the status or the key's id, and never with the token."""
    told: dict[str, Any] = {"slots": 1, "id": "somebody-else"} if what == "a foreign id" else {"slots": 1}
    token = new_key() if what == "an unknown token" else joined.token
    client = joined.membership._client
    member, expected = Membership(client, url="http://api.test", token=token, told=told), "401"
    if what == "a foreign id":
        expected = "403"
    if what == "a missing payload key":
        expected = "key k9"
        context = joined.api.app.state.context
        encrypted = context.settings.model_copy(
            update={"payload_keys": type(context.settings.payload_keys)(f"k9:{'00' * 32}")}
        )
        context.settings, plain = encrypted, context.settings
    try:
        with pytest.raises(NotJoined, match=expected) as refused:
            await member.join(payload_keys=("k1",))
    finally:
        if what == "a missing payload key":
            context.settings = plain
    assert token not in str(refused.value)
