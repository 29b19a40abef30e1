"""The Cleanup of an attempt that has ended: destroys what the ledger says is held, then releases it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from domain.errors import Category, Failure
from domain.events import EventType
from domain.lifecycle import Step
from domain.messages import Verdict
from domain.names import CLEANUP, SignalName, cleanup_id
from domain.policy import Budgets, Policy, StepRetry
from store import repairs
from tests.store.rows import event
from tests.workflows.scenes import Scene, scene
from tests.workflows.stage import Running, Stage
from workflows.gateway import Sent

QUICK = Policy(budgets=Budgets(cleanup=timedelta(seconds=1)), step_retry=StepRetry(first_delay=timedelta(seconds=0.05)))
EMPTY = "SELECT count(*) = 0 FROM ledger WHERE task_id = '{}' AND state <> 'released'"
DUE = "SELECT due_at > clock_timestamp() + interval '{} s' FROM outbox WHERE task_id = '{}' AND kind = 'start'"
BUSY = Failure("busy", "The node is busy.", category=Category.INFRASTRUCTURE, transient=True)
BROKEN = Failure("broken", "The node is broken.", category=Category.INFRASTRUCTURE)


def cleanup_of(task: Running) -> WorkflowHandle[Any, Any]:
    """Give the handle of the Cleanup of this attempt."""
    return task.stage.environment.client.get_workflow_handle(cleanup_id(task.task, task.attempt))


async def ended(task: Running) -> None:
    """Terminate the attempt's workflow and write its end, as force and reconciler do; its Cleanup starts by itself."""
    await task.handle.terminate("lost")
    async with task.stage.database.begin("tests.end_attempt") as connection:
        version = (await task.row())["version"]
        lost = event(EventType.TASK_FAILED, "1:lost", error={"code": "lost"})
        repair = await repairs.end_attempt(connection, task.task, task.attempt, version, [lost])
    assert repair.verdict is Verdict.APPLIED
    task.stage.dispatcher.poke()


async def released(task: Running) -> dict[str, Any]:
    """Wait for the Cleanup that somebody else starts, and give its result."""
    await task.stage.until(EMPTY.format(task.task))
    return dict(await cleanup_of(task).result())


@asynccontextmanager
async def at(stage: Stage, step: Step = Step.WORKSPACE_READY, **body: Any) -> AsyncIterator[Scene]:
    """Bring a local task somewhere."""
    async with scene(stage, step, **body) as found:
        yield found


async def test_what_an_ended_attempt_held_is_destroyed_and_released(stage: Stage) -> None:
    """No workspace, slot or entry is left, and a second Cleanup finds nothing to do."""
    async with at(stage) as found:
        await ended(found.task)
        result = await released(found.task)
        assert result == {"live": False, "destroyed": [found.task.workspace], "granted": 0}
        await found.assert_clean()
        assert await stage.gateway.clean_up(found.task.task, 1, QUICK) is Sent.DELIVERED
        assert (await cleanup_of(found.task).result())["destroyed"] == []
        assert len(found.node.calls["destroy_workspace"]) == 1


async def test_a_live_attempt_is_left_alone(stage: Stage) -> None:
    """Neither destroyed nor released, and the attempt completes."""
    async with at(stage) as found:
        await stage.gateway.clean_up(found.task.task, 1, QUICK)
        assert (await cleanup_of(found.task).result())["live"] is True
        assert not found.node.calls["destroy_workspace"]
        await found.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        assert (await found.task.end())["status"] == "completed"


async def test_a_deleted_task_is_cleaned_up(stage: Stage) -> None:
    """The ledger has outlived the row, and is enough."""
    async with at(stage) as found:
        await found.task.handle.terminate("lost")
        await stage.execute("DELETE FROM tasks WHERE id = :id", id=found.task.task)
        await stage.gateway.clean_up(found.task.task, 1, QUICK)
        assert (await cleanup_of(found.task).result())["destroyed"] == [found.task.workspace]
        await found.assert_clean()


async def test_a_transient_failure_is_tried_again(stage: Stage) -> None:
    """Destroyed by the third call."""
    async with at(stage) as found:
        node = found.node

        async def fail(_: object) -> None:
            if len(node.calls["destroy_workspace"]) < 3:
                raise BUSY

        node.script["destroy_workspace"] = fail
        await found.task.handle.terminate("lost")
        await stage.execute("UPDATE tasks SET status = 'failed' WHERE id = :id", id=found.task.task)
        await stage.gateway.clean_up(found.task.task, 1, Policy(step_retry=QUICK.step_retry))
        await cleanup_of(found.task).result()
        assert len(node.calls["destroy_workspace"]) == 3
        await found.assert_clean()


@pytest.mark.parametrize(("failure", "category"), [(BROKEN, "workspace"), (None, "runtime_lost")])
async def test_a_cleanup_that_failed_may_begin_again(stage: Stage, failure: Failure | None, category: str) -> None:
    """Failed with its category while the node refuses, or does not answer in time; then done by the next one."""
    async with at(stage) as found:

        async def refuse(argument: object) -> None:
            if failure is None:
                await found.gate(argument)
            else:
                raise failure

        found.node.script["destroy_workspace"] = refuse
        await found.task.handle.terminate("lost")
        await stage.execute("UPDATE tasks SET status = 'failed' WHERE id = :id", id=found.task.task)
        await stage.gateway.clean_up(found.task.task, 1, QUICK)
        with pytest.raises(WorkflowFailureError) as caught:
            await cleanup_of(found.task).result()
        assert isinstance(caught.value.cause, ApplicationError)
        assert (caught.value.cause.type, await found.task.holds()) == (category, 2)
        found.gate.opened.set()
        del found.node.script["destroy_workspace"]
        await stage.gateway.clean_up(found.task.task, 1, QUICK)
        await cleanup_of(found.task).result()
        await found.assert_clean()


async def test_an_external_workspace_is_only_released(stage: Stage) -> None:
    """No node is asked, and the ledger is empty."""
    task = await stage.start(provider="external")
    await task.until("workspace_dispatch")
    await ended(task)
    assert (await released(task))["destroyed"] == []


async def test_a_cleanup_that_outlasted_its_budget_goes_on_by_itself(stage: Stage) -> None:
    """The attempt ends with `cleanup: pending`; when the node answers again, its Cleanup leaves nothing."""
    async with at(stage, Step.CLEANUP, timeouts={"cleanup": 1}) as found:
        row = await found.task.end()
        last = (await found.task.events())[-1]
        assert (row["status"], last.data["cleanup"]) == ("completed", "pending")
        found.gate.opened.set()
        assert (await released(found.task))["destroyed"] == [found.task.workspace]
        await found.assert_clean()


async def test_no_attempt_starts_while_the_old_agent_may_live(stage: Stage) -> None:
    """Due when the lease has run out, which is long after the backoff: there are never two agents on one task."""
    retry = {"max_attempts": 2, "backoff": 0.001}
    async with at(stage, Step.RUNNING, retry=retry, timeouts={"cleanup": 1}) as found:
        found.node.script["destroy_workspace"] = found.gate
        await found.task.signal(SignalName.WORKSPACE_FAILED)
        row = await found.task.end()
        assert (row["status"], row["attempt"]) == ("queued", 2)
        lease = stage.policy.supervision.lease.total_seconds()
        await stage.until(DUE.format(lease - 5, found.task.task))
        found.gate.opened.set()
        await released(found.task)


async def test_the_ui_tells_what_a_cleanup_does(stage: Stage) -> None:
    """The workflow has a summary, its activity too, and its details say how it ended."""
    async with at(stage) as found:
        await ended(found.task)
        await released(found.task)
        described = await cleanup_of(found.task).describe()
        assert described.workflow_type == CLEANUP
        assert await described.static_summary() == "clean up after attempt 1"
        assert found.task.handle.id in (await described.static_details() or "")
        scheduled = [
            entry.user_metadata.summary.data
            for entry in (await cleanup_of(found.task).fetch_history()).events
            if entry.HasField("activity_task_scheduled_event_attributes")
        ]
        assert scheduled == [f'"destroy {found.task.workspace}"'.encode()]
