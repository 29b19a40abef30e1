"""What is over by its age: bounded batches, each a transaction of its own."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from domain.policy import Retention
from store import clock, retention
from store.engine import Database

# A sweep takes this much of each kind, and the next one goes on. A whole task may be 100 MB of files.
BATCH: Final = 50
WORKSPACES: Final = 500
# One may have 10,000 tasks: each is a transaction of its own.
RUNS: Final = 10


async def prune(database: Database, ages: Retention) -> dict[str, int]:
    """Delete what is older than it may become, and end the time of kept workspaces; returns how many of each kind."""
    counts: dict[str, int] = {}

    async def each(kind: str, age: timedelta | None, work: Callable[[datetime], Awaitable[int]]) -> None:
        if age is not None and (count := await work(now - age)):
            counts[kind] = count

    async def tasks(before: datetime) -> int:
        async with database.begin("retention.delete_tasks") as connection:
            return len(await retention.delete_tasks(connection, before=before, limit=BATCH))

    async def runs(before: datetime) -> int:
        return await _delete_runs(database, before)

    async def logs(before: datetime) -> int:
        async with database.commit("retention.delete_logs") as connection:
            return await retention.delete_logs(connection, before=before, limit=BATCH)

    async def artifacts(before: datetime) -> int:
        async with database.commit("retention.delete_artifacts") as connection:
            return await retention.delete_artifacts(connection, before=before, limit=BATCH)

    async def attachments(before: datetime) -> int:
        async with database.begin("retention.delete_attachments") as connection:
            return await retention.delete_attachments(connection, before=before, limit=BATCH)

    async with database.commit("retention.expire_workspaces") as connection:
        now = await clock.now(connection)
        if count := await retention.expire_workspaces(connection, limit=WORKSPACES):
            counts["workspaces"] = count
    await each("tasks", ages.tasks, tasks)
    await each("runs", ages.tasks, runs)
    await each("logs", ages.logs, logs)
    await each("artifacts", ages.artifacts, artifacts)
    await each("attachments", ages.attachments, attachments)
    return counts


async def _delete_runs(database: Database, before: datetime) -> int:
    for deleted in range(RUNS):
        async with database.begin("retention.delete_runs") as connection:
            if not await retention.delete_runs(connection, before=before, limit=1):
                return deleted
    return RUNS


async def due(database: Database, ages: Retention) -> dict[str, int]:
    """Return what `prune` would begin with, and change nothing; each kind is counted as if it were alone."""
    async with database.read() as connection:
        now = await clock.now(connection)
        counts = {"workspaces": await retention.due(connection, "workspaces", before=now, limit=WORKSPACES)}
        if ages.tasks is not None:
            counts["runs"] = await retention.due(connection, "runs", before=now - ages.tasks, limit=RUNS)
        for kind, age in ages:
            if age is not None:
                counts[kind] = await retention.due(connection, kind, before=now - age, limit=BATCH)
    return {kind: count for kind, count in counts.items() if count}
