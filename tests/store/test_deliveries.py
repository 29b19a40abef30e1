"""Deliveries: committed with their events, leased fairly, given up in time, gone with what they belong to."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from domain.events import EventType
from domain.ids import new_id
from domain.names import DEFAULT_PROJECT, ProjectId, TaskId
from store import deletions, deliveries, mirror, webhooks
from store.deliveries import Due
from store.engine import Database
from tests.store.rows import batch, column, create_task, event, flush, scalar

HOUR = timedelta(hours=1)
OPEN = "SELECT type FROM deliveries JOIN events USING (task_id, seq) WHERE webhook_id = :webhook ORDER BY seq"


@pytest.fixture(autouse=True)
async def _empty(database: Database) -> AsyncIterator[None]:
    """Each test ends with no webhook, and so no delivery."""
    yield
    async with database.begin("test") as connection:
        await connection.execute(text("DELETE FROM webhooks"))


async def webhook(database: Database, *events: EventType, project: ProjectId = DEFAULT_PROJECT) -> str:
    """Write a webhook."""
    async with database.begin("test") as connection:
        row = await webhooks.create(
            connection,
            project,
            webhook=new_id(),
            url="https://receiver.example/",
            events=events or (EventType.DEBUG_TRACE,),
            description="",
            key_id="k1",
            most=1000,
        )
    assert row is not None
    return str(row["id"])


async def lease(
    database: Database,
    *,
    each: int = 100,
    limit: int = 100,
    until: timedelta = HOUR,
    flying: Mapping[str, int] | None = None,
) -> list[Due]:
    """Lease in a transaction of its own."""
    async with database.begin("test") as connection:
        return await deliveries.lease(connection, until=until, each=each, limit=limit, flying=flying or {})


async def traced(database: Database, times: int = 1) -> TaskId:
    """Write a task that leaves so many traces."""
    task = await create_task(database)
    await flush(database, batch(task, 1, *(event(EventType.DEBUG_TRACE, f"p{n}") for n in range(times))))
    return task


async def test_a_delivery_is_committed_with_its_event(database: Database) -> None:
    """For each event of its types in its own project, and no other; those of before are not delivered."""
    await traced(database)
    ours = await webhook(database, EventType.DEBUG_TRACE, EventType.TASK_CANCELLED)
    both = await webhook(database, EventType.TASK_CREATED, EventType.DEBUG_TRACE)
    foreign = await webhook(database, EventType.DEBUG_TRACE, project=ProjectId("other"))
    task = await traced(database)
    await flush(database, batch(task, 2, event(EventType.CALLBACK_STALE), event(EventType.TASK_CANCELLED)))
    assert await column(database, OPEN, webhook=ours) == ["debug.trace", "task.cancelled"]
    assert await column(database, OPEN, webhook=both) == ["task.created", "debug.trace"]
    assert await column(database, OPEN, webhook=foreign) == []


async def test_no_event_no_delivery(database: Database) -> None:
    """A repeat adds none, a redo that brings a known event none, and what is rolled back leaves none."""
    hook = await webhook(database)
    task = await traced(database)
    again = batch(task, 1, event(EventType.DEBUG_TRACE, "p0"))
    await flush(database, again)
    await flush(database, again.model_copy(update={"version": 2}))
    async with database.begin("test") as connection:
        await mirror.flush(connection, batch(task, 3, event(EventType.DEBUG_TRACE, "new")))
        await connection.rollback()
    assert await column(database, OPEN, webhook=hook) == ["debug.trace"]


async def test_a_disabled_webhook_gets_nothing_more(database: Database) -> None:
    """What was pending is given up with the reason; what is delivered stays so."""
    hook = await webhook(database)
    await traced(database, 2)
    first, second = await lease(database)
    async with database.begin("test") as connection:
        await deliveries.delivered(connection, first.id, status=200)
    async with database.begin("test") as connection:
        await webhooks.disable(connection, hook, reason="gone")
    await traced(database)
    state = "SELECT state || coalesce(' ' || last_error, '') FROM deliveries WHERE id = :id"
    assert await scalar(database, state, id=first.id) == "delivered"
    assert await scalar(database, state, id=second.id) == "exhausted gone"
    assert await scalar(database, "SELECT count(*) FROM deliveries") == 2


async def test_a_lease_says_what_is_to_be_sent(database: Database) -> None:
    """The event's envelope, the address, the key; and nobody else gets it while the lease lasts."""
    hook = await webhook(database)
    task = await traced(database)
    (due,) = await lease(database)
    assert (due.webhook_id, due.url, due.key_id, due.generation, due.tries) == (
        hook,
        "https://receiver.example/",
        "k1",
        1,
        1,
    )
    assert (due.type, f'"task_id" : "{task}"' in due.envelope, '"seq" : 3' in due.envelope) == (
        "debug.trace",
        True,
        True,
    )
    assert await lease(database) == []


async def test_a_lease_that_ran_out_is_the_next_ones(database: Database) -> None:
    """Who died with it leaves it; the second try says that it is one."""
    await webhook(database)
    await traced(database)
    (first,) = await lease(database, until=timedelta(seconds=-1))
    (second,) = await lease(database)
    assert (second.id, second.tries) == (first.id, 2)


async def test_two_take_different_ones(database: Database) -> None:
    """Two postmen at once take each delivery once."""
    await webhook(database)
    await traced(database, 20)
    taken = await asyncio.gather(*(lease(database, limit=7) for _ in range(4)))
    ids = [due.id for each in taken for due in each]
    assert len(ids) == len(set(ids))


async def test_a_webhook_that_hangs_leaves_room_for_others(database: Database) -> None:
    """Each gets as many as it may have, less what is under way."""
    busy, free = await webhook(database), await webhook(database)
    await traced(database, 20)
    taken = await lease(database, each=4, flying={busy: 3})
    counts = {hook: len([due for due in taken if due.webhook_id == hook]) for hook in (busy, free)}
    assert counts == {busy: 1, free: 4}


async def fail(database: Database, due: Due, *, give_up: timedelta, delay: timedelta = HOUR) -> dict[str, Any]:
    """Note a failed try, and give the row."""
    async with database.begin("test") as connection:
        await deliveries.failed(connection, due.id, status=503, error="busy", delay=delay, give_up=give_up)
        query = text("SELECT *, due_at - since AS waits FROM deliveries WHERE id = :id")
        return dict((await connection.execute(query, {"id": due.id})).mappings().one())


async def test_the_last_try_is_at_the_end_of_its_time(database: Database) -> None:
    """The next is due after its delay, but never after the end; what fails at the end is given up, and visible."""
    await webhook(database)
    await traced(database)
    (due,) = await lease(database)
    row = await fail(database, due, give_up=3 * HOUR)
    assert (row["state"], row["last_status"], row["last_error"]) == ("pending", 503, "busy")
    assert timedelta(0) <= row["waits"] - HOUR < timedelta(minutes=1)
    assert (await fail(database, due, give_up=HOUR / 2))["waits"] == HOUR / 2
    assert (await fail(database, due, give_up=timedelta(0)))["state"] == "exhausted"
    async with database.begin("test") as connection:
        await deliveries.delivered(connection, due.id, status=200)
    assert await scalar(database, "SELECT state FROM deliveries WHERE id = :id", id=due.id) == "exhausted"


async def test_what_was_given_up_can_be_asked_for_again(database: Database) -> None:
    """At once, with all its time before it, by its own project only, and not where the receiver has gone."""
    hook = await webhook(database)
    await traced(database)
    (due,) = await lease(database)
    await fail(database, due, give_up=timedelta(0))

    async def again(project: ProjectId = DEFAULT_PROJECT, of: str = hook) -> Any:
        async with database.begin("test") as connection:
            return await deliveries.redeliver(connection, project, of, due.id)

    assert await again(ProjectId("other")) is None
    assert await again(of=new_id()) is None
    shown = await again()
    assert (shown["id"], shown["state"], shown["tries"], shown["last_status"]) == (due.id, "pending", 0, 503)
    assert [each.id for each in await lease(database)] == [due.id]
    async with database.begin("test") as connection:
        await webhooks.disable(connection, hook, reason="gone")
    assert await again() is deliveries.Refused.DISABLED


async def test_nothing_is_left_over(database: Database) -> None:
    """A task that is deleted, and a webhook that is, take their open deliveries with them."""
    hook = await webhook(database)
    kept, gone = await traced(database), await traced(database)
    await flush(database, batch(gone, 2, event(EventType.TASK_CANCELLED)))
    taken = await lease(database)
    async with database.begin("test") as connection:
        assert await deletions.delete(connection, DEFAULT_PROJECT, gone) is deletions.Deletion.DELETED
    assert await column(database, "SELECT task_id FROM deliveries") == [kept]
    for due in taken:
        async with database.begin("test") as connection:
            await deliveries.failed(connection, due.id, status=None, error="x", delay=HOUR, give_up=HOUR)
    assert await column(database, "SELECT task_id FROM deliveries") == [kept]
    async with database.begin("test") as connection:
        assert await webhooks.delete(connection, DEFAULT_PROJECT, hook)
    assert await column(database, "SELECT task_id FROM deliveries") == []


async def test_a_write_beside_a_deletion_goes_through(database: Database) -> None:
    """A flush waits for a deletion of the webhook that is under way, and then writes without it: no error, no row."""
    hook = await webhook(database)
    task = await create_task(database)
    async with database.begin("test") as connection:
        assert await webhooks.delete(connection, DEFAULT_PROJECT, hook)
        writing = asyncio.create_task(flush(database, batch(task, 1, event(EventType.DEBUG_TRACE))))
        await until_waiting(database)
    assert (await writing)["verdict"] == "applied"
    assert await scalar(database, "SELECT count(*) FROM deliveries") == 0


async def until_waiting(database: Database) -> None:
    """Wait until somebody waits for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%flush_task%'"
    async with asyncio.timeout(10):
        while True:
            if await scalar(database, query):
                return
            await asyncio.sleep(0.02)


async def test_webhooks_of_a_project_are_counted_one_by_one(database: Database) -> None:
    """Ten at once, where three may be: three are made."""
    project = ProjectId(f"p-{new_id()}")

    async def one() -> Any:
        async with database.begin("test") as connection:
            return await webhooks.create(
                connection, project, webhook=new_id(), url="", events=[], description="", key_id="k1", most=3
            )

    assert len([row for row in await asyncio.gather(*(one() for _ in range(10))) if row]) == 3
