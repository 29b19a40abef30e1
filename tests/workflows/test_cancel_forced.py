"""A cancel in two phases: the attempt is asked, and when its deadline has passed it is ended from outside."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment

from activities.dispatch import Dispatcher
from domain.events import STATUS_OF_EVENT
from domain.lifecycle import STEP_ORDER, Step
from domain.policy import Policy, Supervision
from store.commands import Outcome
from tests.store.rows import create_task
from tests.workflows.scenes import scene
from tests.workflows.stage import PATIENCE, Running, Stage, stage_on
from tests.workflows.test_cancel import IN_SQL
from workflows.gateway import Gateway

QUICK = Policy(supervision=Supervision(cancel=timedelta(seconds=1)))
BLOCKED = [step for step in STEP_ORDER if STEP_ORDER.index(step) >= STEP_ORDER.index(Step.WORKSPACE_DISPATCH)]
NONE = "SELECT count(*) = 0 FROM outbox WHERE task_id = '{}'"
LEFT = """
SELECT kind, state, tag FROM ledger WHERE task_id = :task AND state <> 'released'
UNION ALL
SELECT kind, coalesce(last_error, leased_by), tries || ' tries, due ' || due_at FROM outbox
WHERE task_id = :task AND kind <> 'start'
"""
INTENTS = "SELECT coalesce(string_agg(kind, ' '), '') FROM outbox WHERE task_id = :task"


@pytest.fixture(scope="module")
async def quick(temporal: WorkflowEnvironment, database_url: str) -> AsyncIterator[Stage]:
    """Give a control plane that forces a cancel after a second."""
    async with stage_on(temporal, database_url, policy=QUICK) as stage:
        yield stage


async def intents(task: Running) -> str:
    """What is to be sent about this task."""
    async with task.stage.database.read() as connection:
        return str((await connection.execute(text(INTENTS), {"task": task.task})).scalar_one())


async def assert_forced(task: Running) -> None:
    """Cancelled by force: the row says so, Temporal says terminated, the log ends with the one terminal event."""
    row = await task.until(status="cancelled")
    assert row["error"]["code"] == "cancel_forced"
    await task.end()
    assert (await task.handle.describe()).status is WorkflowExecutionStatus.TERMINATED
    log = await task.events()
    assert [event.type for event in log if event.type in STATUS_OF_EVENT][-1] == log[-1].type == "task.cancelled"
    assert (log[-1].data["forced"], log[-1].data["cleanup"], log[-1].data["outcome"]) == (True, "pending", "cancelled")
    assert log[-1].data["duration_seconds"] > 0
    assert await task.cancel() is Outcome.FORCED


async def assert_empty(task: Running) -> None:
    """Nothing is held, and nothing is to be sent."""
    left: Sequence[Any] = ()
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                async with task.stage.database.read() as connection:
                    left = (await connection.execute(text(LEFT), {"task": task.task})).all()
                if not left:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        assert left == [], "still held or still to be sent"


# --- forced: something blocks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("step", BLOCKED)
async def test_a_destruction_that_blocks_is_not_waited_for(quick: Stage, step: Step) -> None:
    """Forced after the deadline, whatever the step; when the node answers again, nothing is left."""
    async with scene(quick, step) as at:
        at.node.script["destroy_workspace"] = at.gate
        await at.task.cancel()
        await assert_forced(at.task)
        assert await at.task.holds() == 2
        at.gate.opened.set()
        await assert_empty(at.task)
        await at.assert_clean()


async def test_a_dead_node_is_not_waited_for(quick: Stage) -> None:
    """Forced while nobody takes the node's work; the ledger stays open until the node is back."""
    node = await quick.dead_node(slots=1)
    task = await quick.start(node_labels={"node": node.id})
    await task.until("workspace_dispatch")
    await task.cancel()
    await assert_forced(task)
    assert (await task.holds(), await quick.used(node)) == (2, 1)
    async with quick.alive(node):
        await assert_empty(task)
    assert (node.workspaces, await quick.used(node)) == (set(), 0)


async def test_a_cancel_of_a_task_that_waits_for_the_database(quick: Stage) -> None:
    """Cancelled one way or the other as soon as the database answers, with one end in the log and nothing held."""
    async with quick.node(slots=1) as node:
        body: dict[str, Any] = {"node_labels": {"node": node.id}}
        task = Running(quick, await quick.create(**body))
        async with quick.database.begin("tests.lock") as connection:
            await connection.execute(text(IN_SQL[Step.NODE_SELECTION]))
            await quick.begin(task, **body)
            await quick.until("SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            await task.cancel()
            await connection.execute(text("SELECT pg_sleep(2)"))
        await task.until(status="cancelled")
        await assert_empty(task)
        await task.end()
        assert (await task.story()).count("task.cancelled") == 1
        assert (await quick.used(node), node.workspaces) == (0, set())


async def test_a_workflow_that_no_worker_takes_is_ended(quick: Stage) -> None:
    """Forced: it gets no task, and is terminated without one."""
    nobody = replace(quick, gateway=Gateway(quick.environment.client, queue="nobody-works-here"))
    task = Running(nobody, await nobody.create(provider="external"))
    await nobody.begin(task, provider="external")
    await task.cancel()
    row = await task.until(status="cancelled")
    assert row["error"]["code"] == "cancel_forced"
    assert (await task.handle.describe()).status is WorkflowExecutionStatus.TERMINATED
    await assert_empty(task)


async def test_an_attempt_whose_start_never_came_is_ended(quick: Stage) -> None:
    """Forced without a workflow; the start that was leased and lost is not sent any more."""
    task = Running(quick, await create_task(quick.database))
    assert await task.cancel() is Outcome.REQUESTED
    row = await task.until(status="cancelled")
    assert row["error"]["code"] == "cancel_forced"
    await quick.execute("UPDATE outbox SET leased_until = now() WHERE task_id = :id", id=task.task)
    await quick.until(NONE.format(task.task))
    with pytest.raises(RPCError, match="not found"):
        await task.handle.describe()


async def test_a_start_that_comes_after_the_end_has_no_effect(quick: Stage) -> None:
    """The workflow finds that its attempt has ended, and ends as cancelled without a node."""
    async with quick.node(slots=1) as node:
        body: dict[str, Any] = {"node_labels": {"node": node.id}}
        task = Running(quick, await quick.create(**body))
        await task.cancel()
        await task.until(status="cancelled")
        await quick.begin(task, **body)
        row = await task.end()
        assert (row["error"]["code"], await task.holds(), await quick.used(node)) == ("cancel_forced", 0, 0)
        assert not node.calls


# --- the deadline counts while the attempt could have used it ------------------------------------------------------


async def test_a_deadline_that_nobody_watched_begins_again(quick: Stage) -> None:
    """Applied, not forced: with every worker down no attempt could have acknowledged the cancel."""
    async with scene(quick, Step.RUNNING) as at:
        await quick.execute("UPDATE tasks SET cancel_requested_at = now() WHERE id = :id", id=at.task.task)
        back = Dispatcher(name="back", database=quick.database, gateway=quick.gateway, policy=QUICK)
        async with quick.database.begin("tests.intent") as connection:
            late = (
                "INSERT INTO outbox (kind, task_id, attempt, due_at) VALUES ('force', :id, 1, now() - interval '60 s')"
            )
            await connection.execute(text(late), {"id": at.task.task})
            # Nobody else takes it before this one begins to watch.
            loop = asyncio.create_task(back.run())
        row = await at.task.end()
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await back.close()
        assert row["error"]["code"] == "cancelled"
        await at.assert_clean()
