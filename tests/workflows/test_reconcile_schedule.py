"""The schedule by which the reconciler sweeps: every start of a worker keeps it."""

import asyncio
from datetime import timedelta
from typing import Final

from temporalio.client import ScheduleOverlapPolicy

from domain.lifecycle import Step
from domain.names import RECONCILE_SCHEDULE
from tests.workflows.scenes import scene
from tests.workflows.stage import PATIENCE, Stage
from tests.workflows.sweeps import clean, old, swept
from workflows import schedule

EVERY: Final = timedelta(minutes=10)


async def test_the_schedule_is_kept_by_every_start(stage: Stage) -> None:
    """Made once, brought up to date by the next, left paused where an operator paused it, made anew when it is lost."""
    client = stage.environment.client
    handle = client.get_schedule_handle(RECONCILE_SCHEDULE)
    try:
        await asyncio.gather(*(schedule.keep(client, every=EVERY, queue=stage.queue) for _ in range(3)))
        async with asyncio.timeout(PATIENCE):
            # The engine takes pauses and updates as signals, and of those of one moment the pauses first: an update of
            # before may write over this one. Once it is to be seen there is none any more.
            while not (await handle.describe()).schedule.state.paused:
                await handle.pause(note="lunch")
                await asyncio.sleep(0.05)
        await schedule.keep(client, every=2 * EVERY, queue=stage.queue)
        found = (await handle.describe()).schedule
        assert [interval.every for interval in found.spec.intervals] == [2 * EVERY]
        assert found.state.paused
        assert found.policy.overlap is ScheduleOverlapPolicy.SKIP
        await handle.delete()
        await schedule.keep(client, every=EVERY, queue=stage.queue)
        assert not (await handle.describe()).schedule.state.paused
    finally:
        await handle.delete()


async def test_the_schedule_sweeps(stage: Stage) -> None:
    """What was terminated is repaired and nobody asked for it."""
    async with scene(stage, Step.RUNNING) as at, swept(stage):
        await at.task.handle.terminate("an operator's word")
        await old(at.task)
        await at.task.until(status="failed")
        await clean(at)
