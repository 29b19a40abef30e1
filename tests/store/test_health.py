"""The numbers of the health report, as the database counts them, and what they cost."""

import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from domain.events import EventSource, EventType, NewEvent
from domain.health import TaskNumbers
from domain.lifecycle import NodeStatus, TaskStatus
from domain.names import ProjectId
from domain.reconcile import Action
from store import health, sweeps
from store.engine import Database
from tests.store.rows import batch, create_node, create_task, delegated, flush

HOUR = timedelta(hours=1)
QUIET = timedelta(minutes=5)
MINE = ProjectId("mine")


@pytest.fixture(autouse=True)
async def empty(database: Database) -> AsyncIterator[None]:
    """Leave nothing to the next test."""
    yield
    async with database.begin("test") as connection:
        await connection.execute(text("TRUNCATE tasks, outbox, sweeps, nodes, ledger CASCADE"))


async def counted(database: Database, project: ProjectId | None = None) -> TaskNumbers:
    """Count the tasks of the last hour."""
    async with database.read() as connection:
        return await health.of_tasks(connection, project, window=HOUR)


async def change(database: Database, statement: str, **parameters: object) -> None:
    """Write something that no code of ours would write."""
    async with database.begin("test") as connection:
        await connection.execute(text(statement), parameters)


def ended(kind: EventType, attempt: int = 1, at: datetime | None = None, **data: object) -> NewEvent:
    """Give an event of the workflow that happened at this time."""
    return NewEvent(
        key=f"{attempt}:{kind}",
        type=kind,
        ts=at or datetime.now(UTC),
        attempt=attempt,
        source=EventSource.WORKFLOW,
        data=data,
    )


async def test_tasks_are_counted_by_status_and_project(database: Database) -> None:
    """Open ones as they are, ended ones within the window, of one project or of all."""
    await create_task(database, start=False)
    await create_task(database, project=MINE)
    await delegated(database, project=MINE)
    done, old = await delegated(database), await delegated(database)
    for task in (done, old):
        await flush(database, batch(task, 2, ended(EventType.TASK_FAILED, error=None)))
    await change(database, "UPDATE tasks SET finished_at = finished_at - interval '2 h' WHERE id = :id", id=old)
    every, mine = await counted(database), await counted(database, MINE)
    assert every.open == {TaskStatus.READY: 1, TaskStatus.QUEUED: 1, TaskStatus.DELEGATED: 1}
    assert (every.ended, every.tries, every.exhausted) == ({TaskStatus.FAILED: 1}, 1, 0)
    assert (mine.open, mine.ended) == ({TaskStatus.QUEUED: 1, TaskStatus.DELEGATED: 1}, {})


async def test_retries_are_counted_by_cause(database: Database) -> None:
    """Each attempt that another followed, by the category of its error; whether the task has ended or not."""
    for end in (True, False):
        task = await delegated(database)
        failed = ended(EventType.ATTEMPT_FAILED, error={"category": "agent"})
        again = ended(EventType.TASK_QUEUED, attempt=2)
        await flush(database, batch(task, 2, failed, again))
        if end:
            last = [ended(EventType.TASK_RETRIES_EXHAUSTED, attempt=2), ended(EventType.TASK_FAILED, attempt=2)]
            await flush(database, batch(task, 1, *last, attempt=2))
    found = await counted(database)
    assert (found.retries, found.exhausted, found.tries) == ({"agent": 2}, 1, 2)
    assert (await counted(database, MINE)).retries == {}


async def test_the_lag_is_from_the_event_to_its_row(database: Database) -> None:
    """A write 30 s after what it tells of is a lag of 30 s; what others than the workflow write has none."""
    await create_task(database)
    assert (await counted(database)).mirror_lag_seconds is None
    task = await delegated(database)
    late = ended(EventType.TASK_FAILED, at=datetime.now(UTC) - timedelta(seconds=30))
    await flush(database, batch(task, 2, late))
    lag = (await counted(database)).mirror_lag_seconds
    assert lag is not None
    assert 30 <= lag < 35


async def test_quiet_tasks_are_those_that_have_not_moved(database: Database) -> None:
    """Open, not paused, not written to for the time; the quietest first."""
    first, second, paused, fresh = [await delegated(database) for _ in range(4)]
    for task, minutes in ((first, 20), (second, 10), (paused, 10), (fresh, 1)):
        await change(
            database,
            "UPDATE tasks SET updated_at = updated_at - make_interval(mins => :minutes), paused = :paused"
            " WHERE id = :id",
            id=task,
            minutes=minutes,
            paused=task == paused,
        )
    async with database.read() as connection:
        rows = await health.quiet_rows(connection, None, quiet=QUIET)
        mine = await health.quiet_rows(connection, MINE, quiet=QUIET)
    assert ([row["id"] for row in rows], mine) == ([first, second], [])


async def test_the_oldest_that_is_unsent_gives_the_age(database: Database) -> None:
    """An intent that was put back counts from when it was made; one that is not due yet is not late."""
    nobody = "INSERT INTO outbox (kind, task_id, attempt, created_at, due_at, last_error) VALUES ('start', 't', 1, {})"
    await change(database, nobody.format("clock_timestamp(), clock_timestamp() + interval '1 h', NULL"))
    async with database.read() as connection:
        assert (await health.of_system(connection, window=HOUR)).outbox_age_seconds == 0
    put_back = "clock_timestamp() - interval '90 s', clock_timestamp() + interval '4 s', 'unreachable'"
    await change(database, nobody.format(put_back))
    await change(database, nobody.format("now() - interval '2 h', clock_timestamp() - interval '7 s', NULL"))
    async with database.read() as connection:
        found = await health.of_system(connection, window=HOUR)
    assert found.outbox_waiting == 1
    assert 90 <= found.outbox_age_seconds < 95


async def test_sweeps_are_added_up_over_the_window(database: Database) -> None:
    """Counts by action, and when the last one was; those of a week ago are forgotten."""
    node = await create_node(database, slots=3, status=NodeStatus.DRAINING)
    async with database.read() as connection:
        assert (await health.of_system(connection, window=HOUR)).sweep_age_seconds is None
    for counts, age in (({"ended": 1}, "2 h"), ({"ended": 5}, "8 days"), ({"ended": 2, "cleaned_up": 1}, "1 min")):
        async with database.commit("test") as connection:
            await sweeps.note(connection, {Action(name): count for name, count in counts.items()})
        await change(
            database,
            "UPDATE sweeps SET at = at - CAST(:age AS interval) WHERE id = (SELECT max(id) FROM sweeps)",
            age=age,
        )
    async with database.commit("test") as connection:
        await sweeps.note(connection, {Action.ENDED: 1})
        kept = (await connection.execute(text("SELECT count(*) FROM sweeps"))).scalar_one()
    async with database.read() as connection:
        found = await health.of_system(connection, window=HOUR)
    assert (found.sweeps, kept) == ({"ended": 3, "cleaned_up": 1}, 3)
    assert found.sweep_age_seconds is not None
    assert found.sweep_age_seconds < 60
    assert [(each.id, each.status, each.slots, each.used) for each in found.nodes] == [(node, "draining", 3, 0)]


MANY = """
WITH made AS (
  INSERT INTO tasks (id, project, name, status, outcome, step, step_started_at, labels, spec, version, last_seq,
                     attempt, max_attempts, created_at, updated_at, finished_at)
  SELECT 'many-' || n, 'p' || n % 7, 'many', CASE WHEN n % 5 = 0 THEN 'delegated' ELSE 'completed' END,
         CASE WHEN n % 5 <> 0 THEN 'completed' END, 'workspace_ready', clock_timestamp() - interval '1 min',
         '{"team": "a"}',
         jsonb_build_object('command', '["true"]'::jsonb, 'provider', 'external', 'prompt', repeat('x', 500)),
         1, 3, 1 + (n % 11 = 0)::int, 4, clock_timestamp() - interval '3 h',
         clock_timestamp() - make_interval(secs => n % 20000),
         CASE WHEN n % 5 <> 0 THEN clock_timestamp() - make_interval(secs => n % 20000) END
  FROM generate_series(1, 100000) AS n
  RETURNING id, updated_at
)
INSERT INTO events (task_id, seq, attempt, ts, type, source, data, key)
SELECT id, seq, 1, updated_at, CASE WHEN seq = 3 THEN 'attempt.failed' ELSE 'debug.trace' END, 'workflow',
       '{"error": {"category": "agent"}}', seq::text
FROM made, generate_series(1, 3) AS seq
"""


@pytest.mark.campaign
async def test_the_numbers_of_a_hundred_thousand_tasks_cost_little(
    database: Database, record_property: Callable[[str, object], None]
) -> None:
    """20,000 of them open, 16,000 quiet, 14,400 ended in the window: all queries together take under two seconds."""
    await change(database, MANY)
    await change(database, "ANALYZE tasks, events")
    taken: dict[str, float] = {}
    for name, project in (("all", None), ("one project", ProjectId("p5"))):
        began = time.monotonic()
        found = await counted(database, project)
        async with database.read() as connection:
            quiet = await health.quiet_rows(connection, project, quiet=QUIET)
            await health.of_system(connection, window=HOUR)
        taken[name] = time.monotonic() - began
        assert found.open[TaskStatus.DELEGATED] > 1000
        assert found.retries
        assert len(quiet) == health.QUIET
    record_property("seconds", taken)
    assert max(taken.values()) < 2
