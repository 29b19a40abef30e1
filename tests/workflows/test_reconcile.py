"""The reconciler: what was done to workflows from outside is right in row, log and ledger within a sweep."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from temporalio.api.workflowservice.v1 import PauseWorkflowExecutionRequest, UnpauseWorkflowExecutionRequest

from domain import failpoints
from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import Step
from domain.names import RECONCILE, TASK_RUNNER, SignalName, WorkspaceId
from domain.reconcile import Action, Report, Seen, SweepOrder
from store import mirror
from tests.faults.points import lost
from tests.workflows.scenes import external, scene
from tests.workflows.stage import Running, Stage
from tests.workflows.sweeps import clean, old

DUE: Final = (
    "SELECT count(*) = {} FROM outbox"
    " WHERE task_id = '{}' AND kind = 'start' AND due_at > clock_timestamp() + interval '100 s'"
)
FORGET: Final = (
    "ALTER TABLE tasks DISABLE TRIGGER tasks_transition",
    "DELETE FROM events WHERE task_id = '{id}' AND seq > {last_seq}",
    """UPDATE tasks SET status = '{status}', outcome = NULL, step = '{step}', last_seq = {last_seq},
    version = {version}, finished_at = NULL WHERE id = '{id}'""",
    "ALTER TABLE tasks ENABLE TRIGGER tasks_transition",
)


async def until_seen(task: Running, seen: Seen) -> None:
    """Wait until the engine says so."""
    async with asyncio.timeout(20):
        while True:
            if (await task.stage.gateway.look(task.task, task.attempt)).seen is seen:
                return
            await asyncio.sleep(0.05)


async def did(report: Report, action: Action, task: Running) -> bool:
    """Whether the report tells of this action on this task."""
    return task.task in report.ids.get(action, [])


@pytest.mark.parametrize(
    "step",
    [
        Step.WAITING_FOR_NODE_CAPACITY,
        Step.NODE_AGENT_READY,
        Step.WORKSPACE_DISPATCH,
        Step.WORKSPACE_READY,
        Step.AGENT_SESSION,
        Step.RUNNING,
        Step.AWAITING_FOLLOWUP,
        Step.CLEANUP,
    ],
)
async def test_a_terminated_workflow_is_a_failed_task(stage: Stage, step: Step) -> None:
    """Failed as `terminated`, by the reconciler's word, not retried, and nothing is held any more."""
    async with scene(stage, step, retry={"max_attempts": 4}) as at:
        await at.task.handle.terminate("an operator's word")
        at.gate.opened.set()
        await old(at.task)
        assert await did(await stage.sweep(), Action.ENDED, at.task)
        row, last = await at.task.row(), (await at.task.events())[-1]
        assert (row["status"], row["error"]["code"], row["error"]["retryable"]) == ("failed", "terminated", False)
        assert (last.type, last.source) == (EventType.TASK_FAILED, EventSource.RECONCILER)
        await clean(at)
        assert not await did(await stage.sweep(), Action.ENDED, at.task)


async def test_what_a_sweep_did_is_kept(stage: Stage) -> None:
    """The counts of its report, for the health report; a dry run leaves nothing."""
    async with scene(stage, Step.WORKSPACE_READY) as at:
        await at.task.handle.terminate("an operator's word")
        await old(at.task)
        dry, report = await stage.sweep(dry_run=True), await stage.sweep()
        assert dry.counts[Action.ENDED] == report.counts[Action.ENDED] == 1
        await stage.until("SELECT counts ->> 'ended' = '1' FROM sweeps ORDER BY id DESC LIMIT 1")
        assert dry.counts.keys() <= report.counts.keys()
        await clean(at)


async def test_a_terminate_is_found_at_once(stage: Stage) -> None:
    """The engine's list is a hint: a row that moved a moment ago is repaired within a sweep."""
    async with scene(stage, Step.RUNNING) as at:
        await at.task.handle.terminate("an operator's word")
        async with asyncio.timeout(20):
            while True:
                if await did(await stage.sweep(), Action.ENDED, at.task):
                    break
                await asyncio.sleep(0.1)
        assert (await at.task.row())["status"] == "failed"
        await clean(at)


async def test_a_terminate_of_what_is_to_be_cancelled_is_a_cancel(stage: Stage) -> None:
    """Cancelled, since somebody asked for that before."""
    async with scene(stage, Step.RUNNING) as at:
        await at.task.handle.terminate("stuck")
        await stage.execute("UPDATE tasks SET cancel_requested_at = now() WHERE id = :id", id=at.task.task)
        await old(at.task)
        await stage.sweep()
        row = await at.task.row()
        assert (row["status"], row["error"]["code"]) == ("cancelled", "cancelled")
        await clean(at)


@pytest.mark.parametrize(("max_attempts", "status", "attempt"), [(2, "queued", 2), (1, "failed", 1)])
async def test_a_deleted_workflow_is_a_lost_attempt(stage: Stage, max_attempts: int, status: str, attempt: int) -> None:
    """Retried by the task's policy when the lease has run out, or failed; what it held is released."""
    async with scene(stage, Step.RUNNING, retry={"max_attempts": max_attempts}) as at:
        await stage.forget(at.task.handle.id)
        await old(at.task)
        assert await did(await stage.sweep(), Action.ENDED, at.task)
        row = await at.task.row()
        assert (row["status"], row["attempt"], row["error"]["code"]) == (status, attempt, "workflow_lost")
        await stage.until(DUE.format(attempt - 1, at.task.task))
        await clean(at)


async def test_a_workflow_that_timed_out_is_retried(stage: Stage) -> None:
    """The engine's own timeout ends an attempt as `workflow_timeout`; the next one waits for the lease."""
    task = Running(stage, await stage.create(provider="external", retry={"max_attempts": 2}))
    await stage.environment.client.start_workflow(
        "Nothing", id=task.handle.id, task_queue="nobody-works-here", execution_timeout=timedelta(seconds=1)
    )
    await until_seen(task, Seen.TIMED_OUT)
    await old(task)
    assert await did(await stage.sweep(), Action.ENDED, task)
    row = await task.row()
    assert (row["status"], row["attempt"], row["error"]["code"]) == ("queued", 2, "workflow_timeout")


async def test_a_workflow_that_completed_without_a_word_is_no_success(stage: Stage) -> None:
    """The row is open after its workflow ended: failed as `end_unwritten`."""
    task = await external(stage, Step.RUNNING)
    before = await task.row()
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    await task.end()
    await stage.run(*(statement.format(**before) for statement in FORGET))
    await old(task)
    assert await did(await stage.sweep(), Action.ENDED, task)
    row = await task.row()
    assert (row["status"], row["error"]["code"], row["error"]["category"]) == ("failed", "end_unwritten", "internal")


async def test_a_lost_start_is_stored_again(stage: Stage) -> None:
    """No intent and no workflow: the start is stored once, and the task runs."""
    task = Running(stage, await stage.create(provider="external"))
    await old(task)
    assert await did(await stage.sweep(), Action.STARTED_AGAIN, task)
    await task.until("workspace_dispatch")
    await task.handle.cancel()
    await task.end()


async def test_a_start_that_is_still_to_come_is_left_alone(stage: Stage) -> None:
    """NOT_FOUND means not started yet while the intent is in the outbox."""
    task = Running(stage, await stage.create(provider="external"))
    await stage.execute(
        "INSERT INTO outbox (kind, task_id, attempt, due_at) VALUES ('start', :t, 1, now() + interval '1 h')",
        t=task.task,
    )
    await old(task)
    report = await stage.sweep()
    assert all(task.task not in ids for ids in report.ids.values())
    assert (await task.row())["status"] == "queued"
    await stage.execute("DELETE FROM outbox WHERE task_id = :t", t=task.task)
    await stage.execute("UPDATE tasks SET status = 'cancelled' WHERE id = :t", t=task.task)


async def test_the_row_wins_over_a_workflow_that_goes_on(stage: Stage) -> None:
    """Ended by another's word, the workflow is terminated and what it holds is released."""
    async with scene(stage, Step.RUNNING) as at:
        now = datetime.now(UTC)
        end = NewEvent(key="api:forced", type=EventType.TASK_CANCELLED, ts=now, attempt=1, source=EventSource.API)
        async with stage.database.begin("tests.force") as connection:
            await mirror.append(connection, at.task.task, [end])
        assert await did(await stage.sweep(), Action.TERMINATED, at.task)
        await until_seen(at.task, Seen.TERMINATED)
        await clean(at)


@pytest.mark.parametrize("point", ["engine.look:before", "engine.terminate:before", "sweeps.clean_up:before"])
async def test_an_ended_row_that_could_not_be_looked_at_is_looked_at_again(stage: Stage, point: str) -> None:
    """Engine or database is away for the first sweep; the second one does what the first one left."""
    async with scene(stage, Step.RUNNING) as at:
        end = NewEvent(
            key="api:forced", type=EventType.TASK_CANCELLED, ts=datetime.now(UTC), attempt=1, source=EventSource.API
        )
        async with stage.database.begin("tests.force") as connection:
            await mirror.append(connection, at.task.task, [end])

        def away(reached: str) -> None:
            if reached == point:
                raise lost(point)

        failpoints.arm(away)
        try:
            await stage.sweep()
        finally:
            failpoints.arm(None)
        await stage.sweep()
        await until_seen(at.task, Seen.TERMINATED)
        await clean(at)


@asynccontextmanager
async def paused_by_an_operator(task: Running) -> AsyncIterator[None]:
    """Hold the workflow as the UI's own button does."""
    client = task.stage.environment.client
    named = {"namespace": client.namespace, "workflow_id": task.handle.id, "request_id": "tests", "identity": "tests"}
    await client.workflow_service.pause_workflow_execution(PauseWorkflowExecutionRequest(**named, reason="lunch"))
    try:
        yield
    finally:
        await client.workflow_service.unpause_workflow_execution(UnpauseWorkflowExecutionRequest(**named))


async def test_a_workflow_that_an_operator_paused_is_flagged(stage: Stage) -> None:
    """The sweep survives what the SDK cannot read, and repairs the others."""
    held = await external(stage, Step.WORKSPACE_READY)
    lost = await external(stage, Step.WORKSPACE_READY)
    async with paused_by_an_operator(held):
        await until_seen(held, Seen.PAUSED)
        await lost.handle.terminate("an operator's word")
        for task in (held, lost):
            await old(task)
        report = await stage.sweep()
        assert await did(report, Action.FLAGGED_PAUSED, held)
        assert await did(report, Action.ENDED, lost)
    await held.handle.cancel()
    await held.end()


async def test_a_row_that_nobody_can_read_stops_nothing(stage: Stage) -> None:
    """It is told as `unreadable`, and the others are repaired."""
    bad, lost = await external(stage, Step.WORKSPACE_READY), await external(stage, Step.WORKSPACE_READY)
    await stage.execute(
        "UPDATE tasks SET spec = jsonb_set(spec, '{timeouts}', '{\"running\": \"x\"}') WHERE id = :t", t=bad.task
    )
    await lost.handle.terminate("an operator's word")
    for task in (bad, lost):
        await old(task)
    report = await stage.sweep()
    assert await did(report, Action.UNREADABLE, bad)
    assert await did(report, Action.ENDED, lost)
    await bad.handle.cancel()
    await bad.end()


async def test_a_dry_run_changes_nothing_and_says_what_it_would_do(stage: Stage) -> None:
    """The same report as the sweep that follows; row, log, ledger and outbox are as before."""
    async with scene(stage, Step.RUNNING) as at:
        await at.task.handle.terminate("an operator's word")
        await until_seen(at.task, Seen.TERMINATED)
        await old(at.task)
        before = (await at.task.row(), await at.task.events(), await at.task.holds())
        dry = await stage.sweep(dry_run=True)
        assert dry.dry_run
        assert await did(dry, Action.ENDED, at.task)
        assert (await at.task.row(), await at.task.events(), await at.task.holds()) == before
        assert await did(await stage.sweep(), Action.ENDED, at.task)
        await clean(at)


async def test_two_sweeps_at_once_end_an_attempt_once(stage: Stage) -> None:
    """One terminal event, and one of the reports says so."""
    tasks = [await external(stage, Step.WORKSPACE_READY) for _ in range(5)]
    for task in tasks:
        await task.handle.terminate("an operator's word")
        await old(task)
    reports = await asyncio.gather(*(stage.sweep() for _ in range(3)))
    for task in tasks:
        assert [await did(report, Action.ENDED, task) for report in reports].count(True) == 1
        ends = [event for event in await task.events() if event.type is EventType.TASK_FAILED]
        assert len(ends) == 1


async def test_a_sweep_that_races_live_flushes_writes_nothing(stage: Stage) -> None:
    """Tasks that end while they are swept, as old as any: each ends by its own word."""
    tasks = [await external(stage, Step.RUNNING) for _ in range(8)]
    for task in tasks:
        await old(task)
    sweeps = [asyncio.ensure_future(stage.sweep()) for _ in range(4)]
    await asyncio.gather(*(task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0) for task in tasks))
    await asyncio.gather(*sweeps)
    for task in tasks:
        assert (await task.end())["status"] == "completed"
        assert all(event.source is not EventSource.RECONCILER for event in await task.events())


async def test_an_orphan_on_a_node_is_destroyed(stage: Stage) -> None:
    """What no entry knows is gone; what an attempt holds stays."""
    async with scene(stage, Step.RUNNING) as at:
        orphan = WorkspaceId("01890000-0000-7000-8000-000000000001")
        at.node.workspaces.add(orphan)
        async with asyncio.timeout(60):
            while orphan in at.node.workspaces:
                report = await stage.sweep()
        assert report.ids[Action.ORPHAN_DESTROYED] == [f"{orphan} on {at.node.id}"]
        assert at.node.workspaces == {at.task.workspace}
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        assert (await at.task.end())["status"] == "completed"


async def test_what_an_ended_attempt_left_open_is_cleaned_up(stage: Stage) -> None:
    """Whose Cleanup was lost: the reaper stores its intent again."""
    async with scene(stage, Step.RUNNING) as at:
        await at.task.handle.terminate("an operator's word")
        await stage.execute("UPDATE tasks SET status = 'failed', finished_at = now() WHERE id = :t", t=at.task.task)
        await stage.execute(
            "UPDATE ledger SET updated_at = now() - interval '2 min' WHERE task_id = :t", t=at.task.task
        )
        report = await stage.sweep()
        assert report.ids[Action.CLEANED_UP] == [f"{at.task.task}-a1"]
        await clean(at)


async def test_a_sweep_costs_a_short_history(stage: Stage) -> None:
    """One activity for all the rows, and one for each node that is asked: at most 40 events."""
    client = stage.environment.client
    handle = await client.start_workflow(RECONCILE, SweepOrder(), id=f"short-{stage.queue}", task_queue=stage.queue)
    await handle.result()
    assert len((await handle.fetch_history()).events) <= 40


async def test_a_workflow_that_cannot_go_on_is_flagged(stage: Stage) -> None:
    """Temporal reports problems of it: the sweep tells so, and ends nothing."""
    task = Running(stage, await stage.create(provider="external"))
    client = stage.environment.client
    await client.start_workflow(TASK_RUNNER, {"no": "input"}, id=task.handle.id, task_queue=stage.queue)
    async with asyncio.timeout(60):
        while True:
            if (await stage.gateway.look(task.task, 1)).problems is not None:
                break
            await asyncio.sleep(0.2)
    await old(task)
    assert await did(await stage.sweep(), Action.FLAGGED_PROBLEMS, task)
    assert (await task.row())["status"] == "queued"
    await task.handle.terminate("the test is over")
    await stage.sweep()
