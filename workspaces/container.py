"""What a workspace's container is made of: the request to the engine, with everything that confines it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from domain.containers import MB, Containers
from domain.messages import WorkspaceOrder
from workspaces import processes
from workspaces.gate import LOOPBACK, SOCKET, Address
from workspaces.launcher import FLAGS, PROGRAM
from workspaces.volume import Volume

PYTHON: Final = "python3"
# Where the container sees what the node gives it, all of it read-only but for the workspace.
OURS: Final = "/taskrunner"
GATE: Final = f"{OURS}/gate"
CERTIFICATES: Final = f"{OURS}/certificates"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NANO: Final = 1_000_000_000
SHARED_MEMORY: Final = 64 * MB
KILL_FIRST: Final = 500  # of 1000: before anything of the node's own, when the whole machine is short of memory

WORKSPACE, TASK, ATTEMPT, NODE = (f"taskrunner.{name}" for name in ("workspace", "task", "attempt", "node"))


@dataclass(frozen=True)
class Image:
    """What the engine knows of an image."""

    id: str
    volumes: Sequence[str]

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Image":
        """Read the engine's answer."""
        return cls(facts["Id"], sorted((facts.get("Config") or {}).get("Volumes") or {}))


def environment(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that the image gave to a container."""
    pairs = (entry.partition("=") for entry in config.get("Env") or [])
    return {"PATH": PATH, **{name: value for name, _, value in pairs}}


def program(*arguments: str) -> list[str]:
    """Return how the program is called within a container."""
    return [PYTHON, *FLAGS, f"{OURS}/workspaces/{PROGRAM.name}", *arguments]


def configuration(
    layout: Volume,
    order: WorkspaceOrder,
    image: Image,
    address: Address,
    *,
    node: str,
    rules: Containers,
    certificates: Mapping[str, str],
) -> dict[str, Any]:
    """Return the body of the engine's `POST /containers/create`.

    The first process is a relay of ours, which goes on for as long as the workspace is here.
    """
    limits = rules.limits(order.spec.resources)
    memory = int((limits.memory_mb or 0) * MB)
    mounts = [
        _mount(str(layout.files), "/workspace", writable=True),
        _mount(str(layout.gate), GATE),
        _mount(str(PROGRAM.parent), f"{OURS}/workspaces"),
        *(_mount(path, f"{CERTIFICATES}/{name}") for name, path in certificates.items()),
    ]
    memory_only = f"rw,nosuid,nodev,size={rules.tmp_mb * MB},mode=1777"
    return {
        "Image": image.id,
        "User": f"{rules.user}:{rules.user}",
        "Hostname": "workspace",
        "WorkingDir": "/workspace/work",
        "Entrypoint": program("relay", address.listen, f"unix:{GATE}/{SOCKET}"),
        "Cmd": [],
        "Env": [f"{processes.MARK}={order.workspace_id}"],  # the node finds all its processes by it
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {
            WORKSPACE: order.workspace_id,
            TASK: order.task_id,
            ATTEMPT: str(order.attempt),
            NODE: node,
        },
        "HostConfig": {
            "NetworkMode": rules.network or "none",
            "ExtraHosts": [f"{address.name}:{LOOPBACK}"] if address.name else [],
            "Sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},  # the API may be at 443
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true"],
            "PidsLimit": limits.processes,
            "Memory": memory,
            "MemorySwap": memory,  # both together: no swap
            "NanoCpus": int((limits.cpus or 0) * NANO),
            "OomScoreAdj": KILL_FIRST,
            "ShmSize": SHARED_MEMORY,
            # An image's own volumes would be folders on the node's disk, without a limit.
            "Tmpfs": dict.fromkeys(["/tmp", *image.volumes], memory_only),  # noqa: S108 - the container's
            "Mounts": mounts,
            "IpcMode": "private",
            "LogConfig": {"Type": "none"},  # output goes to the API, bounded; what is written past it goes nowhere
            "RestartPolicy": {"Name": "no"},
        },
    }


def _mount(source: str, target: str, *, writable: bool = False) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": not writable}
