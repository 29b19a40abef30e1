"""The stages of the workflow suites."""

from collections.abc import AsyncIterator

import pytest
from temporalio.testing import WorkflowEnvironment

from tests.workflows.stage import Stage, bare_stage_on, stage_on


@pytest.fixture(scope="module")
async def stage(temporal: WorkflowEnvironment, database_url: str) -> AsyncIterator[Stage]:
    """Give a control plane in real time."""
    async with stage_on(temporal, database_url) as stage:
        yield stage


@pytest.fixture(scope="module")
async def bare_stage(temporal: WorkflowEnvironment, database_url: str) -> AsyncIterator[Stage]:
    """Give a control plane in real time whose workers the test starts and kills."""
    async with bare_stage_on(temporal, database_url) as stage:
        yield stage


@pytest.fixture(scope="module")
async def skipping_stage(skipping: WorkflowEnvironment, database_url: str) -> AsyncIterator[Stage]:
    """Give a control plane whose workflows skip the time that they wait."""
    async with stage_on(skipping, database_url) as stage:
        yield stage
