"""Cancel from Temporal, in every step and at every moment: it ends the attempt, and nothing stays behind."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from domain.lifecycle import NEXT_STEP, Step, StepOutcome
from domain.names import SignalName
from tests.workflows.scenes import BLOCKING, EXTERNAL_WAITS, LOCAL_WAITS, external, scene
from tests.workflows.stage import Running, Stage

# Who holds these keeps the step's own statement waiting.
IN_SQL = {
    Step.NODE_SELECTION: "LOCK TABLE nodes IN ACCESS EXCLUSIVE MODE",
    Step.WORKSPACE_CREATION: "SELECT id FROM tasks FOR UPDATE",
}
IDLE = {Step.NODE_PROVISIONING}  # nodes join by themselves here; test_provisioning.py has one made


def test_the_steps_of_this_suite_are_those_of_the_table() -> None:
    """Every step that the table lets be cancelled is cancelled below."""
    table = {step for step, outcome in NEXT_STEP if outcome is StepOutcome.CANCELLED}
    assert {*LOCAL_WAITS, *EXTERNAL_WAITS, *BLOCKING, *IN_SQL} == table - IDLE


@pytest.mark.parametrize("step", LOCAL_WAITS)
async def test_a_local_task_that_waits_is_cancelled(stage: Stage, step: Step) -> None:
    """cancelled, and the slot, the ledger and the node are as before."""
    async with scene(stage, step) as at:
        await at.task.handle.cancel()
        row = await at.task.end()
        assert (row["status"], row["error"]["category"], row["error"]["step"]) == ("cancelled", "cancelled", step)
        await at.assert_clean()


@pytest.mark.parametrize("step", EXTERNAL_WAITS)
async def test_an_external_task_that_waits_is_cancelled(stage: Stage, step: Step) -> None:
    """cancelled, with an empty ledger."""
    task = await external(stage, step)
    await task.handle.cancel()
    row = await task.end()
    assert (row["status"], row["error"]["step"], await task.holds()) == ("cancelled", step, 0)


@pytest.mark.parametrize("step", [step for step in BLOCKING if step is not Step.CLEANUP])
async def test_a_cancel_does_not_wait_for_the_effect_under_way(stage: Stage, step: Step) -> None:
    """Cancelled and cleaned up while the node's call still hangs; what it does late is refused, and leaves nothing."""
    async with scene(stage, step) as at:
        await at.task.handle.cancel()
        row = await at.task.end()
        assert (row["status"], row["error"]["step"]) == ("cancelled", step)
        await at.assert_clean()
        assert not at.gate.opened.is_set()
        at.gate.opened.set()
    await at.assert_clean()


async def test_a_cancel_stops_the_tries_of_a_step(stage: Stage) -> None:
    """Cancelled after one call: a failure that comes after the cancel is not tried again."""
    async with scene(stage, Step.AGENT_SESSION) as at:

        async def fail(_: object) -> None:
            await at.gate(_)
            raise OSError("the node's disk is gone")

        at.node.script["start_agent"] = fail
        await at.task.handle.cancel()
        row = await at.task.end()
        at.gate.opened.set()
        assert (row["status"], len(at.node.calls["start_agent"])) == ("cancelled", 1)


@pytest.mark.parametrize(("step", "lock"), IN_SQL.items(), ids=IN_SQL)
async def test_a_cancel_reaches_a_task_that_waits_for_the_database(stage: Stage, step: Step, lock: str) -> None:
    """cancelled, although the write that was under way may have been committed meanwhile."""
    async with stage.node(slots=1) as node:
        body: dict[str, Any] = {"node_labels": {"node": node.id}}
        task = Running(stage, await stage.create(**body))
        async with stage.database.begin("test") as connection:
            await connection.execute(text(lock))
            await stage.begin(task, **body)
            await stage.until("SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            await task.handle.cancel()
            await cancel_arrived(task)
        row = await task.end()
        assert (row["status"], await task.holds(), await stage.used(node)) == ("cancelled", 0, 0)
        assert row["error"]["step"] == step


async def test_a_cancel_during_cleanup_changes_nothing(stage: Stage) -> None:
    """completed: the command has ended well, and cleanup is not interrupted, not even by a second cancel."""
    async with scene(stage, Step.CLEANUP) as at:
        await at.task.handle.cancel()
        await cancel_arrived(at.task)
        await at.task.handle.cancel(reason="again")
        at.gate.opened.set()
        row = await at.task.end()
        assert row["status"] == "completed"
        await at.assert_clean()


async def test_a_cancel_during_cleanup_prevents_another_attempt(stage: Stage) -> None:
    """Cancelled at attempt 1, although its failure would have been tried again."""
    async with scene(stage, Step.RUNNING, retry={"max_attempts": 3}) as at:
        at.node.script["destroy_workspace"] = at.gate
        await at.task.signal(SignalName.WORKSPACE_FAILED)
        await at.task.until("cleanup")
        await at.task.handle.cancel()
        await cancel_arrived(at.task)
        at.gate.opened.set()
        row = await at.task.end()
        assert (row["status"], row["attempt"]) == ("cancelled", 1)
        await at.assert_clean()


@pytest.mark.parametrize("provider", ["local", "external"])
async def test_an_intent_in_the_mirror_is_enough(stage: Stage, provider: str) -> None:
    """Cancelled by the first flush, which finds the intent; Temporal was never asked."""
    async with stage.node(slots=1) as node:
        task = Running(stage, await stage.create())
        await stage.execute("UPDATE tasks SET cancel_requested_at = now() WHERE id = :id", id=task.task)
        await stage.begin(task, provider=provider, node_labels={"node": node.id} if provider == "local" else {})
        row = await task.end()
        assert (row["status"], await task.holds(), await stage.used(node)) == ("cancelled", 0, 0)
        assert not node.calls["create_workspace"]


async def test_an_intent_that_comes_during_a_wait_is_obeyed_at_the_next_flush(stage: Stage) -> None:
    """Cancelled at `running`, when the signal of the cancel was lost."""
    task = await external(stage, Step.WORKSPACE_READY)
    await stage.execute("UPDATE tasks SET cancel_requested_at = now() WHERE id = :id", id=task.task)
    await task.signal(SignalName.WORKSPACE_READY)
    row = await task.end()
    assert (row["status"], row["error"]["step"]) == ("cancelled", "running")


async def cancel_arrived(task: Running) -> None:
    """Wait until a workflow task has seen the cancel."""
    async with asyncio.timeout(10):
        while True:
            names = [event.WhichOneof("attributes") for event in (await task.history()).events]
            seen = "workflow_execution_cancel_requested_event_attributes"
            if seen in names and "workflow_task_completed_event_attributes" in names[names.index(seen) :]:
                return
            await asyncio.sleep(0.02)
