"""The log of a run: the fence of its flush, what a batch may hold, and who hears of the end of its tasks."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError

from domain.events import EventType, NewEvent
from domain.ids import new_id
from domain.lifecycle import MEMBER_TRANSITIONS, RUN_TRANSITIONS, MemberStatus, RunStatus, TaskStatus
from domain.messages import Flush, Verdict
from domain.names import DEFAULT_PROJECT, ProjectId, RunId, TaskId
from domain.run import RunAnswer, RunFlush
from domain.run_events import EVENT_OF_RUN_OUTCOME
from store import commands, mirror, project_feed, repairs, run_log
from store.engine import Database
from store.models import RunCommandRow
from store.run_log import RunGone
from tests.domain.run_logs import NAMES, RunLog, run_logs
from tests.store.runs import Orchestrator, assert_folds, create_run, intents_of, log_of, members_of, row_of

E = EventType
# The fixture is one database for all examples: each of them writes a run of its own.
PROPERTY: Final = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
THREE: Final = {"members": [{"name": name, "task": {"command": ["true"]}} for name in NAMES]}
BEGUN: Final = {
    RunStatus.QUEUED: [],
    RunStatus.IN_PROGRESS: [E.RUN_STARTED],
    RunStatus.COMPLETED: [E.RUN_STARTED, E.RUN_COMPLETED],
    RunStatus.FAILED: [E.RUN_FAILED],
    RunStatus.CANCELLED: [E.RUN_CANCELLED],
}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give a pool."""
    found = Database(database_url, pool=25)
    yield found
    await found.close()


def event(kind: EventType, key: str | None = None, *, attempt: int = 1, **data: Any) -> NewEvent:
    """Return an event of now; its key is its type if it is given none."""
    return NewEvent(key=key or f"{attempt}:{kind}", type=kind, ts=datetime.now(UTC), attempt=attempt, data=data)


async def flush(
    database: Database, run: RunId, version: int, *events: NewEvent, attempt: int = 1, seen: int = 0
) -> RunAnswer:
    """Send a flush as the activity does: one statement, one transaction."""
    batch = RunFlush(run_id=run, attempt=attempt, version=version, events=list(events), seen=seen)
    async with database.commit("test") as connection:
        return await run_log.flush(connection, batch)


async def append(database: Database, run: RunId, *events: NewEvent) -> None:
    """Append as somebody else."""
    async with database.begin("test") as connection:
        await run_log.append(connection, run, events)


async def in_status(database: Database, status: RunStatus) -> RunId:
    """Write a run and walk it to a status, by version 1."""
    run = await create_run(database, THREE)
    await flush(database, run, 1, *map(event, BEGUN[status]))
    return run


async def keys_of(database: Database, run: RunId) -> list[str]:
    """Return the keys of a log."""
    return [each.key for each in await log_of(database, run)]


# --- the fence ------------------------------------------------------------------------------------------------------


async def test_a_newer_flush_is_applied(database: Database) -> None:
    """`applied`: events, row and members change together, and the answer carries the row's status."""
    run = await create_run(database, THREE)
    answer = await flush(database, run, 7, event(E.RUN_STARTED), event(E.RUN_MEMBER_READY, member="a"))
    row = await assert_folds(database, run)
    assert (answer.verdict, answer.status, answer.live) == (Verdict.APPLIED, "in_progress", True)
    assert (row["version"], row["last_seq"]) == (7, 3)
    assert await members_of(database, run) == {"a": "in_progress", "b": "waiting", "c": "waiting"}


@pytest.mark.parametrize("version", [7, 6, 0])
async def test_a_flush_that_is_not_newer_is_a_repeat(database: Database, version: int) -> None:
    """`repeat`: the same or an older version changes nothing and adds no event."""
    run = await create_run(database, THREE)
    await flush(database, run, 7, event(E.RUN_STARTED))
    before = await row_of(database, run)
    answer = await flush(database, run, version, event(E.RUN_FAILED))
    assert (answer.verdict, answer.status, answer.live) == (Verdict.REPEAT, "in_progress", True)
    assert await row_of(database, run) == before
    assert await keys_of(database, run) == ["api:created", "1:run.started"]


@pytest.mark.parametrize(("version", "verdict"), [(8, Verdict.ENDED), (7, Verdict.REPEAT), (6, Verdict.ENDED)])
@pytest.mark.parametrize("end", [status for status in RunStatus if status.terminal])
async def test_only_the_very_write_that_ended_a_run_is_a_repeat_of_it(
    database: Database, end: RunStatus, version: int, verdict: Verdict
) -> None:
    """`ended` for an older write too: its redo has ended the run, perhaps otherwise; the answer says how."""
    run = await create_run(database, THREE)
    await flush(database, run, 7, event(E.RUN_STARTED), event(EVENT_OF_RUN_OUTCOME[end]))
    before = await row_of(database, run)
    answer = await flush(database, run, version, event(E.RUN_CANCELLED, "late"))
    assert (answer.verdict, answer.status) == (verdict, end)
    assert await row_of(database, run) == before


@pytest.mark.parametrize("attempt", [1, 3])
async def test_a_flush_of_another_attempt_is_superseded(database: Database, attempt: int) -> None:
    """`superseded`: only the current attempt may write, whatever the version; its first flush may have any."""
    run = await in_status(database, RunStatus.FAILED)
    await append(database, run, event(E.RUN_COMMANDED, attempt=2, retry=True))
    before = await row_of(database, run)
    answer = await flush(database, run, 10**12, event(E.RUN_CANCELLED, "late"), attempt=attempt)
    assert (answer.verdict, answer.live) == (Verdict.SUPERSEDED, False)
    assert await row_of(database, run) == before
    again = await flush(database, run, 1, event(E.RUN_STARTED, attempt=2), attempt=2)
    assert (again.verdict, (await assert_folds(database, run))["attempt"]) == (Verdict.APPLIED, 2)


async def test_a_flush_of_a_deleted_run_says_so(database: Database) -> None:
    """RunGone: there is no row to answer for."""
    with pytest.raises(RunGone, match="gone"):
        await flush(database, RunId("gone"), 1, event(E.RUN_STARTED))


async def test_twenty_writers_leave_no_gap(database: Database) -> None:
    """20 flushes and 20 appends at once: seq 1 … n, every append is there, a flush that came too late is a repeat."""
    run = await create_run(database, THREE)
    marks = [event(E.RUN_AGGREGATED, f"api:{n}") for n in range(20)]
    flushes = [flush(database, run, n, event(E.RUN_AGGREGATED, f"flush:{n}")) for n in range(1, 21)]
    answers = await asyncio.gather(*flushes)
    await asyncio.gather(*(append(database, run, mark) for mark in marks))
    row, keys = await assert_folds(database, run), await keys_of(database, run)
    assert {answer.verdict for answer in answers} <= {Verdict.APPLIED, Verdict.REPEAT}
    assert (row["version"], row["last_seq"]) == (20, len(keys))
    assert {mark.key for mark in marks} <= set(keys)


async def test_an_event_is_written_once(database: Database) -> None:
    """A key that the log or the batch has already changes neither log nor row; what is new in the batch does."""
    run = await create_run(database, THREE)
    first, other = event(E.RUN_SUPERSTEP, "k", superstep=1), event(E.RUN_SUPERSTEP, "k", superstep=9)
    await flush(database, run, 1, first, other)
    await flush(database, run, 2, other, event(E.RUN_STARTED))
    row = await assert_folds(database, run)
    assert (row["superstep"], row["status"]) == (1, "in_progress")
    assert await keys_of(database, run) == ["api:created", "k", "1:run.started"]


# --- the guard ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", RunStatus)
@pytest.mark.parametrize("new", RunStatus)
async def test_a_run_goes_where_its_table_lets_it(database: Database, old: RunStatus, new: RunStatus) -> None:
    """The database itself refuses every other way."""
    run = await in_status(database, old)
    change = text("UPDATE runs SET status = :new WHERE id = :run")
    await _allowed(database, change, {"new": new, "run": run}, allowed=new is old or new in RUN_TRANSITIONS[old])


@pytest.mark.parametrize("old", MemberStatus)
@pytest.mark.parametrize("new", MemberStatus)
async def test_a_member_goes_where_its_table_lets_it(database: Database, old: MemberStatus, new: MemberStatus) -> None:
    """The database itself refuses every other way."""
    run = await create_run(database, THREE)
    if old is MemberStatus.IN_PROGRESS:
        await flush(database, run, 1, event(E.RUN_MEMBER_READY, member="a"))
    elif old is not MemberStatus.WAITING:
        await flush(database, run, 1, event(E.RUN_MEMBER_FINISHED, member="a", outcome=old))
    change = text("UPDATE members SET status = :new WHERE run_id = :run AND name = 'a'")
    await _allowed(database, change, {"new": new, "run": run}, allowed=new is old or new in MEMBER_TRANSITIONS[old])


async def _allowed(database: Database, change: Any, parameters: dict[str, Any], *, allowed: bool) -> None:
    async with database.begin("test") as connection:
        if allowed:
            await connection.execute(change, parameters)
        else:
            with pytest.raises(IntegrityError):
                await connection.execute(change, parameters)
            await connection.rollback()


async def test_a_batch_takes_every_step_of_its_way(database: Database) -> None:
    """Refused as a whole, though its first and its last status would do."""
    run = await create_run(database, THREE)
    with pytest.raises(IntegrityError):
        await flush(database, run, 1, event(E.RUN_FAILED), event(E.RUN_COMPLETED), event(E.RUN_STARTED))
    assert (await row_of(database, run))["status"] == "queued"
    assert await keys_of(database, run) == ["api:created"]


# --- what the answer brings -----------------------------------------------------------------------------------------


async def test_the_answer_carries_what_the_row_asks_for(database: Database) -> None:
    """A cancel, a pause, breakpoints: with every flush, whatever its verdict."""
    run = await create_run(database, THREE)
    asked = text("""
    UPDATE runs SET cancel_requested_at = now(), pause_token = 't', pause_reason = 'why',
                    breakpoints = '{"after": ["a"]}' WHERE id = :run
    """)
    async with database.begin("test") as connection:
        await connection.execute(asked, {"run": run})
    for version in (1, 1, 2):
        answer = await flush(database, run, version)
        assert (answer.cancel, answer.pause, answer.pause_reason) == (True, "t", "why")
        assert answer.breakpoints is not None
        assert answer.breakpoints.after == ["a"]


@pytest.mark.parametrize(("seen", "expected"), [(0, [1, 2, 3]), (2, [3]), (3, [])])
async def test_the_answer_carries_the_commands_after_the_last_that_was_seen(
    database: Database, seen: int, expected: list[int]
) -> None:
    """In their order, also to a repeat."""
    run = await create_run(database, THREE)
    async with database.begin("test") as connection:
        for n in (2, 1, 3):
            row = {"run_id": run, "n": n, "source": "api", "body": {"skip": ["a"]}, "plan": {"names": [f"m{n}"]}}
            await connection.execute(insert(RunCommandRow).values(row))
    for version in (1, 1):
        answer = await flush(database, run, version, seen=seen)
        assert [(command.n, command.plan.names) for command in answer.commands] == [(n, [f"m{n}"]) for n in expected]
        assert all(command.command.skip == ["a"] for command in answer.commands)


@pytest.mark.parametrize(
    ("asked", "token", "more", "held"),
    [
        pytest.param("mine", "mine", {}, True, id="as somebody asked"),
        pytest.param(None, "mine", {}, False, id="resumed meanwhile"),
        pytest.param("other", "mine", {}, False, id="another pause meanwhile"),
        pytest.param(None, "own", {"breakpoint": True}, True, id="a breakpoint"),
        pytest.param("other", "own", {"breakpoint": True}, False, id="a breakpoint, and a pause meanwhile"),
    ],
)
async def test_a_hold_counts_only_if_the_row_asks_for_it(
    database: Database,
    asked: str | None,
    token: str,
    more: dict[str, Any],
    held: bool,  # noqa: FBT001 - a column
) -> None:
    """Who paused or resumed meanwhile has the last word; the rest of the batch is written all the same."""
    run = await create_run(database, THREE)
    async with database.begin("test") as connection:
        await connection.execute(
            text("UPDATE runs SET pause_token = :token WHERE id = :run"), {"token": asked, "run": run}
        )
    answer = await flush(database, run, 1, event(E.RUN_STARTED), event(E.RUN_PAUSED, token=token, **more))
    row = await row_of(database, run)
    assert (row["paused"], row["pause_token"], row["status"]) == (held, token if held else asked, "in_progress")
    assert answer.pause == row["pause_token"]
    assert (E.RUN_PAUSED in {each.type for each in await log_of(database, run)}) is held


# --- the log is the row ---------------------------------------------------------------------------------------------


@PROPERTY
@given(log=run_logs(), data=st.data())
async def test_a_log_adds_up_to_its_row_and_its_members(database: Database, log: RunLog, data: st.DataObject) -> None:
    """Any legal log, in batches of any size, some of them sent again; a retry is appended by the API."""
    run = await create_run(database, THREE)
    todo, version, attempt = log.events[1:], 0, 1
    while todo:
        again = next((place for place, each in enumerate(todo) if each.attempt > attempt), len(todo))
        if again == 0:
            attempt, version = todo[0].attempt, 0
            await append(database, run, todo[0])
            await _wait_again(database, run)
            todo = todo[1:]
            continue
        size = data.draw(st.integers(1, again))
        version += 1
        for _ in range(data.draw(st.integers(1, 2))):
            await flush(database, run, version, *todo[:size], attempt=attempt)
        todo = todo[size:]
    row = await assert_folds(database, run)
    assert (row["status"], row["attempt"], row["pause_token"]) == (log.status, log.attempt, log.token)
    assert (row["outcome"], row["superstep"]) == (log.status if log.status.terminal else None, log.superstep)
    assert await members_of(database, run) == log.members
    assert [each.type for each in await log_of(database, run)] == [each.type for each in log.events]


async def _wait_again(database: Database, run: RunId) -> None:
    """Do to the members what a retry of the run does beside its event."""
    again = text("""
    UPDATE members SET status = 'waiting' WHERE run_id = :run AND status IN ('failed', 'cancelled', 'skipped')
    """)
    async with database.begin("test") as connection:
        await connection.execute(again, {"run": run})


# --- ends of tasks --------------------------------------------------------------------------------------------------


def ended(status: TaskStatus, attempt: int = 1) -> list[NewEvent]:
    """Return the events that lead from `queued` to an end."""
    on_the_way = [E.TASK_DELEGATED, E.TASK_STARTED] if status is TaskStatus.COMPLETED else []
    return [event(kind, attempt=attempt) for kind in (*on_the_way, E(f"task.{status}"))]


Way = Callable[[Database, TaskId, TaskStatus], Awaitable[Any]]


async def _by_its_flush(database: Database, task: TaskId, status: TaskStatus) -> None:
    for _ in range(2):
        async with database.commit("test") as connection:
            await mirror.flush(connection, Flush(task_id=task, attempt=1, version=1, events=ended(status)))


async def _by_its_conclusion(database: Database, task: TaskId, status: TaskStatus) -> None:
    for _ in range(2):
        async with database.begin("test") as connection:
            batch = Flush(task_id=task, attempt=1, version=1, events=ended(status))
            await mirror.conclude(connection, batch, destroyed=True, next_attempt_at=None)


async def _by_a_repair(database: Database, task: TaskId, status: TaskStatus) -> None:
    for _ in range(2):
        async with database.begin("test") as connection:
            await repairs.end_attempt(connection, task, 1, 0, ended(status))


async def _by_a_void_cancel(database: Database, task: TaskId, _: TaskStatus) -> None:
    for _again in range(2):
        async with database.begin("test") as connection:
            await connection.execute(text("UPDATE outbox SET leased_by = NULL WHERE task_id = :task"), {"task": task})
            await commands.cancel(
                connection, DEFAULT_PROJECT, task, now=datetime.now(UTC), lease_to="tests", lease=timedelta(seconds=1)
            )


ENDS = [status for status in TaskStatus if status.terminal]
WAYS: list[tuple[Way, TaskStatus]] = [
    *((way, status) for way in (_by_its_flush, _by_its_conclusion, _by_a_repair) for status in ENDS),
    (_by_a_void_cancel, TaskStatus.CANCELLED),
]


@pytest.mark.parametrize(("way", "status"), WAYS)
@pytest.mark.parametrize("item", [None, 2])
async def test_a_run_hears_once_of_each_end(database: Database, way: Way, status: TaskStatus, item: int | None) -> None:
    """One intent, in the transaction of the end, whoever writes it and however often; it says which task, and how."""
    member = {"name": "a", "task": {"command": ["true"]}} | ({} if item is None else {"fan_out": {"count": 3}})
    writer = Orchestrator(database, await create_run(database, {"members": [member]}))
    await writer.begin()
    task = await writer.start("a", item)
    assert await intents_of(database, writer.run) == []
    await way(database, task, status)
    async with database.read() as connection:
        found = await connection.execute(
            text("SELECT kind, body FROM run_intents WHERE run_id = :run"), {"run": writer.run}
        )
        [intent] = found.all()
    assert intent.kind == "ended"
    assert intent.body == {"member": "a", "item": item, "outcome": status, "attempt": 1}


async def test_a_try_that_is_followed_by_another_is_no_end(database: Database) -> None:
    """No intent for the failure of an attempt that the task survives; one for the last, with its attempt."""
    writer = Orchestrator(database, await create_run(database, THREE))
    await writer.begin()
    task = await writer.start("a")
    again = Flush(task_id=task, attempt=1, version=1, events=[event(E.ATTEMPT_FAILED), event(E.TASK_QUEUED, attempt=2)])
    async with database.begin("test") as connection:
        await mirror.conclude(connection, again, destroyed=True, next_attempt_at=datetime.now(UTC))
    assert await intents_of(database, writer.run) == []
    last = Flush(task_id=task, attempt=2, version=1, events=ended(TaskStatus.FAILED, attempt=2))
    async with database.begin("test") as connection:
        await mirror.conclude(connection, last, destroyed=True, next_attempt_at=None)
    async with database.read() as connection:
        query = text("SELECT body ->> 'attempt' FROM run_intents WHERE run_id = :run")
        assert (await connection.execute(query, {"run": writer.run})).scalars().all() == ["2"]


# --- feeds ----------------------------------------------------------------------------------------------------------


async def sequence(database: Database, most: int = 100) -> None:
    """Number everything."""
    more = True
    while more:
        async with database.begin("test") as connection:
            more = await project_feed.sequence(connection, most=most)


async def entries(database: Database, feed: str) -> list[tuple[int, str, int]]:
    """Return number, log and `seq` of all entries of a feed."""
    query = text("""
    SELECT seq, coalesce(task_id, run_id) AS log, coalesce(task_seq, run_seq) AS of_log
    FROM feed_entries WHERE feed = :feed ORDER BY seq
    """)
    async with database.read() as connection:
        return [(row.seq, row.log, row.of_log) for row in await connection.execute(query, {"feed": feed})]


async def assert_whole(database: Database, feed: str, logs: list[str]) -> None:
    """Every committed event of these logs has one number, without a gap, each log's in its own order."""
    found = await entries(database, feed)
    assert [number for number, _, _ in found] == list(range(1, len(found) + 1))
    query = text("""
    SELECT task_id AS log, seq FROM events WHERE task_id = ANY(:logs)
    UNION ALL SELECT run_id, seq FROM run_events WHERE run_id = ANY(:logs) ORDER BY log, seq
    """)
    async with database.read() as connection:
        committed = [(row.log, row.seq) for row in await connection.execute(query, {"logs": logs})]
    assert sorted((log, seq) for _, log, seq in found) == sorted(committed)
    for each in logs:
        numbers = [seq for _, log, seq in found if log == each]
        assert numbers == sorted(numbers)


async def test_many_writers_of_a_run_and_its_tasks_are_all_in_its_feed(database: Database) -> None:
    """The run's own log and those of 6 tasks, 4 writers each, random delays, 4 sequencers: nothing is skipped.

    The project's feed has the same, and the events of a task beside the run too.
    """
    chance, project = random.Random(9), ProjectId(f"p-{new_id()}")  # noqa: S311 - a seed, no secret
    fan = {"name": "a", "task": {"command": ["true"]}, "fan_out": {"count": 6}}
    writer = Orchestrator(database, await create_run(database, {"members": [fan]}, project=project))
    await writer.begin()
    tasks = [await writer.start("a", item) for item in range(1, 7)]
    done = asyncio.Event()

    async def write(log: str, number: int) -> None:
        for place in range(4):
            async with database.begin("test") as connection:
                if chance.random() < 0.3:
                    await connection.execute(text("SELECT pg_current_xact_id(), pg_sleep(0.005)"))
                key = f"{number}:{place}"
                if log == writer.run:
                    await run_log.append(connection, writer.run, [event(E.RUN_AGGREGATED, key)])
                else:
                    await mirror.append(connection, TaskId(log), [event(E.DEBUG_TRACE, key)])
                if chance.random() < 0.3:
                    await connection.execute(text("SELECT pg_sleep(0.005)"))

    async def number() -> None:
        while not done.is_set():
            await sequence(database, most=chance.choice((1, 3, 10)))

    logs = [writer.run, *tasks]
    async with asyncio.timeout(90):
        sequencers = [asyncio.create_task(number()) for _ in range(4)]
        await asyncio.gather(*(write(log, n) for log in logs for n in range(4)))
        done.set()
        await asyncio.gather(*sequencers)
    await sequence(database)
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
