"""Each test of the contract, with each provider that makes workspaces on a node."""

import pytest

from tests.workspaces.conftest import Bench


@pytest.fixture(params=["local", pytest.param("docker", marks=pytest.mark.containers)])
def bench(request: pytest.FixtureRequest) -> Bench:
    """Give a bench of one provider."""
    name = {"local": "local_bench", "docker": "container_bench"}[request.param]
    return request.getfixturevalue(name)  # type: ignore[no-any-return]
