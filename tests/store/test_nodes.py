"""Nodes that fall silent, drain and come back, and what becomes of those who work on them."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from domain.events import EventType
from domain.ids import new_id, workspace_id
from domain.lifecycle import NODE_TRANSITIONS, NodeStatus
from domain.names import NodeId, TaskId, WorkspaceId
from store import ledger, nodes, reaper
from store.engine import Database
from tests.store.rows import batch, column, create_node, create_task, event, flush, scalar
from tests.store.slots import BROKEN, conclude, reserve, used, wait

LOST_AFTER, GAP = timedelta(minutes=15), timedelta(minutes=5)
TOLD = "SELECT body ->> 'workspace_id' FROM outbox WHERE task_id = :task AND name = 'node_lost'"


@pytest.fixture(autouse=True)
async def _alone(database: Database) -> AsyncIterator[None]:
    """What one test has left silent is not lost in the next one; counts and entries agree after each."""
    await execute(database, "UPDATE nodes SET status = 'gone'; DELETE FROM hearing")
    yield
    assert await scalar(database, BROKEN) == 0


async def execute(database: Database, statements: str, **parameters: Any) -> None:
    """Run statements in one transaction."""
    async with database.begin("test") as connection:
        for statement in map(text, statements.split(";")):
            await connection.execute(statement, {name: parameters[name] for name in statement._bindparams})


async def heard(database: Database) -> list[NodeId]:
    """Look who is lost, as an API does it every second."""
    async with database.begin("test") as connection:
        return await nodes.hear(connection, lost_after=LOST_AFTER, gap=GAP)


async def silent(database: Database, node: NodeId, minutes: float) -> None:
    """Let the node's last heartbeat be so long ago."""
    ago = timedelta(minutes=minutes)
    await execute(
        database,
        "UPDATE nodes SET last_heartbeat_at = clock_timestamp() - CAST(:ago AS interval) WHERE id = :id",
        ago=ago,
        id=node,
    )


async def set_hearing(database: Database, since: float, last: float = 0.5) -> None:
    """Let somebody have listened since so many minutes ago, and last so many minutes ago."""
    await execute(
        database,
        "DELETE FROM hearing;"
        "INSERT INTO hearing (since, at) VALUES (clock_timestamp() - CAST(:since AS interval),"
        " clock_timestamp() - CAST(:last AS interval))",
        since=timedelta(minutes=since),
        last=timedelta(minutes=last),
    )


async def status(database: Database, node: NodeId) -> str:
    """Return what the node's row says."""
    return str(await scalar(database, "SELECT status FROM nodes WHERE id = :id", id=node))


async def at_work(database: Database, node: NodeId) -> tuple[TaskId, WorkspaceId]:
    """Give a task with a workspace on the node."""
    task = await create_task(database)
    assert (await reserve(database, task, node, 1))["workspace_id"]
    return task, workspace_id(task, 1, 1)


# --- lost -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "ago", "listened", "becomes"),
    [
        ("ready", 16, (100, 0.5), "lost"),
        ("warm", 16, (100, 0.5), "lost"),
        ("draining", 16, (100, 0.5), "lost"),
        ("ready", 14, (100, 0.5), "ready"),
        # It has registered and died before it could report in.
        ("provisioning", 16, (100, 0.5), "gone"),
        ("provisioning", 14, (100, 0.5), "provisioning"),
        ("provisioning", 99, (14, 0.5), "provisioning"),
        ("gone", 99, (100, 0.5), "gone"),
        # Nobody was there to hear it: for part of the time, until just now, or since the clock was set.
        ("ready", 99, (14, 0.5), "ready"),
        ("ready", 99, (100, 6), "ready"),
        ("ready", 99, (-3600, -3600), "ready"),
    ],
)
async def test_silence_counts_only_while_somebody_listened(
    database: Database, was: str, ago: float, listened: tuple[float, float], becomes: str
) -> None:
    """Lost after 15 min of silence in which there was an API all the time; otherwise it has the whole time again."""
    node = await create_node(database, slots=1, status=NodeStatus(was))
    await silent(database, node, ago)
    await set_hearing(database, *listened)
    found = await heard(database)
    assert (await status(database, node), node in found) == (becomes, becomes == "lost" and was != "lost")


async def test_a_made_node_that_comes_up_is_left_to_who_makes_it(database: Database) -> None:
    """A machine may take longer to come up than a node may be silent: its step has a budget of its own."""
    node = await create_node(database, slots=1, status=NodeStatus.PROVISIONING)
    await execute(database, "UPDATE nodes SET provider = 'process' WHERE id = :id", id=node)
    await silent(database, node, 99)
    await set_hearing(database, 100)
    await heard(database)
    assert await status(database, node) == "provisioning"


async def test_who_registers_is_heard(database: Database) -> None:
    """A node that was gone and is started again has its whole time to report in, and can do so later, too."""
    node = await create_node(database, slots=1)
    await execute(database, "UPDATE nodes SET status = 'gone' WHERE id = :id", id=node)
    await silent(database, node, 99)
    await set_hearing(database, 100)
    async with database.begin("test") as connection:
        await nodes.register(connection, node=node, slots=1, labels="{}", facts="{}")
    await heard(database)
    assert await status(database, node) == "provisioning"
    await silent(database, node, 16)
    await heard(database)
    assert await status(database, node) == "gone"
    async with database.begin("test") as connection:
        row = await nodes.report(connection, node)
    assert row is not None
    assert row["status"] == "ready"


async def test_a_node_that_begins_again_and_again_is_lost(database: Database) -> None:
    """Its process dies each time before it reports in: registering is no sign of life."""
    node = await create_node(database, slots=1)
    await silent(database, node, 16)
    await set_hearing(database, 100)
    async with database.begin("test") as connection:
        await nodes.register(connection, node=node, slots=1, labels="{}", facts="{}")
    assert await heard(database) == [node]


async def test_the_first_who_listens_calls_nobody_lost(database: Database) -> None:
    """The table is empty after an upgrade: from now on silence counts."""
    node = await create_node(database, slots=1)
    await silent(database, node, 1000)
    assert await heard(database) == []
    assert await scalar(database, "SELECT count(*) FROM hearing WHERE since > now() - interval '1 minute'") == 1


async def test_those_who_work_on_a_lost_node_are_told_once(database: Database) -> None:
    """A signal with the workspace for each live attempt there; none for one that has ended, or works elsewhere."""
    node, other = [await create_node(database, slots=3) for _ in range(2)]
    (here, space), (ended, _), (elsewhere, _) = [await at_work(database, each) for each in (node, node, other)]
    await conclude(database, ended, 2, destroyed=False)
    await silent(database, node, 16)
    await set_hearing(database, 100)
    assert await heard(database) == [node]
    assert await heard(database) == []
    assert [await column(database, TOLD, task=task) for task in (here, ended, elsewhere)] == [[space], [], []]


async def test_a_slot_of_a_lost_node_is_given_back_when_it_is_taken_up(database: Database) -> None:
    """Granted, but its node is lost before the workspace is reserved: lost like a slot that somebody else took."""
    node = await create_node(database, slots=1)
    (holder, _), waiter = await at_work(database, node), await create_task(database)
    await wait(database, waiter, 1, node)
    await conclude(database, holder, 2)
    await execute(database, "UPDATE nodes SET status = 'lost' WHERE id = :id", id=node)
    assert (await reserve(database, waiter, node, 2))["workspace_id"] is None
    assert await used(database, node) == 0
    other = await create_node(database, slots=1)
    assert (await reserve(database, waiter, other, 3))["node_id"] == other


async def test_what_is_on_a_lost_node_is_left_until_it_is_back_or_gone(database: Database) -> None:
    """No Cleanup is sent to a node that nobody hears; to one that is gone it has nothing to destroy."""
    node = await create_node(database, slots=1)
    task, space = await at_work(database, node)
    await conclude(database, task, 2, destroyed=False)
    await execute(database, "DELETE FROM outbox WHERE task_id = :task", task=task)
    await execute(database, "UPDATE ledger SET updated_at = now() - interval '1 hour' WHERE task_id = :t", t=task)

    async def wanted() -> int:
        async with database.begin("test") as connection:
            await reaper.clean_up(connection, settled=GAP, call=GAP, limit=100, dry_run=False)
        return int(
            await scalar(database, "SELECT count(*) FROM outbox WHERE task_id = :t AND kind = 'cleanup'", t=task)
        )

    async def held() -> list[str]:
        async with database.begin("test") as connection:
            return [each.workspace_id for each in await ledger.held(connection, task, 1) or ()]

    await execute(database, "UPDATE nodes SET status = 'lost' WHERE id = :id", id=node)
    assert (await wanted(), await held()) == (0, [space])
    await execute(database, "UPDATE nodes SET status = 'gone' WHERE id = :id", id=node)
    assert (await wanted(), await held()) == (1, [])
    async with database.begin("test") as connection:
        await ledger.release(connection, task, 1)
    assert await used(database, node) == 0


# --- back -----------------------------------------------------------------------------------------------------------


async def test_a_node_that_comes_back_is_told_what_is_not_its_own(database: Database) -> None:
    """Its own: live attempts' and kept ones. Not its own: an ended attempt's, another node's, unknown ones."""
    node, other = [await create_node(database, slots=4) for _ in range(2)]
    _, live = await at_work(database, node)
    ended, left = await at_work(database, node)
    await conclude(database, ended, 2, destroyed=False)
    keeper, kept = await at_work(database, node)
    await flush(database, batch(keeper, 2, event(EventType.TASK_STARTED)))
    await execute(database, "UPDATE workspaces SET status = 'dispatched' WHERE id = :id", id=kept)
    await execute(database, "UPDATE workspaces SET status = 'ready' WHERE id = :id", id=kept)
    await conclude(database, keeper, 3, kept=kept)
    _, elsewhere = await at_work(database, other)
    stranger = WorkspaceId(new_id())
    async with database.begin("test") as connection:
        found = await nodes.not_own(connection, node, [live, left, kept, elsewhere, stranger])
    assert found == [left, elsewhere, stranger]


async def test_a_heartbeat_does_not_bring_a_lost_node_back(database: Database) -> None:
    """It is heard and stays lost until it reports in, with what it has."""
    node = await create_node(database, slots=1)
    await execute(database, "UPDATE nodes SET status = 'lost' WHERE id = :id", id=node)
    async with database.begin("test") as connection:
        row = await nodes.beat(connection, node, cpu=0.5, memory=0.25, load=0.35)
        assert row is not None
        assert (row["status"], row["cpu"], row["memory"]) == ("lost", 0.5, 0.25)
        row = await nodes.report(connection, node)
        assert row is not None
        assert row["status"] == "ready"
        assert await nodes.beat(connection, NodeId("nobody"), cpu=0, memory=0, load=0) is None


# --- draining -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "empty", "with_work"),
    [
        ("provisioning", "gone", None),
        ("ready", "gone", "draining"),
        ("warm", "gone", "draining"),
        ("draining", "gone", "draining"),
        ("lost", "lost", "lost"),
        ("gone", "gone", None),
    ],
)
async def test_a_drain_by_status(database: Database, was: str, empty: str, with_work: str | None) -> None:
    """An empty node is gone at once, one with work drains; lost and gone ones stay. Each step is one of the table's."""
    for busy, becomes in ((False, empty), (True, with_work)):
        if becomes is None:
            continue
        node = await create_node(database, slots=1)
        if busy:
            await at_work(database, node)
        await execute(database, "UPDATE nodes SET status = :to WHERE id = :id", to=_on_the_way(was), id=node)
        await execute(database, "UPDATE nodes SET status = :to WHERE id = :id", to=was, id=node)
        async with database.begin("test") as connection:
            row = await nodes.drain(connection, node)
        assert row is not None
        assert row["status"] == becomes


def _on_the_way(to: str) -> str:
    """Give a status that leads from `ready` to this one."""
    target, ways = NodeStatus(to), NODE_TRANSITIONS[NodeStatus.READY]
    return to if target in {*ways, NodeStatus.READY} else next(way for way in ways if target in NODE_TRANSITIONS[way])


@pytest.mark.parametrize(("busy", "becomes"), [(True, "draining"), (False, "gone")])
async def test_a_drain_outlasts_a_silence(database: Database, *, busy: bool, becomes: str) -> None:
    """A node that was told to take no more tasks, was lost and is back, takes none; started again, it does."""
    node = await create_node(database, slots=2)
    task, _ = await at_work(database, node)
    async with database.begin("test") as connection:
        await nodes.drain(connection, node)
    await execute(database, "UPDATE nodes SET status = 'lost' WHERE id = :id", id=node)
    if not busy:
        await conclude(database, task, 2)
    waiter = await create_task(database)
    await wait(database, waiter, 1, node)
    async with database.begin("test") as connection:
        back = await nodes.report(connection, node)
        assert back is not None
        assert (back["status"], back["used"]) == (becomes, int(busy))
        await nodes.register(connection, node=node, slots=2, labels=f'{{"node": "{node}"}}', facts="{}")
        again = await nodes.report(connection, node)
    assert again is not None
    assert (again["status"], again["used"]) == ("ready", int(busy) + 1)


async def test_a_draining_node_gets_nothing_and_is_gone_with_its_last_slot(database: Database) -> None:
    """Who waits stays waiting, also when one of its slots becomes free."""
    node = await create_node(database, slots=2)
    tasks = [(await at_work(database, node))[0] for _ in range(2)]
    waiter = await create_task(database)
    async with database.begin("test") as connection:
        await nodes.drain(connection, node)
    await wait(database, waiter, 1, node)
    await conclude(database, tasks[0], 2)
    assert await status(database, node) == "draining"
    await conclude(database, tasks[1], 2)
    assert (await status(database, node), await used(database, node)) == ("gone", 0)
    assert await column(database, "SELECT granted FROM waiters WHERE task_id = :task", task=waiter) == [None]


async def test_a_node_that_does_not_come_back_lets_go_of_its_attempts(database: Database) -> None:
    """Gone, from lost or from work; those who work there are told, and an unknown node is none."""
    node = await create_node(database, slots=1)
    task, space = await at_work(database, node)
    async with database.begin("test") as connection:
        row = await nodes.remove(connection, node)
        assert await nodes.remove(connection, NodeId("nobody")) is None
    assert row is not None
    assert row["status"] == "gone"
    assert await column(database, TOLD, task=task) == [space]
