"""Commands that take all that they can get: each is contained, the task ends with a clear error, the node lives."""

import os
import time
from pathlib import Path

import pytest

from domain.errors import Category
from domain.messages import AgentExit
from tests.workspaces.conftest import ContainerBench
from tests.workspaces.recording import until

pytestmark = pytest.mark.containers

BOMB = """
import os, time
until = time.monotonic() + 5
while time.monotonic() < until:
    try:
        if os.fork():
            refused = False
    except OSError:
        refused = True
        time.sleep(0.05)
raise SystemExit(1 if refused else 0)
"""
DEAF_BOMB = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setsid()
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.001)
"""
HOG = """
kept = []
while True:
    kept.append(bytearray(b"x") * 10_000_000)
"""


def limit(ended: AgentExit, name: str) -> None:
    """Expect an error that names the limit."""
    assert ended.error is not None, ended
    assert (ended.error.code, ended.error.category) == ("limit_reached", Category.AGENT)
    assert f"`{name}`" in ended.error.message


async def next_one_works(bench: ContainerBench) -> None:
    """The node takes another task beside the hostile one's remains."""
    bench.api.requests.clear()
    assert (await bench.run("echo well")).exit_code == 0


async def test_a_fork_bomb_stays_within_its_number(bench: ContainerBench) -> None:
    """No more processes than `processes`; the error names the limit."""
    ended = await bench.run(f"exec python3 -c '{BOMB}'", resources={"processes": 40})
    limit(ended, "processes")
    await next_one_works(bench)


async def test_a_fork_bomb_that_goes_on_ends_with_its_workspace(bench: ContainerBench) -> None:
    """Deaf, apart from its parent and forking for ever: the turn ends, and nothing outlives the destruction."""
    script = f"python3 -c '{DEAF_BOMB}' & sleep 1; exit 3"
    ended = await bench.run(script, resources={"processes": 40})
    assert ended.exit_code == 3
    limit(ended, "processes")
    await bench.provider.destroy(bench.order.workspace_id)
    assert bench.living == []
    await next_one_works(bench)


async def test_a_memory_hog_is_ended(bench: ContainerBench) -> None:
    """The kernel ends it and not the program beside it; the error names the limit."""
    ended = await bench.run(f"exec python3 -c '{HOG}'", resources={"memory_mb": 96})
    limit(ended, "memory_mb")
    assert ended.exit_code == 137
    await next_one_works(bench)


async def test_a_memory_hog_in_files_is_ended(bench: ContainerBench) -> None:
    """`/dev/shm` and `/tmp` are memory, and have an end of their own."""
    script = "head -c 300000000 /dev/zero > /tmp/a; head -c 300000000 /dev/zero > /dev/shm/b; du -sm /tmp /dev/shm"
    await bench.run(script, resources={"memory_mb": 200})
    used = [int(line.split()[0]) for line in bench.api.log.decode().splitlines() if line.endswith(("/tmp", "/dev/shm"))]
    assert len(used) == 2
    assert max(used) <= 65


@pytest.mark.parametrize("place", ["$PWD", "$HOME", "$TASKRUNNER_ARTIFACTS_DIR", "/workspace/control"])
async def test_a_disk_filler_fills_its_own_disk(bench: ContainerBench, tmp_path: Path, place: str) -> None:
    """No more than `disk_mb` anywhere; the exit file and the error are written all the same."""
    free = node_space(tmp_path)
    ended = await bench.run(f'cd "{place}"; head -c 500000000 /dev/zero > big', resources={"disk_mb": 32})
    limit(ended, "disk_mb")
    assert (bench.base / "disk").stat().st_blocks * 512 <= 32_000_000
    assert free - node_space(tmp_path) < 400_000_000
    assert (bench.files / "control/agent-a1-t1.exit.json").exists()
    await next_one_works(bench)


def node_space(path: Path) -> int:
    """Give the bytes that are free on the node's disk."""
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize


async def test_a_filler_of_inodes_fills_its_own_disk(bench: ContainerBench) -> None:
    """Files without content end too."""
    code = "import itertools\nfor n in itertools.count(): open(str(n), 'w').close()"
    ended = await bench.run(f'exec python3 -c "{code}"', resources={"disk_mb": 16})
    limit(ended, "disk_mb")


async def test_nothing_else_can_be_written(bench: ContainerBench) -> None:
    """Root file system, program, gate, what the engine mounts: read-only or not this user's."""
    script = """
    cd /taskrunner; for place in / /etc /usr . workspaces gate /workspace /workspace/own /dev /proc /sys
    do touch $place/x 2>/dev/null && echo wrote $place; done; for f in /etc/hosts /etc/resolv.conf gate/api.sock
    do mv $f /tmp/ 2>/dev/null && echo moved $f; done; echo done
    """
    await bench.run(script)
    assert bench.api.log == b"done\n"


async def test_a_log_flood_is_cut_off(bench: ContainerBench) -> None:
    """The log says so; what is written past the program, to the container's own output, is kept by nobody."""
    script = "yes flood | head -c 30000000; yes past | head -c 1000000 > /proc/1/fd/1; exit 0"
    ended = await bench.run(script, limits={"log_limit": 100_000})
    assert ended.exit_code == 0
    assert len(bench.api.log) <= 100_000
    assert bench.api.log.endswith(b"[truncated: this attempt's log holds no more than 100000 bytes]\n")
    facts = await bench.facts()
    assert (facts["HostConfig"]["LogConfig"]["Type"], facts["LogPath"]) == ("none", "")


async def test_a_command_without_end_ends_with_its_workspace(bench: ContainerBench) -> None:
    """Busy, deaf to signals, in many processes: destroyed within the grace and what the engine takes."""
    script = 'trap "" TERM; for n in 1 2 3 4; do sh -c \'trap "" TERM; while :; do :; done\' & done; touch busy; wait'
    bench.new(command=["sh", "-c", script], resources={"cpus": 0.5})
    await bench.prepare()
    await bench.start()
    await until((bench.files / "work/busy").exists)
    before = time.monotonic()
    await bench.provider.destroy(bench.order.workspace_id)
    assert bench.living == []
    assert time.monotonic() - before < 60  # alone: 2 s
    await next_one_works(bench)


async def test_processor_time_is_limited(bench: ContainerBench) -> None:
    """`cpu_seconds` ends the command as everywhere; `cpus` is the container's."""
    ended = await bench.run("while :; do :; done", resources={"cpu_seconds": 1, "cpus": 0.5})
    assert ended.error is not None
    assert "SIGXCPU. It had used up `cpu_seconds`." in ended.error.message
    assert (await bench.facts())["HostConfig"]["NanoCpus"] == 500_000_000


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "huge", "nonsense", "nul"])
async def test_an_exit_file_of_its_own_does_not_deceive_the_node(
    bench: ContainerBench, tmp_path: Path, kind: str
) -> None:
    """A link to the node's file, a pipe, a folder, too much, no JSON, no text: never taken for an exit."""
    secret = tmp_path / "secret.json"
    secret.write_text('{"exit_code": 0, "result": "of the node", "error": null}')
    place = "/workspace/control/agent-a1-t1.exit.json"
    make = {
        "link": f"ln -s {secret} {place}",
        "pipe": f"mkfifo {place}",
        "folder": f"mkdir {place}",
        "huge": f"head -c 3000000 /dev/zero > {place}",
        "nonsense": f"echo nonsense > {place}",
        "nul": f"""printf %s '{{"exit_code": 0, "result": "\\u0000", "error": null}}' > {place}""",
    }[kind]
    await bench.prepare(command=["sh", "-c", f"{make}; touch made; sleep 60"])
    await bench.start()
    await until((bench.files / "work/made").exists)
    with pytest.raises((ValueError, OSError)):
        await bench.exit()


@pytest.mark.parametrize("make", ["ln -s /etc/shadow", "mkfifo", "mkdir"], ids=["link", "pipe", "folder"])
async def test_a_lock_of_its_own_stops_nobody(bench: ContainerBench, make: str) -> None:
    """What is no lock is held by nobody: the state can be read, the turn counts as lost, the workspace is removed."""
    lock = "/workspace/control/agent-a1-t1.lock"
    script = f"until test -e go; do sleep 0.05; done; rm {lock}; {make} {lock}; touch made; sleep 60"
    await bench.prepare(command=["sh", "-c", script])
    await bench.start()
    (bench.files / "work/go").touch()
    await until((bench.files / "work/made").exists)
    await bench.provider.inspect(bench.order.workspace_id)
    assert (await bench.exit()).lost


@pytest.mark.parametrize("name", ["token", "input.json", "agent-a2-t2.json"])
async def test_a_folder_in_the_place_of_our_files_does_not_keep_a_workspace(bench: ContainerBench, name: str) -> None:
    """The workspace is kept, its next turn or attempt starts, and it is removed."""
    make = f"cd /workspace/control; rm -f {name}; mkdir -p {name}/x; touch ../work/made; sleep 60"
    await bench.prepare(command=["sh", "-c", f"test -e made || {{ {make}; }}"])
    await bench.start()
    await until((bench.files / "work/made").exists)
    assert (await bench.provider.destroy(bench.order.workspace_id, keep=True)).details["kept"]
    bench.order = bench.order.model_copy(update={"attempt": 2})
    await bench.start(turn=2)
    assert (await bench.exit(turn=2)).exit_code == 0
    await bench.provider.destroy(bench.order.workspace_id)
    assert not bench.base.exists()


async def test_no_folder_can_be_swapped_for_a_link(bench: ContainerBench, tmp_path: Path) -> None:
    """The folders that the node reads and writes are not the command's to move."""
    outside = tmp_path / "outside"
    outside.mkdir()
    script = f"""
    cd /workspace; for folder in control home artifacts attachments work own
    do mv $folder moved 2>/dev/null && ln -s {outside} $folder && echo swapped $folder; done; echo done
    """
    await bench.run(script)
    assert bench.api.log == b"done\n"


async def test_forged_session_files_do_not_keep_a_workspace_from_being_kept(bench: ContainerBench) -> None:
    """Nonsense beside the sessions' own files: the stop is noted, and the next attempt goes on."""
    script = """cd /workspace/control; echo x > agent-a9-t1.json; mkfifo agent-a8-t1.json; mkdir agent-a7-t1.json
    ln -s /etc/passwd prepare-7.json; echo '{"environment": {"TASKRUNNER_ATTEMPT": []}}' > agent-a6-t1.json"""
    await bench.run(script)
    await bench.provider.destroy(bench.order.workspace_id, keep=True)
    bench.order = bench.order.model_copy(update={"attempt": 2})
    await bench.start()
    assert (await bench.exit()).exit_code == 0
