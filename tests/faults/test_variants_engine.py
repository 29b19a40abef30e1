"""The checker fails on a system that is broken beside the engine, and passes the same scene on a sound one."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from activities.dispatch import Dispatcher
from api import inbox
from domain import failpoints
from domain.events import EventType
from domain.ids import new_id
from domain.lifecycle import Step
from domain.messages import AgentOrder
from domain.names import TaskId, workflow_id
from store import events
from tests.api.harness import Api, serve, settings_for
from tests.faults.caller import Caller, noting
from tests.faults.collect import collect, effects_in
from tests.faults.points import lost
from tests.faults.snapshot import Recovery, Snapshot
from tests.faults.stack import until
from tests.faults.variants import (
    SOON,
    Broken,
    ForgetfulDispatcher,
    IdleDispatcher,
    UnlockedProvider,
    found,
    signal_before_commit,
    substituted,
    untyped,
)
from tests.store.rows import batch, create_task, event, flush
from tests.workspaces.conftest import Bench
from worker import control_worker
from workflows.gateway import Gateway
from workflows.task_runner import HANDLERS
from workspaces.local import LocalProvider


@dataclass
class Small:
    """An API without a server, a control worker, and the engine."""

    api: Api
    caller: Caller
    client: Client

    async def seen(self) -> Snapshot:
        """Take a snapshot, executions included, of this database's tasks only."""
        snapshot = await collect(self.api.database, self.caller.witness, client=self.client)
        ours = {workflow_id(TaskId(task), 1) for task in snapshot.tasks}
        executions = {name: each for name, each in snapshot.executions.items() if name in ours}
        return Snapshot(**{**vars(snapshot), "executions": executions})


@asynccontextmanager
async def small(
    url: str, temporal: WorkflowEnvironment, dispatcher_type: type[Dispatcher] = Dispatcher
) -> AsyncIterator[Small]:
    """Give a system in this process, on a queue of its own."""
    queue = f"variants-{new_id()}"
    gateway = Gateway(temporal.client, queue=queue)
    async for api in serve(url, gateway):
        dispatcher = dispatcher_type(
            name="variant", database=api.database, gateway=gateway, policy=settings_for(url).policy
        )
        api.app.state.context.courier = dispatcher
        async with control_worker(temporal.client, api.database, dispatcher, task_queue=queue, max_cached_workflows=0):
            loop = asyncio.create_task(dispatcher.run())
            yield Small(api, Caller(api.client), temporal.client)
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await dispatcher.close()


def unclaimed(seconds: float = 1) -> dict[str, Any]:
    """Return the body of a task that fails by itself after so long."""
    return {
        "command": ["true"],
        "provider": "external",
        "timeouts": {"workspace_dispatch": seconds},
        "retry": {"max_attempts": 1},
    }


@pytest.mark.parametrize(("dispatcher", "broken"), [(Dispatcher, False), (ForgetfulDispatcher, True)])
async def test_a_lost_start_is_found(
    *,
    dispatcher: type[Dispatcher],
    broken: bool,
    database_url: str,
    temporal: WorkflowEnvironment,
) -> None:
    """A start that is noted as sent before it was sent: an acknowledged task that never ends."""
    async with small(database_url, temporal, dispatcher) as system:
        task = await system.caller.create(**unclaimed())
        with suppress(AssertionError):
            await system.caller.ends(task, within=6)
        assert bool(found(await system.seen(), 1)) is broken
        # Whoever runs next on this database finds nothing of this.
        await system.caller.cancel(task)


@pytest.mark.parametrize(("dispatcher", "broken"), [(Dispatcher, False), (IdleDispatcher, True)])
async def test_a_slow_recovery_is_found(
    *,
    dispatcher: type[Dispatcher],
    broken: bool,
    database_url: str,
    temporal: WorkflowEnvironment,
) -> None:
    """A start that a dead process left behind is sent within two seconds, unless nobody looks."""
    async with small(database_url, temporal, dispatcher) as system:
        task = await create_task(system.api.database, **unclaimed())
        async with system.api.database.begin("tests.orphan") as connection:
            await connection.exec_driver_sql("UPDATE outbox SET leased_by = NULL, leased_until = NULL")
        began, budget = time.monotonic(), SOON.total_seconds()
        with suppress(AssertionError):
            await started(system.client, task, within=budget + 1)
        took = Recovery(fault="a dead process", took=time.monotonic() - began, within=budget)
        assert bool(found(Snapshot(recoveries=[took]), 9)) is broken


async def started(client: Client, task: TaskId, *, within: float) -> None:
    """Return when the engine knows the task."""
    deadline = time.monotonic() + within
    while True:
        with suppress(RPCError):
            await client.get_workflow_handle(workflow_id(task, 1)).describe()
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("broken", [False, True])
async def test_a_signal_before_its_commit_is_found(
    *,
    broken: bool,
    database_url: str,
    temporal: WorkflowEnvironment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database goes away between the two: the workflow went on, and the inbox knows nothing."""
    if broken:
        monkeypatch.setattr(inbox, "receive", signal_before_commit)
    async with small(database_url, temporal) as system:
        task = await system.caller.create(**unclaimed(30))
        row = await system.caller.reaches(task, status="delegated")
        token = await system.caller.token(row["workspace_id"])

        def away(point: str) -> None:
            if point == "callbacks.receive:before":
                raise lost(point)

        failpoints.arm(away)
        try:
            path = f"/v1/workspaces/{row['workspace_id']}/ready"
            answer = await system.api.client.post(path, json={}, headers={"Authorization": f"Bearer {token}"})
        finally:
            failpoints.arm(None)
        assert answer.status_code == 503
        with suppress(AssertionError):
            await system.caller.reaches(task, step="running", within=3)
        await system.caller.cancel(task)
        await system.caller.ends(task)
        assert bool(found(await system.seen(), 6)) is broken


@pytest.mark.parametrize("broken", [False, True])
async def test_a_disagreement_is_found(
    *,
    broken: bool,
    database_url: str,
    temporal: WorkflowEnvironment,
) -> None:
    """An execution that was terminated, while its row says that the command failed by itself."""
    async with small(database_url, temporal) as system:
        task = TaskId(await system.caller.create(**unclaimed()))
        await started(system.client, task, within=10)
        if broken:
            await system.caller.reaches(task, status="delegated")
            await system.client.get_workflow_handle(workflow_id(task, 1)).terminate()
            failed = event(EventType.TASK_FAILED, error={"code": "x", "category": "timeout", "message": "x"})
            await flush(system.api.database, batch(task, 2**62, failed))
        await system.caller.ends(task)
        await closed(system.client, task)
        violations = found(await system.seen(), 4)
        assert bool(violations) is broken, violations


async def closed(client: Client, task: TaskId) -> None:
    """Return when the engine has closed the attempt."""
    with suppress(Exception):
        await client.get_workflow_handle(workflow_id(task, 1)).result()


@pytest.mark.parametrize("broken", [False, True])
async def test_a_stuck_workflow_is_found(
    *,
    broken: bool,
    database_url: str,
    temporal: WorkflowEnvironment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error that is none of ours leaves a workflow that tries its task for ever."""
    async with small(database_url, temporal) as system:
        if broken:
            monkeypatch.setitem(HANDLERS, Step.WORKSPACE_DISPATCH, untyped)
        task = TaskId(await system.caller.create(**unclaimed()))
        with suppress(AssertionError):
            await system.caller.ends(task, within=8)
        assert bool(found(await system.seen(), 8)) is broken
        if broken:
            await system.client.get_workflow_handle(workflow_id(task, 1)).terminate()


@pytest.mark.parametrize("broken", [False, True])
async def test_a_reader_that_misses_an_event_is_found(
    *,
    broken: bool,
    database_url: str,
    temporal: WorkflowEnvironment,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page that begins after its `seq` instead of at it."""
    async with small(database_url, temporal) as system:
        if broken:
            page = substituted(str(events._PAGE), Broken("events page", "seq >= :first", "seq > :first"))
            monkeypatch.setattr(events, "_PAGE", text(page))
        task = await system.caller.create(**unclaimed())
        await system.caller.read("reader", task, limit=3)
        assert bool(found(await system.seen(), 5)) is broken


@pytest.mark.parametrize(("provider", "broken"), [(LocalProvider, False), (UnlockedProvider, True)])
async def test_a_second_agent_is_found(
    *,
    provider: type[LocalProvider],
    broken: bool,
    bench: Bench,
    tmp_path: Path,
) -> None:
    """The reply to a start was lost and the start comes again: one agent, unless nobody looks at the lock."""
    await bench.prepare(**noting(tmp_path / "effects", "sleep 2"))
    node = provider(bench.root, environment={"PATH": "/usr/bin:/bin"})
    order = AgentOrder(order=bench.order)
    for _ in range(2):
        await node.start_agent(order, bench.grant())
    await until(lambda: len(effects_in(tmp_path / "effects")) >= (4 if broken else 2))
    assert bool(found(Snapshot(effects=effects_in(tmp_path / "effects")), 2)) is broken
