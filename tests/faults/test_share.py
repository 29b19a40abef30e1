"""A small share of the fault suite, the same each time: some failpoints, a death, a lost reply, and the checker."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from random import Random

import pytest

from tests.faults.caller import Caller, noting
from tests.faults.checker import check
from tests.faults.points import Action, points
from tests.faults.quiet import settled
from tests.faults.scenes import external, local, play, scene_of
from tests.faults.stack import FaultStack, running
from tests.faults.storm import A_CALL

# Each of these is reached by the quick scenes.
QUICK = ("mirror.", "placement.reserve", "callbacks.receive", "workspaces.claim", "provider.create", "provider.start")
SHARE = Random("share").sample([point for point in points() if point.startswith(QUICK)], 6)


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultStack]:
    """Give a running stack of one each."""
    async with running(tmp_path_factory.mktemp("share")) as stack:
        yield stack


@pytest.fixture(scope="module")
def caller(stack: FaultStack) -> Caller:
    """Give a caller who remembers all that it was told."""
    return Caller(stack.http)


@pytest.mark.parametrize("point", SHARE)
async def test_a_reply_is_lost(stack: FaultStack, caller: Caller, point: str) -> None:
    """The scene ends as it should, and the point struck."""
    stack.armoury.arm(point, Action.ERROR)
    await play(scene_of(point), stack, caller)
    assert not stack.armoury.armed(point)


async def test_processes_die_under_way(stack: FaultStack, caller: Caller) -> None:
    """The control worker after a commit, the node while an agent runs: one attempt each."""
    stack.armoury.arm("mirror.flush:after", Action.KILL)
    await play(external, stack, caller)
    assert not stack.armoury.armed("mirror.flush:after")
    task = await caller.create(**noting(stack.effects, "sleep 2"))
    row = await caller.reaches(task, step="running")
    stack.nodes[row["node_id"]].send(signal.SIGKILL)
    reading = asyncio.create_task(caller.read("reader", task))
    row = await caller.ends(task)
    await reading
    assert (row["status"], row["attempt"]) == ("completed", 1)


async def test_replies_are_cut_on_their_way(stack: FaultStack, caller: Caller) -> None:
    """Of the database to a create, of the engine to a start: one task, one execution."""
    mark = f"mark-{secrets.token_hex(8)}"
    for struck in (stack.to_database.cut_reply(mark.encode()), stack.api_to_temporal.cut_reply(at_least=A_CALL)):
        task = await caller.create(command=["true"], provider="external", name=mark)
        await asyncio.wait_for(struck.wait(), 10)
        await caller.cancel(task)
        assert (await caller.ends(task))["status"] == "cancelled"
    await play(local, stack, caller)


async def test_after_all_of_it_the_nine_invariants_hold(stack: FaultStack, caller: Caller) -> None:
    """No violation of any invariant."""
    snapshot = await settled(stack, caller.witness)
    assert {name: found for name, found in check(snapshot).items() if found} == {}
