"""Named faults of the servers and of the network between us and them."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import pytest

from tests.faults.caller import Caller, noting
from tests.faults.checker import check
from tests.faults.collect import collect
from tests.faults.proxy import Proxy
from tests.faults.quiet import settled
from tests.faults.scenes import EVERYDAY, external, local, play
from tests.faults.snapshot import Recovery
from tests.faults.stack import FaultStack, running
from tests.faults.storm import A_CALL
from tests.faults.test_processes import finish, waiting

pytestmark = pytest.mark.campaign

AFTER_TEMPORAL = 10.0
AFTER_POSTGRES = 5.0
AWAY = 20.0


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultStack]:
    """Give a stack of one each."""
    async with running(tmp_path_factory.mktemp("servers")) as stack:
        yield stack


@pytest.fixture(scope="module")
def caller(stack: FaultStack) -> Caller:
    """Give a caller who remembers all that it was told."""
    return Caller(stack.http)


async def test_temporal_is_killed_and_started_again(stack: FaultStack, caller: Caller) -> None:
    """Callbacks are accepted meanwhile (202); all tasks go on within ten seconds of its return."""
    tokens = await waiting(caller, 4)
    running_task = await caller.create(**noting(stack.effects, "sleep 2"))
    await caller.reaches(running_task, step="running")
    await stack.kill_temporal()
    for task, token in tokens.items():
        assert await caller.tell(await caller.show(task), "ready", token) == 202
    await stack.temporal.start()
    began = time.monotonic()
    await asyncio.gather(*(caller.reaches(task, step="running") for task in tokens))
    assert (await caller.ends(running_task))["status"] == "completed"
    took = time.monotonic() - began
    caller.witness.recoveries.append(Recovery(fault="a restart of Temporal", took=took, within=AFTER_TEMPORAL))
    await finish(caller, tokens)
    assert took < AFTER_TEMPORAL


async def test_temporal_is_away_when_the_api_starts(stack: FaultStack, caller: Caller) -> None:
    """The API boots, creates (201), shows and takes a cancel; what was created is started later."""
    other = await waiting(caller, 1)
    await stack.kill_temporal()
    api = stack.apis[0]
    await api.down()
    await api.up()
    task = await caller.create(**noting(stack.effects, "true"))
    assert (await caller.show(task))["status"] == "queued"
    cancelled = next(iter(other))
    assert await caller.cancel(cancelled) == 202
    await stack.temporal.start()
    assert (await caller.ends(task))["status"] == "completed"
    assert (await caller.ends(cancelled))["status"] == "cancelled"


async def test_the_reply_to_a_start_is_cut(stack: FaultStack, caller: Caller) -> None:
    """The engine has it, the connection is gone: one execution."""
    struck = stack.api_to_temporal.cut_reply(at_least=A_CALL)
    task = await caller.create(**noting(stack.effects, "true"))
    await asyncio.wait_for(struck.wait(), 10)
    assert (await caller.ends(task))["status"] == "completed"


async def test_a_commit_is_done_and_its_reply_is_lost(stack: FaultStack, caller: Caller) -> None:
    """The create is repeated with its key: one task."""
    mark = f"mark-{secrets.token_hex(8)}"
    struck = stack.to_database.cut_reply(mark.encode())
    task = await caller.create(**noting(stack.effects, "true", name=mark))
    await asyncio.wait_for(struck.wait(), 10)
    assert (await caller.ends(task))["status"] == "completed"
    rows = [row for row in (await collect(stack.database)).tasks.values() if row["name"] == mark]
    assert len(rows) == 1


async def test_postgresql_is_away_during_mirror_writes(stack: FaultStack, caller: Caller) -> None:
    """Twenty seconds without it: commands go on, and five seconds after its return the mirror is whole."""
    tasks = [await caller.create(**noting(stack.effects, "sleep 3")) for _ in range(4)]
    for task in tasks:
        await caller.reaches(task, step="running")
    tokens = await waiting(caller, 3)
    await stack.stop_postgres()
    await asyncio.sleep(AWAY)
    await stack.start_postgres()
    began = time.monotonic()
    for task in tasks:
        row = await caller.ends(task)
        assert (row["status"], row["attempt"]) == ("completed", 1)
    took = time.monotonic() - began
    caller.witness.recoveries.append(Recovery(fault="PostgreSQL away for 20 s", took=took, within=AFTER_POSTGRES))
    await finish(caller, tokens)
    assert took < AFTER_POSTGRES


@pytest.mark.parametrize("server", ["to_database", "to_temporal", "api_to_temporal", "to_api"])
async def test_connections_are_killed_under_load(stack: FaultStack, caller: Caller, server: str) -> None:
    """Again and again for five seconds; every scene ends as it should."""
    proxy: Proxy = getattr(stack, server)
    before = proxy.hits["drop"]
    playing = [asyncio.create_task(play(scene, stack, caller)) for scene in (local, external, *EVERYDAY[3:6])]
    for _ in range(10):
        proxy.drop()
        await asyncio.sleep(0.5)
    await asyncio.gather(*playing)
    assert proxy.hits["drop"] > before


@pytest.mark.parametrize("server", ["to_database", "to_temporal", "api_to_temporal", "to_api"])
async def test_a_server_falls_silent(stack: FaultStack, caller: Caller, server: str) -> None:
    """A black hole for six seconds, then a slow network for three."""
    proxy: Proxy = getattr(stack, server)
    before = proxy.hits["black_hole"]
    proxy.swallow()
    playing = [asyncio.create_task(play(scene, stack, caller)) for scene in (local, external)]
    await asyncio.sleep(6)
    proxy.slow(0.1)
    await asyncio.sleep(3)
    proxy.heal()
    await asyncio.gather(*playing)
    assert proxy.hits["black_hole"] > before


async def test_after_all_of_them_the_nine_invariants_hold(stack: FaultStack, caller: Caller) -> None:
    """No violation of any invariant."""
    snapshot = await settled(stack, caller.witness)
    assert {name: found for name, found in check(snapshot).items() if found} == {}
