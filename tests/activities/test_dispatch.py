"""The dispatcher, where the workflow suites cannot look: Temporal away."""

import asyncio
from datetime import timedelta

from sqlalchemy import func, select, text
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from activities.dispatch import Dispatcher
from domain import failpoints
from domain.policy import Policy
from store import outbox
from store.engine import Database
from store.models import Outbox, OutboxKind
from tests.store.rows import LEASE, create_task, row_of
from workflows.gateway import Gateway


async def test_a_force_that_does_not_reach_temporal_is_the_cancel_again(database_url: str) -> None:
    """The row stays live: with Temporal back the attempt is asked anew, and has its time."""
    database = Database(database_url, pool=2)
    nowhere = Gateway(await Client.connect("127.0.0.1:1", lazy=True, data_converter=pydantic_data_converter))
    away = Dispatcher(name="away", database=database, gateway=nowhere, policy=Policy())
    task = await create_task(database)
    async with database.begin("tests.intent") as connection:
        intent = await outbox.put(
            connection, kind=OutboxKind.FORCE, task_id=task, attempt=1, lease_to="away", lease=LEASE
        )
    away.send(intent)
    await away.close()
    query = select(Outbox.kind, Outbox.leased_by, Outbox.tries).where(Outbox.id == intent.id)
    async with database.read() as connection:
        assert (await connection.execute(query)).one() == ("cancel", None, 0)
    assert (await row_of(database, task))["status"] == "queued"
    await database.close()


async def test_a_start_that_nobody_can_read_waits_and_says_why(database_url: str) -> None:
    """The intent stays, not due for half a minute, with the reason; other intents go on."""
    database = Database(database_url, pool=2)
    nowhere = Gateway(await Client.connect("127.0.0.1:1", lazy=True, data_converter=pydantic_data_converter))
    dispatcher = Dispatcher(name="reader", database=database, gateway=nowhere, policy=Policy())
    task = await create_task(database)
    async with database.begin("tests.unreadable") as connection:
        await connection.execute(
            text("UPDATE tasks SET spec = jsonb_set(spec, '{priority}', '\"x\"') WHERE id = :task"), {"task": task}
        )
        intent = await outbox.put(
            connection, kind=OutboxKind.START, task_id=task, attempt=1, lease_to="reader", lease=LEASE
        )
    dispatcher.send(intent)
    await dispatcher.close()
    query = select(Outbox.leased_by, Outbox.last_error, Outbox.due_at > func.now() + timedelta(seconds=20))
    async with database.read() as connection:
        assert (await connection.execute(query.where(Outbox.id == intent.id))).one() == (
            None,
            "it cannot be read",
            True,
        )
    await database.close()


async def test_a_round_that_fails_is_not_the_last(database_url: str) -> None:
    """Another one follows, whatever went wrong: a worker without a dispatcher would look alive, and send nothing."""
    database = Database(database_url, pool=2)
    nowhere = Gateway(await Client.connect("127.0.0.1:1", lazy=True, data_converter=pydantic_data_converter))
    dispatcher = Dispatcher(name="sturdy", database=database, gateway=nowhere, policy=Policy())
    again = asyncio.Event()
    broken = ["once"]

    def reached(point: str) -> None:
        if point == "outbox.lease:before" and broken:
            raise RuntimeError(broken.pop())
        if point == "outbox.lease:after":
            again.set()

    failpoints.arm(reached)
    loop = asyncio.create_task(dispatcher.run())
    try:
        await asyncio.wait_for(again.wait(), 10)
    finally:
        failpoints.arm(None)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await dispatcher.close()
        await database.close()
    assert not broken
