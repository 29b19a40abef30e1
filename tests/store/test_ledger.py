"""What an attempt that has ended still holds: told and released; of one that is live, nothing."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from domain.ids import workspace_id
from domain.messages import HeldWorkspace
from domain.names import TaskId
from store import ledger
from store.engine import Database
from tests.store.rows import column, create_node, create_task, scalar
from tests.store.slots import BROKEN, OPEN, conclude, reserve, used, wait
from tests.store.test_repairs import INTENTS, end


async def held(database: Database, task: TaskId, attempt: int = 1) -> list[HeldWorkspace] | None:
    """Read as the activity does."""
    async with database.begin("tests.held") as connection:
        found = await ledger.held(connection, task, attempt)
    return None if found is None else list(found)


async def release(database: Database, task: TaskId, attempt: int = 1) -> int | None:
    """Release as the activity does."""
    async with database.begin("tests.release") as connection:
        return await ledger.release(connection, task, attempt)


async def test_a_live_attempt_is_left_alone(database: Database) -> None:
    """None, and its slot and workspace stay its own."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await reserve(database, task, node, 1)
    assert (await held(database, task), await release(database, task)) == (None, None)
    assert (await scalar(database, OPEN, task=task), await used(database, node)) == (2, 1)


@pytest.mark.parametrize("gone", [False, True], ids=["ended", "deleted"])
async def test_an_ended_attempt_is_released_and_its_slot_granted(database: Database, *, gone: bool) -> None:
    """Its workspace is told with its node; the release grants the slot to who waits, and does nothing again."""
    node, task, waiting = await create_node(database, slots=1), await create_task(database), await create_task(database)
    await reserve(database, task, node, 1)
    await wait(database, waiting, 1, node)
    await end(database, task, 1)
    if gone:
        async with database.begin("tests.delete") as connection:
            await connection.execute(text("DELETE FROM tasks WHERE id = :id"), {"id": task})
    identity = workspace_id(task, 1, 1)
    assert await held(database, task) == [HeldWorkspace(workspace_id=identity, provider="local", node_id=node)]
    assert [await release(database, task) for _ in range(2)] == [1, 0]
    assert (await held(database, task), await scalar(database, OPEN, task=task)) == ([], 0)
    assert (await used(database, node), await scalar(database, BROKEN)) == (1, 0)


async def test_an_external_workspace_is_not_ours_to_destroy(database: Database) -> None:
    """Nothing is told; the release closes its entry."""
    task = await create_task(database, provider="external")
    await reserve(database, task, None, 1)
    await end(database, task, 1)
    assert await held(database, task) == []
    await release(database, task)
    assert await scalar(database, OPEN, task=task) == 0


async def test_only_the_owner_is_released(database: Database) -> None:
    """The next attempt of the same task keeps what it holds, while the old one is cleaned up."""
    node, task = await create_node(database, slots=2), await create_task(database)
    await reserve(database, task, node, 1)
    await end(database, task, 1, due_in=timedelta(0))
    await reserve(database, task, node, 1, attempt=2)
    assert [each.workspace_id for each in await held(database, task) or ()] == [workspace_id(task, 1, 1)]
    assert await release(database, task) == 0
    assert await held(database, task, 2) is None
    assert (await scalar(database, OPEN, task=task), await used(database, node)) == (2, 1)


async def test_a_retained_workspace_is_no_longer_held(database: Database) -> None:
    """It is kept on purpose: neither told nor released."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await reserve(database, task, node, 1)
    await end(database, task, 1)
    async with database.begin("tests.retain") as connection:
        statement = "UPDATE ledger SET state = 'retained' WHERE task_id = :id AND kind = 'workspace'"
        await connection.execute(text(statement), {"id": task})
    assert await held(database, task) == []
    await release(database, task)
    states = await column(database, "SELECT state FROM ledger WHERE task_id = :id ORDER BY kind", id=task)
    assert states == ["released", "retained"]


@pytest.mark.parametrize("destroyed", [True, False])
async def test_a_cleanup_that_outlasted_its_budget_goes_on(database: Database, *, destroyed: bool) -> None:
    """The conclusion commits the Cleanup's intent, and only then; the ledger stays open until it is done."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await reserve(database, task, node, 1)
    await conclude(database, task, 2, destroyed=destroyed)
    assert await column(database, INTENTS, task=task) == ([] if destroyed else ["cleanup 1"])
    assert await scalar(database, OPEN, task=task) == (0 if destroyed else 2)


async def test_a_superseded_attempt_that_could_not_destroy_is_cleaned_up(database: Database) -> None:
    """Its intent is committed although its last flush was fenced."""
    node, task = await create_node(database, slots=1), await create_task(database)
    await reserve(database, task, node, 1)
    async with database.begin("tests.supersede") as connection:
        await connection.execute(text("UPDATE tasks SET attempt = 2 WHERE id = :id"), {"id": task})
    assert (await conclude(database, task, 2, destroyed=False))["verdict"] == "superseded"
    assert await column(database, INTENTS, task=task) == ["cleanup 1"]


@pytest.mark.parametrize(("due_in", "lease"), [(1, 120), (300, 120), (1, 0)])
async def test_the_next_attempt_waits_for_the_lease(database: Database, due_in: float, lease: float) -> None:
    """Its start is due when both the backoff and the lease, from the write on, have run out."""
    task = await create_task(database)
    await reserve(database, task, None, 1)
    due = datetime.now(UTC) + timedelta(seconds=due_in)
    rest = timedelta(seconds=lease) if lease else None
    await conclude(database, task, 2, destroyed=rest is None, due=due, lease=rest)
    query = "SELECT extract(epoch FROM due_at - clock_timestamp()) FROM outbox WHERE task_id = :task AND attempt = 2"
    wanted = max(due_in, lease)
    assert wanted - 10 < await scalar(database, query, task=task) <= wanted
