"""Nodes that are made: one for each slot that is missing, and taken back when nobody needs them."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from domain.events import EventType
from domain.ids import new_id
from domain.lifecycle import NodeStatus
from domain.names import NodeId, Scope, TaskId
from domain.provisioning import NodeProvider, Provisioning
from store import fleet, keys, mirror, nodes
from store.engine import Database
from tests.store.rows import batch, create_node, create_task, event, scalar
from tests.store.slots import conclude, reserve


def policy(**changes: Any) -> Provisioning:
    """Give a policy for labels of its own."""
    return Provisioning.model_validate(
        {"provider": NodeProvider.PROCESS, "labels": {"pool": new_id()}, "slots": 2, "most": 1000} | changes
    )


async def provide(database: Database, wanted: Provisioning, task: TaskId | None = None) -> NodeId | None:
    """Ask for a node as an attempt that finds no slot."""
    async with database.commit("test") as connection:
        return await fleet.provide(connection, task or TaskId(new_id()), wanted)


async def waiting(database: Database, wanted: Provisioning, count: int) -> list[TaskId]:
    """Let so many wait for a slot of such nodes."""
    tasks = [await create_task(database, node_labels=wanted.labels) for _ in range(count)]
    for task in tasks:
        async with database.commit("test") as connection:
            await mirror.wait_for_slot(connection, batch(task, 1), priority=3, labels=wanted.labels)
    return tasks


async def execute(database: Database, statement: str, **parameters: Any) -> None:
    """Change a row behind everybody's back."""
    async with database.begin("test") as connection:
        await connection.execute(text(statement), parameters)


async def row(database: Database, node: NodeId) -> fleet.Made:
    """Return what is known of a made node."""
    async with database.commit("test") as connection:
        found = await fleet.one(connection, node)
    assert found is not None
    return found


async def test_one_node_for_as_many_as_it_has_slots_for(database: Database) -> None:
    """The first who finds no slot asks for one; the second fits in; the third, beside two others, for another."""
    wanted = policy()
    first = await provide(database, wanted)
    assert first is not None
    made = await row(database, first)
    assert (made.status, made.slots, made.labels) == (NodeStatus.PROVISIONING, 2, wanted.labels)
    assert await provide(database, wanted) is None
    await waiting(database, wanted, 1)
    assert await provide(database, wanted) is None
    await waiting(database, wanted, 1)
    assert await provide(database, wanted) not in (None, first)


@pytest.mark.parametrize("slots", [1, 2, 5])
async def test_twenty_who_ask_at_once_make_no_node_too_many(database: Database, slots: int) -> None:
    """As many nodes as the slots that are missing come to: of two that find one missing one makes it."""
    wanted = policy(slots=slots)
    tasks = await waiting(database, wanted, 20)
    made = await asyncio.gather(*(provide(database, wanted, task) for task in tasks))
    assert len([node for node in made if node]) == 20 / slots


@pytest.mark.parametrize(
    ("changes", "before", "makes"),
    [({"most": 0}, 9, False), ({"waiting": 3}, 2, False), ({"waiting": 3}, 3, True), ({"waiting": 0}, 0, True)],
)
async def test_the_policy_bounds_it(database: Database, changes: dict[str, int], before: int, *, makes: bool) -> None:
    """No more than `most`, and only for who comes when more wait than `waiting`."""
    wanted = policy(**changes)
    await waiting(database, wanted, before)
    assert (await provide(database, wanted) is not None) is makes


async def test_who_needs_none_does_not_count(database: Database) -> None:
    """Other labels, a task that has ended, one that holds a slot, one whose next attempt is not due yet."""
    wanted, other = policy(waiting=1), policy()
    await waiting(database, other, 3)
    gone, holds, later = await waiting(database, wanted, 3)
    await conclude(database, gone, 2, event(EventType.TASK_CANCELLED))
    node = await create_node(database, slots=1, labels=wanted.labels)
    async with database.begin("test") as connection:
        await connection.execute(text("SELECT grant_slots(:node)"), {"node": node})
    await execute(database, "UPDATE outbox SET due_at = now() + interval '1 minute' WHERE task_id = :id", id=later)
    assert await scalar(database, "SELECT granted FROM waiters WHERE task_id = :id", id=holds) == node
    assert await provide(database, wanted) is None
    await execute(database, "UPDATE outbox SET due_at = now() WHERE task_id = :id", id=later)
    assert await provide(database, wanted) is not None


@pytest.mark.parametrize(("provider", "makes"), [("local", False), ("docker", True)])
async def test_only_slots_that_will_serve_are_coming(database: Database, provider: str, *, makes: bool) -> None:
    """A node that comes up without the provider of those who wait is none for them, and one that joins anew with fewer
    slots than it has work takes none from the others.
    """
    wanted = policy()
    free, full = [
        await create_node(database, slots=slots, labels=wanted.labels, status=NodeStatus.PROVISIONING)
        for slots in (1, 0)
    ]
    facts = f'{{"providers": ["{provider}"]}}'
    await execute(database, "UPDATE nodes SET facts = CAST(:facts AS jsonb) WHERE id = :id", facts=facts, id=free)
    await execute(database, "UPDATE nodes SET used = 5 WHERE id = :id", id=full)
    made = await provide(database, wanted)
    await execute(database, "UPDATE nodes SET used = 0 WHERE id = :id", id=full)  # no entry stands for these
    assert (made is not None) is makes


async def test_who_is_just_choosing_counts(database: Database) -> None:
    """Three who come at once, none of whom waits yet: two nodes of two slots."""
    wanted = policy()
    tasks = [await create_task(database, node_labels=wanted.labels) for _ in range(3)]
    assert len([node for node in [await provide(database, wanted, task) for task in tasks] if node]) == 2


async def test_a_made_node_is_warm_while_it_is_idle(database: Database) -> None:
    """Ready by its report and with work, warm without; what nobody has made stays ready."""
    node = await provide(database, policy())
    assert node is not None
    async with database.begin("test") as connection:
        await nodes.report(connection, node)
    task, status = await create_task(database), []
    for step in (reserve(database, task, node, 1), conclude(database, task, 2)):
        await step
        status.append((await row(database, node)).status)
    assert status == ["ready", "warm"]
    following = await create_task(database)
    await reserve(database, following, node, 1)
    assert ((await row(database, node)).status, (await row(database, node)).idle_for) == ("ready", None)


@pytest.mark.parametrize(
    ("idle", "busy", "retired"),
    [(31, False, True), (29, False, False), (31, True, False)],
    ids=["old", "young", "busy"],
)
async def test_an_idle_node_is_retired_once(database: Database, idle: int, *, busy: bool, retired: bool) -> None:
    """Gone after the time that it is kept warm, unless somebody has taken a slot meanwhile."""
    node = await provide(database, policy())
    assert node is not None
    async with database.begin("test") as connection:
        await nodes.report(connection, node)
    if busy:
        await reserve(database, await create_task(database), node, 1)
    ago = timedelta(minutes=idle)
    idle_since = "UPDATE nodes SET idle_since = clock_timestamp() - CAST(:ago AS interval) WHERE id = :id"
    await execute(database, idle_since, ago=ago, id=node)
    async with database.begin("test") as connection:
        assert await fleet.retire(connection, node, idle=timedelta(minutes=30)) is retired
        assert await fleet.retire(connection, node, idle=timedelta(minutes=30)) is False
    assert (await row(database, node)).status == ("gone" if retired else "ready")


async def test_a_made_node_with_a_kept_workspace_is_not_idle(database: Database) -> None:
    """What somebody was promised to find there stays for as long as it was promised."""
    node = await provide(database, policy())
    assert node is not None
    async with database.begin("test") as connection:
        await nodes.report(connection, node)
    task = await create_task(database)
    space = (await reserve(database, task, node, 1))["workspace_id"]
    for status in ("dispatched", "ready"):
        await execute(database, "UPDATE workspaces SET status = :status WHERE id = :id", status=status, id=space)
    await conclude(database, task, 2, kept=space)
    await execute(database, "UPDATE nodes SET idle_since = now() - interval '1 hour' WHERE id = :id", id=node)
    retired = []
    for state in ("retained", "released"):
        await execute(database, "UPDATE ledger SET state = :state WHERE tag = :id", state=state, id=space)
        async with database.begin("test") as connection:
            (made,) = [each for each in await fleet.made(connection, NodeProvider.PROCESS, []) if each.id == node]
            retired.append((made.idle_for is not None, await fleet.retire(connection, node, idle=timedelta(0))))
    assert retired == [(False, False), (True, True)]


async def test_a_made_node_that_is_gone_stays_gone(database: Database) -> None:
    """Its machine is being taken away: whatever it still says, it gets no task, and nobody is told that it is there."""
    node = await provide(database, policy())
    assert node is not None
    (waiter,) = await waiting(database, policy(), 1)
    await execute(database, "UPDATE waiters SET awaits = :node WHERE task_id = :id", node=node, id=waiter)
    async with database.begin("test") as connection:
        assert await fleet.give_up(connection, node)
        registered = await nodes.register(connection, node=node, slots=2, labels="{}", facts="{}")
        reported = await nodes.report(connection, node)
    assert registered is not None
    assert reported is not None
    assert (registered[1]["status"], reported["status"]) == ("gone", "gone")
    told = "SELECT count(*) FROM outbox WHERE task_id = :id AND name = 'node_ready'"
    assert await scalar(database, told, id=waiter) == 0


async def test_a_lost_node_that_is_back_is_not_given_away(database: Database) -> None:
    """Between the look at its row and its end it may have reported in, with all that it has."""
    node = await provide(database, policy())
    assert node is not None
    ended = []
    for status in ("ready", "lost"):
        await execute(database, "UPDATE nodes SET status = 'ready' WHERE id = :id", id=node)
        await execute(database, "UPDATE nodes SET status = :status WHERE id = :id", status=status, id=node)
        async with database.begin("test") as connection:
            ended.append(await fleet.abandon(connection, node))
    assert ended == [False, True]
    assert (await row(database, node)).status == "gone"


async def test_a_node_that_has_reported_in_is_not_given_up(database: Database) -> None:
    """Only one that is still coming up."""
    given_up = []
    for reports in (False, True):
        node = await provide(database, policy())
        assert node is not None
        async with database.begin("test") as connection:
            if reports:
                await nodes.report(connection, node)
            given_up.append(await fleet.give_up(connection, node))
    assert given_up == [True, False]


async def test_the_tokens_of_a_made_node_are_revoked_with_it(database: Database) -> None:
    """Each is good for that node alone, and none after that."""
    node = await provide(database, policy())
    assert node is not None
    hashes = [keys.sha256_of(name) for name in (new_id(), new_id())]
    async with database.begin("test") as connection:
        for sha256 in hashes:
            await fleet.give_token(connection, node, sha256)
        found = [await keys.find(connection, sha256) for sha256 in hashes]
        assert [(key["scopes"], key["node_id"]) for key in found if key] == [([Scope.NODES_WRITE], node)] * 2
        await fleet.revoke_tokens(connection, node)
        assert [await keys.find(connection, sha256) for sha256 in hashes] == [None, None]


async def test_made_nodes_that_are_gone_count_while_something_is_left(database: Database) -> None:
    """Listed only if the provider still has something of them; nodes that joined by themselves never are."""
    node = await provide(database, policy())
    assert node is not None
    await execute(database, "UPDATE nodes SET status = 'gone' WHERE id = :id", id=node)
    async with database.begin("test") as connection:
        for there, listed in (([], False), ([node], True)):
            rows = await fleet.made(connection, NodeProvider.PROCESS, there)
            assert (node in [made.id for made in rows]) is listed
    assert await scalar(database, "SELECT count(*) FROM nodes WHERE provider IS NULL AND id = :id", id=node) == 0
