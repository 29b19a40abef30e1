"""Workers come and go: what arrives while none runs is there at once when one comes."""

import asyncio

from temporalio.api.enums.v1 import EventType as HistoryEvent

from domain.lifecycle import Step
from domain.names import SignalName
from tests.workflows.scenes import external
from tests.workflows.stage import Running, Stage


async def until_recorded(task: Running, kind: HistoryEvent.ValueType) -> None:
    """Wait until the server has recorded an event of this kind."""
    async with asyncio.timeout(10):
        while True:
            if kind in {event.event_type for event in (await task.history()).events}:
                return
            await asyncio.sleep(0.05)


async def test_a_cancel_before_the_first_workflow_task(bare_stage: Stage) -> None:
    """cancelled, with nothing reserved: the cancel was there before any worker."""
    task = await bare_stage.start(provider="external")
    await task.handle.cancel()
    async with bare_stage.worker():
        row = await task.end()
    assert (row["status"], await task.holds()) == ("cancelled", 0)


async def test_a_fact_beats_the_deadline_that_comes_with_it(bare_stage: Stage) -> None:
    """running, not timed out: the timer fired before the signal came, and a worker saw both at once."""
    async with bare_stage.worker():
        task = await external(bare_stage, Step.WORKSPACE_READY, timeouts={"workspace_ready": 1})
    await until_recorded(task, HistoryEvent.EVENT_TYPE_TIMER_FIRED)
    await task.signal(SignalName.WORKSPACE_READY)
    async with bare_stage.worker():
        await task.until("running")
        await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        assert (await task.end())["status"] == "completed"


async def test_a_cancel_beats_the_fact_that_comes_with_it(bare_stage: Stage) -> None:
    """An end either way, and mirror and workflow agree on which."""
    async with bare_stage.worker():
        task = await external(bare_stage, Step.RUNNING)
    await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
    await task.handle.cancel()
    async with bare_stage.worker():
        row = await task.end()
    assert row["status"] in {"completed", "cancelled"}
    assert await task.holds() == 0


async def test_many_tasks_never_take_more_slots_than_there_are(bare_stage: Stage) -> None:
    """All are completed, two at a time at most."""
    most = 0
    # With a cache: without one a worker takes one workflow task at a time, and nothing would be side by side.
    async with bare_stage.worker(max_cached_workflows=100), bare_stage.node(slots=2) as node:

        async def count(_: object) -> None:
            nonlocal most
            most = max(most, await bare_stage.used(node))

        async def finish() -> str:
            task = await bare_stage.start(node_labels={"node": node.id})
            await task.until("workspace_ready")
            await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
            return str((await task.end())["status"])

        node.script["create_workspace"] = count
        assert await asyncio.gather(*(finish() for _ in range(8))) == ["completed"] * 8
        assert (most, await bare_stage.used(node)) == (2, 0)
