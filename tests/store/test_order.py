"""The order of grants, by 200 tasks on 3 slots and a count of inversions."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

import pytest
from sqlalchemy import text

from domain.names import DEFAULT_PROJECT, NodeId, ProjectId, TaskId
from domain.policy import Budgets
from store import facts, nodes
from store.engine import Database
from tests.store import witness
from tests.store.rows import column, scalar
from tests.store.slots import BROKEN, used
from tests.store.traffic import Traffic

TASKS: Final = 200
# Three slots on one node, and one slot on each of three.
LAYOUTS: Final = [(3,), (1, 1, 1)]
LARGE, SMALL = ProjectId("large"), ProjectId("small")


@pytest.fixture(scope="module", autouse=True)
async def _watched(database: Database) -> None:
    await witness.install(database)


@pytest.fixture(autouse=True)
async def _always_balanced(database: Database) -> AsyncIterator[None]:
    """Every test leaves each node's count equal to its open slot entries."""
    yield
    assert await scalar(database, BROKEN) == 0


def dice(seed: int) -> random.Random:
    """Reproducible, and not secret."""
    return random.Random(seed)  # noqa: S311


async def work_off(traffic: Traffic, chance: random.Random) -> None:
    """End whoever holds a slot, in any order, until nobody does."""
    while traffic.holders:
        await traffic.end(chance.choice(traffic.holders))


# --- age ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", LAYOUTS)
async def test_slots_go_by_age(database: Database, slots: tuple[int, ...]) -> None:
    """No inversion in 200 tasks, of which half come while others end, and not in the order of their age."""
    chance, traffic = dice(1), await Traffic.on(database, *slots)
    tasks = [await traffic.create() for _ in range(TASKS)]
    for start in range(0, TASKS, 10):
        for task in chance.sample(tasks[start : start + 10], 10):
            await traffic.come(task)
            if chance.random() < 0.5:
                await traffic.end(chance.choice(traffic.holders))
    await work_off(traffic, chance)
    grants = await witness.grants(database, tasks)
    assert (len(grants), witness.by_age(grants)) == (TASKS, 0)


@pytest.mark.parametrize("slots", LAYOUTS)
async def test_slots_go_by_age_with_everything_at_once(database: Database, slots: tuple[int, ...]) -> None:
    """No inversion when 200 tasks come at the same time, and end whenever they do."""
    traffic = await Traffic.on(database, *slots)
    tasks = [await traffic.create() for _ in range(TASKS)]
    async with asyncio.timeout(120):
        await asyncio.gather(*(traffic.live(task) for task in tasks))
    grants = await witness.grants(database, tasks)
    assert (len(grants), witness.by_age(grants)) == (TASKS, 0)


# --- priority -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", LAYOUTS)
async def test_the_more_urgent_goes_first(database: Database, slots: tuple[int, ...]) -> None:
    """No inversion by priority, and none by age within one, in 200 tasks that come at the same time."""
    chance, traffic = dice(2), await Traffic.on(database, *slots)
    priorities = [chance.randint(1, 5) for _ in range(TASKS)]
    tasks = [await traffic.create(priority=priority) for priority in priorities]
    async with asyncio.timeout(120):
        await asyncio.gather(*(traffic.live(task, priority=each) for task, each in zip(tasks, priorities, strict=True)))
    grants = await witness.grants(database, tasks)
    assert (len(grants), witness.by_priority(grants), witness.by_age(grants)) == (TASKS, 0, 0)


# --- share ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", LAYOUTS)
async def test_a_small_project_gets_its_share(database: Database, slots: tuple[int, ...]) -> None:
    """10 tasks that come after 190 of another project: never more than one slot behind half of the three."""
    chance, traffic = dice(3), await Traffic.on(database, *slots)
    tasks = [await traffic.create(project=LARGE) for _ in range(190)]
    tasks += [await traffic.create(project=SMALL) for _ in range(10)]
    for task in tasks:
        await traffic.come(task)
    await work_off(traffic, chance)
    grants = await witness.grants(database, tasks)
    assert (len(grants), witness.by_age(grants)) == (TASKS, 0)
    assert 0 < witness.behind(grants, SMALL, share=1.5) <= 1
    order = [grant.claim.project for grant in grants]
    assert order.index(SMALL) == 3  # the first slot that was released
    assert TASKS - order[::-1].index(SMALL) <= 3 + 2 * 10 + 1


async def test_projects_take_turns_at_one_slot(database: Database) -> None:
    """Nobody holds less than nobody, so turns decide: 5 late tasks of one project have every third slot, not the last.

    Of three projects the other two came before with 20 tasks each.
    """
    traffic = await Traffic.on(database, 1)
    projects = [LARGE] * 20 + [ProjectId("other")] * 20 + [SMALL] * 5
    tasks = [await traffic.create(project=project) for project in projects]
    for task in tasks:
        await traffic.come(task)
    await work_off(traffic, dice(9))
    order = [grant.claim.project for grant in await witness.grants(database, tasks)]
    assert [number for number, project in enumerate(order) if project == SMALL] == [2, 5, 8, 11, 14]


# --- newcomers ------------------------------------------------------------------------------------------------------


async def test_a_newcomer_does_not_pass_those_who_wait(database: Database) -> None:
    """A slot that has become free behind everybody's back is not offered while somebody waits for it; he gets it."""
    traffic = await Traffic.on(database, 1)
    holder, waiter, newcomer = [await traffic.create() for _ in range(3)]
    assert [await traffic.come(task) for task in (holder, waiter)] == [traffic.nodes[0], None]
    await scalar(database, "UPDATE nodes SET slots = 2 WHERE id = :id RETURNING 1", id=traffic.nodes[0])
    assert (await traffic.choose(newcomer)).node_id is None
    assert await traffic.wait(newcomer) is None
    assert await column(database, "SELECT task_id FROM waiters WHERE granted IS NOT NULL") == [waiter]


async def test_a_newcomer_who_has_chosen_does_not_pass_those_who_wait(database: Database) -> None:
    """Its reservation is a lost slot when somebody waits by then."""
    traffic = await Traffic.on(database, 1)
    (node,) = traffic.nodes
    holder, waiter, newcomer = [await traffic.create() for _ in range(3)]
    assert (await traffic.choose(newcomer)).node_id == node
    await traffic.come(holder)
    await traffic.come(waiter)
    await scalar(database, "UPDATE nodes SET slots = 2 WHERE id = :id RETURNING 1", id=node)
    assert not await traffic.take(newcomer, node)
    assert await used(database, node) == 1


async def test_a_newcomer_who_is_more_urgent_is_granted_the_slot_at_once(database: Database) -> None:
    """It queues up, and is the first of the queue."""
    traffic = await Traffic.on(database, 1)
    (node,) = traffic.nodes
    holder, waiter = [await traffic.create() for _ in range(2)]
    urgent = await traffic.create(priority=1)
    await traffic.come(holder)
    await traffic.come(waiter)
    await scalar(database, "UPDATE nodes SET slots = 2 WHERE id = :id RETURNING 1", id=node)
    assert await traffic.come(urgent, priority=1) == node


async def test_who_waits_for_something_else_is_no_obstacle(database: Database) -> None:
    """A free slot is taken past those who cannot use it: their labels differ, or they are being cancelled."""
    traffic, other = await Traffic.on(database, 1), await Traffic.on(database, 0)
    stranger, leaving, newcomer = await other.create(), await traffic.create(), await traffic.create()
    await other.come(stranger)
    await scalar(database, "UPDATE tasks SET cancel_requested_at = now() WHERE id = :id RETURNING 1", id=leaving)
    await traffic.wait(leaving)
    assert await traffic.come(newcomer) == traffic.nodes[0]


async def test_more_slots_of_a_node_go_to_those_who_wait(database: Database) -> None:
    """A node that is registered anew with more slots, or other labels, grants them in that transaction."""
    traffic = await Traffic.on(database, 0)
    tasks = [await traffic.create() for _ in range(3)]
    for task in tasks:
        await traffic.come(task)
    labels = f'{{"pool": "{traffic.labels["pool"]}"}}'
    async with database.begin("test") as connection:
        await nodes.register(connection, node=traffic.nodes[0], slots=2, labels=labels, facts="{}")
    waiting = "SELECT task_id FROM waiters WHERE granted IS NOT NULL AND task_id = ANY(:tasks) ORDER BY since"
    assert await column(database, waiting, tasks=tasks) == tasks[:2]


# --- nodes ----------------------------------------------------------------------------------------------------------


def spread(grants: list[witness.Grant]) -> list[int]:
    """How many slots each node gave, the fewest first."""
    return sorted(Counter(grant.node for grant in grants).values())


async def test_equal_nodes_take_turns(database: Database) -> None:
    """67, 67 and 66 of 200 tasks that come one after the other and end before the next one comes."""
    traffic = await Traffic.on(database, 1, 1, 1)
    for _ in range(TASKS):
        task = await traffic.create()
        await traffic.come(task)
        await traffic.end(task)
    assert spread(await witness.grants(database, traffic.tasks)) == [66, 67, 67]


async def test_equal_nodes_fill_equally(database: Database) -> None:
    """67, 67 and 66 of 200 tasks that come and stay."""
    traffic = await Traffic.on(database, 100, 100, 100)
    for _ in range(TASKS):
        await traffic.come(await traffic.create())
    assert spread(await witness.grants(database, traffic.tasks)) == [66, 67, 67]
    await work_off(traffic, dice(4))


async def test_who_can_run_on_the_preferred_node_does(database: Database) -> None:
    """Not one of 200 is elsewhere while its node has a free slot; if it has none, the next best node takes it."""
    chance, traffic = dice(5), await Traffic.on(database, 1, 1, 1)
    elsewhere = {True: 0, False: 0}
    for _ in range(TASKS):
        preferred = chance.choice(traffic.nodes)
        free = await used(database, preferred) == 0
        task = await traffic.create(preferred=preferred)
        node = await traffic.come(task, preferred=preferred)
        assert node is not None
        elsewhere[free] += node != preferred
        while len(traffic.holders) > chance.randint(0, 2):
            await traffic.end(chance.choice(traffic.holders))
    assert elsewhere[True] == 0 < elsewhere[False]
    await work_off(traffic, chance)


async def test_labels_are_a_must_and_a_preference_is_not(database: Database) -> None:
    """A preferred node without the labels is not taken, nor one that is not there; another one is."""
    traffic, other = await Traffic.on(database, 1), await Traffic.on(database, 1)
    for preferred in (other.nodes[0], NodeId("not-there")):
        choice = await traffic.choose(await traffic.create(), preferred)
        assert (choice.node_id, choice.reason) == (traffic.nodes[0], "least loaded")


async def test_of_several_free_slots_a_waiter_gets_the_preferred_one(database: Database) -> None:
    """Slots of three nodes became free before it came into the queue: its own node's is granted."""
    traffic = await Traffic.on(database, 1, 1, 1)
    for preferred in traffic.nodes:
        task = await traffic.create(preferred=preferred)
        assert await traffic.wait(task) == preferred


# --- the place that is told -----------------------------------------------------------------------------------------


async def place(database: Database, project: ProjectId, task: TaskId) -> int | None:
    """Return the place that an explanation tells."""
    async with database.read() as connection:
        found = await facts.of_task(connection, project, task, budgets=Budgets())
    assert found is not None
    return found.queue_position


@pytest.mark.parametrize(
    ("by", "told"),
    [((), False), (("warm",), False), (("gone", "provisioning"), False), (("draining",), True), (("gone",), True)],
)
async def test_a_task_that_no_node_can_take_is_told(database: Database, by: tuple[str, ...], told: bool) -> None:  # noqa: FBT001
    """What it asks for, when no node that takes tasks has all of it."""
    traffic = await Traffic.on(database, 0)
    async with database.begin("test") as connection:
        for status in by:
            move = text("UPDATE nodes SET status = :status WHERE id = :id")
            await connection.execute(move, {"status": status, "id": traffic.nodes[0]})
    task = await traffic.create()
    assert await traffic.come(task) is None
    await scalar(database, "UPDATE tasks SET step = 'waiting_for_node_capacity' WHERE id = :id RETURNING 1", id=task)
    async with database.read() as connection:
        found = await facts.of_task(connection, DEFAULT_PROJECT, task, budgets=Budgets())
    assert found is not None
    assert found.queue_position == 1
    assert found.unserved == (("provider local", f"label pool={traffic.labels['pool']}") if told else ())


async def test_the_place_that_is_told_is_the_order_of_grants(database: Database) -> None:
    """1 to 197 without a gap, each granted at its turn: by priority, share (one project holds all) and age."""
    chance, traffic = dice(6), await Traffic.on(database, 3)
    owners: dict[TaskId, ProjectId] = {}
    for number in range(TASKS):
        project = chance.choice([LARGE, LARGE, SMALL]) if number >= 3 else LARGE
        priority = chance.randint(1, 5)
        task = await traffic.create(project=project, priority=priority)
        if await traffic.come(task, priority=priority) is None:
            owners[task] = project
    step = "UPDATE tasks SET step = 'waiting_for_node_capacity' WHERE id = ANY(:tasks) RETURNING id"
    await column(database, step, tasks=list(owners))
    told = {task: await place(database, project, task) for task, project in owners.items()}
    await scalar(database, "UPDATE nodes SET slots = 1000 WHERE id = :id RETURNING 1", id=traffic.nodes[0])
    assert await scalar(database, "SELECT grant_slots(:id)", id=traffic.nodes[0]) == TASKS - 3
    served = [grant.claim.task for grant in await witness.grants(database, list(owners))]
    assert [told[task] for task in served] == list(range(1, TASKS - 2))


async def test_those_who_cannot_be_granted_count_for_nobody(database: Database) -> None:
    """The first place is the next one's, past one that is being cancelled and one that is pinned elsewhere."""
    traffic, other = await Traffic.on(database, 0), await Traffic.on(database, 0)
    leaving, patient = [await traffic.create() for _ in range(2)]
    for task in (leaving, patient):
        await traffic.wait(task)
    await other.wait(await other.create())
    await scalar(database, "UPDATE tasks SET cancel_requested_at = now() WHERE id = :id RETURNING 1", id=leaving)
    await scalar(database, "UPDATE tasks SET step = 'waiting_for_node_capacity' WHERE id = :id RETURNING 1", id=patient)
    assert await place(database, DEFAULT_PROJECT, patient) == 1
