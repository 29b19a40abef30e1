"""The database fails under a TaskRunner: for a while, for good, or with an answer that nobody understands."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from sqlalchemy import text
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from domain.lifecycle import NodeStatus, Step
from domain.names import SignalName
from tests.workflows.scenes import CLAIMED, FINISHED, READY, scene
from tests.workflows.stage import Stage

TRANSIENT = ("57P03", "40001", "40P01", "53300", "55P03")
PERMANENT = "22000"
BOGUS = "bogus"


@asynccontextmanager
async def faulty(stage: Stage, function: str, fault: str, *, times: int) -> AsyncIterator[None]:
    """Let a function of the store fail so often with an SQLSTATE, or answer what is no answer."""
    found = text("SELECT pg_get_function_arguments(oid), proargnames, pronargs FROM pg_proc WHERE proname = :name")
    async with stage.database.begin("test") as connection:
        arguments, names, count = (await connection.execute(found, {"name": function})).one()
    fails = f"RAISE EXCEPTION 'a fault' USING ERRCODE = '{fault}'"
    if fault == BOGUS:
        fails = """RETURN '{"verdict": "bogus"}'::jsonb"""
    call = f"real_{function}({', '.join(names[:count])})"
    body = f"IF nextval('fault_calls') <= {times} THEN {fails}; END IF; RETURN {call};"
    await stage.run(
        "CREATE SEQUENCE fault_calls",
        f"ALTER FUNCTION {function} RENAME TO real_{function}",
        f"CREATE FUNCTION {function}({arguments}) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN {body} END $$",
    )
    try:
        yield
    finally:
        await stage.run(
            f"DROP FUNCTION {function}",
            f"ALTER FUNCTION real_{function} RENAME TO {function}",
            "DROP SEQUENCE fault_calls",
        )


@pytest.mark.parametrize("fault", TRANSIENT)
async def test_a_database_that_is_away_is_waited_for(stage: Stage, fault: str) -> None:
    """completed: a flush is tried until the database takes it."""
    async with faulty(stage, "flush_task", fault, times=2):
        task = await stage.start(provider="external", told=[CLAIMED, READY, FINISHED])
        row = await task.end()
    assert (row["status"], await task.holds()) == ("completed", 0)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A write that is the first one of its step, on a node that leads there."""

    step: Step
    function: str = "flush_task"
    slots: int = 1
    status: NodeStatus = NodeStatus.READY


REFUSALS = (
    Refusal(step=Step.WAITING_FOR_NODE_CAPACITY, function="wait_for_slot", slots=0),
    Refusal(step=Step.WAITING_FOR_NODE_CAPACITY, slots=0),
    Refusal(step=Step.NODE_AGENT_READY, status=NodeStatus.PROVISIONING),
    Refusal(step=Step.WORKSPACE_CREATION, function="reserve_workspace"),
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: f"{refusal.function}-{refusal.step}")
@pytest.mark.parametrize(("fault", "times"), [(PERMANENT, 1), (BOGUS, 3)])
async def test_a_write_that_is_refused_fails_the_attempt(
    stage: Stage, refusal: Refusal, fault: str, times: int
) -> None:
    """Failed as internal at that step: at once when the database refuses, after 3 tries when nobody knows why."""
    async with stage.node(slots=refusal.slots, status=refusal.status) as node:
        async with faulty(stage, refusal.function, fault, times=times):
            task = await stage.start(node_labels={"node": node.id})
            row = await task.end()
        assert (row["status"], row["error"]["category"], row["error"]["step"]) == ("failed", "internal", refusal.step)
        assert (await task.holds(), await stage.used(node)) == (0, 0)


async def test_a_choice_of_node_that_is_refused_fails_the_attempt(stage: Stage) -> None:
    """Failed as internal at `node_selection`."""
    await stage.execute("ALTER TABLE nodes RENAME TO nodes_away")
    try:
        task = await stage.start(node_labels={"node": "any"})
        row = await task.end()
    finally:
        await stage.execute("ALTER TABLE nodes_away RENAME TO nodes")
    assert (row["error"]["code"], row["error"]["step"]) == ("database_refused", "node_selection")


async def test_a_flush_that_is_refused_in_mid_attempt_leaves_nothing(stage: Stage) -> None:
    """Failed at `workspace_ready`, with slot, ledger and workspace released."""
    async with scene(stage, Step.WORKSPACE_DISPATCH) as at:
        async with faulty(stage, "flush_task", PERMANENT, times=1):
            at.gate.opened.set()
            row = await at.task.end()
        assert (row["status"], row["error"]["step"]) == ("failed", "workspace_ready")
        await at.assert_clean()


async def test_a_last_flush_that_is_refused_ends_the_workflow_all_the_same(stage: Stage) -> None:
    """Failed in Temporal, as internal; the row is left to the reconciler, the workspace is gone."""
    async with scene(stage, Step.RUNNING) as at:
        async with faulty(stage, "conclude_task", PERMANENT, times=99):
            await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
            row = await at.task.end()
        assert (row["status"], at.node.workspaces) == ("in_progress", set())
        assert isinstance(at.task.failure, ApplicationError)
        assert at.task.failure.type == "internal"


async def test_a_deleted_task_ends_its_workflow(stage: Stage) -> None:
    """Failed in Temporal, with workspace and slot released although the row is gone."""
    async with scene(stage, Step.RUNNING) as at:
        await stage.execute("DELETE FROM tasks WHERE id = :id", id=at.task.task)
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        with pytest.raises(WorkflowFailureError):
            await at.task.handle.result()
        await at.assert_clean()


async def test_a_row_that_is_locked_for_long_is_waited_for(stage: Stage) -> None:
    """completed: a flush that outlasts its own try is tried again, and writes each event once."""
    async with scene(stage, Step.WORKSPACE_READY) as at:
        async with stage.database.begin("test") as connection:
            query = text("SELECT id FROM tasks WHERE id = :id FOR UPDATE")
            await connection.execute(query, {"id": at.task.task})
            await at.task.signal(SignalName.WORKSPACE_READY)
            await connection.execute(text("SELECT pg_sleep(11)"))
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        assert (await at.task.end())["status"] == "completed"
