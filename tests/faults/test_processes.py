"""Named faults of our own processes: killed, frozen, drained, poisoned; each task ends as it should all the same."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest

from tests.faults.caller import Caller, noting
from tests.faults.checker import check
from tests.faults.collect import effects_in
from tests.faults.points import Action
from tests.faults.quiet import settled
from tests.faults.scenes import external, local, play
from tests.faults.snapshot import Recovery
from tests.faults.stack import FaultStack, running
from tests.faults.sweeps import Scene

pytestmark = pytest.mark.campaign

AFTER_A_KILL = 8.0


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultStack]:
    """Give a stack with two of each."""
    async with running(tmp_path_factory.mktemp("processes"), controls=2, nodes=2, apis=2) as stack:
        yield stack


@pytest.fixture(scope="module")
def caller(stack: FaultStack) -> Caller:
    """Give a caller who remembers all that it was told."""
    return Caller(stack.http)


async def waiting(caller: Caller, count: int) -> dict[str, str]:
    """Return tasks whose workspaces are claimed and not ready, with their tokens."""
    body = {"command": ["true"], "provider": "external", "retry": {"max_attempts": 1}}
    tasks = await asyncio.gather(*(caller.create(**body) for _ in range(count)))
    tokens = {}
    for task in tasks:
        row = await caller.reaches(task, status="delegated")
        tokens[task] = await caller.token(row["workspace_id"])
        await caller.reaches(task, step="workspace_ready")
    return tokens


async def finish(caller: Caller, tokens: dict[str, str]) -> None:
    """Tell ready and finished for each task, and see it complete."""
    for task, token in tokens.items():
        row = await caller.show(task)
        await caller.tell(row, "ready", token)
        await caller.tell(row, "finished", token)
    for task in tokens:
        assert (await caller.ends(task))["status"] == "completed"


async def test_a_killed_control_worker_is_recovered_from(stack: FaultStack, caller: Caller) -> None:
    """Kill -9 of the worker that holds waiting workflows: all of them go on within eight seconds."""
    tokens = await waiting(caller, 6)
    await stack.controls[0].down()
    began = time.monotonic()
    await finish(caller, tokens)
    took = time.monotonic() - began
    await stack.controls[0].up()
    caller.witness.recoveries.append(Recovery(fault="kill -9 of a worker", took=took, within=AFTER_A_KILL))
    assert took < AFTER_A_KILL


async def test_all_control_workers_are_down_and_come_back(stack: FaultStack, caller: Caller) -> None:
    """Callbacks are taken in meanwhile; nothing of them is lost."""
    tokens = await waiting(caller, 3)
    for control in stack.controls:
        await control.down()
    for task, token in tokens.items():
        row = await caller.show(task)
        assert await caller.tell(row, "ready", token) == 200
        assert await caller.tell(row, "finished", token) == 200
    created = await caller.create(**noting(stack.effects, "true"))
    for control in stack.controls:
        await control.up()
    for task in (*tokens, created):
        assert (await caller.ends(task))["status"] == "completed"


async def test_a_frozen_control_worker_wakes_when_its_work_was_given_away(stack: FaultStack, caller: Caller) -> None:
    """It writes nothing more: the log of each task is as if it had not been there."""
    tokens = await waiting(caller, 6)
    for task, token in tokens.items():
        await caller.tell(await caller.show(task), "ready", token)
    stack.controls[0].send(signal.SIGSTOP)
    await finish(caller, tokens)
    stack.controls[0].send(signal.SIGCONT)
    await play(external, stack, caller)


async def test_a_frozen_node_wakes_when_its_effect_was_tried_again(stack: FaultStack, caller: Caller) -> None:
    """One agent: the second try finds what the first one did."""
    tasks = [await caller.create(**noting(stack.effects, "sleep 1")) for _ in range(3)]
    stack.nodes[next(iter(stack.nodes))].send(signal.SIGSTOP)
    await asyncio.sleep(7)
    stack.nodes[next(iter(stack.nodes))].send(signal.SIGCONT)
    for task in tasks:
        assert (await caller.ends(task))["status"] == "completed"


async def test_a_node_dies_while_its_agent_runs(stack: FaultStack, caller: Caller) -> None:
    """The agent outlives it and is adopted: one attempt, one start."""
    task = await caller.create(**noting(stack.effects, "sleep 3"))
    row = await caller.reaches(task, step="running")
    stack.nodes[row["node_id"]].send(signal.SIGKILL)
    row = await caller.ends(task)
    assert (row["status"], row["attempt"]) == ("completed", 1)
    starts = [effect for effect in effects_in(stack.effects) if (effect.task, effect.what) == (task, "start")]
    assert len(starts) == 1


@pytest.mark.parametrize(
    "point",
    [
        "provider.create:before",
        "provider.create:after",
        "provider.transfer_attachment:before",
        "provider.start_agent:before",
        "provider.start_agent:after",
        "provider.wait_agent:before",
        "provider.destroy:before",
        "provider.destroy:after",
    ],
)
async def test_a_node_dies_in_each_step(stack: FaultStack, caller: Caller, point: str) -> None:
    """The effect is found or made again by the node that comes back; the task completes in its first attempt."""
    made = await caller.send("POST", "/v1/attachments", params={"name": "in"}, content=b"x")
    stack.armoury.arm(point, Action.KILL)
    task = await caller.create(**noting(stack.effects, "true", attachments=[made.json()["id"]]))
    row = await caller.ends(task)
    assert not stack.armoury.armed(point)
    assert (row["status"], row["attempt"]) == ("completed", 1)


async def test_a_provider_that_created_and_lost_its_reply(stack: FaultStack, caller: Caller) -> None:
    """The next try finds the workspace: one preparation, one attempt."""
    stack.armoury.arm("provider.create:after", Action.ERROR)
    task = await caller.create(**noting(stack.effects, "true"))
    row = await caller.ends(task)
    assert not stack.armoury.armed("provider.create:after")
    assert (row["status"], row["attempt"]) == ("completed", 1)
    prepared = [effect for effect in effects_in(stack.effects) if (effect.task, effect.what) == (task, "prepare")]
    assert len(prepared) == 1


async def test_a_poisoned_step_ends(stack: FaultStack, caller: Caller) -> None:
    """A command that kills the program beside it each time: as many attempts as there are, then `failed`."""
    script = "kill -9 $PPID; sleep 60"
    retry = {"max_attempts": 2, "backoff": 0.2, "on": ["runtime_lost"]}
    row = await caller.ends(await caller.create(**noting(stack.effects, script) | {"retry": retry}))
    assert (row["status"], row["attempt"], row["error"]["code"]) == ("failed", 2, "runtime_lost")


async def test_a_rolling_restart_under_load(stack: FaultStack, caller: Caller) -> None:
    """SIGTERM for one process after the other: no task fails, and none needs a second attempt."""
    tasks: list[str] = []

    async def create() -> None:
        for _ in range(15):
            tasks.append(await caller.create(**noting(stack.effects, "sleep 0.5")))
            await asyncio.sleep(0.4)

    creating = asyncio.create_task(create())
    for keeper in (*stack.controls, *stack.nodes.values(), *stack.apis):
        deaths = keeper.deaths
        keeper.send(signal.SIGTERM)
        await keeper.after(deaths)
    await creating
    rows = [await caller.ends(task) for task in tasks]
    assert [(row["status"], row["attempt"]) for row in rows] == [("completed", 1)] * len(tasks)


async def test_a_cancel_races_each_step(stack: FaultStack, caller: Caller) -> None:
    """A cancel at each moment of a task's life: cancelled, or completed before it was heard; nothing is left."""

    async def one(moment: float) -> str:
        task = await caller.create(**noting(stack.effects, "sleep 0.4"))
        await asyncio.sleep(moment)
        await caller.cancel(task)
        return str((await caller.ends(task))["status"])

    statuses = await asyncio.gather(*(one(number * 0.1) for number in range(24)))
    assert set(statuses) <= {"cancelled", "completed"}
    assert "cancelled" in statuses


@pytest.mark.parametrize("scene", [local, external])
async def test_a_lost_start_reply(stack: FaultStack, caller: Caller, scene: Scene) -> None:
    """The engine has started it and nobody heard: it is not started twice."""
    stack.armoury.arm("engine.start:after", Action.ERROR)
    await play(scene, stack, caller)
    assert not stack.armoury.armed("engine.start:after")


async def test_after_all_of_them_the_nine_invariants_hold(stack: FaultStack, caller: Caller) -> None:
    """No violation of any invariant."""
    snapshot = await settled(stack, caller.witness)
    assert {name: found for name, found in check(snapshot).items() if found} == {}
