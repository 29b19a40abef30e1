"""Which node is chosen, and who waits for one to report in."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import EventType
from domain.ids import new_id, workspace_id
from domain.lifecycle import NodeStatus
from domain.messages import NodeQuery
from domain.names import DEFAULT_PROJECT, NodeId, TaskId
from domain.spec import Provider
from store import fleet, mirror, nodes, placement
from store.engine import Database
from tests.store.rows import batch, column, create_node, create_task, event, flush
from tests.store.slots import conclude, reserve, wait

READY, WARM, COMING = NodeStatus.READY, NodeStatus.WARM, NodeStatus.PROVISIONING


async def pool(database: Database, *nodes: tuple[str, NodeStatus, int, int]) -> str:
    """Write nodes (name, status, slots, used) that only this pool's label finds; returns the label's value."""
    name = new_id()
    statement = text(
        "INSERT INTO nodes (id, status, slots, used, labels) VALUES (:id, :status, :slots, :used, :labels)"
    )
    async with database.begin("test") as connection:
        for node, status, slots, used in nodes:
            row = {"id": f"{node}-{name}", "status": status, "slots": slots, "used": used}
            await connection.execute(statement, row | {"labels": f'{{"pool": "{name}", "os": "linux"}}'})
    return name


async def chosen(database: Database, name: str, task: TaskId | None = None, **query: Any) -> tuple[str, str]:
    """Return the name and the reason of the choice."""
    asked = NodeQuery(task_id=task or TaskId("t"), attempt=1, project=DEFAULT_PROJECT, labels={"pool": name}, **query)
    async with database.commit("test") as connection:
        choice = await placement.select_node(connection, asked)
    return (choice.node_id or "").removesuffix(f"-{name}"), choice.reason


@pytest.mark.parametrize(
    ("nodes", "preferred", "expected"),
    [
        ([("a", READY, 2, 0), ("b", READY, 2, 1)], "b", "b"),
        ([("a", READY, 2, 0), ("b", READY, 2, 2)], "b", "a"),
        ([("a", READY, 2, 0), ("b", WARM, 2, 1)], None, "b"),
        ([("a", READY, 4, 2), ("b", READY, 2, 0)], None, "b"),
        ([("a", READY, 4, 1), ("b", READY, 2, 1)], None, "a"),
        ([("a", READY, 2, 1), ("b", READY, 2, 1)], None, "a"),
        ([("a", COMING, 2, 0), ("b", READY, 2, 1)], "a", "b"),
        ([("a", COMING, 2, 0), ("b", READY, 2, 2)], None, "a"),
        ([("a", READY, 0, 0), ("b", READY, 1, 1)], None, ""),
        ([("a", NodeStatus.DRAINING, 2, 0), ("b", NodeStatus.LOST, 2, 0), ("c", NodeStatus.GONE, 2, 0)], "a", ""),
        ([], None, ""),
    ],
)
async def test_the_node_is_chosen_in_the_contracts_order(
    database: Database, nodes: list[tuple[str, NodeStatus, int, int]], preferred: str | None, expected: str
) -> None:
    """Preferred, else warm, else least loaded, else one that is coming up; a full or idle-no-more node never."""
    name = await pool(database, *nodes)
    wanted = NodeId(f"{preferred}-{name}") if preferred else None
    assert (await chosen(database, name, preferred=wanted))[0] == expected


async def offer(database: Database, node: str, *providers: str) -> None:
    """Let a node say where its workspaces come from."""
    told = text("UPDATE nodes SET facts = jsonb_build_object('providers', CAST(:providers AS text[])) WHERE id = :node")
    async with database.begin("test") as connection:
        await connection.execute(told, {"node": node, "providers": list(providers)})


@pytest.mark.parametrize(
    ("provider", "expected"), [(Provider.LOCAL, ("both", "old")), (Provider.DOCKER, ("both", "walls"))]
)
async def test_a_node_is_chosen_that_has_the_provider(
    database: Database, provider: Provider, expected: tuple[str, ...]
) -> None:
    """One that has said nothing has `local`; one with containers only is not for those who ask for none."""
    name = await pool(database, ("walls", READY, 1, 0), ("old", READY, 1, 0), ("both", READY, 1, 0))
    await offer(database, f"walls-{name}", "docker")
    await offer(database, f"both-{name}", "docker", "local")
    assert (await chosen(database, name, provider=provider))[0] == expected[0]
    async with database.begin("test") as connection:
        await connection.execute(text("UPDATE nodes SET used = 1 WHERE id = :node"), {"node": f"both-{name}"})
    assert (await chosen(database, name, provider=provider))[0] == expected[1]


async def test_a_slot_is_granted_to_whom_its_node_can_serve(database: Database) -> None:
    """Not to the first in the queue, who asks for a container."""
    node = await create_node(database, slots=1)
    busy, walled, plain = await create_task(database), await create_task(database), await create_task(database)
    async with database.begin("test") as connection:
        asks = text("""UPDATE tasks SET spec = spec || '{"provider": "docker"}' WHERE id = :task""")
        await connection.execute(asks, {"task": walled})
    await reserve(database, busy, node, 1)
    await wait(database, walled, 1, node)
    await wait(database, plain, 1, node)
    await conclude(database, busy, 2)
    async with database.read() as connection:
        rows = await connection.execute(text("SELECT task_id, granted FROM waiters"))
        granted = {row.task_id: row.granted for row in rows}
    assert (granted[walled], granted[plain]) == (None, node)


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ({"a": 0.5, "b": 0.2}, ("b", "least loaded")),
        # As taken as it is, although it measures less by now.
        ({"a": 0.1, "b": 0.2, "full": 0.0}, ("a", "least loaded")),
        ({"a": None, "b": 0.1}, ("a", "least loaded")),
        ({"a": 1.4, "b": 0.9}, ("b", "least loaded")),
        ({"a": 1.4, "b": 1.9}, ("a", "least loaded")),
        ({"warm": 0.9, "b": 0.1}, ("warm", "warm")),
        ({"warm": 1.2, "b": 0.9}, ("b", "least loaded")),
        ({"warm": 1.2, "b": 1.3}, ("warm", "least loaded")),
    ],
)
async def test_the_least_loaded_by_what_nodes_measure(
    database: Database, loads: dict[str, float | None], expected: tuple[str, str]
) -> None:
    """The lesser of the loads, of which taken slots are one; busy ones last, but rather one of them than none."""
    rows = [(node, WARM if node == "warm" else READY, 4, 3 if node == "full" else 0) for node in loads]
    name = await pool(database, *rows)
    async with database.begin("test") as connection:
        for node, load in loads.items():
            update = text("UPDATE nodes SET load = :load WHERE id = :id")
            await connection.execute(update, {"load": load, "id": f"{node}-{name}"})
    assert await chosen(database, name) == expected


async def test_who_waits_is_granted_the_least_loaded(database: Database) -> None:
    """Two free slots when it enters the queue: that of the node that measures less."""
    name = await pool(database, ("a", READY, 1, 0), ("b", READY, 1, 0))
    task = await create_task(database)
    async with database.begin("test") as connection:
        await connection.execute(text("UPDATE nodes SET load = 0.7 WHERE id = :id"), {"id": f"a-{name}"})
    async with database.commit("test") as connection:
        answer = await mirror.wait_for_slot(connection, batch(task, 1), priority=3, labels={"pool": name})
    assert answer["granted"] == f"b-{name}"


async def test_labels_must_all_match(database: Database) -> None:
    """A node with more labels than asked for matches; one that lacks a label does not."""
    name = await pool(database, ("a", READY, 1, 0))
    query = NodeQuery(task_id=TaskId("t"), attempt=1, project=DEFAULT_PROJECT, labels={"pool": name, "gpu": "yes"})
    async with database.commit("test") as connection:
        assert (await placement.select_node(connection, query)).node_id is None
    assert await chosen(database, name) == ("a", "least loaded")


async def test_a_slot_in_hand_comes_before_all(database: Database) -> None:
    """A redone workflow task finds the node that its abandoned try reserved, although that node is full now."""
    name = await pool(database, ("a", READY, 1, 0), ("b", WARM, 5, 0))
    task, held = await create_task(database), NodeId(f"a-{name}")
    async with database.begin("test") as connection:
        await mirror.reserve(
            connection,
            batch(task, 1, event(EventType.TASK_DELEGATED)),
            workspace=workspace_id(task, 1, 1),
            visit=1,
            provider="local",
            node=held,
        )
    assert await chosen(database, name, task) == ("a", "held")
    assert (await chosen(database, name))[0] == "b"


# --- waiting for a report -------------------------------------------------------------------------------------------


async def awaited(database: Database, task: TaskId, node: NodeId, *, version: int = 1, attempt: int = 1) -> Any:
    """Enter the wait for a node, which its label finds; returns whether it works, and whose slot was granted."""
    async with database.commit("test") as connection:
        answer = await mirror.wait_for_slot(
            connection, batch(task, version, attempt=attempt), priority=3, labels={"node": node}, awaits=node
        )
    return answer.get("reported_in", False), answer.get("granted")


@pytest.mark.parametrize("status", [READY, WARM])
async def test_a_node_that_works_is_not_waited_for(database: Database, status: NodeStatus) -> None:
    """It has reported in, and its free slot is granted at once."""
    node, task = await create_node(database, slots=1, status=status), await create_task(database)
    assert await awaited(database, task, node) == (True, node)


async def test_who_waits_for_a_node_is_found_by_it(database: Database) -> None:
    """Nothing yet; the waiter names the node, once, however often the wait is entered."""
    node, task = await create_node(database, slots=1, status=COMING), await create_task(database)
    assert [await awaited(database, task, node) for _ in range(2)] == [(False, None)] * 2
    assert await column(database, "SELECT awaits FROM waiters WHERE task_id = :task", task=task) == [node]


async def given_up(connection: AsyncConnection, node: NodeId) -> None:
    """The provider's time to make it is over."""
    assert await fleet.give_up(connection, node)


async def silent(connection: AsyncConnection, node: NodeId) -> None:
    """It has registered, and was not heard since, although somebody was there to hear it."""
    await connection.execute(
        text("UPDATE nodes SET created_at = now() - interval '1 hour' WHERE id = :id"), {"id": node}
    )
    for _ in range(2):
        await nodes.hear(connection, lost_after=timedelta(minutes=3), gap=timedelta(hours=1))
        await connection.execute(text("UPDATE hearing SET since = now() - interval '1 hour'"))


@pytest.mark.parametrize("ends", [given_up, nodes.drain, nodes.remove, silent])
async def test_who_waits_for_a_node_is_told_when_it_is_gone(database: Database, ends: Any) -> None:
    """Told once, with its name and status; who comes later is told at once."""
    node, waiter, later = (
        await create_node(database, slots=1, status=COMING),
        *[await create_task(database) for _ in "ab"],
    )
    await awaited(database, waiter, node)
    async with database.begin("test") as connection:
        await ends(connection, node)
    told = "SELECT body FROM outbox WHERE task_id = :task AND name = 'node_lost'"
    assert await column(database, told, task=waiter) == [{"node_id": node, "status": "gone"}]
    async with database.commit("test") as connection:
        answer = await mirror.wait_for_slot(connection, batch(later, 1), priority=3, labels={"node": node}, awaits=node)
    assert (answer["gone"], answer["reported_in"]) == (True, False)


@pytest.mark.parametrize("dead", [event(EventType.TASK_CANCELLED), event(EventType.TASK_QUEUED, attempt=2)])
async def test_a_dead_attempt_enters_no_wait(database: Database, dead: Any) -> None:
    """Nobody would take it out of the queue again."""
    node, task = await create_node(database, slots=1, status=COMING), await create_task(database)
    await flush(database, batch(task, 1, dead))
    assert await awaited(database, task, node, version=2) == (False, None)
    assert await column(database, "SELECT 1 FROM waiters WHERE task_id = :task", task=task) == []


async def test_who_waited_for_a_node_may_wait_for_any_slot_after(database: Database) -> None:
    """The node came up full: the same attempt enters the queue for slots and is granted the next one that is free.

    Nodes are found by the labels that the task asks for, whatever its own say.
    """
    node, task = await create_node(database, slots=0, status=COMING), await create_task(database, labels={"its": "own"})
    await awaited(database, task, node)
    async with database.begin("test") as connection:
        await connection.execute(text("UPDATE nodes SET status = 'ready' WHERE id = :id"), {"id": node})
        answer = await mirror.wait_for_slot(connection, batch(task, 2), priority=3, labels={"node": node})
    assert answer["granted"] is None
    async with database.begin("test") as connection:
        await connection.execute(text("UPDATE nodes SET slots = 1 WHERE id = :id"), {"id": node})
        answer = await mirror.wait_for_slot(connection, batch(task, 3), priority=3, labels={"node": node})
    assert answer["granted"] == node


async def reports(database: Database, node: NodeId) -> None:
    """Have the node report in."""
    async with database.begin("test") as connection:
        assert await nodes.report(connection, node)


async def test_a_report_grants_to_those_who_wait_for_it_in_their_order(database: Database) -> None:
    """Two slots for three: the two that were queued first hold them when they are told, whoever is told first."""
    node = await create_node(database, slots=2, status=COMING)
    tasks = [await create_task(database) for _ in range(3)]
    for task in reversed(tasks):
        await awaited(database, task, node)
    await reports(database, node)
    told = "SELECT name FROM outbox WHERE task_id = :task AND kind = 'signal' ORDER BY id"
    assert [await column(database, told, task=task) for task in tasks] == [["node_ready", "slot_granted"]] * 2 + [
        ["node_ready"]
    ]


async def test_who_waits_for_a_node_takes_a_slot_that_is_free_before(database: Database) -> None:
    """A slot of another node with the labels is granted, past nobody, while the awaited node is still coming up."""
    name = await pool(database, ("coming", COMING, 1, 0))
    other = await create_node(database, slots=1, labels={"pool": name})
    holder, waiter, newcomer = [await create_task(database) for _ in range(3)]
    await reserve(database, holder, other, 1)
    async with database.commit("test") as connection:
        await mirror.wait_for_slot(
            connection, batch(waiter, 1), priority=3, labels={"pool": name}, awaits=NodeId(f"coming-{name}")
        )
    await conclude(database, holder, 2)
    assert await column(database, "SELECT granted FROM waiters WHERE task_id = :task", task=waiter) == [other]
    assert await chosen(database, name, newcomer) == ("coming", "coming up")


async def test_no_report_falls_between_a_choice_and_the_queue(database: Database) -> None:
    """A node reports in while somebody enters the queue for its labels: granted by one of the two, 40 times over."""
    for _ in range(40):
        node, task = await create_node(database, slots=1, status=COMING), await create_task(database)
        await asyncio.gather(reports(database, node), wait(database, task, 1, node))
        assert await column(database, "SELECT granted FROM waiters WHERE task_id = :task", task=task) == [node]
