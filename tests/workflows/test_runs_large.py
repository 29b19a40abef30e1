"""A run with 500 open tasks continues as new, with a retry of one of them in flight. Minutes, so of the campaign."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from temporalio.testing import WorkflowEnvironment

from domain.messages import CallbackSignal
from domain.names import CallbackKind, SignalName, TaskId
from domain.policy import Limits, Policy
from store import run_intents
from store.models import RunIntentKind
from tests.workflows.run_stage import RunningRun, RunStage, run_stage_on
from tests.workflows.test_runs_last import engine_runs

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(500)]

OPEN = 500
SHORT = 100
IN_PARALLEL = 20


@pytest.fixture(scope="module")
async def stage(temporal: WorkflowEnvironment, database_url: str) -> AsyncIterator[RunStage]:
    """Give a control plane on which histories soon are too long."""
    policy = Policy(limits=Limits(history_events=SHORT))
    async with run_stage_on(temporal, database_url, policy=policy, max_cached_workflows=1000) as stage:
        yield stage


async def tell(run: RunningRun, key: str, name: SignalName, kind: CallbackKind) -> None:
    """Say as a task's workspace that it has ended, once it is there."""
    query = text("SELECT id, attempt, workspace_id FROM tasks WHERE run_id = :run AND member || '#' || item = :key")
    while True:
        async with run.on.stage.database.read() as connection:
            row = (await connection.execute(query, {"run": run.run, "key": key})).one()
        if row.workspace_id is not None:
            break
        await asyncio.sleep(0.2)
    signal = CallbackSignal(kind=kind, workspace_id=row.workspace_id, exit_code=0)
    await run.on.stage.gateway.signal(TaskId(row.id), row.attempt, name, signal)


async def test_five_hundred_open_tasks_outlive_the_history(stage: RunStage) -> None:
    """Completed: each task once, but for one whose second attempt began while the run went on in a new history."""
    task = {"provider": "external", "node_labels": {}, "retry": {"max_attempts": 2, "backoff": 5}}
    run = await stage.create({"many": {"fan_out": {"count": OPEN}, "task": task}, "sum": {}}, "many>sum")
    reserved = "(SELECT count(*) FROM tasks t WHERE t.run_id = r.id AND t.status = 'delegated')"
    await run.until(f"{reserved} = {OPEN}", within=240)
    await tell(run, "many#7", SignalName.WORKSPACE_FAILED, CallbackKind.FAILED)
    async with asyncio.timeout(120):
        while await engine_runs(run) < 2:
            async with stage.stage.database.begin("tests.steer") as connection:
                await run_intents.put(connection, run.run, RunIntentKind.STEER, attempt=1)
            stage.stage.runs.send(run.run)
            await asyncio.sleep(0.15)
    assert (await run.members())["many"] == "in_progress"
    await run.until(f"{reserved} = {OPEN}", within=60)
    left = iter(range(1, OPEN + 1))

    async def lane() -> None:
        for number in left:
            await tell(run, f"many#{number}", SignalName.WORKSPACE_FINISHED, CallbackKind.FINISHED)

    await asyncio.gather(*(lane() for _ in range(IN_PARALLEL)))
    await run.until("status = 'completed'", within=120)
    tasks = await run.tasks()
    assert len(tasks) == OPEN + 1
    assert {key for key, row in tasks.items() if row["attempt"] != 1} == {"many#7"}
    seqs = [event["seq"] for event in await run.events()]
    assert seqs == list(range(1, len(seqs) + 1))
