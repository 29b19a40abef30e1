"""Runs: how one is made, read and listed, with its members and their children."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from domain.events import EventType
from domain.ids import new_id
from domain.lifecycle import MemberStatus, RunStatus, TaskStatus
from domain.names import DEFAULT_PROJECT, ProjectId, RunId
from domain.run_spec import RunSpec
from store import project_feed, runs
from store.engine import Database
from tests.store.runs import DIAMOND, Orchestrator, assert_folds, create_run, intents_of, log_of, members_of

TASK: dict[str, Any] = {"command": ["true"]}


@pytest.fixture
def project() -> ProjectId:
    """Name a project of its own."""
    return ProjectId(f"p-{new_id()}")


async def get(database: Database, project: str, run: str) -> dict[str, Any] | None:
    """Read a run."""
    async with database.read() as connection:
        return await runs.get(connection, ProjectId(project), run)


async def listed(
    database: Database, project: ProjectId, *, before: str | None = None, limit: int = 100, **narrowed: Any
) -> list[str]:
    """List the ids of runs."""
    async with database.read() as connection:
        rows = await runs.page(connection, project, runs.Filters(**narrowed), before=before, limit=limit)
    return [row["id"] for row in rows]


WHOLE: dict[str, Any] = {
    "name": "all of it",
    "members": [
        {"name": "lint", "task": TASK | {"input": {"a": [1, None]}, "priority": 1}, "expected": "PT1M30S"},
        {"name": "test", "task": TASK, "fan_out": {"items": ["x", {"y": 1}], "max_parallel": 1}, "affinity": "lint"},
        {"name": "each", "task": TASK, "fan_out": {"items_from": "lint#/files"}},
    ],
    "edges": [
        {"from": "lint", "to": "test", "when": "completed"},
        {"from": "test", "to": "each", "kind": "preferred_order"},
    ],
    "mode": "superstep",
    "max_parallel": 2,
    "on_failure": "continue",
    "breakpoints": {"before": ["each"]},
    "state": {"total": 1, "log": []},
    "reducers": {"total": "sum"},
    "labels": {"team": "x"},
    "priority": 2,
}


async def test_a_run_is_written_whole(database: Database) -> None:
    """Row, members in the order of the body, the first event, and the intent that starts it: one transaction."""
    run = await create_run(database, WHOLE)
    row = await get(database, DEFAULT_PROJECT, run)
    assert row is not None
    expected = {name: WHOLE[name] for name in ("name", "mode", "max_parallel", "on_failure", "state", "labels")}
    expected |= {"reducers": {"total": "sum"}, "priority": 2, "status": "queued", "attempt": 1, "last_seq": 1}
    expected |= {"state_versions": {"total": 1, "log": 1}, "superstep": 0, "paused": False, "outcome": None}
    expected |= {"edges": [*WHOLE["edges"], {"from": "lint", "to": "each"}]}
    expected |= {"breakpoints": {"before": ["each"], "after": [], "each_step": False}}
    assert {name: row[name] for name in expected} == expected
    assert await intents_of(database, run) == [("start", 1)]
    [created] = await log_of(database, run)
    assert (created.type, created.source) == (EventType.RUN_CREATED, "api")
    assert created.data == {"name": "all of it", "members": 3, "edges": 3, "mode": "superstep"}
    await assert_folds(database, run)


async def test_members_come_back_as_they_were_given(database: Database) -> None:
    """Every field of the body, read again to the same value."""
    run = await create_run(database, WHOLE)
    async with database.read() as connection:
        rows = await runs.members(connection, run)
    assert runs.stored(rows) == RunSpec.model_validate(WHOLE).members
    assert [(row["name"], row["position"], row["status"], row["size"], row["task_id"]) for row in rows] == [
        ("lint", 0, "waiting", None, None),
        ("test", 1, "waiting", 2, None),
        ("each", 2, "waiting", None, None),
    ]


async def test_a_run_of_10000_members_is_written(database: Database) -> None:
    """And read again, in order."""
    names = [f"m{n}" for n in range(10_000)]
    run = await create_run(database, {"members": [{"name": name, "task": TASK} for name in names]})
    async with database.read() as connection:
        assert [row["name"] for row in await runs.members(connection, run)] == names
        assert (await runs.counts(connection, [run]))[run]["waiting"] == 10_000


async def test_a_run_of_another_project_is_none(database: Database, project: ProjectId) -> None:
    """None, as for one that does not exist."""
    run = await create_run(database, project=project)
    assert await get(database, project, run) is not None
    assert await get(database, "other", run) is None
    assert await get(database, project, "gone") is None


async def test_who_is_about_to_write_holds_the_row(database: Database) -> None:
    """A second one waits."""
    run = await create_run(database)
    async with database.begin("test") as first:
        await runs.get(first, DEFAULT_PROJECT, run, for_update=True)
        async with database.begin("test") as second:
            query = text("SELECT id FROM runs WHERE id = :run FOR NO KEY UPDATE SKIP LOCKED")
            assert (await second.execute(query, {"run": run})).first() is None
            assert await runs.get(second, DEFAULT_PROJECT, run) is not None


# --- lists ----------------------------------------------------------------------------------------------------------


async def test_a_list_is_the_newest_first_in_pages(database: Database, project: ProjectId) -> None:
    """Each run once; the next page begins after the last id of the one before."""
    made = [await create_run(database, project=project) for _ in range(5)]
    await create_run(database, project=ProjectId("other"))
    pages = [await listed(database, project, limit=2)]
    while pages[-1]:
        pages.append(await listed(database, project, before=pages[-1][-1], limit=2))
    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert [run for page in pages for run in page] == made[::-1]


async def test_a_list_is_narrowed(database: Database, project: ProjectId) -> None:
    """By statuses, by labels that all must be there, by a part of the name, which is no pattern."""
    one = await create_run(
        database, DIAMOND | {"name": "Nightly 100%", "labels": {"a": "1", "b": "2"}}, project=project
    )
    two = await create_run(database, DIAMOND | {"name": "nightly 1000", "labels": {"a": "1"}}, project=project)
    await Orchestrator(database, two).begin()
    assert await listed(database, project, status=["queued"]) == [one]
    assert await listed(database, project, status=["queued", "in_progress"]) == [two, one]
    assert await listed(database, project, labels={"a": "1"}) == [two, one]
    assert await listed(database, project, labels={"a": "1", "b": "2"}) == [one]
    assert await listed(database, project, labels={"a": "2"}) == []
    assert await listed(database, project, q="NIGHT") == [two, one]
    assert await listed(database, project, q="100%") == [one]
    assert await listed(database, project, q="night", status=["failed"]) == []


# --- members and children -------------------------------------------------------------------------------------------


async def test_members_are_counted_by_status(database: Database) -> None:
    """Each status is there, for each run that was asked for."""
    idle, failed = await create_run(database), Orchestrator(database, await create_run(database))
    await failed.fail()
    async with database.read() as connection:
        found = await runs.counts(connection, [idle, failed.run])
        assert await runs.counts(connection, []) == {}
    nothing = dict.fromkeys(map(str, MemberStatus), 0)
    assert found == {idle: nothing | {"waiting": 4}, failed.run: nothing | {"failed": 1, "skipped": 3}}


async def test_a_member_shows_its_task(database: Database) -> None:
    """Its id, when it is a plain member that has begun; a fan-out has children instead, counted by status."""
    fan = {"name": "f", "task": TASK, "fan_out": {"count": 4}}
    writer = Orchestrator(database, await create_run(database, {"members": [{"name": "a", "task": TASK}, fan]}))
    await writer.begin()
    task = await writer.start("a")
    await writer.flush(writer.event(EventType.RUN_FANNED_OUT, member="f", size=4))
    children = [await writer.start("f", item) for item in (1, 2, 3)]
    await writer.end_task(children[0])
    await writer.end_task(children[2], TaskStatus.FAILED)
    async with database.read() as connection:
        rows = await runs.members(connection, writer.run)
        assert await runs.children(connection, writer.run) == {"f": {"completed": 1, "queued": 1, "failed": 1}}
    assert [(row["name"], row["task_id"], row["status"], row["size"]) for row in rows] == [
        ("a", task, "in_progress", None),
        ("f", None, "in_progress", 4),
    ]


async def test_what_is_said_of_children_changes_no_member(database: Database) -> None:
    """The fan-out ends when it is said to end."""
    fan = {"name": "f", "task": TASK, "fan_out": {"count": 1}}
    writer = Orchestrator(database, await create_run(database, {"members": [fan]}))
    await writer.begin()
    await writer.flush(writer.event(EventType.RUN_FANNED_OUT, member="f", size=1))
    await writer.flush(writer.event(EventType.RUN_MEMBER_FINISHED, member="f", item=1, outcome="failed"))
    assert await members_of(database, writer.run) == {"f": "in_progress"}
    await writer.end("f", MemberStatus.FAILED)
    await writer.finish(RunStatus.FAILED)
    row = await assert_folds(database, writer.run)
    assert row["finished_at"] - row["started_at"] < timedelta(minutes=1)


# --- deletion -------------------------------------------------------------------------------------------------------


async def test_a_deleted_run_leaves_nothing(database: Database, project: ProjectId) -> None:
    """Neither members nor log nor feed of its own; the project's feed keeps the numbers of what stays."""
    gone, kept = [await create_run(database, project=project) for _ in range(2)]
    async with database.begin("test") as connection:
        await project_feed.sequence(connection, most=1000)
    async with database.begin("test") as connection:
        await runs.remove(connection, gone)
    assert await get(database, project, gone) is None
    assert await members_of(database, gone) == {}
    assert await log_of(database, gone) == []
    async with database.read() as connection:
        assert await project_feed.head(connection, project_feed.feed_of_run(RunId(gone))) == 0
        rows = await project_feed.page(connection, project_feed.feed_of(project), first=1, types=(), limit=10)
    assert [entry.seq for entry in rows] == [2]
    assert kept in rows[0].envelope


async def test_a_run_and_its_first_event_are_of_one_time(database: Database) -> None:
    """The row says when it was made, and its event says the same."""
    before = datetime.now(UTC)
    run = await create_run(database)
    row = await get(database, DEFAULT_PROJECT, run)
    assert row is not None
    assert before <= row["created_at"] == (await log_of(database, run))[0].ts
