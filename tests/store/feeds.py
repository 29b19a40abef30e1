"""What the suites of feeds share: numbering, reading, and writers and sequencers at once."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from store import project_feed
from store.engine import Database

# Appends an event under this key to this log.
Append = Callable[[AsyncConnection, str, str], Awaitable[object]]


async def sequence(database: Database, *, most: int = 100) -> int:
    """Number everything; give how many calls it took."""
    calls, more = 0, True
    while more:
        async with database.begin("test") as connection:
            more = await project_feed.sequence(connection, most=most)
        calls += 1
    return calls


async def entries(database: Database, feed: str) -> list[tuple[int, str, int]]:
    """Give number, log and `seq` of all entries of a feed; a log is that of a task or of a run."""
    query = text("""
    SELECT seq, coalesce(task_id, run_id) AS log, coalesce(task_seq, run_seq) AS of_log
    FROM feed_entries WHERE feed = :feed ORDER BY seq
    """)
    async with database.read() as connection:
        return [(row.seq, row.log, row.of_log) for row in await connection.execute(query, {"feed": feed})]


async def assert_whole(database: Database, feed: str, logs: Sequence[str]) -> None:
    """Every committed event of these logs has one number, without a gap, each log's in its own order."""
    found = await entries(database, feed)
    assert [number for number, _, _ in found] == list(range(1, len(found) + 1))
    query = text("""
    SELECT task_id AS log, seq FROM events WHERE task_id = ANY(:logs)
    UNION ALL SELECT run_id, seq FROM run_events WHERE run_id = ANY(:logs) ORDER BY log, seq
    """)
    async with database.read() as connection:
        committed = [(row.log, row.seq) for row in await connection.execute(query, {"logs": [*logs]})]
    assert sorted((log, seq) for _, log, seq in found) == sorted(committed)
    for each in logs:
        numbers = [seq for _, log, seq in found if log == each]
        assert numbers == sorted(numbers)


async def write_at_once(
    database: Database, logs: Sequence[str], append: Append, *, seed: int, writers: int, events: int, sequencers: int
) -> None:
    """Write this many events by each of the writers of each log, with random delays, while others number them."""
    chance, done = random.Random(seed), asyncio.Event()  # noqa: S311 - a seed, no secret

    async def write(log: str, writer: int) -> None:
        for number in range(events):
            async with database.begin("test") as connection:
                if chance.random() < 0.3:
                    await connection.execute(text("SELECT pg_current_xact_id(), pg_sleep(0.005)"))
                await append(connection, log, f"{writer}:{number}")
                if chance.random() < 0.3:
                    await connection.execute(text("SELECT pg_sleep(0.005)"))

    async def number() -> None:
        while not done.is_set():
            await sequence(database, most=chance.choice((1, 3, 10)))

    async with asyncio.timeout(90):
        numbering = [asyncio.create_task(number()) for _ in range(sequencers)]
        await asyncio.gather(*(write(log, writer) for log in logs for writer in range(writers)))
        done.set()
        await asyncio.gather(*numbering)
    await sequence(database)
