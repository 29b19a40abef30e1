"""The provider `process`: a machine is a node worker as a process beside this one, with a folder of its own."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import psutil

from domain.names import NodeId, WorkspaceId
from workspaces import processes
from workspaces.inside import trees
from workspaces.layout import PRIVATE, WORKSPACE_ID, write_private
from workspaces.machines import Joining, MachineProvider

MARK: Final = "TASKRUNNER_MACHINE"
GRACE: Final = 15.0  # seconds; longer than a node's workers take to stop
# Of the environment of who starts it a machine gets what it needs as a node, and no key of the control plane.
HANDED_ON: Final = frozenset(
    {
        *("PATH", "LANG", "LC_ALL", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *(f"TASKRUNNER_{name}" for name in ("PAYLOAD_KEYS", "LOG_LEVEL")),
        *(f"TASKRUNNER_SUPERVISION__{name}" for name in ("HEARTBEAT", "LEASE", "LOST_AFTER")),
        *(f"TASKRUNNER_NODE_{name}" for name in ("ALLOW_FILE_URLS", "PASS_ENV", "PRESETS", "SECRETS_FILE", "DRAIN")),
    }
)
PROGRAM: Final = (sys.executable, "-P", "-m", "cli.main")


def handed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a machine gets of this environment: HANDED_ON, and where Temporal is with what opens it."""
    return {name: value for name, value in environment.items() if name in HANDED_ON or name.startswith("TEMPORAL_")}


class ProcessMachines(MachineProvider):
    """Node workers as processes of this machine, found by a mark in their environment.

    They outlive the process that has started them, which finds them again. `environment` is theirs, and holds what they
    need to reach API and Temporal.
    """

    def __init__(self, root: Path, *, environment: Mapping[str, str], program: tuple[str, ...] = PROGRAM) -> None:
        self._root = root.resolve()
        self._environment = dict(environment)
        self._program = program

    async def create(self, joining: Joining) -> None:
        """Start it, unless it runs."""
        await asyncio.to_thread(self._create, joining)

    async def find_by_tag(self, tag: NodeId) -> bool:
        """Look for its process."""
        return await asyncio.to_thread(lambda: bool(_running(tag)))

    async def destroy(self, tag: NodeId) -> None:
        """End its process, then those of its workspaces, then remove its folder."""
        await asyncio.to_thread(self._destroy, tag)

    async def list(self) -> list[NodeId]:
        """Return the names of the folders."""
        processes.reap()
        if not self._root.is_dir():
            return []
        return [NodeId(each.name) for each in sorted(self._root.iterdir()) if each.is_dir()]

    def _create(self, joining: Joining) -> None:
        self._root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        with _locked(self._root / "lock"):
            if _running(joining.node_id):
                return
            folder = self._root / joining.node_id
            folder.mkdir(mode=PRIVATE, exist_ok=True)
            write_private(folder / "token", joining.token)
            own = {
                MARK: joining.node_id,
                "TASKRUNNER_NODE_LABELS": json.dumps(dict(joining.labels)),
                "TASKRUNNER_METRICS_PORT": "",
            }
            argv = (
                *self._program,
                "nodes",
                "join",
                f"--token-file={folder / 'token'}",
                f"--slots={joining.slots}",
                f"--data-dir={folder}",
            )
            processes.spawn(argv, {**self._environment, **own}, stdin=b"", output=folder / "node.log")

    def _destroy(self, tag: NodeId) -> None:
        folder = self._root / tag
        _end(tag)
        workspaces = folder / "workspaces"
        for each in workspaces.iterdir() if workspaces.is_dir() else ():
            if WORKSPACE_ID.fullmatch(each.name):
                processes.end_all(WorkspaceId(each.name), grace=1)
        trees.remove(folder)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Make one machine at a time: two who make the same one make one."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _running(tag: NodeId) -> list[psutil.Process]:
    """Return the node workers with this mark; what they have started has it not."""
    processes.reap()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == tag and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _end(tag: NodeId) -> None:
    deadline, sign = time.monotonic() + GRACE, signal.SIGTERM
    while running := _running(tag):
        for process in running:
            with contextlib.suppress(psutil.Error):
                process.send_signal(sign)
        sign = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        psutil.wait_procs(running, timeout=1)
