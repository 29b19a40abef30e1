"""Runs under named faults: whatever dies, a run ends as it would have, and each of its tasks took effect once."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest
from sqlalchemy import text

from tests.faults.caller import Caller, noting
from tests.faults.checker import check
from tests.faults.collect import Witness
from tests.faults.quiet import settled
from tests.faults.stack import FaultStack, running

pytestmark = pytest.mark.campaign

WITHIN: Final = 120.0
Fault = Callable[[FaultStack], Awaitable[None]]


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultStack]:
    """Give a stack with two control workers."""
    async with running(tmp_path_factory.mktemp("runs"), controls=2, slots=6) as stack:
        yield stack


async def worker_killed(stack: FaultStack) -> None:
    """Kill -9 of both control workers, one after the other."""
    for keeper in stack.controls:
        keeper.send(signal.SIGKILL)
        await asyncio.sleep(1.5)


async def temporal_killed(stack: FaultStack) -> None:
    """Kill -9 of Temporal, which is away for two seconds."""
    await stack.kill_temporal()
    await asyncio.sleep(2)
    await stack.temporal.start()


async def postgres_away(stack: FaultStack) -> None:
    """PostgreSQL is away for five seconds."""
    await stack.stop_postgres()
    await asyncio.sleep(5)
    await stack.start_postgres()


async def node_killed(stack: FaultStack) -> None:
    """Kill -9 of the node's worker."""
    for keeper in stack.nodes.values():
        keeper.send(signal.SIGKILL)


async def worker_frozen(stack: FaultStack) -> None:
    """SIGSTOP of a control worker until its tasks were given to the other one."""
    stack.controls[0].send(signal.SIGSTOP)
    await asyncio.sleep(6)
    stack.controls[0].send(signal.SIGCONT)


def body(stack: FaultStack) -> dict[str, Any]:
    """A run of a list, a fan-out over it, what follows of it, one that fails and one that mends it."""

    def task(script: str) -> dict[str, Any]:
        return noting(stack.effects, script)

    return {
        "name": secrets.token_hex(4),
        "members": [
            {"name": "list", "task": task('echo \'{"files": [1,2,3,4,5,6,7,8]}\' > "$TASKRUNNER_RESULT_FILE"')},
            {"name": "many", "task": task("sleep 0.5"), "fan_out": {"items_from": "list#/files", "max_parallel": 3}},
            {"name": "sum", "task": task("sleep 0.2")},
            {"name": "bad", "task": task("exit 3")},
            {"name": "mend", "task": task("true")},
            {"name": "never", "task": task("true")},
        ],
        "edges": [
            {"from": "many", "to": "sum"},
            {"from": "bad", "to": "mend", "when": "failed"},
            {"from": "bad", "to": "never"},
        ],
    }


@pytest.mark.parametrize("fault", [worker_killed, temporal_killed, postgres_away, node_killed, worker_frozen])
async def test_a_run_outlives(stack: FaultStack, fault: Fault) -> None:
    """Failed, for the one member that fails; each of eleven tasks took effect once; log, members and tasks agree."""
    caller = Caller(stack.http, Witness())
    run = await caller.create_run(**body(stack))
    await until_tasks(stack, run, 4)
    await fault(stack)
    row = await ends(caller, run)
    for keeper in stack.ours:
        await keeper.ready()
    assert row["status"] == "failed"
    graph = (await caller.send("GET", f"/v1/runs/{run}/graph")).json()
    members = {member["name"]: member["status"] for member in graph["members"]}
    expected = dict.fromkeys(("list", "many", "sum", "mend"), "completed")
    assert members == expected | {"bad": "failed", "never": "skipped"}
    snapshot = await settled(stack, caller.witness)
    assert not {name: found for name, found in check(snapshot).items() if found}
    assert len([task for task in snapshot.tasks.values() if task["run_id"] == run]) == 12


async def until_tasks(stack: FaultStack, run: str, count: int) -> None:
    """Wait until so many tasks of a run have been made."""
    query = text("SELECT count(*) FROM tasks WHERE run_id = :run")
    async with asyncio.timeout(WITHIN):
        while True:
            async with stack.database.read() as connection:
                if (await connection.execute(query, {"run": run})).scalar_one() >= count:
                    return
            await asyncio.sleep(0.05)


async def ends(caller: Caller, run: str) -> dict[str, Any]:
    """Wait for a run's end; returns its representation."""
    async with asyncio.timeout(WITHIN):
        while True:
            row: dict[str, Any] = (await caller.send("GET", f"/v1/runs/{run}")).json()
            if row["status"] in ("completed", "failed", "cancelled"):
                return row
            await asyncio.sleep(0.1)
