"""The image of deploy/Dockerfile, built and run: the processes of compose.yaml work off a task."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import httpx2
import pytest
import yaml

from tests.containers import images
from tests.containers.postgres import ContainedPostgres

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
TAG = "taskrunner-test/taskrunner:1"


@pytest.fixture(scope="module")
def engine(engine_address: str) -> Iterator[docker.DockerClient]:
    """Give a client of the engine, with the image built on a base that was made here."""
    images.ensure(engine_address, images.PYTHON)
    with contextlib.closing(docker.DockerClient(base_url=engine_address, timeout=1800)) as client:
        # On the node's network: a proxy or a resolver of this machine is reached as this machine reaches it.
        client.images.build(
            path=str(ROOT), dockerfile="deploy/Dockerfile", tag=TAG, network_mode="host", rm=True, forcerm=True
        )
        yield client


@pytest.fixture(scope="module")
async def database(tmp_path_factory: pytest.TempPathFactory, engine_address: str) -> AsyncIterator[str]:
    """Give the URL of an empty database that a container can reach."""
    server = ContainedPostgres(tmp_path_factory.mktemp("postgres"), engine=engine_address, image=images.POSTGRES)
    await server.start()
    yield server.url()
    await server.stop()


@pytest.fixture
def secrets(tmp_path: Path, database: str) -> Path:
    """Give the folder that `make-secrets` writes, with this database's URL."""
    shutil.copy(ROOT / "deploy/make-secrets", tmp_path)
    subprocess.run([tmp_path / "make-secrets"], check=True)
    folder = tmp_path / "secrets"
    url = folder / "taskrunner_database_url"
    url.chmod(0o600)
    url.write_text(database)
    url.chmod(0o444)
    folder.chmod(0o711)
    return folder


def free_port() -> int:
    """Give a port that nobody has; not of those that the kernel gives to others meanwhile."""
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("every port is taken")


@pytest.fixture
def start(engine: docker.DockerClient, secrets: Path, temporal_address: str) -> Iterator[Callable[[str], Any]]:
    """Give a way to start a service of compose.yaml as it stands there, but for addresses: all on one loopback."""
    port = str(free_port())
    addresses = {
        "TASKRUNNER_URL": f"http://127.0.0.1:{port}",
        "TASKRUNNER_HOST": "127.0.0.1",
        "TASKRUNNER_PORT": port,
        "TEMPORAL_ADDRESS": temporal_address,
        "TASKRUNNER_METRICS_PORT": "0",
    }
    running: list[Any] = []

    def run(name: str) -> Any:
        service = SERVICES[name]
        mounts = {str(secrets / each): {"bind": f"/run/secrets/{each}", "mode": "ro"} for each in service["secrets"]}
        container = engine.containers.run(
            TAG,
            service.get("command"),
            entrypoint=service.get("entrypoint"),
            environment={**service["environment"], **addresses},
            volumes=mounts,
            network_mode="host",
            init=service["init"],
            read_only=service["read_only"],
            # A named volume is made with the owner of the folder in the image; here it is made at once.
            tmpfs={"/tmp": "", "/var/lib/taskrunner": "uid=10001,gid=10001,mode=0700,exec"},
            cap_drop=service["cap_drop"],
            security_opt=service["security_opt"],
            detach=True,
        )
        running.append(container)
        return container

    run.url = addresses["TASKRUNNER_URL"]  # type: ignore[attr-defined]
    yield run
    for container in running:
        container.remove(force=True, v=True)


def done(job: Any) -> None:
    """Expect a job to end well."""
    code = job.wait()["StatusCode"]
    assert code == 0, job.logs().decode()[-3000:]


async def test_the_image_runs_api_worker_and_node(start: Any, secrets: Path) -> None:
    """The jobs end well, a task runs in the node's container, the processes end well when they are told to."""
    for name in ("migrate", "prepare"):
        await asyncio.to_thread(done, start(name))
    processes = {name: start(name) for name in ("api", "worker", "node")}
    headers = {"Authorization": f"Bearer {(secrets / 'taskrunner_admin_key').read_text()}"}
    async with httpx2.AsyncClient(base_url=start.url, headers=headers) as client:
        await answering(client, processes["api"])
        script = "id -u; git --version; cat $TASKRUNNER_INPUT_FILE > $TASKRUNNER_RESULT_FILE"
        made = await client.post("/v1/tasks", json={"command": ["sh", "-c", script], "input": {"a": 1}})
        assert made.status_code == 201, f"{made.text}\n{processes['api'].logs().decode()[-3000:]}"
        task = await ended(client, made.json()["id"], processes)
        assert (task["status"], task["result"]) == ("completed", {"a": 1})
        log = (await client.get(f"/v1/tasks/{task['id']}/logs")).text
        assert log.startswith("10001\ngit version")
    for name, process in processes.items():
        await asyncio.to_thread(process.stop, timeout=60)
        assert process.wait()["StatusCode"] == 0, (name, process.logs().decode()[-3000:])


async def answering(client: httpx2.AsyncClient, api: Any) -> None:
    """Wait until the API answers."""
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(httpx2.TransportError):
            if (await client.get("/readyz")).is_success:
                return
        assert time.monotonic() < deadline, api.logs().decode()[-3000:]
        await asyncio.sleep(0.2)


async def ended(client: httpx2.AsyncClient, task: str, processes: dict[str, Any]) -> Any:
    """Wait until a task has ended."""
    deadline = time.monotonic() + 180
    while True:
        row = (await client.get(f"/v1/tasks/{task}")).json()
        if row["status"] in {"completed", "failed", "cancelled"}:
            return row
        told = "\n".join(f"{name}: {each.logs().decode()[-1500:]}" for name, each in processes.items())
        assert time.monotonic() < deadline, f"{row}\n{told}"
        await asyncio.sleep(0.2)
