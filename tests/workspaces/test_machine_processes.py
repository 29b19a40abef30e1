"""Machines as processes: one for each tag, found again by whoever comes, and taken away with all that they started."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from domain.ids import new_id
from domain.names import NodeId
from workspaces import processes
from workspaces.machine_processes import MARK, ProcessMachines, handed_on
from workspaces.machines import Joining

# Stands in for the command line: notes its arguments, and starts what a command of a workspace would be.
PROGRAM = """
import os, subprocess, sys, pathlib, time
folder = pathlib.Path(next(each for each in sys.argv if each.startswith("--data-dir=")).partition("=")[2])
(folder / "argv").write_text("\\n".join(sys.argv[1:]))
space = sys.argv[1]
(folder / "workspaces" / space).mkdir(parents=True)
child = {"PATH": os.environ["PATH"], "TASKRUNNER_WORKSPACE_ID": space}
subprocess.Popen(["sleep", "600"], env=child, start_new_session=True)
(folder / "up").touch()
time.sleep(600)
"""


@pytest.fixture
def workspace() -> str:
    """Give the id of the workspace that the stand-in has."""
    return new_id()


@pytest.fixture
async def machines(tmp_path: Path, workspace: str) -> AsyncIterator[Callable[[], ProcessMachines]]:
    """Give providers on one folder, each as if another process had made it."""

    def another() -> ProcessMachines:
        program = (sys.executable, "-c", PROGRAM, workspace)
        return ProcessMachines(tmp_path / "m", environment={"PATH": os.environ["PATH"]}, program=program)

    yield another
    for tag in await another().list():
        await another().destroy(tag)


def joining(tag: str) -> Joining:
    """Give what a machine is told."""
    return Joining(node_id=NodeId(tag), slots=3, labels={"made": "yes"}, token="tr_secret")


async def until(true: Callable[[], bool]) -> None:
    """Return once this is so; fails when it is not within a minute."""
    async with asyncio.timeout(60):
        while True:
            if true():
                return
            await asyncio.sleep(0.02)


def marked(tag: str) -> list[int]:
    """Give the pids of the tag's processes."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == tag:
                found.append(process.pid)
    return found


async def test_a_machine_is_made_once(machines: Callable[[], ProcessMachines], tmp_path: Path) -> None:
    """One process, however often and by however many it is made; found by its tag; another tag is not."""
    tag = f"made-{new_id()}"
    await asyncio.gather(*(machines().create(joining(tag)) for _ in range(5)))
    await until((tmp_path / "m" / tag / "up").exists)
    await machines().create(joining(tag))
    assert len(marked(tag)) == 1
    assert await machines().find_by_tag(NodeId(tag)) is True
    assert await machines().find_by_tag(NodeId("another")) is False
    assert await machines().list() == [tag]


async def test_it_is_told_by_its_folder_and_environment(
    machines: Callable[[], ProcessMachines], tmp_path: Path
) -> None:
    """Slots and folder in its arguments, labels in its environment, the token in a file of its owner's alone."""
    tag = f"made-{new_id()}"
    await machines().create(joining(tag))
    folder = tmp_path / "m" / tag
    await until((folder / "up").exists)
    words = (folder / "argv").read_text().splitlines()[1:]
    assert words == ["nodes", "join", f"--token-file={folder / 'token'}", "--slots=3", f"--data-dir={folder}"]
    assert (folder / "token").read_text() == "tr_secret"
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    environment = psutil.Process(marked(tag)[0]).environ()
    assert environment["TASKRUNNER_NODE_LABELS"] == '{"made": "yes"}'
    assert "tr_secret" not in str(environment)


async def test_a_machine_is_destroyed_with_what_it_started(
    machines: Callable[[], ProcessMachines], tmp_path: Path, workspace: str
) -> None:
    """Its process, those of its workspaces, and its folder are gone; again is no error, nor is an unknown tag."""
    tag = f"made-{new_id()}"
    await machines().create(joining(tag))
    await until((tmp_path / "m" / tag / "up").exists)
    assert len(processes.of_workspace(workspace)) == 1  # type: ignore[arg-type]
    for _ in range(2):
        await machines().destroy(NodeId(tag))
    assert (marked(tag), processes.of_workspace(workspace)) == ([], [])  # type: ignore[arg-type]
    assert (await machines().find_by_tag(NodeId(tag)), await machines().list()) == (False, [])
    await machines().destroy(NodeId("unknown"))


async def test_what_a_dead_machine_left_is_listed(machines: Callable[[], ProcessMachines], tmp_path: Path) -> None:
    """Not found, but listed: so it is taken away."""
    tag = f"made-{new_id()}"
    await machines().create(joining(tag))
    await until((tmp_path / "m" / tag / "up").exists)
    psutil.Process(marked(tag)[0]).kill()
    await until(lambda: not marked(tag))
    assert (await machines().find_by_tag(NodeId(tag)), await machines().list()) == (False, [tag])


def test_no_key_of_the_control_plane_is_handed_on() -> None:
    """Where Temporal is and what a node needs; neither database nor signing keys, nor another node's identity."""
    given = {
        "TEMPORAL_ADDRESS": "t:7233",
        "TASKRUNNER_PAYLOAD_KEYS": "k:00",
        "TASKRUNNER_DATABASE_URL": "postgresql://",
        "TASKRUNNER_CALLBACK_KEYS": "k:00",
        "TASKRUNNER_WEBHOOK_KEYS": "k:00",
        "TASKRUNNER_API_KEY": "tr_",
        "TASKRUNNER_NODE_TOKEN": "tr_",
        "TASKRUNNER_NODE_ID": "n",
        "TASKRUNNER_SECRET_X": "x",
    }
    assert set(handed_on(given)) == {"TEMPORAL_ADDRESS", "TASKRUNNER_PAYLOAD_KEYS"}
