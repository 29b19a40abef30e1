"""Kept workspaces: retained with the end that frees their slot, and given to the next attempt under the row's lock."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from domain.events import EventType
from domain.ids import workspace_id
from domain.lifecycle import Step
from domain.messages import NodeQuery
from domain.names import DEFAULT_PROJECT, NodeId, TaskId, WorkspaceId
from store import ledger, mirror, placement, retention, tasks
from store.engine import Database
from store.retries import Refusal
from tests.store.rows import assert_folds, batch, create_node, create_task, event, flush, row_of, scalar
from tests.store.slots import BROKEN, conclude, reserve, used, wait
from tests.store.test_retries import retry

HOUR = timedelta(hours=1)


async def begun(database: Database, node: NodeId) -> TaskId:
    """Write a task whose agent has begun in its workspace."""
    task = await create_task(database, node_labels={"node": node})
    await reserve(database, task, node, 1)
    dispatched = event(EventType.STEP_FINISHED, "dispatched", step=Step.WORKSPACE_DISPATCH)
    session = event(EventType.STEP_STARTED, "session", step=Step.AGENT_SESSION)
    await flush(database, batch(task, 2, dispatched, event(EventType.WORKSPACE_READY), session))
    return task


async def kept(database: Database, node: NodeId, *, keep_for: timedelta = HOUR) -> tuple[TaskId, WorkspaceId]:
    """Write a task that failed, and whose workspace is retained."""
    task = await begun(database, node)
    workspace = workspace_id(task, 1, 1)
    await conclude(database, task, 3, kept=workspace, keep_for=keep_for)
    return task, workspace


async def state_of(database: Database, workspace: WorkspaceId) -> tuple[str, str, int, int]:
    """Return the states and owners of a workspace: its row's, its ledger entry's."""
    query = "SELECT {} FROM workspaces w JOIN ledger l ON l.tag = w.id WHERE w.id = :id"
    columns = ("w.status", "l.state", "w.attempt", "l.attempt")
    status, state, attempt, owner = [await scalar(database, query.format(name), id=workspace) for name in columns]
    return status, state, attempt, owner


async def reserve_again(database: Database, task: TaskId, node: NodeId, workspace: WorkspaceId) -> dict[str, Any]:
    """Take the slot of attempt 2, which goes on in a kept workspace."""
    delegated = event(EventType.TASK_DELEGATED, "2:delegated", attempt=2, workspace_id=workspace, node_id=node)
    async with database.commit("test") as connection:
        return await mirror.reserve(
            connection, batch(task, 1, delegated, attempt=2), workspace=workspace, visit=1, provider="local", node=node
        )


async def test_a_kept_workspace_is_retained_and_its_slot_is_granted_on(database: Database) -> None:
    """Retained for an hour, in the transaction that ends the task; the one that waits gets the slot."""
    node = await create_node(database, slots=1)
    task = await begun(database, node)
    waiting = await create_task(database, node_labels={"node": node})
    await wait(database, waiting, 1, node)
    answer = await conclude(database, task, 3, kept=workspace_id(task, 1, 1))
    assert (answer["verdict"], answer["granted"]) == ("applied", 1)
    assert await state_of(database, workspace_id(task, 1, 1)) == ("retained", "retained", 1, 1)
    left = "SELECT extract(epoch FROM retained_until - now()) FROM ledger WHERE tag = :id"
    assert 3500 < await scalar(database, left, id=workspace_id(task, 1, 1)) <= 3600
    assert await used(database, node) == 1
    assert await scalar(database, BROKEN) == 0
    assert (await conclude(database, task, 3, kept=workspace_id(task, 1, 1)))["granted"] == 0


@pytest.mark.parametrize("status", ["reserved", "dispatched", "ready", "failed"])
async def test_it_is_retained_wherever_it_was(database: Database, status: str) -> None:
    """Retained: whoever looks for what went wrong finds the files, also of a workspace that never got ready."""
    node = await create_node(database, slots=1)
    task = await create_task(database, node_labels={"node": node})
    await reserve(database, task, node, 1)
    workspace = workspace_id(task, 1, 1)
    way = {"reserved": [], "dispatched": ["dispatched"], "ready": ["dispatched", "ready"], "failed": ["failed"]}
    for step in way[status]:
        await scalar(database, "UPDATE workspaces SET status = :s WHERE id = :id RETURNING 1", s=step, id=workspace)
    await conclude(database, task, 2, kept=workspace)
    assert (await state_of(database, workspace))[:2] == ("retained", "retained")
    assert (await retry(database, task, resume=True)).refused is Refusal.NOTHING_TO_RESUME


async def test_an_end_that_came_too_late_retains_nothing(database: Database) -> None:
    """Ended from outside meanwhile: the entry stays open, with its slot, until the workspace is destroyed."""
    node = await create_node(database, slots=1)
    task = await begun(database, node)
    await scalar(database, "UPDATE tasks SET status = 'cancelled' WHERE id = :id RETURNING 1", id=task)
    answer = await conclude(database, task, 3, kept=workspace_id(task, 1, 1))
    assert (answer["verdict"], answer["granted"]) == ("ended", 0)
    assert await state_of(database, workspace_id(task, 1, 1)) == ("stopping", "created", 1, 1)
    assert (await used(database, node), await cleanups(database, task)) == (1, 1)


async def test_a_retry_goes_on_in_the_kept_workspace(database: Database) -> None:
    """Attempt 2 owns it; its start knows that however late it is sent; it takes a slot of that node."""
    node = await create_node(database, slots=1)
    task, workspace = await kept(database, node)
    retried = await retry(database, task, resume=True)
    assert (retried.refused, retried.row["attempt"]) == (None, 2)
    assert await state_of(database, workspace) == ("ready", "created", 2, 2)
    async with database.read() as connection:
        argument = await tasks.start_argument(connection, task, 2)
    assert argument is not None
    assert argument["resume"] == {"workspace_id": workspace, "node_id": node}
    assert await used(database, node) == 0
    for _ in range(2):
        answer = await reserve_again(database, task, node, workspace)
        assert (answer["workspace_id"], answer["node_id"]) == (workspace, node)
        assert await used(database, node) == 1
    row = await assert_folds(database, task)
    assert (row["status"], row["workspace_id"], row["node_id"]) == ("delegated", workspace, node)
    await conclude(database, task, 2, attempt=2)
    assert await state_of(database, workspace) == ("released", "released", 2, 2)
    assert (await used(database, node), await scalar(database, BROKEN)) == (0, 0)


async def test_a_retry_without_it_leaves_the_kept_workspace_alone(database: Database) -> None:
    """Retained as it was, and attempt 2 starts afresh: nobody goes on in it any more, and its time ends it."""
    node = await create_node(database, slots=1)
    task, workspace = await kept(database, node)
    await retry(database, task)
    assert await state_of(database, workspace) == ("retained", "retained", 1, 1)
    async with database.read() as connection:
        argument = await tasks.start_argument(connection, task, 2)
    assert argument is not None
    assert argument["resume"] is None
    await conclude(database, task, 1, attempt=2)
    assert (await retry(database, task, resume=True)).refused is Refusal.NOTHING_TO_RESUME


GONE = {
    "its time is over": "UPDATE ledger SET retained_until = now() WHERE tag = :id RETURNING 1",
    "it is being destroyed": "UPDATE ledger SET state = 'created' WHERE tag = :id RETURNING 1",
    "it was destroyed": "UPDATE ledger SET state = 'released' WHERE tag = :id RETURNING 1",
    "its row says so": "UPDATE workspaces SET status = 'stopping' WHERE id = :id RETURNING 1",
    "its node is gone": "UPDATE nodes SET status = 'gone' FROM ledger WHERE tag = :id AND id = node_id RETURNING 1",
}


@pytest.mark.parametrize("statement", GONE.values(), ids=list(GONE))
async def test_nothing_is_resumed_that_is_not_there(database: Database, statement: str) -> None:
    """nothing_to_resume, and nothing is changed."""
    node = await create_node(database, slots=1)
    task, workspace = await kept(database, node)
    await scalar(database, statement, id=workspace)
    before = (await row_of(database, task), await state_of(database, workspace))
    assert (await retry(database, task, resume=True)).refused is Refusal.NOTHING_TO_RESUME
    assert (await row_of(database, task), await state_of(database, workspace)) == before


async def test_one_of_many_resumes(database: Database) -> None:
    """Twenty at once: attempt 2 alone has the workspace."""
    node = await create_node(database, slots=1)
    task, workspace = await kept(database, node)
    answers = await asyncio.gather(*(retry(database, task, from_attempt=1, resume=True) for _ in range(20)))
    assert [answer.refused for answer in answers].count(None) == 1
    assert await state_of(database, workspace) == ("ready", "created", 2, 2)


async def cleanups(database: Database, task: TaskId) -> int:
    """Return how many Cleanups are asked for."""
    return int(await scalar(database, "SELECT count(*) FROM outbox WHERE task_id = :id AND kind = 'cleanup'", id=task))


async def test_a_kept_workspace_is_destroyed_after_its_time(database: Database) -> None:
    """One Cleanup is asked for, however often; it takes the workspace back, and from then on nothing can be resumed."""
    node = await create_node(database, slots=1)
    (task, workspace), (young, lasting) = await kept(database, node, keep_for=timedelta(0)), await kept(database, node)
    for _ in range(2):
        async with database.commit("test") as connection:
            await retention.expire_workspaces(connection, limit=1000)
    assert (await cleanups(database, task), await cleanups(database, young)) == (1, 0)
    for owner, found in ((task, [workspace]), (young, [])):
        async with database.begin("test") as connection:
            held = await ledger.held(connection, owner, 1)
        assert held is not None
        assert [one.workspace_id for one in held] == found
    assert (await state_of(database, workspace))[:2] == ("stopping", "created")
    assert (await state_of(database, lasting))[:2] == ("retained", "retained")
    assert (await retry(database, task, resume=True)).refused is Refusal.NOTHING_TO_RESUME
    async with database.begin("test") as connection:
        assert await ledger.release(connection, task, 1) == 0
    assert (await state_of(database, workspace))[:2] == ("released", "released")


async def test_either_the_reaper_or_a_retry_has_it(database: Database) -> None:
    """Twenty pairs at once, with the time running out: never both, never neither."""
    node = await create_node(database, slots=1)

    async def reap(task: TaskId) -> bool:
        async with database.begin("test") as connection:
            return bool(await ledger.held(connection, task, 1))

    soon = timedelta(milliseconds=15)
    for _ in range(20):
        task, workspace = await kept(database, node, keep_for=soon)
        taken, retried = await asyncio.gather(reap(task), retry(database, task, resume=True))
        if not taken and retried.refused:
            assert await reap(task)
        else:
            assert taken is (retried.refused is not None)
        assert (await state_of(database, workspace))[0] == ("ready" if retried.refused is None else "stopping")


async def test_who_is_pinned_waits_for_its_own_node(database: Database) -> None:
    """Chosen is no other node, granted is no other slot; whoever is not pinned is granted as ever."""
    labels = {"pool": "pinned"}
    home, other = [await create_node(database, slots=slots, labels=labels) for slots in (0, 1)]
    task, free = [await create_task(database, node_labels=labels) for _ in range(2)]
    query = NodeQuery(task_id=task, attempt=1, project=DEFAULT_PROJECT, labels={"none": "such"}, pinned=home)
    async with database.read() as connection:
        assert (await placement.select_node(connection, query)).node_id is None
    async with database.commit("test") as connection:
        answer = await mirror.wait_for_slot(
            connection, batch(task, 1), priority=1, labels={"none": "such"}, pinned=home
        )
    assert answer["granted"] is None
    async with database.commit("test") as connection:
        granted = await mirror.wait_for_slot(connection, batch(free, 1), priority=5, labels=labels)
    assert granted["granted"] == other
    await scalar(database, "UPDATE nodes SET slots = 1 WHERE id = :id RETURNING 1", id=home)
    assert await scalar(database, "SELECT grant_slots(:id)", id=home) == 1
    assert await scalar(database, "SELECT granted FROM waiters WHERE task_id = :id", id=task) == home
    await scalar(database, "UPDATE nodes SET slots = 2 WHERE id = :id RETURNING 1", id=home)
    async with database.read() as connection:
        assert (await placement.select_node(connection, query)).node_id == home


@pytest.mark.parametrize("provider", ["local", "external"])
async def test_a_start_that_comes_again_resumes_nothing(database: Database, provider: str) -> None:
    """An attempt whose own workspace is ready was started before: a start sent again asks for no other."""
    node = await create_node(database, slots=1) if provider == "local" else None
    task = await create_task(database, provider=provider)
    workspace = workspace_id(task, 1, 1)
    delegated = event(EventType.TASK_DELEGATED, workspace_id=workspace, node_id=node)
    async with database.commit("test") as connection:
        await mirror.reserve(
            connection, batch(task, 1, delegated), workspace=workspace, visit=1, provider=provider, node=node
        )
    dispatched = event(EventType.STEP_FINISHED, "dispatched", step=Step.WORKSPACE_DISPATCH)
    await flush(database, batch(task, 2, dispatched, event(EventType.WORKSPACE_READY)))
    assert (await state_of(database, workspace))[0] == "ready"
    async with database.read() as connection:
        argument = await tasks.start_argument(connection, task, 1)
    assert argument is not None
    assert argument["resume"] is None
