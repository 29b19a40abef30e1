"""What the engine is asked for: each wall of the design is in it, whatever the task asks for."""

from pathlib import Path
from typing import Any

import pytest

from domain.containers import MB, Containers
from domain.messages import WorkspaceOrder
from domain.names import TaskId, WorkspaceId
from domain.spec import TaskSpec
from workspaces import container
from workspaces.gate import address
from workspaces.volume import Volume


def configured(*, url: str = "http://127.0.0.1:8080", rules: dict[str, Any] | None = None, **spec: Any) -> Any:
    """Give the configuration of a task's container."""
    order = WorkspaceOrder(
        task_id=TaskId("t1"),
        attempt=2,
        workspace_id=WorkspaceId("w1"),
        name="test",
        spec=TaskSpec.model_validate({"command": ["true"], "provider": "docker", **spec}),
        callback_url=url,
    )
    return container.configuration(
        Volume(Path("/data"), order.workspace_id, 10001),
        order,
        container.Image.of({"Id": "sha256:1", "Config": {"Volumes": {"/cache": {}}}}),
        address(url),
        node="n1",
        rules=Containers.model_validate(rules or {}),
        certificates={"SSL_CERT_FILE": "/etc/ssl/own.pem"},
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("NetworkMode", "none"),
        ("ReadonlyRootfs", True),
        ("CapDrop", ["ALL"]),
        ("SecurityOpt", ["no-new-privileges:true"]),
        ("PidsLimit", 512),
        ("Memory", 2048 * MB),
        ("MemorySwap", 2048 * MB),
        ("NanoCpus", 2_000_000_000),
        ("LogConfig", {"Type": "none"}),
        ("IpcMode", "private"),
        ("RestartPolicy", {"Name": "no"}),
    ],
)
def test_each_wall_stands(setting: str, value: object) -> None:
    """By default, for a task that asks for nothing."""
    assert configured()["HostConfig"][setting] == value


def test_nothing_opens_a_wall() -> None:
    """No privilege, device, capability, namespace of the node's, nor the engine's own filter switched off."""
    host = configured()["HostConfig"]
    forbidden = {
        "Privileged",
        "CapAdd",
        "Devices",
        "PidMode",
        "UTSMode",
        "UsernsMode",
        "Binds",
        "VolumesFrom",
        "Runtime",
    }
    assert not forbidden & host.keys()
    assert not any("unconfined" in option for option in host["SecurityOpt"])


def test_only_the_workspace_can_be_written() -> None:
    """What the node gives it besides is read-only; no socket of the engine is among it."""
    mounts = configured()["HostConfig"]["Mounts"]
    assert [mount["Target"] for mount in mounts if not mount["ReadOnly"]] == ["/workspace"]
    assert [mount["Source"] for mount in mounts][:2] == ["/data/w1/files", "/data/w1/gate"]
    assert not any(mount["Source"].endswith(".sock") for mount in mounts)
    assert mounts[-1]["Source"] == "/etc/ssl/own.pem"


def test_memory_is_all_that_an_image_can_add() -> None:
    """Its volumes are of the size of `/tmp`."""
    temporary = configured(rules={"tmp_mb": 5})["HostConfig"]["Tmpfs"]
    assert temporary.keys() == {"/tmp", "/cache"}
    assert set(temporary.values()) == {"rw,nosuid,nodev,size=5000000,mode=1777"}


def test_a_task_sets_limits() -> None:
    """Each of its resources that the engine can hold it to."""
    resources = {"cpus": 0.5, "memory_mb": 64, "processes": 20, "disk_mb": 100}
    host = configured(resources=resources)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, 64 * MB, 20)


def test_the_apis_name_leads_to_the_relay() -> None:
    """So that TLS is between the workspace and the API."""
    config = configured(url="https://api.example/base")
    assert config["HostConfig"]["ExtraHosts"] == ["api.example:127.0.0.1"]
    assert config["Entrypoint"][-2:] == ["tcp:127.0.0.1:443", "unix:/taskrunner/gate/api.sock"]
    assert "api.example" not in str(config["Entrypoint"])


def test_it_can_be_found_again() -> None:
    """By labels of its own, and nothing of the task's content."""
    config = configured(env={"PRIVATE": "value-of-the-task"}, input="input-of-the-task")
    assert config["Labels"] == {
        "taskrunner.workspace": "w1",
        "taskrunner.task": "t1",
        "taskrunner.attempt": "2",
        "taskrunner.node": "n1",
    }
    assert "of-the-task" not in str(config)


def test_a_workspace_may_have_a_network_of_the_operators() -> None:
    """Where the settings name one, and no other."""
    assert configured(rules={"network": "egress"})["HostConfig"]["NetworkMode"] == "egress"
