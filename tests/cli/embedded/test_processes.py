import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from cli.embedded.processes import Backoff, ChildFailedError, ChildProcess, Supervisor, die_with_parent

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)",
]
PARENT = """
import asyncio, sys
from pathlib import Path
from cli.embedded.processes import ChildProcess

async def main():
    child = ChildProcess("child", [sys.executable, "-c", "import time; time.sleep(600)"], log=Path(sys.argv[1]))
    await child.start()
    print(child.pid, flush=True)
    await child.exited()

asyncio.run(main())
"""


async def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    """A new process runs after the old one was killed with -9, and the supervisor has said both."""
    said: list[str] = []
    again = asyncio.Event()

    def say(line: str) -> None:
        said.append(line)
        if "runs again" in line:
            again.set()

    child = ChildProcess("child", SLEEP, log=tmp_path / "log")
    supervisor = Supervisor(say=say, backoff=Backoff(first=timedelta(milliseconds=1)))
    await supervisor.start(child)
    first = child.pid
    assert first

    os.kill(first, signal.SIGKILL)
    await asyncio.wait_for(again.wait(), 10)

    second = child.pid
    assert second not in {None, first}
    assert "child ended with -9; it is started again in 0.001 s" in said
    await supervisor.stop()
    assert child.pid is None
    assert not psutil.pid_exists(second or 0)


async def test_services_stop_in_reverse_order() -> None:
    """What was started last is stopped first; what was started at once is stopped at once."""
    journal: list[str] = []

    class Noted:
        def __init__(self, name: str) -> None:
            self.name = name

        async def start(self) -> None:
            journal.append(f"start {self.name}")

        async def exited(self) -> int:
            await asyncio.Event().wait()
            return 0

        async def stop(self) -> None:
            journal.append(f"stop {self.name}")
            await asyncio.sleep(0)
            journal.append(f"{self.name} stopped")

    supervisor = Supervisor(say=journal.append)
    await supervisor.start(Noted("database"))
    await supervisor.start(Noted("worker"), Noted("api"))
    await supervisor.stop()

    assert journal == [
        *("start database", "start worker", "start api"),
        *("stop worker", "stop api", "worker stopped", "api stopped", "stop database", "database stopped"),
    ]


async def test_a_child_that_ends_before_it_is_ready_says_why(tmp_path: Path) -> None:
    """The error carries the exit code and the end of the child's own log."""
    argv = [sys.executable, "-c", "raise SystemExit('no disk left')"]

    async def never() -> bool:
        return False

    child = ChildProcess("child", argv, log=tmp_path / "log", ready=never)
    with pytest.raises(ChildFailedError, match=r"child ended with 1 at its start(.|\n)*no disk left"):
        await child.start()


async def test_a_child_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    """Past its patience the error names the log, and no process is left."""

    async def never() -> bool:
        return False

    child = ChildProcess("child", SLEEP, log=tmp_path / "log", ready=never, patience=timedelta(milliseconds=50))
    with pytest.raises(ChildFailedError, match="was not ready within"):
        await child.start()
    assert child.pid is None


async def test_a_missing_program_is_an_error_with_its_name(tmp_path: Path) -> None:
    """The message names the program that is missing."""
    child = ChildProcess("child", ["/no/such/program"], log=tmp_path / "log", ready=_soon(tmp_path / "no"))
    with pytest.raises(ChildFailedError, match="/no/such/program"):
        await child.start()


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """After the grace period nothing of it runs, exit code -9."""
    child = ChildProcess(
        "child", STUBBORN, log=tmp_path / "log", ready=_soon(tmp_path / "log"), grace=timedelta(milliseconds=50)
    )
    await child.start()
    await child.stop()
    assert await child.exited() == -signal.SIGKILL


@pytest.mark.skipif(not die_with_parent(signal.SIGKILL), reason="the kernel does not offer it here")
async def test_nothing_is_left_behind_when_the_parent_is_killed(tmp_path: Path) -> None:
    """A kill -9 of the parent takes the child with it."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    with parent.stdout:
        child = psutil.Process(int(await asyncio.to_thread(parent.stdout.readline)))
    parent.kill()
    await asyncio.to_thread(parent.wait)

    _, alive = await asyncio.to_thread(psutil.wait_procs, [child], timeout=10)
    assert not alive


@pytest.mark.parametrize(
    ("earlier", "lived", "expected"),
    [(None, 0, 1), (1, 0, 2), (2, 5, 4), (16, 0, 30), (30, 0, 30), (30, 61, 1)],
)
def test_pauses_double_up_to_a_limit_and_start_over_after_a_calm(
    earlier: int | None, lived: int, expected: int
) -> None:
    """The pause doubles to `most`; a life longer than `calm` makes it `first` again."""
    backoff = Backoff(first=timedelta(seconds=1), most=timedelta(seconds=30), calm=timedelta(seconds=60))
    before = None if earlier is None else timedelta(seconds=earlier)
    assert backoff.after(before, lived=timedelta(seconds=lived)) == timedelta(seconds=expected)


def _soon(log: Path) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return log.exists() and "ready" in log.read_text()

    return ready
