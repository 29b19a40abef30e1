"""Which limit of its container a command has met: the kernel counts, and tells nobody else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from workspaces.inside.session import Session, problem

GROUPS = Path("/sys/fs/cgroup")
# Where the counters are, in one hierarchy (cgroup v2) or in one for each resource, and the name of the counter.
KILLED = ((GROUPS / "memory.events", "oom_kill"), (GROUPS / "memory" / "memory.oom_control", "oom_kill"))
REFUSED = ((GROUPS / "pids.events", "max"), (GROUPS / "pids" / "pids.events", "max"))
FULL = 64_000  # bytes that are left of a disk that counts as full


class Limits:
    """The counters of this workspace when the command began."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._killed = _counted(KILLED)
        self._refused = _counted(REFUSED)

    def met(self) -> dict[str, Any] | None:
        """Return the error of a command that failed after it had met a limit; None when it has met none."""
        if not self._session.confined:
            return None
        if killed := _counted(KILLED) - self._killed:
            return _reached("memory_mb", f"the kernel ended {killed} of its processes")
        if refused := _counted(REFUSED) - self._refused:
            return _reached("processes", f"{refused} more were refused")
        disk = os.statvfs(self._session.work)
        if disk.f_bavail * disk.f_frsize < FULL or not disk.f_favail:
            return _reached("disk_mb", "its disk is full")
        return None


def _counted(places: tuple[tuple[Path, str], ...]) -> int:
    for path, name in places:
        try:
            lines = path.read_text("ascii").splitlines()
        except OSError:
            continue
        return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
    return 0


def _reached(name: str, what: str) -> dict[str, Any]:
    return problem("limit_reached", "agent", f"The command failed after the workspace had used up `{name}`: {what}.")
