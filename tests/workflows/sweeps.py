"""What sweeps find, and how the schedule has them look."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

from domain.names import RECONCILE_SCHEDULE
from tests.workflows.scenes import Scene
from tests.workflows.stage import Running, Stage
from workflows import schedule

EMPTY: Final = "SELECT count(*) = 0 FROM ledger WHERE task_id = '{}' AND state <> 'released'"


async def old(task: Running) -> None:
    """Let the row have been as it is for longer than a sweep leaves it alone."""
    await task.stage.execute(
        "UPDATE tasks SET updated_at = updated_at - interval '5 min',"
        " step_started_at = step_started_at - interval '5 min' WHERE id = :id",
        id=task.task,
    )


async def clean(at: Scene) -> None:
    """Wait until the Cleanup has released all."""
    await at.task.stage.until(EMPTY.format(at.task.task))
    await at.assert_clean()


@asynccontextmanager
async def swept(stage: Stage) -> AsyncIterator[None]:
    """Sweep every second."""
    client = stage.environment.client
    await schedule.keep(client, every=timedelta(seconds=1), queue=stage.queue)
    try:
        yield
    finally:
        await client.get_schedule_handle(RECONCILE_SCHEDULE).delete()
