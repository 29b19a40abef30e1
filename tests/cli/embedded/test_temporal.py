import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from cli.embedded.processes import ChildFailedError
from cli.embedded.temporal import LOOPBACK, SEARCH_ATTRIBUTES, TemporalDevServer, free_port


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TemporalDevServer]:
    """Give a running server of the test's own."""
    server = TemporalDevServer(tmp_path / "temporal.db", log=tmp_path / "temporal.log", port=17233, ui_port=18233)
    await server.start()
    yield server
    await server.stop()


async def test_a_workflow_survives_kill_9_of_the_server(server: TemporalDevServer) -> None:
    """A workflow that waited is still running on the same address after kill -9 and a start on the same file."""
    keys = [SearchAttributeKey.for_keyword(name) for name in SEARCH_ATTRIBUTES]
    ours = TypedSearchAttributes([SearchAttributePair(key, "kept") for key in keys])
    client = await Client.connect(server.address)
    await client.start_workflow("Waits", id="waits", task_queue="nobody", search_attributes=ours)
    address, first = server.address, server.pid
    assert first

    os.kill(first, signal.SIGKILL)
    assert await server.exited() == -signal.SIGKILL
    await server.start()

    assert server.address == address
    again = await Client.connect(server.address)
    described = await again.get_workflow_handle("waits").describe()
    assert described.status == WorkflowExecutionStatus.RUNNING
    assert {key.name: described.typed_search_attributes[key] for key in keys} == dict.fromkeys(
        SEARCH_ATTRIBUTES, "kept"
    )


async def test_stop_leaves_no_process(server: TemporalDevServer) -> None:
    """After stop there is no process of the server."""
    pid = server.pid
    assert pid
    await server.stop()
    assert not psutil.pid_exists(pid)
    assert server.pid is None


async def test_a_taken_port_makes_it_take_the_next(server: TemporalDevServer, tmp_path: Path) -> None:
    """A second server that wants the same ports listens on others and says which."""
    second = TemporalDevServer(tmp_path / "second.db", log=tmp_path / "second.log", port=17233, ui_port=18233)
    await second.start()
    try:
        assert second.address != server.address
        assert second.ui_url != server.ui_url
        await Client.connect(second.address)
    finally:
        await second.stop()


def test_no_free_port_is_an_error() -> None:
    """When every port of the range is taken the error names the range."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
        with pytest.raises(ChildFailedError, match=f"no free port on {LOOPBACK} from {port} "):
            free_port(port, taken=range(port + 1, port + 200))
