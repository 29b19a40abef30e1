"""A machine that is switched off and on again: its containers have ended, and their disks are not mounted."""

import subprocess

import pytest

from tests.workspaces.conftest import ContainerBench
from workspaces import processes

pytestmark = pytest.mark.containers


async def switched_off_and_on(bench: ContainerBench) -> None:
    """End all that runs, and unmount the disk."""
    container = await bench.client.containers.get(bench.order.workspace_id)
    await container.kill()
    await container.wait()
    processes.end_all(bench.order.workspace_id, grace=0)
    subprocess.run(["umount", str(bench.files)], check=True)


async def test_a_turn_that_had_ended_before_is_read(bench: ContainerBench) -> None:
    """The exit file keeps what the API may not have heard."""
    await bench.run("exit 3")
    await switched_off_and_on(bench)
    ended = await bench.exit()
    assert (ended.lost, ended.exit_code) == (False, 3)


async def test_a_command_that_ran_is_lost(bench: ContainerBench) -> None:
    """It left no exit file; the workspace is removed."""
    await bench.prepare(command=["sleep", "60"])
    await bench.start()
    await switched_off_and_on(bench)
    assert (await bench.exit()).lost
    await bench.provider.destroy(bench.order.workspace_id)
    assert not bench.base.exists()


async def test_a_conversation_goes_on(bench: ContainerBench) -> None:
    """The next turn finds the files of the one before."""
    await bench.run("test -e file && exit 7; touch file")
    await switched_off_and_on(bench)
    await bench.start(turn=2)
    assert (await bench.exit(turn=2)).exit_code == 7


async def test_what_was_to_be_kept_is_kept(bench: ContainerBench) -> None:
    """The next attempt goes on in it."""
    await bench.run("test -e file && exit 7; touch file")
    await switched_off_and_on(bench)
    assert (await bench.provider.destroy(bench.order.workspace_id, keep=True)).details["kept"]
    bench.order = bench.order.model_copy(update={"attempt": 2})
    await bench.start()
    assert (await bench.exit()).exit_code == 7
