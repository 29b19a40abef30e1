"""What a sweep deletes by age."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import text

from activities.retention import due, prune
from domain.policy import Retention
from store.engine import Database
from tests.store.rows import create_node
from tests.store.runs import Orchestrator, create_run
from tests.store.test_kept import cleanups, kept
from tests.store.test_retention import attachment, left_of, old

AGE = timedelta(days=5)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give a pool of its own."""
    database = Database(database_url, pool=5)
    yield database
    await database.close()


async def test_nothing_is_deleted_by_default(database: Database) -> None:
    """Neither tasks nor files, however old."""
    task = await old(database, days=3000)
    before = await left_of(database, *task)
    assert await prune(database, Retention()) == {}
    assert await left_of(database, *task) == before
    assert await prune(database, Retention(tasks=AGE)) == {"tasks": 1}


async def test_each_kind_has_an_age_of_its_own(database: Database) -> None:
    """Counted by kind: output, files, attachments alone, then whole tasks."""
    task = await old(database)
    await attachment(database, days=10)
    assert await prune(database, Retention(logs=AGE)) == {"logs": 1}
    assert await prune(database, Retention(artifacts=AGE, attachments=AGE)) == {"artifacts": 1, "attachments": 1}
    assert (await left_of(database, *task)).keys() == {"tasks", "events", "callbacks"}
    assert await prune(database, Retention(tasks=AGE)) == {"tasks": 1}
    assert await left_of(database, *task) == {}


async def test_a_run_goes_with_its_tasks(database: Database) -> None:
    """By the age of whole tasks, one transaction each; counted as runs, in a dry run too."""
    for _ in range(2):
        run = await create_run(database)
        await Orchestrator(database, run).fail()
    async with database.begin("test") as connection:
        for table in ("runs", "tasks"):
            await connection.execute(text(f"UPDATE {table} SET finished_at = finished_at - interval '10 days'"))  # noqa: S608
    assert await due(database, Retention(tasks=AGE)) == {"runs": 2}
    assert await prune(database, Retention(tasks=AGE)) == {"runs": 2}
    assert await prune(database, Retention(tasks=AGE)) == {}


async def test_the_time_of_kept_workspaces_ends(database: Database) -> None:
    """A Cleanup is asked for, whatever the settings say of the rest."""
    node = await create_node(database, slots=1)
    task, _ = await kept(database, node, keep_for=timedelta(0))
    assert await prune(database, Retention()) == {"workspaces": 1}
    assert await cleanups(database, task) == 1


async def test_a_dry_run_counts_what_would_go(database: Database) -> None:
    """The same as the next call of each kind deletes, and what is there stays."""
    task = await old(database)
    await attachment(database, days=10)
    node = await create_node(database, slots=1)
    await kept(database, node, keep_for=timedelta(0))
    before = await left_of(database, *task)
    assert await due(database, Retention(tasks=timedelta(days=50))) == {"workspaces": 1}
    for ages in (
        Retention(logs=AGE),
        Retention(artifacts=AGE, attachments=AGE),
        Retention(tasks=AGE),
    ):
        expected = await due(database, ages)
        assert await left_of(database, *task) == before
        assert await prune(database, ages) == expected
        before = await left_of(database, *task)
    assert before == {}
    assert await due(database, Retention(tasks=AGE, logs=AGE, artifacts=AGE, attachments=AGE)) == {}
