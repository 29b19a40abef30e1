"""A project's feed: every committed event once, under numbers without a gap, each task's in its own order."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text

from domain.events import EventType, NewEvent
from domain.names import ProjectId, TaskId
from store import mirror, project_feed
from store.engine import Database
from tests.store.rows import create_task, event

LIMIT = 10_000


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give a pool."""
    found = Database(database_url)
    yield found
    await found.close()


def trace(number: int) -> NewEvent:
    """Give an event."""
    return event(EventType.DEBUG_TRACE, f"trace:{number}", n=number)


async def sequence(database: Database, *, most: int = 100) -> int:
    """Number everything; give how many calls it took."""
    calls, more = 0, True
    while more:
        async with database.begin("test") as connection:
            more = await project_feed.sequence(connection, most=most)
        calls += 1
    return calls


async def entries(database: Database, project: str, first: int = 1) -> list[tuple[int, str, int]]:
    """Give number, task and `seq` of all entries from a number on."""
    async with database.read() as connection:
        rows = await connection.execute(
            text("SELECT seq, task_id, task_seq FROM feed_entries WHERE feed = :feed AND seq >= :first ORDER BY seq"),
            {"feed": project_feed.feed_of(ProjectId(project)), "first": first},
        )
        return [(row.seq, row.task_id, row.task_seq) for row in rows]


async def assert_whole(database: Database, project: str, tasks: list[TaskId]) -> None:
    """Every event of these tasks has one number, numbers have no gap, and each task's are in the order of its log."""
    found = await entries(database, project)
    assert [number for number, _, _ in found] == list(range(1, len(found) + 1))
    async with database.read() as connection:
        rows = await connection.execute(
            text("SELECT task_id, seq FROM events WHERE task_id = ANY(:tasks) ORDER BY task_id, seq"), {"tasks": tasks}
        )
        committed = [(row.task_id, row.seq) for row in rows]
    assert sorted((task, seq) for _, task, seq in found) == committed
    for task in tasks:
        numbers = [seq for _, each, seq in found if each == task]
        assert numbers == sorted(numbers)


async def test_commits_in_the_reverse_of_their_order_are_both_in_the_feed(database: Database) -> None:
    """Who began first and committed last is numbered later, and not skipped."""
    tasks = [await create_task(database, project=ProjectId("reverse")) for _ in range(2)]
    async with database.begin("test") as early:
        await mirror.append(early, tasks[0], [trace(1)])
        async with database.begin("test") as late:
            await mirror.append(late, tasks[1], [trace(1)])
        await sequence(database)
        before = await entries(database, "reverse")
        assert tasks[1] in {task for _, task, _ in before}
        async with database.read() as connection:
            seen = await project_feed.new(connection, {project_feed.feed_of(ProjectId("reverse")): 1}, limit=LIMIT)
        assert len(seen[project_feed.feed_of(ProjectId("reverse"))]) == len(before)
    await sequence(database)
    after = await entries(database, "reverse")
    assert after[: len(before)] == before
    assert after[-1][1] == tasks[0]
    await assert_whole(database, "reverse", tasks)


async def test_a_tasks_own_order_is_kept_whichever_transaction_began_first(database: Database) -> None:
    """`seq` 2 before `seq` 3, also when the one that wrote 3 has the lower transaction number."""
    task = await create_task(database, project=ProjectId("order"))
    async with database.begin("test") as elder:
        await elder.execute(text("SELECT pg_current_xact_id()"))
        async with database.begin("test") as younger:
            await mirror.append(younger, task, [trace(1)])
        await mirror.append(elder, task, [trace(2)])
    await sequence(database)
    await assert_whole(database, "order", [task])


async def test_many_writers_and_many_sequencers_at_once(database: Database) -> None:
    """20 tasks, 4 writers each, random delays within their transactions, 5 sequencers with small batches: whole."""
    chance = random.Random(7)  # noqa: S311 - a seed, no secret
    tasks = [await create_task(database, project=ProjectId("busy")) for _ in range(20)]
    done = asyncio.Event()

    async def write(task: TaskId, writer: int) -> None:
        for number in range(5):
            async with database.begin("test") as connection:
                if chance.random() < 0.3:
                    await connection.execute(text("SELECT pg_current_xact_id(), pg_sleep(0.005)"))
                await mirror.append(connection, task, [trace(writer * 100 + number)])
                if chance.random() < 0.3:
                    await connection.execute(text("SELECT pg_sleep(0.005)"))

    async def number() -> None:
        while not done.is_set():
            await sequence(database, most=chance.choice((1, 3, 10)))

    async with asyncio.timeout(60):
        sequencers = [asyncio.create_task(number()) for _ in range(5)]
        await asyncio.gather(*(write(task, writer) for task in tasks for writer in range(4)))
        done.set()
        await asyncio.gather(*sequencers)
    await sequence(database)
    await assert_whole(database, "busy", tasks)


async def test_small_batches_come_to_an_end(database: Database) -> None:
    """A backlog of 30 is numbered in steps of 4, and nothing twice."""
    task = await create_task(database, project=ProjectId("steps"))
    for number in range(30):
        async with database.begin("test") as connection:
            await mirror.append(connection, task, [trace(number)])
    assert await sequence(database, most=4) > 1
    await assert_whole(database, "steps", [task])


async def test_a_restored_database_goes_on(database: Database) -> None:
    """Events that another server numbered higher than this one counts are in the feed once, and so are new ones."""
    task = await create_task(database, project=ProjectId("restored"))
    await sequence(database)
    async with database.begin("test") as connection:
        await mirror.append(connection, task, [trace(1)])
        await connection.execute(text("UPDATE events SET xid = 9000000000000"))
        await connection.execute(text("UPDATE feed_horizon SET xid = 9000000000001"))
    await sequence(database)
    async with database.begin("test") as connection:
        await mirror.append(connection, task, [trace(2)])
    await sequence(database)
    await assert_whole(database, "restored", [task])


async def test_each_project_has_numbers_of_its_own(database: Database) -> None:
    """1, 2, … in both."""
    tasks = {project: await create_task(database, project=ProjectId(project)) for project in ("mine", "yours")}
    await sequence(database)
    for project, task in tasks.items():
        await assert_whole(database, project, [task])


async def test_a_deleted_task_leaves_its_feed(database: Database) -> None:
    """Its entries are gone; the numbers of the others stay as they were."""
    gone, kept = [await create_task(database, project=ProjectId("thinned")) for _ in range(2)]
    await sequence(database)
    before = await entries(database, "thinned")
    async with database.begin("test") as connection:
        await connection.execute(text("DELETE FROM tasks WHERE id = :task"), {"task": gone})
    assert await entries(database, "thinned") == [entry for entry in before if entry[1] == kept]
