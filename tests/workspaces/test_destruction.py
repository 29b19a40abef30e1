"""Destruction beside an effect that is still under way: whichever of the two ends last, nothing is left over."""

import asyncio
import os
import random
import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from domain.errors import Failure
from domain.ids import new_id
from domain.messages import AgentOrder
from tests.workspaces.conftest import Bench
from tests.workspaces.recording import until
from workspaces import processes
from workspaces.launcher import Spawner
from workspaces.layout import Layout
from workspaces.local import LocalProvider
from workspaces.provider import WorkspaceProvider

ROUNDS = 40


@dataclass(frozen=True, kw_only=True)
class Late(Spawner):
    """Starts the program when the workspace has been destroyed, in directories that its removal has missed.

    A removal misses what is written beside it: a directory into which something came meanwhile is not empty.
    """

    reached: threading.Event
    destroyed: threading.Event

    def start(self, layout: Layout, *arguments: Any, **options: Any) -> tuple[int, bool]:
        self.reached.set()
        self.destroyed.wait(10)
        for path in (layout.base, layout.control, layout.work, layout.home, layout.artifacts):
            path.mkdir(exist_ok=True)
        return super().start(layout, *arguments, **options)


@pytest.mark.parametrize("effect", ["create", "start_agent"])
async def test_an_effect_that_ends_after_the_destruction_is_taken_back(bench: Bench, effect: str) -> None:
    """Refused as `workspace_gone`: the program that it started has ended, and its files are gone."""
    bench.new(command=["sleep", "60"])
    if effect == "start_agent":
        await bench.prepare()
    slow = bench.provider
    assert isinstance(slow, LocalProvider)
    known = {field.name: getattr(slow._launcher, field.name) for field in fields(slow._launcher)}
    slow._launcher = late = Late(**known, reached=threading.Event(), destroyed=threading.Event())
    working = asyncio.ensure_future(DO[effect](slow, bench))
    await asyncio.to_thread(late.reached.wait, 10)
    await bench.provider.destroy(bench.order.workspace_id)
    late.destroyed.set()
    with pytest.raises(Failure) as caught:
        await working
    assert caught.value.error.code == "workspace_gone"
    await nothing_is_left(bench)


async def test_an_attachment_that_comes_after_the_destruction_is_taken_back(bench: Bench) -> None:
    """Refused as `workspace_gone`, with nothing left of what the removal missed."""
    await bench.prepare(command=["true"])

    async def pieces() -> AsyncIterator[bytes]:
        await bench.provider.destroy(bench.order.workspace_id)
        (bench.base / "control/attachments").mkdir(parents=True)
        (bench.base / "attachments").mkdir()
        yield b"late"

    with pytest.raises(Failure) as caught:
        await bench.provider.transfer_attachment(bench.order.workspace_id, "a", "a.txt", pieces())
    assert caught.value.error.code == "workspace_gone"
    await nothing_is_left(bench)


async def nothing_is_left(bench: Bench) -> None:
    """Neither files nor processes of this workspace."""
    assert processes.of_workspace(bench.order.workspace_id) == []
    assert await bench.provider.list() == []


async def refused(effect: Awaitable[Any]) -> None:
    """Wait for an effect that is refused, unless it was done before the destruction began."""
    try:
        await effect
    except (Failure, OSError):
        return


@pytest.mark.parametrize("effect", ["create", "start_agent"])
async def test_an_effect_at_any_moment_of_the_destruction_leaves_nothing(bench: Bench, effect: str) -> None:
    """Given 40 destructions that begin and end at another point of the effect each, nothing is there afterwards."""
    seeded = random.Random(4)  # noqa: S311 - a seed, not a secret
    for number in range(ROUNDS):
        bench.new(command=["sleep", "60"])
        if effect == "start_agent":
            await bench.prepare()
        working = asyncio.ensure_future(refused(DO[effect](bench.provider, bench)))
        await asyncio.sleep(seeded.random() * 0.12 * number / ROUNDS)
        await bench.provider.destroy(bench.order.workspace_id)
        await working
        await nothing_is_left(bench)


DO: dict[str, Callable[[WorkspaceProvider, Bench], Awaitable[Any]]] = {
    "create": lambda provider, bench: provider.create(bench.order, bench.grant(new_id())),
    "start_agent": lambda provider, bench: provider.start_agent(AgentOrder(order=bench.order), bench.grant(new_id())),
}


@pytest.fixture
def small_disk(bench: Bench) -> Iterator[Path]:
    """Put the workspaces on a disk of few files."""
    bench.root.mkdir(parents=True)
    mount, umount = shutil.which("mount"), shutil.which("umount")
    options = ["-t", "tmpfs", "-o", "size=8m,nr_inodes=100,mode=0700", "tmpfs", str(bench.root)]
    if not mount or not umount or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("a file system of a given size needs the right to mount one")
    yield bench.root
    subprocess.run([umount, "--lazy", str(bench.root)], check=True)


async def test_a_workspace_that_has_filled_the_nodes_disk_is_removed(bench: Bench, small_disk: Path) -> None:
    """There is no room for the mark that it is gone: what it leaves makes room."""
    fill = "import itertools\nfor n in itertools.count(): open(str(n), 'w').close()"
    await bench.prepare(command=["sh", "-c", f'python3 -c "{fill}"; sleep 60'])
    await bench.start()
    await until(lambda: os.statvfs(small_disk).f_ffree == 0)
    with pytest.raises(OSError, match="No space"):
        (small_disk / "file").touch()
    await bench.provider.destroy(bench.order.workspace_id)
    assert not bench.base.exists()
    with pytest.raises(Failure):
        await bench.provider.create(bench.order, bench.grant())
