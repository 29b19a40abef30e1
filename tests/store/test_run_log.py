"""The log of a run: the fence of its flush, what a batch may hold, and what its answer brings."""

import asyncio
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError

from domain.events import EventType, NewEvent
from domain.lifecycle import MEMBER_TRANSITIONS, RUN_TRANSITIONS, MemberStatus, RunStatus
from domain.messages import Verdict
from domain.names import RunId
from domain.run import RunAnswer, RunFlush
from domain.run_events import EVENT_OF_RUN_OUTCOME
from store import run_log
from store.engine import Database
from store.models import RunCommandRow
from store.run_log import RunGone
from tests.domain.run_logs import RunLog, run_logs
from tests.store.rows import event
from tests.store.runs import THREE, assert_folds, create_run, log_of, members_of, row_of

E = EventType
# Each of the examples writes a run of its own.
PROPERTY: Final = settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
BEGUN: Final = {
    RunStatus.QUEUED: [],
    RunStatus.IN_PROGRESS: [E.RUN_STARTED],
    RunStatus.COMPLETED: [E.RUN_STARTED, E.RUN_COMPLETED],
    RunStatus.FAILED: [E.RUN_FAILED],
    RunStatus.CANCELLED: [E.RUN_CANCELLED],
}


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


async def test_an_answer_carries_as_many_commands_as_fit(database: Database) -> None:
    """Of three commands of 600 kB two, then the third; none of the added tasks' bodies, which are rows."""
    run = await create_run(database, THREE)
    plan = {"names": [f"{n:0>90}" for n in range(6_500)]}
    async with database.begin("test") as connection:
        for n in (1, 2, 3):
            body = {"skip": ["a"], "append": {"members": [{"name": "x", "task": {"command": ["true"]}}]}}
            row = {"run_id": run, "n": n, "source": "api", "body": body, "plan": plan}
            await connection.execute(insert(RunCommandRow).values(row))
    first, second = await flush(database, run, 1, seen=0), await flush(database, run, 2, seen=2)
    assert ([command.n for command in first.commands], first.more) == ([1, 2], True)
    assert ([command.n for command in second.commands], second.more) == ([3], False)
    assert all(not command.command.append.members for command in [*first.commands, *second.commands])


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
