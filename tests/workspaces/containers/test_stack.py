"""A whole stack whose node keeps workspaces in containers."""

import json
import time
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from cli.remote import Remote
from tests.cli.stacks import PATIENCE, StackProcess
from tests.containers import images

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, engine_address: str) -> Iterator[StackProcess]:
    """Give one running stack, and expect no container and no mount of it afterwards."""
    folder = tmp_path_factory.mktemp("stack")
    running = StackProcess(
        folder / "data",
        TASKRUNNER_NODE_PROVIDERS='["local", "docker"]',
        TASKRUNNER_CONTAINERS__ENGINE=engine_address,
        TASKRUNNER_CONTAINERS__IMAGE=images.ensure(engine_address, images.WORKSPACE),
        TASKRUNNER_CONTAINERS__DISK_MB="64",
    ).up()
    yield running
    assert running.stop() == 0
    with open("/proc/mounts", encoding="ascii") as mounts:  # noqa: PTH123 - no file of ours
        assert str(folder) not in mounts.read()


def remote(stack: StackProcess) -> Remote:
    """Return a client with the stack's own admin key."""
    address = json.loads((stack.data_dir / "address.json").read_text())
    return Remote(address["api"], (stack.data_dir / "admin.key").read_text().strip())


def ended(api: Remote, task: str) -> dict[str, Any]:
    """Wait for a task's end."""
    deadline = time.monotonic() + PATIENCE
    while (row := api.get(f"/v1/tasks/{task}"))["status"] not in {"completed", "failed", "cancelled"}:
        assert time.monotonic() < deadline, row
        time.sleep(0.1)
    return dict(row)


def gone(engine: str, workspace: str) -> bool:
    """Whether the engine has no such container."""
    client = docker.DockerClient(base_url=engine)
    try:
        return not client.containers.list(all=True, filters={"label": f"taskrunner.workspace={workspace}"})
    finally:
        client.close()


def test_a_task_runs_in_a_container(stack: StackProcess, engine_address: str) -> None:
    """Followed from a terminal, with its output, exit code, result and artifacts; nothing of it is left."""
    script = "id -u; hostname; echo 7 > $TASKRUNNER_RESULT_FILE; echo x > $TASKRUNNER_ARTIFACTS_DIR/x; exit 3"
    printed = stack.run("start", "--provider", "docker", "--max-attempts", "1", "--", "sh", "-c", script, code=3)
    task = printed.splitlines()[0].split()[1]
    with remote(stack) as api:
        row = ended(api, task)
        assert (row["status"], row["error"]["code"]) == ("failed", "nonzero_exit")
        assert api.text(f"/v1/tasks/{task}/logs").text == "10001\nworkspace\n"
        assert api.text(f"/v1/tasks/{task}/artifacts/x").text == "x\n"
    assert gone(engine_address, row["workspace_id"])


def test_time_is_limited(stack: StackProcess, engine_address: str) -> None:
    """A command that is deaf and busy is ended with its container when its time is over, and the error says so."""
    script = 'trap "" TERM; while :; do :; done'
    body = {
        "command": ["sh", "-c", script],
        "provider": "docker",
        "timeouts": {"running_soft": 1, "running": 2},
        "retry": {"max_attempts": 1},
    }
    with remote(stack) as api:
        row = ended(api, api.post("/v1/tasks", body)["id"])
    assert (row["status"], row["error"]["code"], row["error"]["category"]) == ("failed", "cap_hard", "timeout")
    assert gone(engine_address, row["workspace_id"])


def test_a_limit_is_told(stack: StackProcess) -> None:
    """A memory hog fails its task with the limit's name, and is not tried again."""
    script = "exec python3 -c 'kept = [bytearray(b\"x\") * 10_000_000 for _ in range(100)]'"
    body = {"command": ["sh", "-c", script], "provider": "docker", "resources": {"memory_mb": 96}}
    with remote(stack) as api:
        row = ended(api, api.post("/v1/tasks", body)["id"])
    assert (row["status"], row["attempt"], row["error"]["code"]) == ("failed", 1, "limit_reached")
    assert "`memory_mb`" in row["error"]["message"]


def test_an_image_that_is_not_allowed_fails_the_task(stack: StackProcess) -> None:
    """At once and for good, with the image's name."""
    body = {"command": ["true"], "provider": "docker", "image": "another/image:1"}
    with remote(stack) as api:
        row = ended(api, api.post("/v1/tasks", body)["id"])
    assert (row["status"], row["attempt"], row["error"]["code"]) == ("failed", 1, "image_not_allowed")
    assert "another/image:1" in row["error"]["message"]
