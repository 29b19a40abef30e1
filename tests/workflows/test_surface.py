"""What an operator sees in Temporal, and what a task costs there."""

import asyncio

from temporalio.api.enums.v1 import EventType as HistoryEvent
from temporalio.api.sdk.v1 import WorkflowMetadata

from domain.lifecycle import Step
from domain.names import SignalName
from tests.workflows.scenes import CLAIMED, FINISHED, READY, external, scene
from tests.workflows.stage import Running, Stage


async def search_attributes(task: Running) -> dict[str, str]:
    """What the server lists a task by."""
    found = (await task.handle.describe()).typed_search_attributes
    return {pair.key.name: str(pair.value) for pair in found}


async def summaries(task: Running) -> list[str]:
    """Each one-line summary of the history, in order."""
    convert = task.stage.environment.client.data_converter.payload_converter
    found = [event.user_metadata.summary for event in (await task.history()).events]
    return [convert.from_payload(summary) for summary in found if summary.data]


async def until_attributes(task: Running, **expected: str) -> None:
    """Wait until the server lists the task so."""
    async with asyncio.timeout(10):
        while True:
            if (await search_attributes(task)).items() >= expected.items():
                return
            await asyncio.sleep(0.02)


async def test_the_history_reads_as_a_story(stage: Stage) -> None:
    """A static summary for the whole, and one line for each activity and timer."""
    async with scene(stage, Step.RUNNING, name="tidy up") as at:
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        await at.task.end()
        description = await at.task.handle.describe()
        assert await description.static_summary() == "tidy up · attempt 1"
        told = await summaries(at.task)
        assert {"create the workspace", "start turn 1", "look after turn 1", "destroy the workspace"} <= {*told}
        assert "workspace_ready deadline" in told


async def test_the_details_say_what_the_task_waits_for(stage: Stage) -> None:
    """The step and its deadline in one line of Markdown; the outcome at the end."""
    task = await external(stage, Step.WORKSPACE_READY)
    waiting = await task.handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    assert waiting.current_details.startswith("**workspace_ready**: waits until ")
    await task.handle.cancel()
    await task.end()
    ended = await task.handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    assert ended.current_details == "**cancelled**"


async def test_operators_find_tasks_by_status(stage: Stage) -> None:
    """The search attributes follow the status, and are written only when it changes."""
    task = await external(stage, Step.WORKSPACE_READY)
    await until_attributes(task, TaskStatus="delegated", ProjectId="default")
    await task.signal(SignalName.WORKSPACE_READY)
    await until_attributes(task, TaskStatus="in_progress", TaskStep="running")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    await task.end()
    assert (await search_attributes(task))["TaskStatus"] == "completed"
    kinds = [event.event_type for event in (await task.history()).events]
    assert kinds.count(HistoryEvent.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES) == 3


async def test_what_an_external_task_costs(stage: Stage) -> None:
    """At most 40 events and 5 flushes, with every callback on its own."""
    task = await external(stage, Step.WORKSPACE_DISPATCH)
    await task.signal(SignalName.WORKSPACE_CLAIMED)
    await task.until("workspace_ready")
    await task.signal(SignalName.WORKSPACE_READY)
    await task.until("running")
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    await task.end()
    assert len((await task.history()).events) <= 40
    assert await task.flushes() == ["reserve_workspace", "flush", "flush", "conclude"]


async def test_what_a_local_task_costs(stage: Stage) -> None:
    """At most 50 events and 5 flushes."""
    async with scene(stage, Step.RUNNING) as at:
        await at.task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        await at.task.end()
        assert len((await at.task.history()).events) <= 50
        assert await at.task.flushes() == ["reserve_workspace", "flush", "flush", "flush", "conclude"]


async def test_a_task_that_hears_everything_at_once_costs_least(stage: Stage) -> None:
    """Three flushes: the reservation, the entry into `running`, the end."""
    task = await stage.start(provider="external", told=[CLAIMED, READY, FINISHED])
    await task.end()
    assert await task.flushes() == ["reserve_workspace", "flush", "conclude"]


async def test_a_wait_costs_one_timer_and_no_sql(skipping_stage: Stage) -> None:
    """One timer in 30 minutes, and not one activity between its start and its end."""
    task = await skipping_stage.start(provider="external", told=[CLAIMED])
    await task.end()
    kinds = [event.event_type for event in (await task.history()).events]
    began, ended = kinds.index(HistoryEvent.EVENT_TYPE_TIMER_STARTED), kinds.index(HistoryEvent.EVENT_TYPE_TIMER_FIRED)
    assert kinds.count(HistoryEvent.EVENT_TYPE_TIMER_STARTED) == 1
    assert HistoryEvent.EVENT_TYPE_MARKER_RECORDED not in kinds[began:ended]


async def test_every_step_is_readable_while_it_lasts(stage: Stage) -> None:
    """A slow cleanup is in the mirror although a quick one costs no flush of its own."""
    async with scene(stage, Step.CLEANUP) as at:
        row = await at.task.row()
        assert (row["step"], row["status"]) == ("cleanup", "in_progress")
        at.gate.opened.set()
        assert (await at.task.end())["status"] == "completed"
        assert (await at.task.flushes())[-2:] == ["flush", "conclude"]
