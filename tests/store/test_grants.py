"""Slots: reserved, waited for, granted, released; used slots are open ledger entries, at every moment."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from domain.events import EventType, NewEvent
from domain.ids import workspace_id
from domain.lifecycle import NodeStatus
from domain.messages import NodeQuery
from domain.names import DEFAULT_PROJECT, NodeId, ProjectId, TaskId
from store import mirror, placement
from store.engine import Database
from tests.store.rows import assert_folds, batch, column, create_node, create_task, event, flush, row_of, scalar

# Where a node's count and its ledger entries differ, or a slot is used that the node does not have.
BROKEN = """
SELECT count(*) FROM nodes WHERE used > slots OR used < 0 OR used <> (
  SELECT count(*) FROM ledger WHERE kind = 'slot' AND state <> 'released' AND ledger.node_id = nodes.id
)
"""
OPEN = "SELECT count(*) FROM ledger WHERE task_id = :task AND state <> 'released'"


@pytest.fixture(autouse=True)
async def _always_balanced(database: Database) -> AsyncIterator[None]:
    """Every test leaves each node's count equal to its open slot entries."""
    yield
    assert await scalar(database, BROKEN) == 0


async def reserve(
    database: Database, task: TaskId, node: NodeId | None, version: int, *, visit: int = 1, attempt: int = 1
) -> dict[str, Any]:
    """Reserve as a local workspace on this node, or as an external one on none."""
    identity = workspace_id(task, attempt, visit)
    delegated = event(
        EventType.TASK_DELEGATED, f"{attempt}:delegated:{visit}", attempt=attempt, workspace_id=identity, node_id=node
    )
    async with database.autocommit() as connection:
        return await mirror.reserve(
            connection,
            batch(task, version, delegated, attempt=attempt),
            workspace=identity,
            visit=visit,
            provider="local" if node else "external",
            node=node,
        )


async def wait(
    database: Database, task: TaskId, version: int, node: NodeId, *, priority: int = 3, attempt: int = 1
) -> dict[str, Any]:
    """Enter the queue for this node."""
    async with database.autocommit() as connection:
        return await mirror.wait_for_slot(
            connection, batch(task, version, attempt=attempt), priority=priority, labels={"node": node}
        )


async def conclude(
    database: Database,
    task: TaskId,
    version: int,
    *events: NewEvent,
    attempt: int = 1,
    destroyed: bool = True,
    due: datetime | None = None,
) -> dict[str, Any]:
    """Write the end of an attempt: failed, unless other events are given."""
    ending = events or (event(EventType.TASK_FAILED, error={"code": "end"}, attempt=attempt),)
    async with database.autocommit() as connection:
        return await mirror.conclude(
            connection, batch(task, version, *ending, attempt=attempt), destroyed=destroyed, next_attempt_at=due
        )


async def used(database: Database, node: NodeId) -> int:
    """Return how many slots the node counts as used."""
    return int(await scalar(database, "SELECT used FROM nodes WHERE id = :node", node=node))


async def holder_of(database: Database, node: NodeId) -> TaskId:
    """Return the task that holds the node's only slot."""
    query = "SELECT task_id FROM ledger WHERE kind = 'slot' AND state <> 'released' AND node_id = :node"
    return TaskId(await scalar(database, query, node=node))


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
    async with database.begin() as connection:
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


# --- everything at once ---------------------------------------------------------------------------------------------


@dataclass
class Crowd:
    """Tasks that wait, reserve, redo, give up and end at random, on nodes that are too few."""

    database: Database
    nodes: list[NodeId]
    chance: random.Random
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    served: int = 0

    async def live(self, task: TaskId) -> None:
        """Live one task's life as its workflow would; every call may be sent twice, as a redo would."""
        node = await self._chosen(task)
        reserved = await self._reserve(task, node, 2)
        while reserved["workspace_id"] is None:
            granted = await self._waited(task)
            if granted is None:
                return
            reserved = await self._reserve(task, granted, 20, visit=2)
        assert await scalar(self.database, BROKEN) == 0
        self.served += 1
        await self._end(task)

    async def _reserve(self, task: TaskId, node: NodeId, version: int, *, visit: int = 1) -> dict[str, Any]:
        return await self._twice(version, lambda number: reserve(self.database, task, node, number, visit=visit))

    async def _chosen(self, task: TaskId) -> NodeId:
        query = NodeQuery(task_id=task, attempt=1, project=DEFAULT_PROJECT, labels={"pool": self.nodes[0]})
        async with self.database.autocommit() as connection:
            choice = await placement.select_node(connection, query)
        return choice.node_id or self.chance.choice(self.nodes)

    async def _waited(self, task: TaskId) -> NodeId | None:
        """Wait for a grant; one in five gives up, as a cancel would have it."""
        labels: dict[str, str] = {"pool": self.nodes[0]}

        async def enter(version: int) -> dict[str, Any]:
            async with self.database.autocommit() as connection:
                return await mirror.wait_for_slot(connection, batch(task, version), priority=3, labels=labels)

        granted: str | None = (await self._twice(10, enter)).get("granted")
        if granted is None and self.chance.random() < 0.2:
            await self._end(task)
            return None
        query = "SELECT max(node_id) FROM ledger WHERE task_id = :task AND kind = 'slot' AND state <> 'released'"
        async with self.changed:
            while granted is None:
                granted = await scalar(self.database, query, task=task)
                if granted is None:
                    await self.changed.wait()
        return NodeId(granted)

    async def _twice(self, version: int, call: Any) -> dict[str, Any]:
        if self.chance.random() < 0.3:
            answers = await asyncio.gather(call(version), call(version + 1))
            return next((a for a in answers if a.get("workspace_id") or a.get("granted")), answers[0])
        answer: dict[str, Any] = await call(version)
        return answer

    async def _end(self, task: TaskId) -> None:
        await self._twice(100, lambda version: conclude(self.database, task, version))
        async with self.changed:
            self.changed.notify_all()


@pytest.mark.parametrize("seed", range(5))
async def test_a_crowd_never_overfills_a_node_and_nobody_starves(database: Database, seed: int) -> None:
    """60 concurrent lives on 2 to 4 nodes: used slots never exceed slots and equal the open entries; all get through.

    A deadlock would show as an error of whoever was chosen as its victim.
    """
    chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
    pool = f"pool-{seed}"
    nodes = [NodeId(pool)]
    async with database.begin() as connection:
        for number in range(chance.randint(2, 4)):
            node = NodeId(pool if number == 0 else f"{pool}-{number}")
            nodes.append(node)
            statement = text("INSERT INTO nodes (id, status, slots, labels) VALUES (:id, 'ready', :slots, :labels)")
            labels = f'{{"pool": "{pool}"}}'
            await connection.execute(statement, {"id": node, "slots": chance.randint(1, 3), "labels": labels})
    crowd = Crowd(database, nodes[1:], chance)
    tasks = [await create_task(database, project=ProjectId(f"p{number % 3}")) for number in range(60)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(crowd.live(task) for task in tasks))
    assert await scalar(database, BROKEN) == 0
    assert await scalar(database, "SELECT sum(used) FROM nodes WHERE id LIKE :pool", pool=f"{pool}%") == 0
    assert await scalar(database, "SELECT count(*) FROM waiters WHERE task_id = ANY(:tasks)", tasks=list(tasks)) == 0
    for task in tasks:
        assert (await assert_folds(database, task))["status"] == "failed"
        assert await scalar(database, OPEN, task=task) == 0
    assert crowd.served >= 30


async def test_granting_to_one_who_is_leaving_is_no_deadlock(database: Database) -> None:
    """A release that grants to B while B itself concludes: both end well, and the slot is nobody's, 40 times over."""
    node = await create_node(database, slots=1)
    for _ in range(40):
        first, second = await create_task(database), await create_task(database)
        await reserve(database, first, node, 1)
        await wait(database, second, 1, node)
        async with asyncio.timeout(5):
            await asyncio.gather(conclude(database, first, 2), conclude(database, second, 2))
        assert (await used(database, node), await scalar(database, BROKEN)) == (0, 0)


async def test_waiting_while_a_slot_is_being_granted_takes_it_once(database: Database) -> None:
    """A redone wait beside the release that grants to it: one slot, one entry, 40 times over."""
    node = await create_node(database, slots=2)
    for _ in range(40):
        first, second, third = [await create_task(database) for _ in range(3)]
        for task in (first, third):
            await reserve(database, task, node, 1)
        await wait(database, second, 1, node)
        await asyncio.gather(
            conclude(database, first, 2),
            conclude(database, third, 2),
            wait(database, second, 2, node),
            reserve(database, second, node, 3),
        )
        assert (await used(database, node), await scalar(database, BROKEN)) == (1, 0)
        await conclude(database, second, 4)
        assert await used(database, node) == 0


async def test_a_grant_does_not_wait_for_the_row_of_a_task_that_is_being_written(database: Database) -> None:
    """A waiter's task is locked, as by its own conclusion: the grant commits all the same: no deadlock."""
    node = await create_node(database, slots=1)
    holder, waiter = await create_task(database), await create_task(database)
    await reserve(database, holder, node, 1)
    await wait(database, waiter, 1, node)
    async with database.begin() as writing:
        await writing.execute(text("SELECT FROM tasks WHERE id = :task FOR UPDATE"), {"task": waiter})
        async with asyncio.timeout(5):
            answer = await conclude(database, holder, 2)
    assert answer["granted"] == 1
    await conclude(database, waiter, 2)
