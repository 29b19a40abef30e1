"""What people do with runs, one scene each. A scene follows its run to the end; its tasks are checked as all are."""

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import text
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest

from domain.lifecycle import RUN_TERMINAL
from domain.names import RunId, run_workflow_id
from tests.faults.caller import Caller, noting
from tests.faults.points import Action
from tests.faults.stack import FaultStack
from tests.faults.sweeps import Ends, Scene, swept

WITHIN: Final = 90.0
LOOK: Final = 0.15
LATE: Final = "10 minutes"


async def reaches(caller: Caller, run: str, *, within: float = WITHIN, **wanted: Any) -> dict[str, Any]:
    """Return a run once it has these values; fails when it ends without them, or not in time."""
    deadline = time.monotonic() + within
    while True:
        row = dict((await caller.send("GET", f"/v1/runs/{run}")).json())
        if all(row[name] == value for name, value in wanted.items()):
            return row
        assert row["status"] not in RUN_TERMINAL, f"{run} is {row['status']} ({row['error']}) and never had {wanted}"
        assert time.monotonic() < deadline, f"{run} is {row['status']}, {row['counts']}, not {wanted}"
        await asyncio.sleep(LOOK)


async def create(stack: FaultStack, caller: Caller, *, first: str = "true", **more: Any) -> str:
    """Create a run of three members, the second one of two children; returns its id."""
    members: list[dict[str, Any]] = [
        {"name": "a", "task": noting(stack.effects, first)},
        {"name": "b", "task": noting(stack.effects, "true"), "fan_out": {"count": 2}},
        {"name": "c", "task": noting(stack.effects, "true")},
    ]
    edges = [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}]
    return await caller.create_run(members=members, edges=edges, **more)


async def completes(stack: FaultStack, caller: Caller) -> Ends:
    """A run of three members."""
    await reaches(caller, await create(stack, caller), status="completed")
    return {}


async def steered(stack: FaultStack, caller: Caller) -> Ends:
    """A run of supersteps holds before its first one, is extended, let go, held after a member, and let go again."""
    run = await create(stack, caller, mode="superstep", breakpoints={"before": ["a"]})
    path = f"/v1/runs/{run}"
    held = await reaches(caller, run, paused=True)
    await caller.send("PUT", f"{path}/breakpoints", json={"after": ["a"]})
    member = {"name": "d", "task": noting(stack.effects, "true")}
    await caller.post(f"{path}/commands", {"append": {"members": [member], "edges": [{"from": "c", "to": "d"}]}})
    await caller.post(f"{path}/resume", {"token": held["pause_token"]})
    await caller.post(f"{path}/pause", {"reason": "a look"})
    held = await reaches(caller, run, paused=True)
    while held["paused"]:  # by the pause, by the breakpoint, or by one after the other
        await caller.post(f"{path}/resume", {"token": held["pause_token"]})
        held = await _moved(caller, run, held["pause_token"])
    row = await reaches(caller, run, status="completed")
    assert row["counts"]["completed"] == 4
    return {}


async def _moved(caller: Caller, run: str, token: str) -> dict[str, Any]:
    """Return the run once it holds by another token, or has ended."""
    deadline = time.monotonic() + WITHIN
    while True:
        row = dict((await caller.send("GET", f"/v1/runs/{run}")).json())
        if row["status"] in RUN_TERMINAL or (row["paused"] and row["pause_token"] != token):
            return row
        assert time.monotonic() < deadline, f"{run} is {row['status']}, {row['counts']}"
        await asyncio.sleep(LOOK)


async def cancelled(stack: FaultStack, caller: Caller) -> Ends:
    """A run whose first member runs is cancelled."""
    run = await create(stack, caller, first="sleep 60")
    await _runs(caller, run)
    await caller.post(f"/v1/runs/{run}/cancel")
    await reaches(caller, run, status="cancelled")
    return {}


async def _runs(caller: Caller, run: str) -> str:
    """Return the task of the run's first member once its command runs."""
    await reaches(caller, run, status="in_progress")
    deadline = time.monotonic() + WITHIN
    while True:
        items = (await caller.send("GET", "/v1/tasks", params={"run_id": run, "step": "running"})).json()["items"]
        if items:
            return str(items[0]["id"])
        assert time.monotonic() < deadline, f"nothing of {run} runs"
        await asyncio.sleep(LOOK)


async def retried(stack: FaultStack, caller: Caller, *, reply_is_lost: bool = False) -> Ends:
    """A run that failed is tried again by hand, and does better."""
    marker = stack.folder / f"tried-{secrets.token_hex(4)}"
    run = await create(stack, caller, first=f'[ -e "{marker}" ] || exit 3')
    await reaches(caller, run, status="failed")
    marker.touch()
    if reply_is_lost:
        stack.armoury.arm("engine.start_run:after", Action.ERROR)
    await caller.post(f"/v1/runs/{run}/retry", {"from_attempt": 1})
    await reaches(caller, run, status="completed", attempt=2)
    return {}


async def started_twice(stack: FaultStack, caller: Caller) -> Ends:
    """The second attempt of a run is started, and nobody hears of it: its start comes again."""
    return await retried(stack, caller, reply_is_lost=True)


async def deleted(stack: FaultStack, caller: Caller) -> Ends:  # noqa: ARG001 - a scene's signature
    """A run that has ended is deleted, with its task: of an external one, since a node remembers what it has buried."""
    task = {"command": ["true"], "provider": "external"}
    run = await caller.create_run(members=[{"name": "a", "task": task}])
    await reaches(caller, run, status="in_progress")
    await caller.post(f"/v1/runs/{run}/cancel")
    await reaches(caller, run, status="cancelled")
    page = await caller.send("GET", "/v1/tasks", params={"run_id": run})
    tasks = {item["id"] for item in page.json()["items"]}
    caller.witness.deleting |= tasks | {run}
    answer = await caller.send("DELETE", f"/v1/runs/{run}", final=False)
    assert answer.status_code in (204, 404)
    caller.witness.deleted |= tasks | {run}
    return {}


async def terminated(stack: FaultStack, caller: Caller) -> Ends:
    """Somebody terminates a run's workflow in Temporal's UI while its first command runs: the sweep ends it all."""
    run = await create(stack, caller, first="sleep 60")
    task = await _runs(caller, run)
    await stack.client.get_workflow_handle(run_workflow_id(RunId(run))).terminate("by hand")
    await swept(stack, caller, {task: ("cancelled",)})
    await reaches(caller, run, status="failed")
    return {task: ("cancelled",)}


async def lost(stack: FaultStack, caller: Caller) -> Ends:
    """Somebody deletes a run's workflow in Temporal while its first command runs, ten minutes ago: the sweep starts it.

    What has ended meanwhile is told anew.
    """
    run = await create(stack, caller, first="sleep 2")
    await _runs(caller, run)
    execution = WorkflowExecution(workflow_id=run_workflow_id(RunId(run)))
    await stack.client.workflow_service.delete_workflow_execution(
        DeleteWorkflowExecutionRequest(namespace=stack.client.namespace, workflow_execution=execution)
    )
    deadline = time.monotonic() + WITHIN
    old = text(f"UPDATE runs SET updated_at = updated_at - interval '{LATE}' WHERE id = :run")  # noqa: S608 - a constant
    while (await caller.send("GET", f"/v1/runs/{run}")).json()["status"] not in RUN_TERMINAL:
        async with stack.database.begin("tests.old_run") as connection:
            await connection.execute(old, {"run": run})
        await swept(stack, caller, {})
        assert time.monotonic() < deadline, f"nobody has started {run} again"
    await reaches(caller, run, status="completed")
    return {}


EVERYDAY: Final[tuple[Scene, ...]] = (completes, steered, cancelled, retried)
SCENE_OF: Final[Mapping[str, Scene]] = {
    "engine.start_run": completes,
    "engine.begun": started_twice,
    "engine.tell_run": completes,
    "engine.steer_run": steered,
    "engine.cancel_run": cancelled,
    "run_intents.": completes,
    "run_sweeps.": terminated,
    "run_sweeps.start_again": lost,
    "runs.": completes,
    "runs.barrier": steered,
    "runs.cancel": cancelled,
    "runs.command": steered,
    "runs.delete": deleted,
    "runs.pause": steered,
    "runs.resume": steered,
    "runs.retry": retried,
    "runs.set_breakpoints": steered,
}
