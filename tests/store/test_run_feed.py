"""A run's feed: its own events and those of its tasks, every one once, under numbers without a gap."""

from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import EventType
from domain.ids import new_id
from domain.names import ProjectId, TaskId
from store import mirror, project_feed, run_log
from store.engine import Database
from tests.store.feeds import assert_whole, entries, sequence, write_at_once
from tests.store.rows import event
from tests.store.runs import THREE, Orchestrator, create_run

E = EventType


async def test_many_writers_of_a_run_and_its_tasks_are_all_in_its_feed(database: Database) -> None:
    """The run's own log and those of 6 tasks, 4 writers each, random delays, 4 sequencers: nothing is skipped.

    The project's feed has the same, and the events of a task beside the run too.
    """
    project = ProjectId(f"p-{new_id()}")
    fan = {"name": "a", "task": {"command": ["true"]}, "fan_out": {"count": 6}}
    writer = Orchestrator(database, await create_run(database, {"members": [fan]}, project=project))
    await writer.begin()
    logs = [writer.run, *[await writer.start("a", item) for item in range(1, 7)]]

    async def append(connection: AsyncConnection, log: str, key: str) -> None:
        if log == writer.run:
            await run_log.append(connection, writer.run, [event(E.RUN_AGGREGATED, key)])
        else:
            await mirror.append(connection, TaskId(log), [event(E.DEBUG_TRACE, key)])

    await write_at_once(database, logs, append, seed=9, writers=4, events=4, sequencers=4)
    await assert_whole(database, project_feed.feed_of_run(writer.run), logs)
    await assert_whole(database, project_feed.feed_of(project), logs)


async def test_commits_in_the_reverse_of_their_order_are_both_in_the_feed(database: Database) -> None:
    """Who began first and committed last is numbered later, and not skipped: a run beside its own task."""
    writer = Orchestrator(database, await create_run(database, THREE))
    await writer.begin()
    task = await writer.start("a")
    feed = project_feed.feed_of_run(writer.run)
    async with database.begin("test") as early:
        await run_log.append(early, writer.run, [event(E.RUN_AGGREGATED, "early")])
        async with database.begin("test") as late:
            await mirror.append(late, task, [event(E.DEBUG_TRACE, "late")])
        await sequence(database)
        before = await entries(database, feed)
        assert before[-1][1] == task
    await sequence(database)
    after = await entries(database, feed)
    assert after[: len(before)] == before
    assert after[-1][1] == writer.run
    await assert_whole(database, feed, [writer.run, task])


async def test_a_feed_of_a_run_holds_nothing_of_others(database: Database) -> None:
    """Neither of another run of the same project nor of a task of its own; their feeds hold theirs."""
    runs = [Orchestrator(database, await create_run(database, THREE)) for _ in range(2)]
    logs: list[list[str]] = []
    for writer in runs:
        await writer.begin()
        logs.append([writer.run, await writer.run_through("a")])
    await sequence(database)
    for writer, own in zip(runs, logs, strict=True):
        await assert_whole(database, project_feed.feed_of_run(writer.run), own)
