"""The flush: its four answers, its fence, and what its batches may hold."""

import asyncio
import itertools
import json
from contextlib import nullcontext

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from domain.events import EventType, NewEvent
from domain.lifecycle import NODE_TRANSITIONS, TASK_TRANSITIONS, WORKSPACE_TRANSITIONS, Step, TaskStatus
from domain.names import TaskId, WorkspaceId
from store import mirror
from store.engine import Database
from store.mirror import TaskGone
from tests.domain.histories import EVENT_OF_STATUS
from tests.store.rows import (
    assert_folds,
    batch,
    create_task,
    delegated,
    event,
    flush,
    keys_of,
    log_of,
    row_of,
    scalar,
)

TRACE = EventType.DEBUG_TRACE

# The shortest way from `queued` to each status.
WAYS: dict[TaskStatus, list[EventType]] = {
    TaskStatus.QUEUED: [],
    TaskStatus.DELEGATED: [EventType.TASK_DELEGATED],
    TaskStatus.IN_PROGRESS: [EventType.TASK_DELEGATED, EventType.TASK_STARTED],
    TaskStatus.COMPLETED: [EventType.TASK_DELEGATED, EventType.TASK_STARTED, EventType.TASK_COMPLETED],
    TaskStatus.FAILED: [EventType.TASK_FAILED],
    TaskStatus.CANCELLED: [EventType.TASK_CANCELLED],
}
TASK_PAIRS = [(old, new) for old, new in itertools.product(WAYS, TaskStatus) if old is not new]
OTHER_PAIRS = [
    *(("workspaces", *pair, table) for table in [WORKSPACE_TRANSITIONS] for pair in itertools.permutations(table, 2)),
    *(("nodes", *pair, table) for table in [NODE_TRANSITIONS] for pair in itertools.permutations(table, 2)),
]


async def in_status(database: Database, status: TaskStatus) -> TaskId:
    """Write a task and walk it to a status."""
    task = await create_task(database)
    await flush(database, batch(task, 1, *(event(kind) for kind in WAYS[status])))
    return task


# --- the four answers -----------------------------------------------------------------------------------------------


async def test_a_newer_flush_is_applied(database: Database) -> None:
    """`applied`: events and row change together, and the answer carries the row's status."""
    task = await create_task(database)
    answer = await flush(database, batch(task, 7, event(EventType.TASK_DELEGATED, workspace_id="w", node_id="n")))
    row = await assert_folds(database, task)
    assert (answer["verdict"], answer["status"]) == ("applied", "delegated")
    assert (row["status"], row["version"], row["last_seq"], row["workspace_id"]) == ("delegated", 7, 3, "w")


@pytest.mark.parametrize("version", [7, 6, 0])
async def test_a_flush_that_is_not_newer_is_a_repeat(database: Database, version: int) -> None:
    """`repeat`: the same or an older version changes nothing and adds no event."""
    task = await create_task(database)
    await flush(database, batch(task, 7, event(TRACE, "a")))
    before = await row_of(database, task)
    answer = await flush(database, batch(task, version, event(EventType.TASK_FAILED, error={"code": "late"})))
    assert (answer["verdict"], answer["status"]) == ("repeat", "queued")
    assert await row_of(database, task) == before
    assert await keys_of(database, task) == ["api:created", "1:task.queued", "a"]


@pytest.mark.parametrize(("version", "verdict"), [(8, "ended"), (7, "repeat"), (6, "ended")])
async def test_only_the_very_write_that_ended_an_attempt_is_a_repeat_of_it(
    database: Database, version: int, verdict: str
) -> None:
    """`ended` for an older write too: its redo has ended the attempt, perhaps otherwise; the row says how."""
    task = await create_task(database)
    await flush(database, batch(task, 7, event(EventType.TASK_CANCELLED, error={"code": "cancelled"})))
    before = await row_of(database, task)
    answer = await flush(database, batch(task, version, event(EventType.TASK_FAILED, error={"code": "late"})))
    assert (answer["verdict"], answer["status"]) == (verdict, "cancelled")
    assert answer["error"] == ({"code": "cancelled"} if verdict == "ended" else None)
    assert await row_of(database, task) == before


@pytest.mark.parametrize("attempt", [1, 3])
async def test_a_flush_of_another_attempt_is_superseded(database: Database, attempt: int) -> None:
    """`superseded`: only the current attempt may write, whatever the version."""
    task = await in_status(database, TaskStatus.DELEGATED)
    await flush(database, batch(task, 2, event(EventType.TASK_QUEUED, attempt=2)))
    before = await row_of(database, task)
    answer = await flush(database, batch(task, 10**12, event(TRACE, "late"), attempt=attempt))
    assert answer["verdict"] == "superseded"
    assert await row_of(database, task) == before


@pytest.mark.parametrize("ended", [status for status in TaskStatus if status.terminal])
async def test_a_flush_after_the_end_is_told_so(database: Database, ended: TaskStatus) -> None:
    """`ended`: the end is absorbing, and the answer says which it was."""
    task = await in_status(database, ended)
    before = await row_of(database, task)
    answer = await flush(database, batch(task, 2, event(EventType.TASK_CANCELLED, "redo", error={"code": "x"})))
    assert (answer["verdict"], answer["status"]) == ("ended", ended)
    assert await row_of(database, task) == before


async def test_a_flush_of_a_deleted_task_says_so(database: Database) -> None:
    """TaskGone: there is no row to answer for."""
    task = TaskId("0197f000-0000-7000-8000-00000000dead")
    with pytest.raises(TaskGone, match=task):
        await flush(database, batch(task, 1, event(TRACE)))


async def test_the_answer_carries_the_open_intents(database: Database) -> None:
    """A cancel that somebody asked for comes back with the next flush, whatever its verdict."""
    task = await create_task(database)
    async with database.begin("test") as connection:
        await connection.execute(text("UPDATE tasks SET cancel_requested_at = now() WHERE id = :task"), {"task": task})
    assert [(await flush(database, batch(task, version)))["cancel"] for version in (1, 1, 2)] == [True, True, True]


async def test_the_next_attempt_begins_with_any_version(database: Database) -> None:
    """The fence is (attempt, version): a new attempt's first flush applies although its version is lower."""
    task = await in_status(database, TaskStatus.IN_PROGRESS)
    await flush(database, batch(task, 10**9, event(EventType.TASK_QUEUED, attempt=2)))
    answer = await flush(database, batch(task, 1, event(TRACE, "first"), attempt=2))
    assert (answer["verdict"], (await assert_folds(database, task))["attempt"]) == ("applied", 2)


# --- numbers --------------------------------------------------------------------------------------------------------


async def test_twenty_writers_leave_no_gap(database: Database) -> None:
    """20 concurrent writers of one task get seq 1 … n: what came too late is a repeat, the rest is whole."""
    task = await create_task(database)
    flushes = [batch(task, n, event(TRACE, f"{n}:a"), event(TRACE, f"{n}:b")) for n in range(1, 21)]
    answers = await asyncio.gather(*(flush(database, one) for one in flushes))
    applied = sum(answer["verdict"] == "applied" for answer in answers)
    row = await assert_folds(database, task)
    assert {answer["verdict"] for answer in answers} <= {"applied", "repeat"}
    assert (row["version"], row["last_seq"]) == (20, 2 + 2 * applied)


async def test_writers_without_a_fence_leave_no_gap(database: Database) -> None:
    """20 concurrent appends of other sources beside 20 flushes: every append is in the log, numbered 1 … n."""
    task = await create_task(database)

    async def append(number: int) -> None:
        async with database.begin("test") as connection:
            await mirror.append(connection, task, [event(TRACE, f"api:{number}")])

    await asyncio.gather(
        *(append(number) for number in range(20)),
        *(flush(database, batch(task, number, event(TRACE, f"flush:{number}"))) for number in range(1, 21)),
    )
    await assert_folds(database, task)
    assert {f"api:{number}" for number in range(20)} <= set(await keys_of(database, task))


async def test_tasks_do_not_wait_for_each_other(database: Database) -> None:
    """A flush touches its own task's row only: it goes through while another task's row is locked."""
    mine, other = await create_task(database), await create_task(database)
    async with database.begin("test") as connection:
        await connection.execute(text("SELECT 1 FROM tasks WHERE id = :task FOR UPDATE"), {"task": other})
        async with asyncio.timeout(5):
            assert (await flush(database, batch(mine, 1, event(TRACE))))["verdict"] == "applied"


# --- redo -----------------------------------------------------------------------------------------------------------


async def test_a_redo_writes_an_event_once(database: Database) -> None:
    """The redo's other content for a key that is in the log changes neither log nor row; its new events do."""
    task = await create_task(database)
    await flush(database, batch(task, 1, event(EventType.TASK_DELEGATED, workspace_id="first", node_id="n")))
    redo = [event(EventType.TASK_DELEGATED, workspace_id="second", node_id="m"), event(EventType.TASK_STARTED)]
    answer = await flush(database, batch(task, 2, *redo))
    row = await assert_folds(database, task)
    assert (answer["verdict"], row["status"]) == ("applied", "in_progress")
    assert (row["workspace_id"], row["node_id"], row["last_seq"]) == ("first", "n", 4)


async def test_a_key_that_comes_twice_in_a_batch_is_written_once(database: Database) -> None:
    """The first one wins; the batch is not refused."""
    task = await create_task(database)
    twice = [event(TRACE, "a", n=1), event(TRACE, "b"), event(TRACE, "a", n=2)]
    assert (await flush(database, batch(task, 1, *twice)))["verdict"] == "applied"
    await assert_folds(database, task)
    assert [(e.seq, e.data) for e in (await log_of(database, task))[2:]] == [(3, {"n": 1}), (4, {})]


# --- the guard ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), TASK_PAIRS)
async def test_the_database_allows_what_the_table_allows(database: Database, old: TaskStatus, new: TaskStatus) -> None:
    """A direct UPDATE from `old` to `new` succeeds exactly when the domain's table holds the pair."""
    task = await in_status(database, old)
    allowed = new in TASK_TRANSITIONS[old]
    statement = text("UPDATE tasks SET status = :new WHERE id = :task")
    refused = pytest.raises(IntegrityError, match=f"tasks: no transition from {old} to {new}")
    with nullcontext() if allowed else refused:
        async with database.begin("test") as connection:
            await connection.execute(statement, {"new": new, "task": task})


@pytest.mark.parametrize(("table", "old", "new", "transitions"), OTHER_PAIRS)
async def test_the_database_guards_workspaces_and_nodes(
    database: Database, table: str, old: str, new: str, transitions: dict[str, frozenset[str]]
) -> None:
    """The same for the other two machines."""
    rows = {
        "nodes": "INSERT INTO nodes (id, status, slots) VALUES ('guarded', :old, 1)",
        "workspaces": "INSERT INTO workspaces (id, task_id, project, attempt, visit, provider, status)"
        " SELECT 'guarded', id, project, 1, 1, 'local', :old FROM tasks LIMIT 1",
    }
    await create_task(database)
    refused = False
    async with database.begin("test") as connection:
        await connection.execute(text(rows[table]), {"old": old})
        try:
            await connection.execute(text(f"UPDATE {table} SET status = :new WHERE id = 'guarded'"), {"new": new})  # noqa: S608
        except IntegrityError:
            refused = True
        await connection.rollback()
    assert refused is (new not in transitions[old])


@pytest.mark.parametrize(
    ("way", "ends"),
    [
        ([EventType.TASK_STARTED, EventType.TASK_COMPLETED], "completed"),
        ([EventType.TASK_STARTED, EventType.ATTEMPT_FAILED, EventType.TASK_FAILED], "failed"),
    ],
)
async def test_a_batch_may_pass_through_several_statuses(database: Database, way: list[EventType], ends: str) -> None:
    """`delegated` → `in_progress` → the end in one batch is legal, although the table has no shortcut."""
    task = await delegated(database)
    answer = await flush(database, batch(task, 2, *(event(kind) for kind in way)))
    assert (answer["verdict"], (await assert_folds(database, task))["status"]) == ("applied", ends)


@pytest.mark.parametrize(
    "way",
    [
        [EventType.TASK_COMPLETED],
        [EventType.TASK_STARTED, EventType.TASK_DELEGATED, EventType.TASK_STARTED],
        [EventType.TASK_FAILED, EventType.TASK_COMPLETED],
        [EventType.TASK_STARTED, EventType.TASK_COMPLETED, EventType.TASK_FAILED],
    ],
)
async def test_a_batch_with_an_illegal_way_is_refused(database: Database, way: list[EventType]) -> None:
    """Every step of the way counts, not only where it leads; nothing of such a batch is written."""
    task = await delegated(database)
    before = await row_of(database, task)
    with pytest.raises(IntegrityError, match="no transition"):
        await flush(database, batch(task, 2, *(event(kind, f"x{n}") for n, kind in enumerate(way))))
    assert await row_of(database, task) == before
    assert len(await keys_of(database, task)) == before["last_seq"]


# --- content --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result", [None, False, 0, "", "text", [], {}, [None], {"a": None}, "null", {"deep": [{"er": None}]}, 1.5, -(2**53)]
)
async def test_a_result_comes_back_as_it_was(database: Database, result: object) -> None:
    """Every JSON value round-trips through row and log; null is SQL's NULL in the row."""
    task = await in_status(database, TaskStatus.IN_PROGRESS)
    await flush(database, batch(task, 2, event(EventType.TASK_COMPLETED, result=result)))
    row = await assert_folds(database, task)
    assert row["result"] == result
    is_null = await scalar(database, "SELECT result IS NULL FROM tasks WHERE id = :task", task=task)
    assert is_null is (result is None)


async def test_an_error_is_cleared_by_success(database: Database) -> None:
    """A later attempt that completes leaves `error` NULL, as SQL and not as JSON."""
    task = await in_status(database, TaskStatus.IN_PROGRESS)
    failed = [event(EventType.ATTEMPT_FAILED, error={"code": "x"}), event(EventType.TASK_QUEUED, attempt=2)]
    await flush(database, batch(task, 2, *failed))
    assert (await assert_folds(database, task))["error"] == {"code": "x"}
    await flush(database, batch(task, 1, *(event(kind, attempt=2) for kind in WAYS[TaskStatus.COMPLETED]), attempt=2))
    assert (await assert_folds(database, task))["error"] is None
    assert await scalar(database, "SELECT error IS NULL FROM tasks WHERE id = :task", task=task)


async def test_times_are_kept_to_the_microsecond(database: Database) -> None:
    """`started_at` and the event's `ts` are the workflow's own time, in UTC."""
    task = await delegated(database)
    started = event(EventType.TASK_STARTED)
    await flush(database, batch(task, 2, started))
    row = await assert_folds(database, task)
    assert row["started_at"] == started.ts
    assert (await log_of(database, task))[-1].ts == started.ts


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("a\x00b", "a\ufffdb"),
        ("literal \\u0000", "literal \\u0000"),
        ("\\\x00", "\\\ufffd"),
        ("half \ud800 pair", "half ? pair"),
        ("whole \U0001f600 pair", "whole \U0001f600 pair"),
        ('quote " and back\\slash', 'quote " and back\\slash'),
    ],
)
async def test_text_that_jsonb_cannot_hold_is_replaced(database: Database, told: str, kept: str) -> None:
    """A NUL or half a surrogate pair in a workspace's output does not stop the flush; all else is untouched."""
    task = await create_task(database)
    await flush(database, batch(task, 1, event(TRACE, data={told: [told]})))
    assert (await log_of(database, task))[-1].data == {"data": {kept: [kept]}}


async def test_an_event_of_a_megabyte_is_written(database: Database) -> None:
    """1 MB of data in one event round-trips."""
    task, big = await create_task(database), "é" * 500_000
    assert (await flush(database, batch(task, 1, event(TRACE, data=big))))["verdict"] == "applied"
    assert (await log_of(database, task))[-1].data == {"data": big}


async def test_a_hundred_events_are_one_batch(database: Database) -> None:
    """Their order in the log is their order in the batch."""
    task = await create_task(database)
    keys = [f"k{n}" for n in range(100, 0, -1)]
    await flush(database, batch(task, 1, *(event(TRACE, key) for key in keys)))
    assert (await keys_of(database, task))[2:] == keys


def test_events_go_out_with_what_they_change() -> None:
    """The row's changes are computed by the domain's own `changes`, and travel with the event."""
    step: NewEvent = event(EventType.STEP_STARTED, step=Step.RUNNING)
    [sent] = json.loads(mirror.events_json([step]))
    assert (sent["step"], sent["type"]) == ("running", "step.started")
    assert sent["changes"] == {"step": "running", "step_started_at": step.ts.isoformat(), "paused_seconds": 0}


def test_every_status_has_its_event() -> None:
    """The way to each status is an event of the table."""
    assert set(EVENT_OF_STATUS) == set(TaskStatus)
    assert set(WAYS) == set(TaskStatus) - {TaskStatus.READY}


# --- workspaces follow the log --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "status", "entry"),
    [
        ([], "reserved", "intent"),
        ([(EventType.STEP_FINISHED, Step.WORKSPACE_DISPATCH)], "dispatched", "created"),
        (
            [(EventType.STEP_FINISHED, Step.WORKSPACE_DISPATCH), (EventType.WORKSPACE_READY, Step.WORKSPACE_READY)],
            "ready",
            "created",
        ),
        ([(EventType.WORKSPACE_FAILED, Step.WORKSPACE_DISPATCH)], "failed", "intent"),
    ],
)
async def test_the_workspace_follows_the_log(
    database: Database, events: list[tuple[EventType, Step]], status: str, entry: str
) -> None:
    """The workspace's status and its ledger entry change in the flush that tells of it; a repeat changes nothing."""
    task = await create_task(database)
    workspace = WorkspaceId(f"w-{task}")
    async with database.begin("test") as connection:
        delegation = batch(task, 1, event(EventType.TASK_DELEGATED, workspace_id=workspace, node_id=None))
        await mirror.reserve(connection, delegation, workspace=workspace, visit=1, provider="external", node=None)
    one = batch(task, 2, *(event(kind, step=step) for kind, step in events))
    for _ in range(2):
        await flush(database, one)
        assert await scalar(database, "SELECT status FROM workspaces WHERE id = :id", id=workspace) == status
        assert await scalar(database, "SELECT state FROM ledger WHERE tag = :id", id=workspace) == entry
