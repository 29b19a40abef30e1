"""The node's adapter: tokens and attachments over HTTP, workspaces through a real local provider."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from temporalio.testing import ActivityEnvironment

from activities.node import NodeWork
from domain.errors import Category, Failure
from domain.ids import new_id
from domain.messages import AgentOrder, AttachmentOrder, WorkspaceOrder, WorkspaceRef
from domain.names import TaskId, WorkspaceId
from domain.spec import TaskSpec
from tests.workspaces.recording import Answer, RecordingApi, Request, until
from workspaces.local import LocalProvider, base_environment

KEY = "node-key"
CONTENT = bytes(range(256)) * 1000


def answer(request: Request) -> Answer | None:
    """Give tokens by turn, and one attachment."""
    if request.kind == "callback-token":
        return 200, {}, b'{"token": "for-turn-%d", "expires_at": "", "callback_url": ""}' % request.json["turn"]
    if request.kind.startswith("attachments/"):
        return 200, {"Content-Disposition": "attachment; filename*=UTF-8''my%20d%C3%A4ta.bin"}, CONTENT
    return None


@pytest.fixture
def api() -> Iterator[RecordingApi]:
    """Give the stand-in for the API."""
    server = RecordingApi()
    server.rule = answer
    yield server
    server.shut()


@pytest.fixture
async def work(tmp_path: Path) -> AsyncIterator[NodeWork]:
    """Give a node's work with the local provider; its workspaces are destroyed at the end."""
    provider = LocalProvider(tmp_path / "w", environment=base_environment(os.environ), grace=timedelta(seconds=1))
    async with httpx2.AsyncClient() as client:
        yield NodeWork({"local": provider}, client=client, token=KEY)
    for workspace_id in await provider.list():
        await provider.destroy(workspace_id)


def ordered(api: RecordingApi, **spec: Any) -> WorkspaceOrder:
    """Give an order of a workspace of its own."""
    return WorkspaceOrder(
        task_id=TaskId(new_id()),
        attempt=1,
        workspace_id=WorkspaceId(new_id()),
        name="test",
        spec=TaskSpec.model_validate({"command": ["true"], **spec}),
        callback_url=api.url,
    )


async def test_task_runs_through_the_activities(work: NodeWork, api: RecordingApi) -> None:
    """Create, attach, start, supervise, destroy: each turn calls back with its own token, the key stays here."""
    copy = 'cat "$TASKRUNNER_ATTACHMENTS_DIR/my däta.bin" > $TASKRUNNER_ARTIFACTS_DIR/copy'
    script = f"{copy}; echo 1 > $TASKRUNNER_RESULT_FILE"
    order = ordered(api, command=["sh", "-c", script])
    ref = WorkspaceRef(workspace_id=order.workspace_id)
    environment = ActivityEnvironment()
    beats: list[tuple[Any, ...]] = []
    environment.on_heartbeat = lambda *details: beats.append(details)

    created = await environment.run(work.create_workspace, order)
    assert created.workspace_id == order.workspace_id
    ready = await api.one("ready")
    attachment = AttachmentOrder(workspace_id=order.workspace_id, attachment_id="att-1", callback_url=api.url)
    transferred = await environment.run(work.transfer_attachment, attachment)
    assert transferred.details == {"name": "my däta.bin", "bytes": len(CONTENT)}
    agent = AgentOrder(order=order, turn=2)
    assert (await environment.run(work.start_agent, agent)).adopted is False
    assert (await environment.run(work.start_agent, agent)).adopted is True
    beats.clear()
    exited = await environment.run(work.supervise_agent, agent)
    assert beats
    assert (exited.exit_code, exited.result, exited.turn) == (0, 1, 2)
    finished = await api.one("finished")
    assert api.artifacts == {"copy": CONTENT}
    assert (await environment.run(work.inspect_workspace, ref)).exists
    assert (await environment.run(work.destroy_workspace, ref)).details["kept"] is False
    assert not (await environment.run(work.inspect_workspace, ref)).exists

    bearers = {request.kind: request.headers["Authorization"] for request in api.requests}
    assert ready.headers["Authorization"] == "Bearer for-turn-1"
    assert finished.headers["Authorization"] == "Bearer for-turn-2"
    assert bearers["callback-token"] == f"Bearer {KEY}"
    assert bearers["attachments/att-1"] == "Bearer for-turn-1"


async def test_supervision_heartbeats_below_its_timeout_and_its_cancel_stops_nothing(
    work: NodeWork, api: RecordingApi
) -> None:
    """At least two heartbeats in each timeout; after a cancel the agent is still there for the next try."""
    order = ordered(api, command=["sh", "-c", "until test -e ../home/go; do sleep 0.01; done; exit 6"])
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, heartbeat_timeout=timedelta(seconds=0.3))
    beats: list[None] = []
    environment.on_heartbeat = lambda *_: beats.append(None)
    created = await environment.run(work.create_workspace, order)
    agent = AgentOrder(order=order)
    await environment.run(work.start_agent, agent)
    watching = asyncio.create_task(environment.run(work.supervise_agent, agent))
    await until(lambda: len(beats) >= 4, within=1.0)
    environment.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    Path(str(created.details["path"]), "home/go").touch()
    assert (await ActivityEnvironment().run(work.supervise_agent, agent)).exit_code == 6


async def test_bad_input_is_refused_before_a_token_is_asked_for(work: NodeWork, api: RecordingApi) -> None:
    """A missing secret and a provider that the node lacks make no request and no directory."""
    for order in (ordered(api, secrets=["ABSENT"]), ordered(api, provider="docker", image="x")):
        with pytest.raises(Failure) as caught:
            await ActivityEnvironment().run(work.create_workspace, order)
        assert caught.value.error.category is Category.INPUT
    assert api.requests == []


@pytest.mark.parametrize(
    ("status", "transient"), [(500, True), (503, True), (429, True), (401, True), (403, False), (404, False)]
)
async def test_refused_token_fails_the_creation(
    work: NodeWork,
    api: RecordingApi,
    status: int,
    transient: bool,  # noqa: FBT001
) -> None:
    """5xx and 429 may pass, and after a 401 another node may do it; the rest does not. No key is in the message."""
    api.rule = lambda _: status
    with pytest.raises(Failure, match=str(status)) as caught:
        await ActivityEnvironment().run(work.create_workspace, ordered(api))
    assert caught.value.error.retryable is transient
    assert KEY not in f"{caught.value.error}"


async def test_api_that_is_away_is_a_transient_failure(work: NodeWork, api: RecordingApi) -> None:
    """Nobody listens: the step tries again."""
    order = ordered(api)
    api.shut()
    with pytest.raises(Failure) as caught:
        await ActivityEnvironment().run(work.create_workspace, order)
    assert (caught.value.error.code, caught.value.error.retryable) == ("api_unreachable", True)
    api.open()
    await ActivityEnvironment().run(work.create_workspace, order)
    assert (await api.one("ready")).kind == "ready"


async def test_attachment_for_a_workspace_that_is_elsewhere_fails(work: NodeWork, api: RecordingApi) -> None:
    """Not retryable here, and nothing is fetched."""
    order = AttachmentOrder(workspace_id=WorkspaceId(new_id()), attachment_id="a", callback_url=api.url)
    with pytest.raises(Failure):
        await ActivityEnvironment().run(work.transfer_attachment, order)
    assert api.requests == []


async def test_node_that_cannot_write_says_so(work: NodeWork, api: RecordingApi, tmp_path: Path) -> None:
    """Given a file where the workspaces' directory should be, the failure names the node's disk."""
    (tmp_path / "w").touch()
    with pytest.raises(Failure) as caught:
        await ActivityEnvironment().run(work.create_workspace, ordered(api))
    assert (caught.value.error.code, caught.value.error.retryable) == ("node_files", True)
