"""Runs that last: histories that grow too long, cancels, and what is done to their workflows from outside."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from temporalio.client import WorkflowExecutionStatus
from temporalio.testing import WorkflowEnvironment

from domain.names import run_workflow_id
from domain.policy import Limits, Policy
from domain.reconcile import Action
from store import run_intents
from store.models import RunIntentKind
from tests.workflows.chain import chain
from tests.workflows.run_stage import RunningRun, RunStage, run_stage_on

SHORT = 50


@pytest.fixture(scope="module")
async def stage(temporal: WorkflowEnvironment, database_url: str) -> AsyncIterator[RunStage]:
    """Give a control plane with a node, on which histories soon are too long."""
    policy = Policy(limits=Limits(history_events=SHORT))
    async with run_stage_on(temporal, database_url, slots=50, policy=policy) as stage:
        yield stage


@pytest.fixture(autouse=True)
def _fresh(stage: RunStage) -> None:
    stage.exits, stage.results, stage.held, stage.begun, stage.most_at_once = {}, {}, {}, [], 0


async def steer(run: RunningRun, kind: RunIntentKind, change: str) -> None:
    """Change the row, and have the orchestrator told, as the API does it in one transaction."""
    async with run.on.stage.database.begin("tests.steer") as connection:
        await connection.execute(text(f"UPDATE runs SET {change} WHERE id = :run"), {"run": run.run})  # noqa: S608
        await run_intents.put(connection, run.run, kind, attempt=1)
    run.on.stage.runs.poke()


async def engine_runs(run: RunningRun) -> int:
    """How many runs of its workflow there were."""
    return len(await chain(run.on.stage.environment.client, run_workflow_id(run.run)))


async def test_a_run_continues_as_new_with_its_tasks_open(stage: RunStage) -> None:
    """Completed, by several runs of the workflow; each of 40 children ran once, and the log is unbroken."""
    run = await stage.create({"many": {"fan_out": {"count": 40, "max_parallel": 10}}, "sum": {}}, "many>sum")
    assert (await run.end())["status"] == "completed"
    assert await engine_runs(run) > 1
    assert sorted(stage.begun) == sorted([f"many#{n}" for n in range(1, 41)] + ["sum"])
    assert [event["seq"] for event in await run.events()] == list(range(1, len(await run.events()) + 1))


async def test_a_cancel_reaches_every_task(stage: RunStage) -> None:
    """Cancelled, in mirror and engine; the open tasks were cancelled by their own intents, what waited never began."""
    stage.held = {"a": asyncio.Event(), "b": asyncio.Event()}
    run = await stage.create({"a": {}, "b": {}, "c": {}}, "a>c")
    await run.until("2 = (SELECT count(*) FROM tasks t WHERE t.run_id = r.id AND t.status = 'in_progress')")
    await steer(run, RunIntentKind.CANCEL, "cancel_requested_at = clock_timestamp()")
    row = await run.end()
    assert (row["status"], row["error"]["code"]) == ("cancelled", "cancelled")
    assert await run.members() == {"a": "cancelled", "b": "cancelled", "c": "cancelled"}
    assert {name: task["status"] for name, task in (await run.tasks()).items()} == {"a": "cancelled", "b": "cancelled"}
    assert await run.engine_status() is WorkflowExecutionStatus.CANCELED


async def test_a_cancel_in_the_temporal_ui_equals_ours(stage: RunStage) -> None:
    """Cancelled in the mirror too, with its tasks."""
    stage.held = {"a": asyncio.Event()}
    run = await stage.create({"a": {}})
    await run.until("EXISTS (SELECT FROM tasks t WHERE t.run_id = r.id AND t.status = 'in_progress')")
    await stage.stage.environment.client.get_workflow_handle(run_workflow_id(run.run)).cancel()
    assert (await run.end())["status"] == "cancelled"


async def test_a_terminated_run_is_ended_by_a_sweep(stage: RunStage) -> None:
    """Failed, by an operator's word; its open tasks are cancelled, and nothing of it is left."""
    stage.held = {"a": asyncio.Event()}
    run = await stage.create({"a": {}, "b": {}}, "a>b")
    await run.until("EXISTS (SELECT FROM tasks t WHERE t.run_id = r.id AND t.status = 'in_progress')")
    await stage.stage.environment.client.get_workflow_handle(run_workflow_id(run.run)).terminate("by hand")
    await stage.stage.execute("UPDATE runs SET updated_at = updated_at - interval '5 min' WHERE id = :id", id=run.run)
    report = await stage.stage.sweep()
    assert run.run in report.ids[Action.ENDED]
    row = await run.row()
    assert (row["status"], row["error"]["code"]) == ("failed", "terminated")
    await run.until("NOT EXISTS (SELECT FROM tasks t WHERE t.run_id = r.id AND t.status <> 'cancelled')")
    assert await run.members() == {"a": "cancelled", "b": "cancelled"}


async def test_a_run_that_the_engine_forgot_goes_on_from_its_rows(stage: RunStage) -> None:
    """Completed; the orchestrator began anew with what had ended, and started nothing twice."""
    stage.held = {"b": asyncio.Event()}
    run = await stage.create({"a": {}, "b": {}, "c": {}, "d": {}}, "a>c b>d c>d")
    await run.until("EXISTS (SELECT FROM members m WHERE m.run_id = r.id AND name = 'c' AND status = 'completed')")
    await stage.stage.forget(run_workflow_id(run.run))
    stage.held["b"].set()
    await run.until("EXISTS (SELECT FROM tasks t WHERE t.run_id = r.id AND member = 'b' AND status = 'completed')")
    await stage.stage.execute("UPDATE runs SET updated_at = updated_at - interval '5 min' WHERE id = :id", id=run.run)
    report = await stage.stage.sweep()
    assert run.run in report.ids[Action.STARTED_AGAIN]
    assert (await run.end())["status"] == "completed"
    assert sorted(stage.begun) == ["a", "b", "c", "d"]


async def test_a_superstep_that_the_engine_forgot_is_ended_as_one(stage: RunStage) -> None:
    """Completed: what had ended before, what was open and what had no room yet are one frontier, and all are merged."""
    stage.held = {"b": asyncio.Event()}
    stage.results = {name: {"state": {"seen": name}} for name in "abcde"}
    run = await stage.create(
        {name: {} for name in "abcde"}, "a>d b>e c>e", mode="superstep", max_parallel=1, reducers={"seen": "append"}
    )
    await run.until("EXISTS (SELECT FROM members m WHERE m.run_id = r.id AND name = 'b' AND status = 'in_progress')")
    await stage.stage.forget(run_workflow_id(run.run))
    stage.held["b"].set()
    await run.until("EXISTS (SELECT FROM tasks t WHERE t.run_id = r.id AND member = 'b' AND status = 'completed')")
    await stage.stage.execute("UPDATE runs SET updated_at = updated_at - interval '5 min' WHERE id = :id", id=run.run)
    await stage.stage.sweep()
    row = await run.end()
    assert (row["status"], row["state"]) == ("completed", {"seen": ["a", "b", "c", "d", "e"]})
    steps = [event["data"]["ran"] for event in await run.events() if event["type"] == "run.superstep"]
    assert steps == [["a", "b", "c"], ["d", "e"]]
    assert sorted(stage.begun) == ["a", "b", "c", "d", "e"]


async def test_a_run_that_failed_fast_and_was_forgotten_tidies_up(stage: RunStage) -> None:
    """Failed, as it would have: nothing new begins, and the member that is there for failures is let go on."""
    stage.exits, stage.held = {"a": 1}, {"tidy": asyncio.Event()}
    run = await stage.create({"a": {}, "tidy": {}, "later": {}}, "a>tidy:failed tidy>later", on_failure="fail_fast")
    await run.until("EXISTS (SELECT FROM members m WHERE m.run_id = r.id AND name = 'tidy' AND status = 'in_progress')")
    await stage.stage.forget(run_workflow_id(run.run))
    await stage.stage.execute("UPDATE runs SET updated_at = updated_at - interval '5 min' WHERE id = :id", id=run.run)
    await stage.stage.sweep()
    await run.until("NOT EXISTS (SELECT FROM run_intents i WHERE i.run_id = r.id)")
    await run.until("r.version >> 50 > 0")
    stage.held["tidy"].set()
    assert (await run.end())["status"] == "failed"
    assert await run.members() == {"a": "failed", "tidy": "completed", "later": "skipped"}


async def test_a_pause_lets_nothing_new_begin(stage: RunStage) -> None:
    """While it is paused what is open ends and nothing begins; resumed, it completes."""
    stage.held = {"a": asyncio.Event()}
    run = await stage.create({"a": {}, "b": {}}, "a>b")
    await run.until("EXISTS (SELECT FROM tasks t WHERE t.run_id = r.id AND t.status = 'in_progress')")
    await steer(run, RunIntentKind.STEER, "pause_token = 't1', pause_reason = 'lunch'")
    await run.until("paused")
    stage.held["a"].set()
    await run.until("EXISTS (SELECT FROM members m WHERE m.run_id = r.id AND name = 'a' AND status = 'completed')")
    assert stage.begun == ["a"]
    await steer(run, RunIntentKind.STEER, "pause_token = NULL, paused = false")
    assert (await run.end())["status"] == "completed"


async def test_breakpoints_hold_before_and_after_members(stage: RunStage) -> None:
    """Held after a and before c, each once, with its reason; completed when it was resumed twice."""
    run = await stage.create(
        {"a": {}, "b": {}, "c": {}}, "a>b b>c", breakpoints={"before": ["c"], "after": ["a"], "each_step": False}
    )
    for reason in ("breakpoint after a", "breakpoint before c"):
        await run.until("paused AND pause_reason = :reason", reason=reason)
        await steer(run, RunIntentKind.STEER, "pause_token = NULL, paused = false, pause_reason = NULL")
    assert (await run.end())["status"] == "completed"
    assert stage.begun == ["a", "b", "c"]
