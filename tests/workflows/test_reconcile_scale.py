"""What a sweep costs: many open rows, of which few need it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from domain.ids import new_id
from domain.names import TASK_RUNNER, TaskId, workflow_id
from domain.reconcile import Action, Seen
from tests.workflows.stage import Stage

# Rows, those killed, late and lost, and those alive that a sweep would look at besides.
ALL: Final = pytest.param(10_000, (20, 20, 10), 500, id="all", marks=pytest.mark.campaign)
SHARE: Final = pytest.param(60, (4, 4, 2), 50, id="share")
LIMIT: Final = 5.0
DESCRIBES: Final = 500
# Tasks that wait for their workspace's call since five minutes; all but the first `alive` were looked at just now.
INSERT: Final = """
INSERT INTO tasks (id, project, name, status, step, step_started_at, labels, spec, version, last_seq,
                   created_at, updated_at, checked_at)
SELECT id, 'default', 'waiting', 'delegated', 'workspace_ready', clock_timestamp() - interval '5 min', '{}',
       '{"command": ["true"], "provider": "external", "retry": {"max_attempts": 1}}', 1, 0,
       clock_timestamp() - interval '1 h', clock_timestamp(), CASE WHEN n > :alive THEN clock_timestamp() END
FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS given (id, n)
"""
MAKE_LATE: Final = "UPDATE tasks SET step_started_at = step_started_at - interval '1 h' WHERE id = ANY(:ids)"


async def each(tasks: Sequence[TaskId], work: Callable[[TaskId], Awaitable[object]]) -> None:
    """Do it for all of them, some at once."""
    at_once = asyncio.Semaphore(32)

    async def one(task: TaskId) -> None:
        async with at_once:
            await work(task)

    await asyncio.gather(*(one(task) for task in tasks))


@pytest.mark.parametrize(("rows", "wrong", "others"), [SHARE, ALL])
async def test_fifty_of_ten_thousand_are_mended_in_one_sweep(
    stage: Stage, record_property: Callable[[str, object], None], rows: int, wrong: tuple[int, int, int], others: int
) -> None:
    """In under 5 s with at most 500 describes: those who were killed lately, and those whose deadline has passed."""
    client = stage.environment.client
    tasks = [TaskId(new_id()) for _ in range(rows)]
    alive, rest = tasks[:others], tasks[others:]
    killed, late, lost = rest[: wrong[0]], rest[wrong[0] : wrong[0] + wrong[1]], rest[-wrong[2] :]
    await stage.execute(INSERT, ids=tasks, alive=others)
    await stage.execute(MAKE_LATE, ids=late + lost)

    async def start(task: TaskId) -> None:
        await client.start_workflow(TASK_RUNNER, id=workflow_id(task, 1), task_queue="nobody-works-here")

    async def kill(task: TaskId) -> None:
        await client.get_workflow_handle(workflow_id(task, 1)).terminate("an operator's word")

    await each(alive + killed + late, start)
    await each(killed + late, kill)
    async with asyncio.timeout(20):
        while True:
            if {(task, 1) for task in killed} <= {
                *await stage.gateway.killed(datetime.now(UTC) - timedelta(minutes=5), limit=200)
            }:
                break
            await asyncio.sleep(0.1)
    began = time.monotonic()
    report = await stage.sweep()
    seconds = time.monotonic() - began
    record_property("seconds", seconds)
    assert report.counts == {Action.ENDED: sum(wrong)}
    assert report.open_rows == rows
    assert report.described <= DESCRIBES
    assert seconds < LIMIT
    assert (await stage.gateway.look(alive[0], 1)).seen is Seen.RUNNING
    await each(alive, kill)
    await stage.execute("DELETE FROM tasks WHERE id = ANY(:ids)", ids=tasks)
