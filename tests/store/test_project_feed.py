"""A project's feed: every committed event once, under numbers without a gap, each task's in its own order."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import EventType, NewEvent
from domain.names import ProjectId, TaskId
from store import mirror, project_feed
from store.engine import Database
from tests.store.feeds import assert_whole, entries, sequence, write_at_once
from tests.store.rows import create_task, event

LIMIT = 10_000


def trace(number: int) -> NewEvent:
    """Give an event."""
    return event(EventType.DEBUG_TRACE, f"trace:{number}", n=number)


def feed(project: str) -> str:
    """Name a project's feed."""
    return project_feed.feed_of(ProjectId(project))


async def test_commits_in_the_reverse_of_their_order_are_both_in_the_feed(database: Database) -> None:
    """Who began first and committed last is numbered later, and not skipped."""
    tasks = [await create_task(database, project=ProjectId("reverse")) for _ in range(2)]
    async with database.begin("test") as early:
        await mirror.append(early, tasks[0], [trace(1)])
        async with database.begin("test") as late:
            await mirror.append(late, tasks[1], [trace(1)])
        await sequence(database)
        before = await entries(database, feed("reverse"))
        assert tasks[1] in {task for _, task, _ in before}
        async with database.read() as connection:
            seen = await project_feed.new(connection, {feed("reverse"): 1}, limit=LIMIT)
        assert len(seen[feed("reverse")]) == len(before)
    await sequence(database)
    after = await entries(database, feed("reverse"))
    assert after[: len(before)] == before
    assert after[-1][1] == tasks[0]
    await assert_whole(database, feed("reverse"), tasks)


async def test_a_tasks_own_order_is_kept_whichever_transaction_began_first(database: Database) -> None:
    """`seq` 2 before `seq` 3, also when the one that wrote 3 has the lower transaction number."""
    task = await create_task(database, project=ProjectId("order"))
    async with database.begin("test") as elder:
        await elder.execute(text("SELECT pg_current_xact_id()"))
        async with database.begin("test") as younger:
            await mirror.append(younger, task, [trace(1)])
        await mirror.append(elder, task, [trace(2)])
    await sequence(database)
    await assert_whole(database, feed("order"), [task])


async def test_many_writers_and_many_sequencers_at_once(database: Database) -> None:
    """20 tasks, 4 writers each, random delays within their transactions, 5 sequencers with small batches: whole."""
    tasks = [await create_task(database, project=ProjectId("busy")) for _ in range(20)]

    async def append(connection: AsyncConnection, task: str, key: str) -> None:
        await mirror.append(connection, TaskId(task), [event(EventType.DEBUG_TRACE, key)])

    await write_at_once(database, tasks, append, seed=7, writers=4, events=5, sequencers=5)
    await assert_whole(database, feed("busy"), tasks)


async def test_small_batches_come_to_an_end(database: Database) -> None:
    """A backlog of 30 is numbered in steps of 4, and nothing twice."""
    task = await create_task(database, project=ProjectId("steps"))
    for number in range(30):
        async with database.begin("test") as connection:
            await mirror.append(connection, task, [trace(number)])
    assert await sequence(database, most=4) > 1
    await assert_whole(database, feed("steps"), [task])


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
    await assert_whole(database, feed("restored"), [task])


async def test_each_project_has_numbers_of_its_own(database: Database) -> None:
    """1, 2, … in both."""
    tasks = {project: await create_task(database, project=ProjectId(project)) for project in ("mine", "yours")}
    await sequence(database)
    for project, task in tasks.items():
        await assert_whole(database, feed(project), [task])


async def test_a_deleted_task_leaves_its_feed(database: Database) -> None:
    """Its entries are gone; the numbers of the others stay as they were."""
    gone, kept = [await create_task(database, project=ProjectId("thinned")) for _ in range(2)]
    await sequence(database)
    before = await entries(database, feed("thinned"))
    async with database.begin("test") as connection:
        await connection.execute(text("DELETE FROM tasks WHERE id = :task"), {"task": gone})
    assert await entries(database, feed("thinned")) == [entry for entry in before if entry[1] == kept]
