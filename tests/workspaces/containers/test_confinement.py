"""What a workspace in a container is confined to: its user, its rights, its way out."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.workspaces.conftest import CANARY, ContainerBench
from tests.workspaces.recording import until
from workspaces import processes

pytestmark = pytest.mark.containers

REACHES = """
import json, socket, sys
reached = []
for family, address in json.loads(sys.argv[1]):
    with socket.socket(getattr(socket, family)) as s:
        s.settimeout(3)
        try:
            s.connect(tuple(address) if isinstance(address, list) else address)
            reached.append(address)
        except OSError:
            pass
print(json.dumps(reached))
"""


@contextlib.contextmanager
def listening(host: str) -> Iterator[int]:
    """Listen on this machine; give the port."""
    with socket.create_server((host, 0)) as server:
        yield server.getsockname()[1]


def own_addresses() -> list[str]:
    """Give this machine's addresses, loopback's among them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return ["127.0.0.1", probe.getsockname()[0]]


async def test_only_the_api_can_be_reached(bench: ContainerBench) -> None:
    """Neither the node's other ports, nor the cloud's metadata, another workspace, a name server or anything else."""
    await bench.prepare(command=["sleep", "60"])  # a neighbour
    bench.api.requests.clear()
    api_port = int(bench.api.url.rpartition(":")[2])
    with listening("0.0.0.0") as port:  # noqa: S104 - the point
        targets = [["AF_INET", ["127.0.0.1", api_port]]]
        targets += [["AF_INET", [host, at]] for host in own_addresses() for at in (port, 22)]
        targets += [["AF_INET", [host, api_port]] for host in own_addresses()[1:]]
        hosts = ("169.254.169.254", "172.17.0.1", "172.17.0.2", "1.1.1.1", "10.0.0.1")
        targets += [["AF_INET", [host, at]] for host in hosts for at in (80, port, api_port)]
        targets += [["AF_INET6", ["::1", api_port]], ["AF_INET6", ["fd00::1", 80]]]
        targets += [["AF_UNIX", path] for path in ("/var/run/docker.sock", "/run/docker.sock", "\0/containerd")]
        bench.new(command=["python3", "-c", REACHES, json.dumps(targets)])
        await bench.prepare()
        await bench.start()
        assert (await bench.exit()).exit_code == 0
        await bench.api.one("finished")
    assert json.loads(bench.api.log) == [["127.0.0.1", api_port]]


async def test_there_is_no_interface_but_loopback(bench: ContainerBench) -> None:
    """And no right to make one."""
    tries = ("ip link add x type dummy", "ip addr add 10.9.9.9/8 dev lo")
    await bench.run("; ".join(["ls /sys/class/net", *(f"{each} 2>/dev/null || echo refused" for each in tries)]))
    assert bench.api.log == b"lo\nrefused\nrefused\n"


async def test_a_process_has_no_rights(bench: ContainerBench) -> None:
    """Not root, no capability, no way to get one, the engine's seccomp filter, limits of its own."""
    fields = "Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp"
    await bench.run(f"grep -E '^({fields}):' /proc/self/status")
    told = dict(line.split(":\t", 1) for line in bench.api.log.decode().splitlines())
    assert {name: told[name] for name in told if name.startswith("Cap")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16
    )
    assert set(told["Uid"].split()) == set(told["Gid"].split()) == {"10001"}
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")


async def test_what_the_engine_shows_holds_no_secret(bench: ContainerBench) -> None:
    """Neither token nor secret in the container's environment, arguments or labels; only ids are in there."""
    bench.new(command=["sleep", "60"], secrets=["CANARY"], input={"private": "input-of-the-task"})
    await bench.prepare()
    await bench.start()
    await until(lambda: len(bench.working) > 1)
    shown = json.dumps(await bench.facts())
    for hidden in (CANARY, "first-token", "token-of-turn-1", "input-of-the-task"):
        assert hidden not in shown
    container = await bench.client.containers.get(bench.order.workspace_id)
    execs = container._container["ExecIDs"] or []
    for each in execs:
        told = json.dumps(await bench.client.containers.exec(each).inspect())
        assert CANARY not in told
        assert "token-of-turn-1" not in told
    order = bench.order
    assert (await bench.facts())["Config"]["Labels"] == {
        "taskrunner.workspace": order.workspace_id,
        "taskrunner.task": order.task_id,
        "taskrunner.attempt": "1",
        "taskrunner.node": bench.node,
    }


async def test_two_workspaces_see_nothing_of_each_other(bench: ContainerBench) -> None:
    """Neither files nor processes."""
    await bench.prepare(command=["sh", "-c", "echo mine > file; sleep 4321"])
    await bench.start()
    await until((bench.files / "work/file").exists)
    bench.api.requests.clear()
    await bench.run("ps | grep -c '[s]leep 4321'; ls -A /workspace/work; find / -name file -path '*work*' 2>/dev/null")
    assert bench.api.log == b"0\n"


async def test_a_container_without_files_is_listed_and_removed(bench: ContainerBench) -> None:
    """Found by its label, for this node only."""
    await bench.prepare(command=["true"])
    bench.volume.remove()
    assert not bench.base.exists()
    assert await bench.provider.list() == [bench.order.workspace_id]
    own, bench.node = bench.node, "another"
    assert await bench.provider.list() == []
    bench.node = own
    await bench.provider.destroy(bench.order.workspace_id)
    assert await bench.provider.list() == []


async def test_a_gate_that_was_killed_is_opened_again(bench: ContainerBench) -> None:
    """It is no part of the node's process; whoever watches the command sees to it."""
    await bench.prepare(command=["sh", "-c", "until test -e go; do sleep 0.05; done; echo end"])
    await bench.start()
    first = processes.holder(bench.volume.gate_lock)
    assert first is not None
    os.kill(first, signal.SIGKILL)
    waiting = asyncio.create_task(bench.exit())
    await until(lambda: processes.holder(bench.volume.gate_lock) not in (None, first))
    (bench.files / "work/go").touch()
    assert (await waiting).exit_code == 0
    await bench.api.one("finished", within=60)
    assert bench.api.log == b"end\n"
