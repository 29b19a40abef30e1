"""API processes on a real PostgreSQL, with an engine or without."""

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from tests.api.harness import Api, serve
from workflows.gateway import Gateway

NOBODY = "127.0.0.1:1"  # a port where nothing listens: Temporal is away


@pytest.fixture(scope="module")
async def nowhere() -> Gateway:
    """Give a gateway to an engine that is away."""
    return Gateway(await Client.connect(NOBODY, lazy=True, data_converter=pydantic_data_converter))


@pytest.fixture(scope="module")
async def api(database_url: str, nowhere: Gateway) -> AsyncIterator[Api]:
    """Give an API whose engine is away."""
    async for served in serve(database_url, nowhere):
        yield served


@pytest.fixture(scope="module")
async def engine_api(database_url: str, temporal: WorkflowEnvironment) -> AsyncIterator[Api]:
    """Give an API with an engine that has no workers: it takes starts and signals, and nothing else writes.

    The queue is this suite's own: the server is shared, and another suite's worker must not find its tasks.
    """
    async for served in serve(database_url, Gateway(temporal.client, queue="nobody-works-here")):
        yield served
