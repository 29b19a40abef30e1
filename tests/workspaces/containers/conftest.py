"""Workspaces in containers."""

import pytest

from tests.workspaces.conftest import ContainerBench


@pytest.fixture
def bench(container_bench: ContainerBench) -> ContainerBench:
    """Give a bench of containers."""
    return container_bench
