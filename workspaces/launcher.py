"""Starts the program of a session, with what it has to know."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from domain.errors import Category, Failure
from domain.messages import WorkspaceOrder
from domain.names import WorkspaceId
from workspaces import processes, sessions
from workspaces.layout import Layout
from workspaces.presets import Invocation
from workspaces.provider import Grant
from workspaces.secrets import Secrets

PROGRAM: Final = Path(__file__).with_name("program.py")
# Isolated, without site: nothing of a Python's own configuration, and half the start-up time.
FLAGS: Final = ("-I", "-S", "-X", "utf8")
STARTED_WITHIN: Final = 20.0  # seconds until the program holds its lock; more means that the machine is drowning


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """What every session on this node has in common. `environment` is the commands' own."""

    environment: Mapping[str, str]
    secrets: Secrets
    allow_file_urls: bool
    heartbeat: timedelta

    def values(self, order: WorkspaceOrder) -> dict[str, str]:
        """Return the secrets that a task needs. Raises Failure `missing_secret`."""
        credential = order.spec.repo.credential if order.spec.repo else None
        return self.secrets.values([*order.spec.secrets, *([credential] if credential else [])])

    def write(
        self,
        layout: Layout,
        name: str,
        order: WorkspaceOrder,
        callback_url: str,
        *,
        called: Invocation | None = None,
        turn: int = 1,
        environment: Mapping[str, str] | None = None,
        limits: Mapping[str, float] | None = None,
        confined: bool = False,
    ) -> bytes:
        """Write the session's file; return the secrets as the program reads them.

        `environment` comes before the node's own, `limits` replace the task's; `confined` says that the rest of them
        are the whole workspace's, in a container.
        """
        secrets = self.values(order)
        text = sessions.content(
            order,
            base={**(environment or {}), **self.environment, "HOME": str(layout.seen.home)},
            paths=layout.paths(order.attempt),
            callback_url=callback_url,
            heartbeat=self.heartbeat,
            allow_file_urls=self.allow_file_urls,
            limits=order.spec.resources.model_dump(exclude_none=True) if limits is None else limits,
            confined=confined,
            invocation=called,
            turn=turn,
        )
        layout.write(layout.session(name), text)
        return json.dumps(secrets).encode() + b"\n"


@dataclass(frozen=True, kw_only=True)
class Spawner(Launcher):
    """Starts sessions as processes of this machine.

    `certificates` are the program's, for a private authority (SSL_CERT_FILE, SSL_CERT_DIR).
    """

    python: str
    certificates: Mapping[str, str]

    def start(
        self,
        layout: Layout,
        mode: str,
        name: str,
        order: WorkspaceOrder,
        grant: Grant,
        *,
        called: Invocation | None = None,
        turn: int = 1,
    ) -> tuple[int, bool]:
        """Start a program for this session and wait until one holds its lock; return whose pid, and if it is another.

        Of two that start at the same time one finds the lock taken and ends.
        """
        secrets = self.write(layout, name, order, grant.callback_url, called=called, turn=turn)
        own = {"PATH": self.environment["PATH"], "LANG": "C.UTF-8", processes.MARK: order.workspace_id}
        pid = processes.spawn(
            [self.python, *FLAGS, str(PROGRAM), mode, str(layout.control), name],
            {**self.certificates, **own},
            stdin=secrets,
            output=layout.control / "program.log",
        )
        holder = _holder(layout, layout.session(name, "lock"), pid)
        return holder, holder != pid


def _holder(layout: Layout, lock: Path, pid: int) -> int:
    deadline = time.monotonic() + STARTED_WITHIN
    while (holder := processes.holder(lock)) is None:
        if not processes.running(pid) and not lock.exists():
            try:
                said = (layout.control / "program.log").read_text("utf-8", "replace").strip()
            except FileNotFoundError:
                raise gone(layout.workspace_id) from None
            raise not_started(said[-500:] or "it ended at once")
        if time.monotonic() > deadline:
            raise not_started("it did not begin in time")
        time.sleep(processes.POLL / 10)
    return holder


def not_started(reason: str) -> Failure:
    """Return the failure of a program that does not begin."""
    message = f"The workspace's program could not be started: {reason}."
    return Failure("program_not_started", message, category=Category.WORKSPACE, transient=True)


def gone(workspace_id: WorkspaceId) -> Failure:
    """Return the failure to use a workspace that is not here any more."""
    return Failure(
        "workspace_gone",
        f"The workspace {workspace_id} is not on this node, or was stopped for good.",
        category=Category.WORKSPACE,
        guidance="Retry the task: a new attempt gets a new workspace.",
    )
