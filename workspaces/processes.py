"""The processes of local workspaces: started apart from the node, recognised again, ended without remainder."""

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from domain.names import WorkspaceId

MARK: Final = "TASKRUNNER_WORKSPACE_ID"
POLL: Final = 0.025  # seconds; where the kernel tells of a process's end, only for what it does not tell
# A command may have put something else in a lock's place: no link is followed, no pipe waited for.
LOCK_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
OUTPUT_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
LOCK_SIZE: Final = 1000  # bytes
NO_LOCK: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EISDIR})

_children: set[int] = set()


def spawn(argv: Sequence[str], environment: Mapping[str, str], *, stdin: bytes, output: Path) -> int:
    """Start a program in a session of its own, with `stdin` to read; return its pid.

    Blocks until the program has read its input. It outlives this process: nothing of it is inherited.
    """
    reap()
    read, write = os.pipe()
    try:
        pid = os.posix_spawn(
            argv[0],
            list(argv),
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, read, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(output), OUTPUT_FLAGS, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD),
        )
    except BaseException:
        os.close(write)
        raise
    finally:
        os.close(read)
    _children.add(pid)
    with contextlib.suppress(BrokenPipeError), os.fdopen(write, "wb") as pipe:
        pipe.write(stdin)
    return pid


def reap() -> None:
    """Collect those of our own children that have ended."""
    for pid in tuple(_children):
        try:
            ended, _ = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            ended = pid
        if ended:
            _children.discard(pid)


def running(pid: int) -> bool:
    """Whether a child of ours still runs."""
    reap()
    return pid in _children


def holder(lock: Path) -> int | None:
    """Return the pid that the lock file names; None when there is no lock, or what is there is none of ours."""
    try:
        with os.fdopen(os.open(lock, LOCK_FLAGS), "rb") as file:
            return int(json.loads(file.read(LOCK_SIZE))["pid"])
    except (ValueError, TypeError, KeyError):
        return None
    except OSError as error:
        if error.errno in NO_LOCK:
            return None
        raise


def held(lock: Path) -> bool:
    """Whether the process that took this lock still lives.

    The kernel drops the `flock` with its holder: no pid that came round again, and no restart, can deceive. It knows
    no containers either: who holds it in one is seen from outside.
    """
    try:
        descriptor = os.open(lock, LOCK_FLAGS)
    except OSError as error:
        if error.errno in NO_LOCK:
            return False
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


async def released(lock: Path, *, within: float) -> None:
    """Return when nobody holds the lock any more, or after `within` seconds: for holders in a container.

    Their pids mean nothing out here, so the kernel has to be asked again and again.
    """
    deadline = time.monotonic() + within
    while held(lock) and time.monotonic() < deadline:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(POLL)


async def ended(lock: Path, *, within: float) -> None:
    """Return when the lock's holder has ended, or after `within` seconds."""
    pid = holder(lock)
    if pid is None:
        await asyncio.sleep(POLL)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, AttributeError):  # gone, or a kernel without pidfd
        await asyncio.sleep(POLL)
        return
    try:
        # Asked after the pidfd was opened: a lock that is held now was held then, so the pidfd is its holder's.
        if held(lock):
            await _readable(descriptor, within)
    finally:
        os.close(descriptor)


async def _readable(descriptor: int, within: float) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(descriptor, event.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), within)
    finally:
        loop.remove_reader(descriptor)


def of_workspace(workspace_id: WorkspaceId) -> list[psutil.Process]:
    """Return the living processes that carry the workspace's id in their environment, and all their descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in found and process.environ().get(MARK) == workspace_id:
                found[process.pid] = process
                found.update((child.pid, child) for child in process.children(recursive=True))
    return list(_living(found.values()))


def _living(processes: Iterable[psutil.Process]) -> Iterator[psutil.Process]:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


def end_all(workspace_id: WorkspaceId, *, grace: float) -> tuple[int, int]:
    """End all processes of a workspace: politely, after `grace` seconds by force. Return how many, and how many stay.

    Looks again until nobody is left: whoever forks meanwhile is found in the next round.
    """
    first = of_workspace(workspace_id)
    _signal(first, signal.SIGTERM)
    deadline = time.monotonic() + grace
    left = first
    while left and time.monotonic() < deadline:
        time.sleep(POLL)
        reap()
        left = of_workspace(workspace_id)
    hard_deadline = time.monotonic() + grace + 3
    while left and time.monotonic() < hard_deadline:
        # A parent that dies last keeps its orphans in sight.
        _signal([process for process in left if process.pid not in _children] or left, signal.SIGKILL)
        time.sleep(POLL)
        reap()
        left = of_workspace(workspace_id)
    return len(first), len(left)


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
