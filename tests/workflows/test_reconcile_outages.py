"""Temporal or PostgreSQL goes away in the middle of a sweep: the schedule goes on afterwards."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from cli.embedded.postgres import Postgres
from cli.embedded.temporal import TemporalDevServer
from domain.lifecycle import Step
from store.migrate import upgrade
from tests.workflows.scenes import external
from tests.workflows.stage import Running, Stage, stage_on
from tests.workflows.sweeps import old, swept

LOCK: Final = text("SELECT FROM tasks WHERE id = :id FOR UPDATE")
# A sweep waits for the row that it is about to end.
SWEEPING: Final = (
    "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%end_attempt%'"
)


@pytest.fixture
async def own_postgres(tmp_path: Path) -> AsyncIterator[Postgres]:
    """Give a migrated PostgreSQL that a test may stop and start."""
    server = Postgres(tmp_path / "pg", fsync=False)
    await server.start()
    upgrade(server.url())
    yield server
    await server.stop()


async def terminated(stage: Stage) -> Running:
    """Give a task whose workflow was terminated some time ago."""
    task = await external(stage, Step.WORKSPACE_READY)
    await task.handle.terminate("an operator's word")
    await old(task)
    return task


async def environment_of(server: TemporalDevServer) -> WorkflowEnvironment:
    """Connect to a server of the test's own."""
    client = await Client.connect(server.address, data_converter=pydantic_data_converter)
    return WorkflowEnvironment.from_client(client)


async def stopped_in_a_sweep(stage: Stage, task: Running, server: Postgres) -> None:
    """Stop the database while a sweep waits for this task's row, which this connection holds until it is cut."""
    async with stage.database.begin("tests.lock") as connection:
        await connection.execute(LOCK, {"id": task.task})
        await stage.until(SWEEPING)
        await server.stop()


async def test_the_database_goes_away_in_a_sweep(temporal: WorkflowEnvironment, own_postgres: Postgres) -> None:
    """The sweep fails, those while it is away too, and one of the next repairs the task."""
    async with stage_on(temporal, own_postgres.url()) as stage:
        task = await terminated(stage)
        async with swept(stage):
            with pytest.raises(DBAPIError):
                await stopped_in_a_sweep(stage, task, own_postgres)
            await own_postgres.start()
            assert (await task.until(status="failed"))["error"]["code"] == "terminated"


async def test_temporal_is_killed_in_a_sweep(own_temporal: TemporalDevServer, database_url: str) -> None:
    """The sweep mends what it had begun, and the schedule goes on when the server is back."""
    async with stage_on(await environment_of(own_temporal), database_url) as stage:
        first = await terminated(stage)
        async with swept(stage):
            async with stage.database.begin("tests.lock") as connection:
                await connection.execute(LOCK, {"id": first.task})
                await stage.until(SWEEPING)
                assert own_temporal.pid
                os.kill(own_temporal.pid, signal.SIGKILL)
                await own_temporal.exited()
            await first.until(status="failed")
            await own_temporal.start()
            second = await terminated(stage)
            assert (await second.until(status="failed"))["error"]["code"] == "terminated"


async def test_temporal_has_lost_its_state(tmp_path: Path, own_temporal: TemporalDevServer, database_url: str) -> None:
    """The schedule is made anew, and what was under way ends as `workflow_lost`."""
    async with stage_on(await environment_of(own_temporal), database_url) as stage:
        task = await external(stage, Step.WORKSPACE_READY)
        await old(task)
        await own_temporal.stop()
        for file in tmp_path.glob("t.db*"):
            file.unlink()
        await own_temporal.start()
        async with swept(stage):
            assert (await task.until(status="failed"))["error"]["code"] == "workflow_lost"
