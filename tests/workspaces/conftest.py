"""A local provider on a directory of its own, a recording API, and orders for both."""

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from domain.containers import Containers
from domain.ids import new_id
from domain.messages import AgentExit, AgentOrder, AgentStarted, WorkspaceOrder
from domain.names import TaskId, WorkspaceId
from domain.spec import TaskSpec
from tests.containers import images
from tests.workspaces.recording import RecordingApi, Request
from workspaces import processes
from workspaces.hosted import HostedProvider
from workspaces.local import LocalProvider, base_environment
from workspaces.provider import Grant
from workspaces.secrets import Secrets
from workspaces.volume import Volume

CANARY = "canary-7c1f-value"


@dataclass
class Bench:
    """One workspace at a time, through all of its life."""

    root: Path
    api: RecordingApi
    order: WorkspaceOrder = field(init=False)
    options: dict[str, Any] = field(default_factory=dict)
    ids: list[WorkspaceId] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.new(command=["true"])

    @property
    def provider(self) -> HostedProvider:
        """A provider as a node makes it at its start: it remembers nothing."""
        options = {
            "environment": base_environment(os.environ),
            "secrets": Secrets(environment={"TASKRUNNER_SECRET_CANARY": CANARY}),
            "allow_file_urls": True,
            "grace": timedelta(seconds=1),
            **self.options,
        }
        return LocalProvider(self.root, **options)

    def new(self, *, attempt: int = 1, limits: dict[str, Any] | None = None, **spec: Any) -> WorkspaceOrder:
        """Make a new order; one workspace each."""
        workspace_id = WorkspaceId(new_id())
        self.ids.append(workspace_id)
        # The door refuses globs that lead out; what is behind it must hold without the door.
        globs = {"artifacts": spec.pop("artifacts", [])}
        self.order = WorkspaceOrder(
            task_id=TaskId(new_id()),
            attempt=attempt,
            workspace_id=workspace_id,
            name="test",
            spec=TaskSpec.model_validate(spec).model_copy(update=globs),
            callback_url=self.api.url,
            **(limits or {}),
        )
        return self.order

    def grant(self, token: str = "first-token") -> Grant:  # noqa: S107 - made up
        return Grant(token=token, callback_url=f"{self.api.url}/v1/workspaces/{self.order.workspace_id}")

    @property
    def base(self) -> Path:
        return self.root / self.order.workspace_id

    @property
    def files(self) -> Path:
        """Where the workspace's folders are on this machine."""
        return self.base

    async def prepare(self, **spec: Any) -> Request:
        """Create a workspace; give its `ready` or `failed`."""
        if spec:
            self.new(**spec)
        await self.provider.create(self.order, self.grant())
        return await self.api.one("ready", "failed")

    async def start(self, *, turn: int = 1, prompt: str | None = None) -> AgentStarted:
        agent = AgentOrder(order=self.order, turn=turn, prompt=prompt)
        return await self.provider.start_agent(agent, self.grant(f"token-of-turn-{turn}"))

    async def exit(self, *, turn: int = 1) -> AgentExit:
        return await self.provider.wait_agent(AgentOrder(order=self.order, turn=turn))

    async def run(self, script: str, *, limits: dict[str, Any] | None = None, **spec: Any) -> AgentExit:
        """Create a workspace, run a shell script in it, wait until it has reported."""
        self.new(command=["sh", "-c", script], limits=limits, **spec)
        assert (await self.prepare()).kind == "ready"
        await self.start()
        ended = await self.exit()
        await self.api.one("finished")
        return ended

    @property
    def living(self) -> list[int]:
        return [process.pid for process in processes.of_workspace(self.order.workspace_id)]

    @property
    def working(self) -> list[int]:
        """The living ones but for the relays of a container, which wait for the next turn."""
        return [
            process.pid
            for process in processes.of_workspace(self.order.workspace_id)
            if "relay" not in process.cmdline()
        ]


@dataclass
class ContainerBench(Bench):
    """The same with containers."""

    rules: Containers = field(kw_only=True)
    client: Any = field(kw_only=True)
    node: str = field(default_factory=new_id)

    @property
    def provider(self) -> HostedProvider:
        """A provider as a node makes it at its start: it remembers nothing but its connections to the engine."""
        from workspaces.docker import DockerProvider  # noqa: PLC0415 - other suites need no aiohttp

        options = {
            "secrets": Secrets(environment={"TASKRUNNER_SECRET_CANARY": CANARY}),
            "grace": timedelta(seconds=1),
            **self.options,
        }
        return DockerProvider(self.root, client=self.client, node=self.node, rules=self.rules, **options)

    def new(self, *, attempt: int = 1, limits: dict[str, Any] | None = None, **spec: Any) -> WorkspaceOrder:
        """Make a new order; one workspace each."""
        return super().new(attempt=attempt, limits=limits, provider="docker", **spec)

    @property
    def files(self) -> Path:
        """Where the workspace's folders are on this machine."""
        return self.base / "files"

    @property
    def volume(self) -> Volume:
        """The paths of the workspace."""
        return Volume(self.root, self.order.workspace_id, self.rules.user)

    async def facts(self) -> dict[str, Any]:
        """Give what the engine says of the container."""
        return dict((await self.client.containers.get(self.order.workspace_id))._container)


@pytest.fixture
async def container_bench(tmp_path: Path, api: RecordingApi, engine_address: str) -> AsyncIterator[ContainerBench]:
    """Give a bench of containers; afterwards nothing of them is left, on the engine or on this machine."""
    from workspaces.engine import connected  # noqa: PLC0415

    names = [images.ensure(engine_address, name) for name in (images.WORKSPACE, images.FURNISHED, images.BARE)]
    rules = Containers(engine=engine_address, image=names[0], images=names, disk_mb=64, memory_mb=256, processes=128)
    async with connected(rules) as client:
        bench = ContainerBench(tmp_path / "containers", api, rules=rules, client=client)
        yield bench
        api.rule = lambda _: 410
        for workspace_id in {*bench.ids, *await bench.provider.list()}:
            await bench.provider.destroy(workspace_id)
            assert processes.of_workspace(workspace_id) == []
        assert await bench.provider.list() == []
        assert not [line for line in Path("/proc/mounts").read_text().splitlines() if str(tmp_path) in line]


@pytest.fixture
def api() -> Iterator[RecordingApi]:
    """Give the stand-in for the API."""
    server = RecordingApi()
    yield server
    server.shut()


@pytest.fixture
async def local_bench(tmp_path: Path, api: RecordingApi) -> AsyncIterator[Bench]:
    """Give a bench; afterwards everything that it made is destroyed, and nothing of it lives on."""
    bench = Bench(tmp_path / "workspaces", api)
    yield bench
    api.rule = lambda _: 410
    for workspace_id in bench.ids:
        await bench.provider.destroy(workspace_id)
        assert processes.of_workspace(workspace_id) == []
    assert await bench.provider.list() == []


@pytest.fixture
def bench(local_bench: Bench) -> Bench:
    """Give a bench of directories."""
    return local_bench


@dataclass(frozen=True)
class Origin:
    """A git repository to clone from."""

    path: Path

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def git(self, *arguments: str) -> str:
        return git(self.path, *arguments)


def git(path: Path, *arguments: str) -> str:
    """Run git with an identity; give what it said."""
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.invalid", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=path, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    """Give a repository with two commits on `main`, a branch `topic`, a tag `v1`, a ref outside of both."""
    path = tmp_path / "origin"
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=main")
    (path / "file.txt").write_text("one\n")
    (path / ".gitignore").write_text("ignored/\n")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "-m", "one")
    git(path, "tag", "v1")
    git(path, "checkout", "--quiet", "-b", "topic")
    (path / "file.txt").write_text("topic\n")
    git(path, "commit", "--quiet", "-am", "topic")
    git(path, "update-ref", "refs/pull/7/head", "topic")
    git(path, "checkout", "--quiet", "main")
    (path / "file.txt").write_text("two\n")
    git(path, "commit", "--quiet", "-am", "two")
    return Origin(path)
