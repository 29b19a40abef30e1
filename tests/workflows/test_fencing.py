"""Fencing: a write that an abandoned workflow task has committed, and the workflow that does not remember it.

A local activity's result is recorded when its workflow task completes. If that task fails, because a cancel arrives
or its worker dies, it is done again with a newer history, and may take another way.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType as HistoryEvent
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.failures import FailureInterceptor
from domain.lifecycle import Step
from domain.names import SignalName
from tests.workflows.scenes import CLAIMED, FINISHED, READY, external, scene
from tests.workflows.stage import Running, Stage

ROOT = Path(__file__).parents[2]
MORTAL = "tests.workflows.mortal"


class AfterCommit(Interceptor):
    """Does something once, after a call of the mirror has committed and before its worker knows.

    With `away` set, such a call finds no database until it is cleared.
    """

    def __init__(self, call: str) -> None:
        self.call = call
        self.then: Any = None
        self.away = False

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        return _Watched(next, self)


class _Watched(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, watch: AfterCommit) -> None:
        super().__init__(following)
        self.watch = watch

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's own name
        if activity.info().activity_type == self.watch.call and self.watch.away:
            raise ConnectionError("no database")
        result = await super().execute_activity(input)
        if activity.info().activity_type == self.watch.call and self.watch.then is not None:
            then, self.watch.then = self.watch.then, None
            await then()
        return result


@asynccontextmanager
async def worker_with(stage: Stage, watch: AfterCommit) -> AsyncIterator[None]:
    """Run a control worker that is watched."""
    async with stage.worker(interceptors=[FailureInterceptor(), watch]):
        yield


async def tasks_failed(task: Running) -> int:
    """How many workflow tasks of the history were done again."""
    redone = (HistoryEvent.EVENT_TYPE_WORKFLOW_TASK_FAILED, HistoryEvent.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)
    return sum(event.event_type in redone for event in (await task.history()).events)


async def one_more_task(task: Running) -> None:
    """Wait until a workflow task has been completed with its local activity still under way."""
    done = HistoryEvent.EVENT_TYPE_WORKFLOW_TASK_COMPLETED

    async def completed() -> int:
        return sum(event.event_type == done for event in (await task.history()).events)

    before = await completed()
    for _ in range(150):
        if await completed() > before:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("no workflow task was completed meanwhile")


async def test_a_terminal_flush_that_commits_while_a_cancel_arrives(bare_stage: Stage) -> None:
    """Completed in the mirror and in Temporal, with one result: the redone task adopts the row's outcome."""
    watch = AfterCommit("conclude")
    async with worker_with(bare_stage, watch):
        task = await external(bare_stage, Step.RUNNING)

        async def cancel() -> None:
            await task.handle.cancel()

        watch.then = cancel
        await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0, result={"n": 1})
        row = await task.end()
    assert (row["status"], row["result"]) == ("completed", {"n": 1})
    assert (await task.handle.result())["result"] == {"n": 1}
    assert await tasks_failed(task) == 1
    assert (await task.story()).count("task.completed") == 1


async def test_a_redone_task_that_takes_the_cancels_way_adopts_what_was_committed(bare_stage: Stage) -> None:
    """Completed on both sides: the first try saw the silence of a conversation, the redo sees the cancel as well."""
    watch = AfterCommit("conclude")
    async with worker_with(bare_stage, watch):
        timeouts = {"awaiting_followup": 1}
        told = [CLAIMED, READY, FINISHED.model_copy(update={"result": "told"})]
        task = Running(bare_stage, await bare_stage.create(provider="external"))

        async def cancel() -> None:
            await task.handle.cancel()

        watch.then = cancel
        for callback in told:
            await task.tell(callback)
        await bare_stage.begin(task, provider="external", followup=True, timeouts=timeouts)
        row = await task.end()
    assert (row["status"], row["result"]) == ("completed", "told")
    assert (await task.handle.result())["result"] == "told"
    assert await tasks_failed(task) == 1


async def test_a_retry_that_commits_while_a_cancel_arrives(bare_stage: Stage) -> None:
    """The attempt is over in the mirror: the cancel of its workflow came too late, and writes nothing any more."""
    watch = AfterCommit("conclude")
    async with worker_with(bare_stage, watch):
        task = await external(bare_stage, Step.RUNNING, retry={"max_attempts": 2, "backoff": 1000})

        async def cancel() -> None:
            await task.handle.cancel()

        watch.then = cancel
        await task.signal(SignalName.WORKSPACE_FAILED)
        row = await task.end()
    assert (row["status"], row["attempt"]) == ("queued", 2)
    assert "task.cancelled" not in await task.story()


async def test_a_conclusion_that_was_begun_in_an_earlier_workflow_task_adopts_what_its_redo_has_written(
    bare_stage: Stage,
) -> None:
    """Cancelled on both sides, once: the redo sends its first, older write again, and finds the end of the other try.

    With the database away, the first write outlasts the task in which it was begun. It is withheld for a stored
    cancel, the attempt ends as cancelled, and then that task is done again, because the cancel arrives at Temporal.
    """
    watch = AfterCommit("conclude")
    async with worker_with(bare_stage, watch):
        task = await external(bare_stage, Step.RUNNING, retry={"max_attempts": 2, "backoff": 1000})
        watch.away = True
        await task.until("running")
        await task.signal(SignalName.WORKSPACE_FAILED)
        await one_more_task(task)
        await bare_stage.execute("UPDATE tasks SET cancel_requested_at = now() WHERE id = :id", id=task.task)

        async def ended() -> None:
            async def cancel() -> None:
                await task.handle.cancel()

            watch.then = cancel  # the second write ends the task

        watch.then, watch.away = ended, False
        row = await task.end()
    assert row["status"] == "cancelled"
    assert (await task.story()).count("task.cancelled") == 1
    description = await task.handle.describe()
    assert description.status is WorkflowExecutionStatus.CANCELED


@pytest.mark.parametrize("call", ["flush", "reserve_workspace"])
async def test_a_flush_that_commits_while_a_cancel_arrives(bare_stage: Stage, call: str) -> None:
    """Cancelled on both sides; what was committed before stays in the log, once."""
    watch = AfterCommit(call)
    async with worker_with(bare_stage, watch):
        task = Running(bare_stage, await bare_stage.create(provider="external"))

        async def cancel() -> None:
            await task.handle.cancel()

        watch.then = cancel
        for callback in (CLAIMED, READY):
            await task.tell(callback)
        await bare_stage.begin(task, provider="external")
        row = await task.end()
        assert (row["status"], await task.holds()) == ("cancelled", 0)
        story = await task.story()
        assert len(story) == len({(event.type, event.step, str(event.data)) for event in await task.events()})
        assert "task.delegated" in story


@asynccontextmanager
async def mortal(
    stage: Stage, address: str, call: str, times: int, *, cached: int = 0
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a control worker, in a process of its own, that dies right after a commit."""
    arguments = (address, stage.url, stage.queue, call, str(times), str(cached))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MORTAL, *arguments, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize(("call", "times"), [("reserve_workspace", 1), ("flush", 2), ("conclude", 1)])
async def test_a_kill_between_flush_and_workflow_task_completion(
    bare_stage: Stage, temporal_address: str, call: str, times: int
) -> None:
    """Completed by another worker: each event once, `seq` without a gap, one workspace, one slot."""
    async with bare_stage.node(slots=1) as node:
        task = Running(bare_stage, await bare_stage.create())
        await task.tell(READY)
        async with mortal(bare_stage, temporal_address, call, times) as process:
            await bare_stage.begin(task, node_labels={"node": node.id})
            if call == "conclude":
                await task.until("running")
                await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
            async with asyncio.timeout(30):
                assert await process.wait() == -9
        async with bare_stage.worker():
            if call != "conclude":
                await task.until("running")
                await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
            row = await task.end()
        assert row["status"] == "completed"
        assert await tasks_failed(task) == 1
        await assert_once(task)
        assert len({order.workspace_id for order in node.calls["create_workspace"]}) == 1
        assert (await task.holds(), await bare_stage.used(node), node.workspaces) == (0, 0, set())


async def test_two_kills_in_a_row_at_one_workflow_task(bare_stage: Stage, temporal_address: str) -> None:
    """Completed without a detour: the server writes no event for the second failure, but its redo is newer still.

    The second try has entered the queue; the third finds the slot that was granted meanwhile, and reserves at once.
    """
    async with bare_stage.node(slots=0) as node:
        task = Running(bare_stage, await bare_stage.create())
        await bare_stage.begin(task, node_labels={"node": node.id})
        for _ in range(2):
            async with mortal(bare_stage, temporal_address, "wait_for_slot", 1) as process, asyncio.timeout(30):
                assert await process.wait() == -9
        await bare_stage.set_slots(node, 1, told=False)
        async with bare_stage.worker():
            await task.until("workspace_ready")
            await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
            row = await task.end()
        assert row["status"] == "completed"
        assert await tasks_failed(task) == 1
        await assert_once(task)
        assert "slot_lost" not in {event.data.get("outcome") for event in await task.events()}
        assert (await task.holds(), await bare_stage.used(node)) == (0, 0)


async def test_an_attempt_that_was_superseded_only_cleans_up(bare_stage: Stage) -> None:
    """No event more from attempt 1, whose workspace and slot are gone; attempt 2 owns the row."""
    async with bare_stage.worker(), scene(bare_stage, Step.WORKSPACE_READY) as at:
        before = await at.task.story()
        await bare_stage.execute(
            "UPDATE tasks SET attempt = 2, status = 'queued', version = 0 WHERE id = :id", id=at.task.task
        )
        await at.task.signal(SignalName.WORKSPACE_READY)
        with pytest.raises(Exception, match="Workflow execution failed") as failure:
            await at.task.handle.result()
        assert isinstance(failure.value.__cause__, ApplicationError)
        assert failure.value.__cause__.type == "superseded"
        assert await at.task.story() == before
        row = await at.task.row()
        assert (row["status"], row["attempt"]) == ("queued", 2)
        await at.assert_clean()


async def test_an_attempt_that_was_ended_from_outside_adopts_the_outcome(bare_stage: Stage) -> None:
    """Cancelled on both sides, after the row was forced; workspace and slot are released."""
    async with bare_stage.worker(), scene(bare_stage, Step.WORKSPACE_READY) as at:
        await bare_stage.execute("UPDATE tasks SET status = 'cancelled' WHERE id = :id", id=at.task.task)
        before = await at.task.story()
        await at.task.signal(SignalName.WORKSPACE_READY)
        with pytest.raises(Exception, match="Workflow execution failed") as failure:
            await at.task.handle.result()
        assert isinstance(failure.value.__cause__, ApplicationError)
        assert failure.value.__cause__.type == "cancelled"
        assert await at.task.story() == before
        await at.assert_clean()


async def assert_once(task: Running) -> None:
    """No event comes twice (`end` has checked numbers and fold)."""
    story = await task.story()
    assert story == list(dict.fromkeys(story))
