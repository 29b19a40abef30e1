"""The outbox and the inbox: leased by one, expired to another, gone when acknowledged."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from domain.events import EventType
from domain.ids import new_id
from domain.names import CallbackKind, TaskId
from store import outbox
from store.engine import Database
from store.models import OutboxKind
from store.outbox import Intent, Undelivered
from store.tasks import is_live
from tests.store.rows import LEASE, batch, column, create_task, event, flush, scalar

EXPIRED = timedelta(seconds=-1)


@pytest.fixture(autouse=True)
async def _empty(database: Database) -> AsyncIterator[None]:
    """Each test begins and ends with an empty outbox and inbox."""
    yield
    async with database.begin("test") as connection:
        await connection.execute(text("TRUNCATE outbox, callbacks"))


async def put(database: Database, task: TaskId, *, lease: timedelta = EXPIRED, **options: Any) -> Intent:
    """Store a signal intent; unless `lease` says otherwise its writer has died meanwhile."""
    async with database.begin("test") as connection:
        return await outbox.put(
            connection, kind=OutboxKind.SIGNAL, task_id=task, attempt=1, lease_to="writer", lease=lease, **options
        )


async def lease(
    database: Database, who: str = "dispatcher", *, until: timedelta = LEASE, limit: int = 100
) -> list[Intent]:
    """Lease in a transaction of its own."""
    async with database.begin("test") as connection:
        return await outbox.lease(connection, lease_to=who, until=until, limit=limit)


async def fresh(database: Database) -> TaskId:
    """Write a task whose own start intent is out of the way."""
    return await create_task(database, start=False)


async def test_a_writers_own_intent_is_nobody_elses(database: Database) -> None:
    """What is leased to its writer is not handed out before that lease has run out."""
    task = await fresh(database)
    await put(database, task, lease=LEASE)
    left = await put(database, task, lease=EXPIRED)
    assert [intent.id for intent in await lease(database)] == [left.id]


async def test_an_intent_comes_back_as_it_was_put(database: Database) -> None:
    """Kind, task, attempt, name and body; `tries` counts the leases."""
    task = await fresh(database)
    intent = await put(database, task, name="slot_granted", body={"node_id": "n"})
    [leased] = await lease(database)
    expected = Intent(
        id=intent.id,
        kind=OutboxKind.SIGNAL,
        task_id=task,
        attempt=1,
        name="slot_granted",
        body={"node_id": "n"},
        tries=1,
    )
    assert leased == expected


async def test_a_lease_that_ran_out_is_taken_over(database: Database) -> None:
    """An intent of a dispatcher that died is leased again, and its tries are counted."""
    await put(database, await fresh(database))
    [first] = await lease(database, "dead", until=EXPIRED)
    [second] = await lease(database, "alive")
    assert (first.id, first.tries, second.tries) == (second.id, 1, 2)
    assert await lease(database, "third") == []


async def test_what_was_put_back_waits_for_its_time(database: Database) -> None:
    """Not before `due_in`; the error is kept for whoever looks."""
    task = await fresh(database)
    await put(database, task)
    [intent] = await lease(database)
    async with database.begin("test") as connection:
        await outbox.put_back(connection, intent, due_in=timedelta(hours=1), error="x" * 5000)
    assert await lease(database) == []
    async with database.begin("test") as connection:
        await outbox.put_back(connection, intent, due_in=EXPIRED, error="later")
    [again] = await lease(database)
    assert (again.id, again.tries) == (intent.id, 2)
    assert await scalar(database, "SELECT last_error FROM outbox WHERE id = :id", id=intent.id) == "later"


async def test_what_was_sent_is_gone(database: Database) -> None:
    """Acknowledged intents leave no row; the others stay."""
    task = await fresh(database)
    intents = [await put(database, task) for _ in range(3)]
    async with database.begin("test") as connection:
        await outbox.sent(connection, [intents[0].id, intents[2].id])
    assert await column(database, "SELECT id FROM outbox") == [intents[1].id]


async def test_the_limit_is_kept_and_the_oldest_come_first(database: Database) -> None:
    """10 due intents, leased 3 at a time: 3, 3, 3, 1, in order."""
    task = await fresh(database)
    intents = [await put(database, task) for _ in range(10)]
    leased = [[intent.id for intent in await lease(database, limit=3)] for _ in range(5)]
    assert [len(ids) for ids in leased] == [3, 3, 3, 1, 0]
    assert [number for ids in leased for number in ids] == [intent.id for intent in intents]


async def test_two_dispatchers_never_lease_the_same(database: Database) -> None:
    """8 loops over 200 intents: every intent is leased once, and nobody waits for another's transaction."""
    task = await fresh(database)
    intents = {(await put(database, task)).id for _ in range(200)}

    async def drain(who: str) -> list[int]:
        mine: list[int] = []
        while batch := await lease(database, who, limit=7):
            mine += [intent.id for intent in batch]
        return mine

    taken = await asyncio.gather(*(drain(f"d{n}") for n in range(8)))
    flat = [number for mine in taken for number in mine]
    assert len(flat) == len(set(flat)) == 200
    assert set(flat) == intents


async def test_an_uncommitted_lease_is_passed_over(database: Database) -> None:
    """SKIP LOCKED: a dispatcher takes what is left while another's transaction is open."""
    task = await fresh(database)
    intents = [await put(database, task) for _ in range(4)]
    async with database.begin("test") as connection, asyncio.timeout(5):
        first = await outbox.lease(connection, lease_to="slow", until=LEASE, limit=2)
        second = await lease(database, "quick")
    assert [i.id for i in (*first, *second)] == [i.id for i in intents]


async def test_a_rolled_back_cause_leaves_no_intent(database: Database) -> None:
    """Intents are committed with their cause or not at all."""
    task = await fresh(database)
    async with database.begin("test") as connection:
        await outbox.put(connection, kind=OutboxKind.CANCEL, task_id=task, attempt=1, lease_to="w", lease=EXPIRED)
        await connection.rollback()
    assert await lease(database) == []


async def test_an_intent_may_outlive_its_task(database: Database) -> None:
    """It is still leased, and whoever sends it finds that there is nobody: the attempt is not live."""
    task = await fresh(database)
    await put(database, task)
    async with database.begin("test") as connection:
        await connection.execute(text("DELETE FROM tasks WHERE id = :task"), {"task": task})
    [intent] = await lease(database)
    async with database.begin("test") as connection:
        assert await is_live(connection, intent.task_id, intent.attempt) is False


# --- the inbox ------------------------------------------------------------------------------------------------------


async def tell(database: Database, task: TaskId, kind: CallbackKind, *, due: timedelta = EXPIRED) -> str:
    """Write a callback of a workspace of its own, as `receive_callback` does."""
    workspace = new_id()
    statement = text(
        "INSERT INTO callbacks (workspace_id, attempt, kind, turn, task_id, body, digest, due_at)"
        " VALUES (:workspace, 1, :kind, 1, :task, '{\"status\": \"running\"}', '', clock_timestamp() + :due)"
    )
    async with database.begin("test") as connection:
        await connection.execute(statement, {"workspace": workspace, "kind": kind, "task": task, "due": due})
    return workspace


async def lease_callbacks(database: Database, *, until: timedelta = LEASE, limit: int = 100) -> list[Undelivered]:
    """Lease in a transaction of its own."""
    async with database.begin("test") as connection:
        return await outbox.lease_callbacks(connection, until=until, limit=limit)


async def test_a_callback_is_leased_until_its_time(database: Database) -> None:
    """One that its receiver still sends is left alone; one that fell due is leased once; after the lease again."""
    task = await fresh(database)
    await tell(database, task, CallbackKind.READY, due=LEASE)
    due = await tell(database, task, CallbackKind.READY)
    leases = [await lease_callbacks(database, until=until) for until in (EXPIRED, LEASE, LEASE)]
    assert [[callback.workspace_id for callback in leased] for leased in leases] == [[due], [due], []]
    assert leases[1][0].tries == 2


async def test_a_delivered_callback_is_never_leased_again(database: Database) -> None:
    """`delivered_at` is set once; whatever a workspace tells implies its claim."""
    task = await fresh(database)
    ready, claimed = await tell(database, task, CallbackKind.READY), await tell(database, task, CallbackKind.CLAIMED)
    async with database.begin("test") as connection:
        await connection.execute(
            text("UPDATE callbacks SET workspace_id = :ready WHERE workspace_id = :claimed"),
            {"ready": ready, "claimed": claimed},
        )
        await outbox.delivered(connection, [(ready, 1, CallbackKind.READY, 1)])
    assert await lease_callbacks(database) == []
    first = await scalar(database, "SELECT max(delivered_at) FROM callbacks")
    async with database.begin("test") as connection:
        await outbox.delivered(connection, [(ready, 1, CallbackKind.READY, 1)])
    assert await scalar(database, "SELECT max(delivered_at) FROM callbacks") == first


async def test_a_callback_says_whether_its_attempt_is_over(database: Database) -> None:
    """`over` for an ended task and for an earlier attempt; False while the attempt lives."""
    live, ended, later = [await create_task(database) for _ in range(3)]
    await flush(database, batch(ended, 1, event(EventType.TASK_FAILED)))
    await flush(database, batch(later, 1, event(EventType.TASK_QUEUED, attempt=2)))
    told = {await tell(database, task, CallbackKind.FINISHED): task for task in (live, ended, later)}
    over = {told[callback.workspace_id]: callback.over for callback in await lease_callbacks(database)}
    assert over == {live: False, ended: True, later: True}


async def test_dispatchers_never_lease_the_same_callback(database: Database) -> None:
    """6 loops over 60 callbacks, 5 at a time: each is leased once, and the limit is kept."""
    task = await fresh(database)
    told = {await tell(database, task, CallbackKind.READY) for _ in range(60)}

    async def drain() -> list[str]:
        mine: list[str] = []
        while leased := await lease_callbacks(database, limit=5):
            assert len(leased) <= 5
            mine += [callback.workspace_id for callback in leased]
        return mine

    flat = [workspace for mine in await asyncio.gather(*(drain() for _ in range(6))) for workspace in mine]
    assert len(flat) == 60
    assert set(flat) == told
