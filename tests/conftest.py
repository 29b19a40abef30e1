"""Servers that several suites share: one PostgreSQL, one Temporal of each kind a session (a worker, under xdist)."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from cli.embedded.postgres import Postgres
from cli.embedded.temporal import TemporalDevServer, registration, temporal_cli

# How long an example takes says how busy the machine is, and nothing of our code.
settings.register_profile("taskrunner", deadline=None, max_examples=60)
settings.load_profile("taskrunner")

ENGINE = "TASKRUNNER_TEST_ENGINE"  # the address of a container engine
MIGRATED = "migrated"  # the template that every module's database is copied from
database_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def engine_address() -> str:
    """Give the address of a container engine."""
    if address := os.environ.get(ENGINE):
        return address
    pytest.skip("no container engine; `make test-containers` finds or starts one")


@pytest.fixture(scope="session")
async def postgres(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Postgres]:
    """Give a running PostgreSQL without fsync; `url(name)` and `create_database(name)` lead on.

    It is in a container where the environment names an image for it.
    """
    folder = tmp_path_factory.mktemp("postgres")
    server = Postgres(folder, fsync=False)
    if image := os.environ.get("TASKRUNNER_TEST_POSTGRES"):
        from tests.containers.postgres import ContainedPostgres  # noqa: PLC0415 - other runs need no engine's client

        server = ContainedPostgres(folder, engine=os.environ[ENGINE], image=image)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def migrated_template(postgres: Postgres) -> str:
    """Give the name of a database with every migration applied and no rows; copy it, do not connect to it."""
    from store.migrate import upgrade  # noqa: PLC0415 - only suites that need the schema pay for Alembic

    await postgres.create_database(MIGRATED)
    await asyncio.to_thread(upgrade, postgres.url(MIGRATED))
    return MIGRATED


@pytest.fixture(scope="module")
async def database_url(postgres: Postgres, migrated_template: str) -> AsyncIterator[str]:
    """Give the URL of a fresh, migrated database of this module's own."""
    name = f"test_{next(database_numbers)}"
    await postgres.create_database(name, template=migrated_template)
    yield postgres.url(name)
    await postgres.drop_database(name)


@pytest.fixture(scope="session")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    """Give a Temporal server in real time, with our search attributes and data converter.

    It lets operators pause a workflow, which Temporal leaves off by default, and reports at once that one cannot go on.
    """
    values = (
        "frontend.WorkflowPauseEnabled=true",
        "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute=2",
    )
    configuration = [part for value in values for part in ("--dynamic-config-value", value)]
    async with await WorkflowEnvironment.start_local(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=str(temporal_cli()),
        dev_server_extra_args=[*registration(), *configuration],
    ) as environment:
        yield environment


@pytest.fixture(scope="session")
def temporal_address(temporal: WorkflowEnvironment) -> str:
    """Give the address of the Temporal server in real time, for processes of their own."""
    return temporal.client.service_client.config.target_host


@pytest.fixture
async def own_temporal(tmp_path: Path) -> AsyncIterator[TemporalDevServer]:
    """Give a Temporal that a test may kill and start, or leave a schedule on."""
    server = TemporalDevServer(tmp_path / "t.db", log=tmp_path / "t.log", port=0, ui_port=0)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="session")
async def skipping() -> AsyncIterator[WorkflowEnvironment]:
    """Give a Temporal server where each workflow has a clock of its own that skips what it waits for."""
    skipping_enabled = ("--dynamic-config-value", "frontend.WorkflowTimeSkippingEnabled=true")
    async with await WorkflowEnvironment.start_time_skipping_v2(
        data_converter=pydantic_data_converter,
        dev_server_existing_path=str(temporal_cli()),
        dev_server_extra_args=[*registration(), *skipping_enabled],
    ) as environment:
        yield environment
