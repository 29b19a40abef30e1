"""The checker fails on a broken system, on the invariant that it breaks, and passes the same scene on a sound one."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from activities.dispatch import Dispatcher
from api import inbox
from cli.embedded.postgres import Postgres
from domain import failpoints
from domain.events import EventType
from domain.ids import new_id, workspace_id
from domain.lifecycle import Step
from domain.messages import AgentOrder
from domain.names import CallbackKind, TaskId, workflow_id
from domain.tokens import Claims
from store import callbacks, events, mirror
from store.callbacks import Reception
from store.engine import Database
from tests.api.harness import Api, serve, settings_for
from tests.conftest import database_numbers
from tests.faults.caller import Caller, noting
from tests.faults.checker import check, name_of
from tests.faults.collect import Witness, collect, effects_in
from tests.faults.points import lost
from tests.faults.snapshot import Created, Recovery, Snapshot, Told
from tests.faults.stack import until
from tests.faults.variants import (
    SOON,
    SQL,
    Broken,
    ForgetfulDispatcher,
    IdleDispatcher,
    UnlockedProvider,
    install,
    signal_before_commit,
    substituted,
    untyped,
)
from tests.store.rows import batch, create_node, create_task, event, flush
from tests.store.slots import conclude, reserve, wait
from tests.workspaces.conftest import Bench
from worker import control_worker
from workflows.gateway import Gateway
from workflows.task_runner import HANDLERS
from workspaces.local import LocalProvider

STARTED, FINISHED = EventType.STEP_STARTED, EventType.STEP_FINISHED
FIRST, SECOND = Step.NODE_SELECTION, Step.WAITING_FOR_NODE_CAPACITY
LEASE = SOON


@asynccontextmanager
async def world(postgres: Postgres, template: str, broken: Broken | None) -> AsyncIterator[Database]:
    """Give a database with the shipped functions, or with a broken one among them."""
    name = f"variant_{next(database_numbers)}"
    await postgres.create_database(name, template=template)
    database = Database(postgres.url(name), pool=3)
    try:
        if broken:
            await install(database, broken)
        yield database
    finally:
        await database.close()
        await postgres.drop_database(name)


async def late_flush(database: Database) -> Snapshot:
    """A flush of a workflow task that was redone comes after that of the redo."""
    task = await create_task(database)
    redo = (event(STARTED, "1", step=FIRST), event(FINISHED, "2", step=FIRST), event(STARTED, "3", step=SECOND))
    await flush(database, batch(task, 7, *redo))
    await flush(
        database, batch(task, 5, event(FINISHED, "4", step=FIRST, outcome="done"), event(STARTED, "5", step=FIRST))
    )
    return await collect(database)


async def flush_of_an_earlier_attempt(database: Database) -> Snapshot:
    """An attempt that was given up writes once more while the next one works."""
    task = await create_task(database)
    failed, queued = event(EventType.ATTEMPT_FAILED, error=None), event(EventType.TASK_QUEUED, "q2", attempt=2)
    await flush(database, batch(task, 5, event(STARTED, "1", step=FIRST)))
    await flush(database, batch(task, 6, failed, queued))
    await flush(database, batch(task, 1, event(STARTED, "2", attempt=2, step=FIRST), attempt=2))
    await flush(database, batch(task, 9, event(FINISHED, "3", step=FIRST)))
    return await collect(database)


async def flush_after_the_end(database: Database) -> Snapshot:
    """A workflow that has not heard of its task's end goes on writing."""
    task = await create_task(database)
    await flush(database, batch(task, 1, event(EventType.TASK_CANCELLED, error=None)))
    await flush(database, batch(task, 2, event(STARTED, step=FIRST)))
    return await collect(database)


async def one_at_work(database: Database) -> Snapshot:
    """A task has reserved its workspace."""
    node = await create_node(database, slots=1)
    await reserve(database, await create_task(database), node, 1)
    return await collect(database)


async def late_release(database: Database) -> Snapshot:
    """The end of a first attempt comes again, while the second one works in the slot."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await reserve(database, task, node, 1)
    ending = (event(EventType.ATTEMPT_FAILED, error=None), event(EventType.TASK_QUEUED, "q2", attempt=2))
    await conclude(database, task, 2, *ending, due=datetime.now(UTC))
    await reserve(database, task, node, 1, attempt=2)
    await conclude(database, task, 2, *ending, due=datetime.now(UTC))
    snapshot = await collect(database)
    return Snapshot(**{**vars(snapshot), "outbox": ()})


async def two_contents(database: Database) -> Snapshot:
    """The same callback comes twice, with other content the second time."""
    task = await create_task(database, provider="external")
    await reserve(database, task, None, 1)
    workspace, witness = workspace_id(task, 1, 1), Witness()
    claims = Claims(task_id=task, workspace_id=workspace, attempt=1, turn=1, expires_at=datetime.now(UTC))
    for nonce in ("first", "second"):
        async with database.commit("tests.receive") as connection:
            body = {"status": "running", "details": {"nonce": nonce}}
            answer = await callbacks.receive(connection, claims, CallbackKind.READY, body, lease=LEASE)
        status = 409 if answer is Reception.CONFLICT else 200
        witness.told.append(
            Told(task=task, workspace=workspace, attempt=1, kind="ready", turn=1, nonce=nonce, status=status)
        )
    return await collect(database, witness)


async def two_writers(database: Database) -> Snapshot:
    """One appends to a log while another one has appended and not committed yet."""
    task = await create_task(database)
    async with database.begin("tests.first") as first:
        await mirror.append(first, task, [event(EventType.DEBUG_TRACE, "a")])
        second = asyncio.create_task(append(database, task))
        await until_waiting(database)
    await second
    return await collect(database)


async def append(database: Database, task: TaskId) -> None:
    """Append one event."""
    async with database.begin("tests.second") as connection:
        await mirror.append(connection, task, [event(EventType.DEBUG_TRACE, "b")])


async def until_waiting(database: Database) -> None:
    """Return when a session of this database waits for another one's lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with database.read() as connection:
        while not (await connection.exec_driver_sql(query)).scalar_one():  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.01)


async def release_with_a_waiter(database: Database) -> Snapshot:
    """One task ends while another one waits for its slot."""
    node = await create_node(database, slots=1)
    first, second = await create_task(database), await create_task(database)
    await reserve(database, first, node, 1)
    await wait(database, second, 1, node)
    await conclude(database, first, 2)
    return without_starts(await collect(database))


async def one_ended(database: Database) -> Snapshot:
    """A task has worked and ended."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await reserve(database, task, node, 1)
    await conclude(database, task, 2)
    return without_starts(await collect(database))


def without_starts(snapshot: Snapshot) -> Snapshot:
    """Leave out the start intents: nobody dispatches here."""
    return Snapshot(**{**vars(snapshot), "outbox": [row for row in snapshot.outbox if row["kind"] != "start"]})


SCENES: dict[str, tuple[int, Callable[[Database], Awaitable[Snapshot]]]] = {
    "drop the fence": (3, late_flush),
    "drop the fence between attempts": (3, flush_of_an_earlier_attempt),
    "drop the terminal guard": (3, flush_after_the_end),
    "write no intent": (7, one_at_work),
    "skip the owner check on release": (7, late_release),
    "forget the inbox's uniqueness": (6, two_contents),
    "number events outside the lock": (3, two_writers),
    "lose a grant": (7, release_with_a_waiter),
    "end without cleanup": (7, one_ended),
}


def found(snapshot: Snapshot, number: int) -> list[str]:
    """Return the violations of one invariant."""
    return check(snapshot)[name_of(number)]


def test_every_broken_function_has_a_scene() -> None:
    """The two tables name the same variants."""
    assert SCENES.keys() == SQL.keys()


@pytest.mark.parametrize("name", SCENES)
async def test_a_broken_function_is_found(name: str, postgres: Postgres, migrated_template: str) -> None:
    """Sound: no violation of that invariant. Broken: at least one."""
    number, scene = SCENES[name]
    async with world(postgres, migrated_template, None) as database:
        assert found(await scene(database), number) == []
    async with world(postgres, migrated_template, SQL[name]) as database:
        assert found(await scene(database), number)


def test_a_substitution_that_does_not_fit_is_an_error() -> None:
    """Text that is not there, or there twice, breaks nothing and must not count as broken."""
    with pytest.raises(ValueError, match="0 times"):
        substituted("SELECT 1", Broken("f", "SELECT 2", ""))
    with pytest.raises(ValueError, match="2 times"):
        substituted("SELECT 1, 1", Broken("f", "1", ""))


# --- with the engine ----------------------------------------------------------------------------------------------


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


async def test_a_create_that_nobody_answered_is_found(postgres: Postgres, migrated_template: str) -> None:
    """A task that was acknowledged and is not there, and an item that exists twice."""
    async with world(postgres, migrated_template, None) as database:
        for _ in range(2):
            await create_task(database, labels={"item": "twice"})
        snapshot = await collect(database)
        one = next(iter(snapshot.tasks))
        created = [Created(item="lost", task=new_id()), Created(item="twice", task=one)]
        words = " ".join(found(Snapshot(**{**vars(snapshot), "created": created}), 1))
        assert "does not exist" in words
        assert "created 2 times" in words


def test_no_variant_is_without_its_invariant() -> None:
    """Each of the nine has a broken variant in this module."""
    numbers = {number for number, _ in SCENES.values()} | {1, 2, 4, 5, 6, 8, 9}
    assert numbers == set(range(1, 10))
