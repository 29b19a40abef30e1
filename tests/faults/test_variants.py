"""The checker fails on a broken system, on the invariant that it breaks, and passes the same scene on a sound one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from cli.embedded.postgres import Postgres
from domain.events import EventType
from domain.ids import new_id, workspace_id
from domain.lifecycle import Step
from domain.names import CallbackKind, TaskId
from domain.tokens import Claims
from store import callbacks, mirror
from store.callbacks import Reception
from store.engine import Database
from tests.conftest import database_numbers
from tests.faults.collect import Witness, collect
from tests.faults.snapshot import Created, Snapshot, Told
from tests.faults.variants import SOON, SQL, Broken, found, install, substituted
from tests.store.rows import batch, create_node, create_task, event, flush
from tests.store.slots import conclude, reserve, wait

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
    """Each of the nine has a broken variant, in this module or beside the engine."""
    numbers = {number for number, _ in SCENES.values()} | {1, 2, 4, 5, 6, 8, 9}
    assert numbers == set(range(1, 10))
