"""The two programs of the image that are not the CLI, on real servers."""

import socket

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from deploy.polling import polls
from deploy.prepare import prepare
from domain.ids import new_id
from domain.names import Scope
from settings import Settings
from store import keys
from store.engine import Database
from tests.deploy.idle import Idle


async def test_prepare_makes_the_first_keys(
    database_url: str, temporal_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An admin key and the node's own, once; the search attributes that were there are not added again."""
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal_address)
    settings = Settings.model_validate({"database_url": database_url, "node_token": "tr_node", "node_id": "node-1"})
    assert [await prepare(settings, "tr_admin") for _ in range(2)] == [[], []]
    database = Database(database_url, pool=1)
    async with database.commit("test") as connection:
        admin, node = [await keys.find(connection, keys.sha256_of(key)) for key in ("tr_admin", "tr_node")]
    await database.close()
    assert admin is not None
    assert node is not None
    assert (admin["scopes"], admin["node_id"]) == ([Scope.ADMIN], None)
    assert (set(node["scopes"]), node["node_id"]) == ({Scope.NODES_WRITE}, "node-1")


async def test_a_worker_that_polls_is_healthy(temporal: WorkflowEnvironment) -> None:
    """True for the host whose worker polls the queue; False for another host, and for a queue without a worker."""
    client: Client = temporal.client
    queue, host = f"idle-{new_id()}", socket.gethostname()
    assert await polls(client, queue, host=host) is False
    async with Worker(client, task_queue=queue, workflows=[Idle]):
        handle = await client.start_workflow(Idle.run, id=queue, task_queue=queue)
        await handle.result()
        assert await polls(client, queue, host=host) is True
        assert await polls(client, queue, host="elsewhere") is False
