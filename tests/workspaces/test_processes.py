"""Processes of a workspace: found again after the node was killed, and ended without remainder."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from domain.errors import Failure
from domain.messages import AgentOrder
from domain.names import WorkspaceId
from tests.workspaces.conftest import Bench
from tests.workspaces.recording import until
from workspaces.layout import Layout

NODE = """
import asyncio, os, signal, sys
from pathlib import Path
from domain.messages import AgentOrder
from workspaces.local import LocalProvider, base_environment
from workspaces.provider import Grant

async def main():
    agent = AgentOrder.model_validate_json(sys.argv[2])
    grant = Grant(token="token", callback_url=sys.argv[3])
    await LocalProvider(Path(sys.argv[1]), environment=base_environment(os.environ)).start_agent(agent, grant)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_node_that_was_killed_adopts_its_agent(bench: Bench) -> None:
    """Given a node that is killed with -9 after the start, another one waits for the same process and its exit."""
    await bench.prepare(command=["sh", "-c", "until test -e go; do sleep 0.01; done; exit 7"])
    agent = AgentOrder(order=bench.order)
    arguments = [str(bench.root), agent.model_dump_json(), bench.grant().callback_url]
    node = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", NODE, *arguments], check=False)
    assert node.returncode == -signal.SIGKILL
    again = await bench.start()
    assert again.adopted
    assert again.pid in bench.living
    waiting = asyncio.create_task(bench.exit())
    (bench.base / "work/go").touch()
    assert (await waiting).exit_code == 7


async def test_end_of_the_agent_is_noticed_within_50_ms(bench: Bench) -> None:
    """From the program's death to the answer of `wait_agent`: the kernel tells, nobody polls."""
    await bench.prepare(command=["sleep", "60"])
    started = await bench.start()
    waiting = asyncio.create_task(bench.exit())
    await until(lambda: len(bench.living) > 1)
    assert started.pid is not None
    before = time.monotonic()
    os.kill(started.pid, signal.SIGKILL)
    assert (await waiting).lost
    assert bench.living == [], "what outlives its program has no fence"
    assert time.monotonic() - before < 1.0  # the looks around for survivors included


async def test_pid_that_came_round_again_is_not_taken_for_the_agent(bench: Bench) -> None:
    """Given a lock that names a living stranger, the agent counts as lost."""
    await bench.prepare()
    lock = bench.base / "control/agent-a1-t1.lock"
    lock.write_text(json.dumps({"pid": os.getpid()}))
    assert (await bench.exit()).lost


async def test_cancelled_wait_stops_nothing(bench: Bench) -> None:
    """The agent runs on when the activity that watches it is cancelled."""
    await bench.prepare(command=["sh", "-c", "until test -e go; do sleep 0.01; done"])
    await bench.start()
    waiting = asyncio.create_task(bench.exit())
    await until(lambda: len(bench.living) > 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (bench.base / "work/go").touch()
    assert (await bench.exit()).exit_code == 0


DAEMON = """
import os, sys, time
if os.fork(): sys.exit(0)
os.setsid()
if os.fork(): os._exit(0)
open("daemon.pid", "w").write(str(os.getpid()))
if "deaf" in sys.argv:
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(120)
"""


def lives(pid: int) -> bool:
    """Whether there is such a process, one that merely waits to be collected not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("manner", ["polite", "deaf"])
async def test_daemon_is_ended_with_its_command(bench: Bench, manner: str) -> None:
    """A twice-forked grandchild in a session of its own, without our variables, is found and ended, deaf or not."""
    bench.new(
        command=["sh", "-c", f'env -i {sys.executable} -c "$DAEMON" {manner}; until test -s daemon.pid; do :; done'],
        env={"DAEMON": DAEMON},
    )
    await bench.prepare()
    await bench.start()
    assert (await bench.exit()).exit_code == 0
    pid = int((bench.base / "work/daemon.pid").read_text())
    assert not lives(pid)
    await bench.api.one("finished")
    assert b"1 processes that the command left running were ended" in bench.api.log


async def test_destroy_ends_every_process_and_removes_every_file(bench: Bench) -> None:
    """A running agent with a deaf daemon is gone within the grace, twice over; the id cannot come back."""
    bench.new(
        command=["sh", "-c", f'trap "" TERM; env -i {sys.executable} -c "$DAEMON" deaf; sleep 120; sleep 120'],
        env={"DAEMON": DAEMON},
    )
    await bench.prepare()
    await bench.start()
    await until(lambda: (bench.base / "work/daemon.pid").exists() and len(bench.living) >= 4)
    daemon = int((bench.base / "work/daemon.pid").read_text())
    first = await bench.provider.destroy(bench.order.workspace_id)
    assert int(str(first.details["ended"])) > 0
    assert not bench.living
    assert not lives(daemon)
    assert not bench.base.exists()
    second = await bench.provider.destroy(bench.order.workspace_id)
    assert second.details == {"ended": 0, "kept": False}
    with pytest.raises(Failure, match="stopped for good"):
        await bench.provider.create(bench.order, bench.grant())
    assert (await bench.provider.inspect(bench.order.workspace_id)).exists is False


def test_read_only_files_are_removed_too(tmp_path: Path) -> None:
    """A directory that its owner cannot write, with one inside that he cannot read, is removed by an ordinary user."""
    tmp_path.chmod(0o755)
    root = tmp_path / "root"
    root.mkdir()
    layout = Layout(root, WorkspaceId("w"))
    layout.make()
    (layout.work / "closed/deep").mkdir(parents=True)
    (layout.work / "closed/deep/file").touch()
    (layout.work / "away").symlink_to("/etc")
    layout.work.joinpath("closed/deep").chmod(0)
    layout.work.joinpath("closed").chmod(0o500)
    if os.getuid() == 0:
        for path in [root, *root.rglob("*")]:
            os.lchown(path, 65534, 65534)
        for parent in tmp_path.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o055)
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            layout.remove()
            os._exit(0)
        os.waitpid(child, 0)
    else:
        layout.remove()
    assert not layout.base.exists()
