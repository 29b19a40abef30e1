"""What the pid file of a PostgreSQL data directory says, and what an earlier server left running on it."""

import contextlib
import os
import signal
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import psutil

from cli.embedded.processes import ChildFailedError, until

STATUS_LINE = 8  # of postmaster.pid, PostgreSQL 10 and later
PATIENCE = timedelta(seconds=20)


def is_ready(data: Path, pid: int | None) -> bool:
    """Tell whether the server with this process id accepts connections; costs no connection."""
    lines = _pid_file_lines(data)
    return len(lines) >= STATUS_LINE and lines[0] == str(pid) and lines[STATUS_LINE - 1].strip() == "ready"


async def stop_stale(data: Path) -> None:
    """Stop the server that a killed launcher left running on `data`; call it as the only launcher.

    When only its postmaster was killed, its other processes end by themselves and are waited for: until then they hold
    the shared memory. A pid file whose number belongs to another program by now is removed. Raises ChildFailedError.
    """
    lines = _pid_file_lines(data)
    if not lines:
        return
    pid = abs(int(lines[0]))  # negative: a single-user backend
    for sign in (signal.SIGINT, signal.SIGQUIT):  # fast shutdown, then immediate
        if pid in _processes_on(data):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        if await until(lambda: not any(_processes_on(data)), patience=PATIENCE):
            (data / "postmaster.pid").unlink(missing_ok=True)
            return
    raise ChildFailedError(f"processes of an earlier server on {data} do not end: {sorted(_processes_on(data))}")


def _pid_file_lines(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _processes_on(data: Path) -> Iterable[int]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("postgres") and Path(process.cwd()) == data:
                yield process.pid
