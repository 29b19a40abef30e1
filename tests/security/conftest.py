"""API processes on a real PostgreSQL whose engine is away."""

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from tests.api.harness import Api, serve
from workflows.gateway import Gateway


@pytest.fixture(scope="module")
async def nowhere() -> Gateway:
    """Give a gateway to an engine that is away."""
    return Gateway(await Client.connect("127.0.0.1:1", lazy=True, data_converter=pydantic_data_converter))


@pytest.fixture(scope="module")
async def api(database_url: str, nowhere: Gateway) -> AsyncIterator[Api]:
    """Give an API whose engine is away."""
    async for served in serve(database_url, nowhere):
        yield served
