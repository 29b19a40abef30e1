"""Commands: started in a session of their own with limits, waited for, and ended with everything they started."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from workspaces.inside.session import problem

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
GRACE = 1.0  # seconds between SIGTERM and SIGKILL
LEASE_EXPIRED = "lease_expired"
PROC = Path("/proc")
SCORE, FIRST_TO_GO = "/proc/self/oom_score_adj", b"1000"  # proc(5)
SHELL_NOT_FOUND, SHELL_NOT_EXECUTABLE, SHELL_SIGNAL = 127, 126, 128  # exit codes as every shell gives them


class Unstartable(Exception):  # noqa: N818 - the fact
    """A command that cannot be started, with the exit code of a shell and the error to report."""

    def __init__(self, exit_code: int, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.exit_code = exit_code
        self.error = error


def _prctl() -> Any:
    try:
        import ctypes  # noqa: PLC0415 - absent from some builds; without it orphans are found by other means

        return ctypes.CDLL(None).prctl
    except (ImportError, OSError, AttributeError):
        return None


PRCTL = _prctl()


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies: a daemon cannot slip away (Linux)."""
    if PRCTL:
        PRCTL(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(
    argv: list[str], *, cwd: Path, environment: dict[str, str], resources: dict[str, float], stdin: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in its own session; its output, both streams as one, is the pipe `stdout`.

    Raises `Unstartable`. The executable is looked for on the PATH of `environment`.
    """
    limits = list(_limits(resources))

    def confine() -> None:  # between fork and exec: system calls only
        for kind, soft, hard in limits:
            resource.setrlimit(kind, (soft, hard))
        if PRCTL:
            PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _sacrifice()

    try:
        with open(stdin or os.devnull, "rb") as source:  # noqa: PTH123 - one spelling for both
            return subprocess.Popen(
                argv,
                cwd=cwd,
                env=environment,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=confine,  # noqa: PLW1509 - it takes no lock, and nothing else sets limits portably
            )
    except FileNotFoundError:
        found = f"{argv[0]} was not found on the PATH of the workspace."
        raise Unstartable(SHELL_NOT_FOUND, problem("executable_not_found", "input", found)) from None
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        text = f"{argv[0]} cannot be executed: {reason}."
        raise Unstartable(SHELL_NOT_EXECUTABLE, problem("executable_not_started", "input", text)) from None


def _sacrifice() -> None:
    """Let the kernel end this process before the one beside it when memory is short."""
    try:
        descriptor = os.open(SCORE, os.O_WRONLY)
        os.write(descriptor, FIRST_TO_GO)
        os.close(descriptor)
    except OSError:
        return


def _limits(resources: dict[str, float]) -> Iterable[tuple[int, int, int]]:
    """Give each limit with its soft and its hard value, never above what this process itself may have."""
    wanted: dict[int, float] = {resource.RLIMIT_CORE: 0}
    if "memory_mb" in resources:
        # Address space counts what runtimes reserve and never use; data counts what they can write (Linux 4.7).
        kind = resource.RLIMIT_DATA if PROC.is_dir() else resource.RLIMIT_AS
        wanted[kind] = resources["memory_mb"] * 1_000_000
    if "cpu_seconds" in resources:
        wanted[resource.RLIMIT_CPU] = resources["cpu_seconds"]
    if "disk_mb" in resources:
        wanted[resource.RLIMIT_FSIZE] = resources["disk_mb"] * 1_000_000
    if "processes" in resources:
        # The kernel counts all threads of the user, so the limit lies above those that are there already.
        wanted[resource.RLIMIT_NPROC] = _threads_of_user() + resources["processes"]
    for kind, value in wanted.items():
        # The soft limit of CPU time sends SIGXCPU, which tells; the hard one SIGKILL, which does not.
        _, ours = resource.getrlimit(kind)
        most = int(value) + (2 if kind == resource.RLIMIT_CPU else 0)
        most = most if ours == resource.RLIM_INFINITY else min(most, ours)
        yield kind, min(int(value), most), most


def _threads_of_user() -> int:
    count = 0
    for entry in PROC.glob("[0-9]*"):
        try:
            if entry.stat().st_uid == os.getuid():
                count += len(os.listdir(entry / "task"))  # noqa: PTH208 - counts only
        except OSError:
            continue
    return count


def wait(child: subprocess.Popen[bytes]) -> int:
    """Wait for a command and reap adopted orphans meanwhile; return its exit code, -n for signal n."""
    if hasattr(os, "waitid"):
        while True:
            # WNOWAIT leaves the command itself to Popen, which alone may collect it.
            event = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            if event is None or event.si_pid == child.pid:
                break
            os.waitpid(event.si_pid, 0)
    return child.wait()


def reap() -> None:
    """Collect every child that has ended; only when no command is being waited for."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


def descendants() -> list[int]:
    """Return the pids of all living descendants of this process (Linux; elsewhere none are known)."""
    children: dict[int, list[int]] = {}
    for entry in PROC.glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything: state and parent follow the last closing one.
            state, parent = entry.read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(entry.parent.name))
    found: list[int] = []
    front = [os.getpid()]
    while front:
        front = [pid for parent in front for pid in children.get(parent, [])]
        found += front
    return found


def end_all(child: subprocess.Popen[bytes] | None = None, *, grace: float = GRACE) -> int:
    """End every descendant, politely first; return how many there were."""
    first = descendants()
    _signal(first, child, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while descendants() and time.monotonic() < deadline:
        time.sleep(0.01)
    # Between two looks a process may fork; it cannot do so for ever faster than it is killed.
    while (left := descendants()) and time.monotonic() < deadline + 2:
        _signal(left, child, signal.SIGKILL)
        time.sleep(0.005)
    return len(first)


def _signal(pids: list[int], child: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue
    if not PROC.is_dir() and child and child.returncode is None:
        try:
            os.killpg(child.pid, number)
        except OSError:
            return


class Stop:
    """Ends the work early, from any thread; the first reason stays."""

    def __init__(self) -> None:
        self.error: dict[str, Any] | None = None
        self.child: subprocess.Popen[bytes] | None = None
        self.then: Callable[[], None] = lambda: None

    def __call__(self, code: str, category: str, message: str) -> None:
        """Remember why, and end all commands; returns at once."""
        if self.error is None:
            self.error = problem(code, category, message)
            self.then()
            threading.Thread(target=end_all, args=(self.child,), name="stop", daemon=True).start()

    def on_sigterm(self) -> None:
        """Stop when the node, or the machine, tells this process to.

        The signal interrupts the main thread, which may hold any lock, one that a stop needs perhaps: the handler only
        writes to a pipe, and a thread of its own reads there.
        """
        told, tell = os.pipe()

        def listen() -> None:
            os.read(told, 1)
            self("stopped", "runtime_lost", "The workspace was stopped from outside.")

        threading.Thread(target=listen, name="sigterm", daemon=True).start()
        signal.signal(signal.SIGTERM, lambda *_: os.write(tell, b"."))

    def on_gone(self) -> None:
        """Stop because the API said that the attempt ended."""
        self("attempt_ended", "cancelled", "The attempt had ended: the API answered 410.")

    def on_lease(self) -> None:
        """Stop because a new attempt may start soon."""
        self(LEASE_EXPIRED, "runtime_lost", "The workspace had no contact with the API for as long as its lease.")
