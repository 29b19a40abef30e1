"""Slots: reserved, waited for, granted, released; used slots are open ledger entries, at every moment."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from domain.events import EventType, NewEvent
from domain.lifecycle import NodeStatus
from domain.names import ProjectId
from store.engine import Database
from tests.store.rows import assert_folds, batch, column, create_node, create_task, event, flush, row_of, scalar
from tests.store.slots import BROKEN, OPEN, conclude, holder_of, reserve, used, wait


@pytest.fixture(autouse=True)
async def _always_balanced(database: Database) -> AsyncIterator[None]:
    """Every test leaves each node's count equal to its open slot entries."""
    yield
    assert await scalar(database, BROKEN) == 0


# --- reserve --------------------------------------------------------------------------------------------------------


async def test_a_reservation_takes_slot_and_workspace_in_one(database: Database) -> None:
    """`delegated`, one slot used, workspace `reserved`, ledger: slot `created`, workspace `intent`."""
    node, task = await create_node(database, slots=1), await create_task(database)
    answer = await reserve(database, task, node, 1)
    entries = await column(database, "SELECT kind || ' ' || state FROM ledger WHERE task_id = :t ORDER BY 1", t=task)
    assert (answer["verdict"], answer["node_id"], await used(database, node)) == ("applied", node, 1)
    assert entries == ["slot created", "workspace intent"]
    assert (await assert_folds(database, task))["workspace_id"] == answer["workspace_id"]


async def test_a_lost_slot_writes_nothing(database: Database) -> None:
    """`workspace_id` is None, and neither row, log nor ledger changed."""
    node, first, second = await create_node(database, slots=1), await create_task(database), await create_task(database)
    await reserve(database, first, node, 1)
    before = await row_of(database, second)
    assert (await reserve(database, second, node, 1))["workspace_id"] is None
    assert await row_of(database, second) == before
    assert await scalar(database, OPEN, task=second) == 0


@pytest.mark.parametrize("status", [NodeStatus.PROVISIONING, NodeStatus.DRAINING, NodeStatus.LOST, NodeStatus.GONE])
async def test_a_node_that_does_not_work_gives_no_slot(database: Database, status: NodeStatus) -> None:
    """The slot counts as lost, however many are free."""
    node, task = await create_node(database, slots=5, status=status), await create_task(database)
    assert (await reserve(database, task, node, 1))["workspace_id"] is None


async def test_a_repeated_reservation_returns_what_the_first_one_stored(database: Database) -> None:
    """The same workspace and one slot, for the same version and for a newer one."""
    node, task = await create_node(database, slots=2), await create_task(database)
    answers = [await reserve(database, task, node, version) for version in (1, 1, 2)]
    assert [answer["verdict"] for answer in answers] == ["applied", "repeat", "applied"]
    assert len({answer["workspace_id"] for answer in answers}) == 1
    assert await used(database, node) == 1


async def test_a_redo_goes_where_its_workspace_is(database: Database) -> None:
    """A redo that chose another node is told the node of the stored reservation, and takes no second slot."""
    first, second, task = await create_node(database, slots=1), await create_node(database, slots=1), None
    task = await create_task(database)
    await reserve(database, task, first, 1)
    answer = await reserve(database, task, second, 2)
    assert (answer["node_id"], await used(database, first), await used(database, second)) == (first, 1, 0)
    assert (await assert_folds(database, task))["node_id"] == first


async def test_another_visit_moves_the_slot(database: Database) -> None:
    """An attempt never holds two slots: one on another node goes back, to whoever waits for it."""
    first, second = await create_node(database, slots=1), await create_node(database, slots=1)
    task, waiting = await create_task(database), await create_task(database)
    await reserve(database, task, first, 1)
    await wait(database, waiting, 1, first)
    answer = await reserve(database, task, second, 2, visit=2)
    assert (answer["node_id"], await used(database, second)) == (second, 1)
    assert await holder_of(database, first) == waiting


async def test_an_older_version_reserves_nothing(database: Database) -> None:
    """A write that was delayed until a newer one was applied is a repeat, and holds nothing."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await flush(database, batch(task, 5))
    answer = await reserve(database, task, node, 4)
    assert (answer["verdict"], answer["workspace_id"], await used(database, node)) == ("repeat", None, 0)


@pytest.mark.parametrize(
    ("attempt", "events", "verdict"),
    [
        (1, [event(EventType.TASK_CANCELLED, error=None)], "ended"),
        (1, [event(EventType.TASK_DELEGATED), event(EventType.TASK_QUEUED, attempt=2)], "superseded"),
        (7, [event(EventType.DEBUG_TRACE)], "superseded"),
    ],
)
async def test_a_dead_attempt_reserves_nothing(
    database: Database, attempt: int, events: list[NewEvent], verdict: str
) -> None:
    """Intents commit at a live attempt only: no slot, no workspace, no ledger entry."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await flush(database, batch(task, 1, *events))
    answer = await reserve(database, task, node, 2, attempt=attempt)
    assert (answer["verdict"], answer["workspace_id"]) == (verdict, None)
    assert (await used(database, node), await scalar(database, OPEN, task=task)) == (0, 0)


async def test_an_external_workspace_needs_no_slot(database: Database) -> None:
    """Without a node there is one ledger entry, the workspace's."""
    task = await create_task(database, provider="external")
    answer = await reserve(database, task, None, 1)
    assert (answer["verdict"], answer["node_id"], await scalar(database, OPEN, task=task)) == ("applied", None, 1)


# --- wait and grant -------------------------------------------------------------------------------------------------


async def test_a_free_slot_is_granted_at_once(database: Database) -> None:
    """`granted` in the answer; the reservation that follows uses that slot and no other."""
    node, task = await create_node(database, slots=2), await create_task(database)
    assert (await wait(database, task, 1, node))["granted"] == node
    assert (await reserve(database, task, node, 2))["workspace_id"] is not None
    assert await used(database, node) == 1
    assert await column(database, "SELECT 1 FROM waiters WHERE task_id = :task", task=task) == []


async def test_a_release_grants_the_slot_to_the_next_waiter(database: Database) -> None:
    """In the transaction of the release: the slot changes hands, and the signal that tells of it is in the outbox."""
    node, first, second = await create_node(database, slots=1), await create_task(database), await create_task(database)
    await reserve(database, first, node, 1)
    assert (await wait(database, second, 1, node))["granted"] is None
    assert (await conclude(database, first, 2))["granted"] == 1
    told = await column(database, "SELECT body FROM outbox WHERE task_id = :t AND name = 'slot_granted'", t=second)
    assert (await holder_of(database, node), told) == (second, [{"node_id": node}])


async def test_waiting_again_with_a_slot_in_hand_waits_for_nothing(database: Database) -> None:
    """A redo that does not remember its reservation is told of it, whatever the row's status is by now."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await reserve(database, task, node, 1)
    assert (await wait(database, task, 2, node))["granted"] == node
    assert await column(database, "SELECT 1 FROM waiters WHERE task_id = :task", task=task) == []


async def test_waiting_twice_is_one_place_in_the_queue(database: Database) -> None:
    """A redo keeps its age: it is granted before one who came between."""
    node = await create_node(database, slots=1)
    holder, first, second = [await create_task(database) for _ in range(3)]
    await reserve(database, holder, node, 1)
    for task, version in ((first, 1), (second, 1), (first, 2)):
        await wait(database, task, version, node)
    await conclude(database, holder, 2)
    assert await holder_of(database, node) == first


async def test_slots_go_by_priority_then_project_share_then_age(database: Database) -> None:
    """Priority 1 first; among equals the project that holds least; among those the oldest."""
    node, elsewhere = await create_node(database, slots=1), await create_node(database, slots=2)
    greedy, modest = ProjectId("greedy"), ProjectId("modest")
    for _ in range(2):
        await reserve(database, await create_task(database, project=greedy), elsewhere, 1)
    holder = await create_task(database, project=ProjectId("holder"))
    await reserve(database, holder, node, 1)
    order = [(greedy, 3), (greedy, 3), (modest, 3), (modest, 3), (greedy, 5), (greedy, 1)]
    waiting = []
    for project, priority in order:
        task = await create_task(database, project=project)
        await wait(database, task, 1, node, priority=priority)
        waiting.append(task)
    served = []
    for _ in order:
        await conclude(database, holder, 9)
        holder = await holder_of(database, node)
        served.append(waiting.index(holder))
    assert served == [5, 2, 3, 0, 1, 4]


async def test_a_slot_waits_for_matching_labels(database: Database) -> None:
    """The oldest waiter is passed over if the node lacks its labels."""
    node, other = await create_node(database, slots=1), await create_node(database, slots=0)
    holder, stranger, matching = [await create_task(database) for _ in range(3)]
    await reserve(database, holder, node, 1)
    await wait(database, stranger, 1, other)
    await wait(database, matching, 1, node)
    await conclude(database, holder, 2)
    assert await holder_of(database, node) == matching


async def test_who_is_being_cancelled_gets_no_slot(database: Database) -> None:
    """The slot goes to the next one."""
    node = await create_node(database, slots=1)
    holder, cancelled, patient = [await create_task(database) for _ in range(3)]
    await reserve(database, holder, node, 1)
    for task in (cancelled, patient):
        await wait(database, task, 1, node)
    async with database.begin("test") as connection:
        statement = text("UPDATE tasks SET cancel_requested_at = now() WHERE id = :task")
        await connection.execute(statement, {"task": cancelled})
    await conclude(database, holder, 2)
    assert await holder_of(database, node) == patient


# --- release --------------------------------------------------------------------------------------------------------


async def test_a_conclusion_releases_once(database: Database) -> None:
    """Repeated, and repeated by two at once, it finds nothing left: one slot less, never two."""
    node = await create_node(database, slots=2)
    mine, other = await create_task(database), await create_task(database)
    for task in (mine, other):
        await reserve(database, task, node, 1)
    await asyncio.gather(*(conclude(database, mine, version) for version in (2, 2, 3)))
    await conclude(database, mine, 4)
    assert (await used(database, node), await scalar(database, OPEN, task=mine)) == (1, 0)
    assert await column(database, "SELECT status FROM workspaces WHERE task_id = :t", t=mine) == ["released"]


@pytest.mark.parametrize(
    ("before", "verdict"),
    [
        ([], "applied"),
        ([event(EventType.DEBUG_TRACE)], "repeat"),
        ([event(EventType.TASK_CANCELLED)], "ended"),
        ([event(EventType.TASK_QUEUED, attempt=2)], "superseded"),
    ],
)
async def test_a_conclusion_releases_whatever_its_verdict(
    database: Database, before: list[NewEvent], verdict: str
) -> None:
    """What the attempt held is free afterwards, even when it may write no more."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await reserve(database, task, node, 1)
    await flush(database, batch(task, 5 if verdict == "repeat" else 2, *before) if before else batch(task, 2))
    assert (await conclude(database, task, 5))["verdict"] == verdict
    assert (await used(database, node), await scalar(database, OPEN, task=task)) == (0, 0)


async def test_a_later_attempt_keeps_what_an_older_one_does_not_own(database: Database) -> None:
    """The late conclusion of attempt 1 leaves the slot and the workspace of attempt 2 alone."""
    node, task = await create_node(database, slots=2), await create_task(database)
    await reserve(database, task, node, 1)
    await flush(database, batch(task, 2, event(EventType.TASK_QUEUED, attempt=2)))
    await reserve(database, task, node, 1, attempt=2)
    assert await used(database, node) == 2
    await conclude(database, task, 3)
    assert (await used(database, node), await scalar(database, OPEN, task=task)) == (1, 2)


async def test_a_workspace_that_was_not_destroyed_keeps_its_slot(database: Database) -> None:
    """`destroyed=False`: the entries stay open for the reaper and the workspace is `stopping`; nobody is granted."""
    node, task, waiting = await create_node(database, slots=1), await create_task(database), await create_task(database)
    await reserve(database, task, node, 1)
    await wait(database, waiting, 1, node)
    assert (await conclude(database, task, 2, destroyed=False))["granted"] == 0
    assert (await holder_of(database, node), await scalar(database, OPEN, task=task)) == (task, 2)
    assert await column(database, "SELECT status FROM workspaces WHERE task_id = :t", t=task) == ["stopping"]


async def test_a_try_that_is_left_is_started_by_the_conclusion(database: Database) -> None:
    """Row, events and the next attempt's start intent are one transaction; a repeat adds no second intent."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await reserve(database, task, node, 1)
    due = datetime.now(UTC) + timedelta(hours=1)
    ending = (event(EventType.ATTEMPT_FAILED, error={"code": "x"}), event(EventType.TASK_QUEUED, attempt=2))
    verdicts = [(await conclude(database, task, 2, *ending, due=due))["verdict"] for _ in range(2)]
    starts = await column(
        database, "SELECT due_at FROM outbox WHERE task_id = :t AND kind = 'start' AND attempt = 2", t=task
    )
    row = await assert_folds(database, task)
    assert (verdicts, starts) == (["applied", "superseded"], [due])
    assert (row["status"], row["attempt"], row["workspace_id"]) == ("queued", 2, None)
