"""Named faults of those who call: callbacks in every wrong way, silence, and more than fits."""

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import pytest

from domain.names import NodeId
from tests.faults.caller import Caller, noting
from tests.faults.checker import check
from tests.faults.load import CONTROLLERS, finish
from tests.faults.quiet import settled
from tests.faults.scenes import local, play
from tests.faults.stack import FaultStack, running

pytestmark = pytest.mark.campaign


@pytest.fixture(scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultStack]:
    """Give a stack of one each."""
    async with running(tmp_path_factory.mktemp("visitors")) as stack:
        yield stack


@pytest.fixture(scope="module")
def caller(stack: FaultStack) -> Caller:
    """Give a caller who remembers all that it was told."""
    return Caller(stack.http)


@pytest.mark.parametrize("behaviour", CONTROLLERS)
async def test_a_controller_that_misbehaves(caller: Caller, behaviour: str) -> None:
    """Early, late, double, twenty at once, out of order, forged, stale, silent: the task ends; the checker judges."""
    retry = {"max_attempts": 2, "backoff": 0.2}
    timeouts = {"workspace_dispatch": 3, "workspace_ready": 3} if behaviour == "silent" else {}
    task = await caller.create(command=["true"], provider="external", retry=retry, timeouts=timeouts)
    row = await caller.reaches(task, status="delegated")
    await CONTROLLERS[behaviour](caller, row, await caller.token(row["workspace_id"]), Random(behaviour))
    await finish(caller, task)
    assert (await caller.ends(task))["status"] == ("failed" if behaviour == "silent" else "completed")


async def test_a_body_that_is_too_large(caller: Caller) -> None:
    """413, and nothing was made."""
    body = {"command": ["true"], "input": "x" * 1_100_000}
    answer = await caller.send("POST", "/v1/tasks", json=body, final=False)
    assert answer.status_code == 413


async def test_a_result_that_is_too_large(stack: FaultStack, caller: Caller) -> None:
    """The task fails and says so."""
    script = 'head -c 70000 /dev/zero | tr "\\0" x | sed "s/.*/\\"&\\"/" > "$TASKRUNNER_RESULT_FILE"'
    row = await caller.ends(await caller.create(**noting(stack.effects, script)))
    assert (row["status"], row["error"]["code"]) == ("failed", "result_too_large")


async def test_a_log_that_is_too_large(stack: FaultStack, caller: Caller) -> None:
    """The output is cut off and says so; the task completes."""
    task = await caller.create(**noting(stack.effects, "head -c 11000000 /dev/zero | tr '\\0' x"))
    assert (await caller.ends(task))["status"] == "completed"
    log = await caller.send("GET", f"/v1/tasks/{task}/logs", params={"offset": 9_999_900})
    assert "truncated" in log.text


@pytest.fixture
def full_disk(stack: FaultStack) -> Iterator[Path]:
    """Give the folder of a node's workspaces on a disk of two megabytes."""
    folder = stack.data_dir(NodeId("n0")) / "workspaces"
    folder.mkdir(parents=True, exist_ok=True)
    mount, umount = shutil.which("mount"), shutil.which("umount")
    options = ["-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(folder)]
    if not mount or not umount or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("a file system of a given size needs the right to mount one")
    yield folder
    subprocess.run([umount, "--lazy", str(folder)], check=True)


async def test_a_full_disk(stack: FaultStack, caller: Caller, full_disk: Path) -> None:
    """Tasks fail and say why; with space again, the next one completes."""
    filler = full_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(b"x" * 4_000_000)
    retry = {"max_attempts": 1}
    row = await caller.ends(await caller.create(**noting(stack.effects, "true") | {"retry": retry}))
    assert row["status"] == "failed"
    assert row["error"]["code"] in ("node_files", "program_not_started"), row["error"]
    filler.unlink()
    await play(local, stack, caller)


async def test_after_all_of_them_the_nine_invariants_hold(stack: FaultStack, caller: Caller) -> None:
    """No violation of any invariant."""
    snapshot = await settled(stack, caller.witness)
    assert {name: found for name, found in check(snapshot).items() if found} == {}
