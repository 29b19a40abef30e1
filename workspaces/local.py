"""The provider `local`: a directory of its own and processes of its own. No isolation: limits and a clean environment.

The processes belong to the node's user, who can read what that user can. What must not see the node's files belongs
into a container.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from domain.errors import GUIDANCE, TRANSIENT_CATEGORIES, Category, Failure, TaskError
from domain.messages import Acknowledgement, AgentExit, AgentOrder, AgentStarted, WorkspaceFacts, WorkspaceOrder
from domain.names import WorkspaceId
from workspaces import attachments, processes, sessions
from workspaces.launcher import Launcher, gone
from workspaces.layout import WORKSPACE_ID, Layout, write_private
from workspaces.presets import DEFAULTS, Invocation, invocation
from workspaces.provider import Grant, WorkspaceProvider
from workspaces.secrets import Secrets

LOOK: Final = 0.25  # seconds between looks for an exit file while its writer still reports to the API
LINGER: Final = 0.8  # seconds; less than the one within which a step is readable
TOMBSTONES: Final = timedelta(days=7)  # longer than any activity that could come late


def base_environment(environment: Mapping[str, str], *, allowed: Sequence[str] = ()) -> dict[str, str]:
    """Return what commands get of the node's environment: PATH, locale, and the names that settings allow."""
    given = {name: environment[name] for name in allowed if name in environment}
    locale = {"LANG": environment.get("LANG") or "C.UTF-8"}
    if environment.get("LC_ALL"):
        locale["LC_ALL"] = environment["LC_ALL"]
    return {"PATH": environment.get("PATH") or os.defpath, **locale, **given}


class LocalProvider(WorkspaceProvider):
    """Workspaces as directories below `root`, which is the node's alone."""

    def __init__(
        self,
        root: Path,
        *,
        environment: Mapping[str, str],
        secrets: Secrets | None = None,
        presets: Mapping[str, Sequence[str]] | None = None,
        allow_file_urls: bool = False,
        heartbeat: timedelta = timedelta(seconds=15),
        grace: timedelta = timedelta(seconds=2),
        python: str = sys.executable,
        certificates: Mapping[str, str] | None = None,
    ) -> None:
        self._root = root.resolve()
        self._presets = {**DEFAULTS, **(presets or {})}
        self._allow_file_urls = allow_file_urls
        self._grace = grace.total_seconds()
        self._launcher = Launcher(
            environment=environment,
            secrets=secrets or Secrets(),
            allow_file_urls=allow_file_urls,
            heartbeat=heartbeat,
            python=python,
            certificates=certificates or {},
        )

    def check(self, order: WorkspaceOrder) -> None:
        """Refuse a missing secret, an unknown preset, a file URL where none is allowed."""
        self._launcher.values(order)
        invocation(order.spec, self._presets)
        repo = order.spec.repo
        if repo and repo.url.startswith("file:") and not self._allow_file_urls:
            raise Failure(
                "protocol_not_allowed",
                "This node does not clone file URLs.",
                category=Category.INPUT,
                guidance="Use an https, ssh or git URL, or allow file URLs in the node's settings.",
            )

    async def create(self, order: WorkspaceOrder, grant: Grant) -> Acknowledgement:
        """Make the directories and start the preparation, unless one works or has ended with a word."""
        self.check(order)
        layout = self._layout(order.workspace_id)
        pid, lock = await asyncio.to_thread(self._make, layout, order, grant)
        # A quick preparation calls ready meanwhile: both facts reach the workflow in one task and one flush.
        await processes.ended(lock, within=LINGER)
        return Acknowledgement(workspace_id=order.workspace_id, details={"pid": pid, "path": str(layout.base)})

    def _make(self, layout: Layout, order: WorkspaceOrder, grant: Grant) -> tuple[int | None, Path]:
        layout.make()
        with _taken_back(layout):
            if layout.tombstone.exists():
                raise gone(order.workspace_id)
            return self._prepare(layout, order, grant)

    def _prepare(self, layout: Layout, order: WorkspaceOrder, grant: Grant) -> tuple[int | None, Path]:
        generation = 1
        while layout.session(name := sessions.preparation(generation), "lock").exists():
            if processes.held(layout.session(name, "lock")) or layout.session(name, "exit.json").exists():
                return processes.holder(layout.session(name, "lock")), layout.session(name, "lock")
            # It died without a word, with its machine perhaps: begin again, when nothing of it is left.
            processes.end_all(layout.workspace_id, grace=0)
            generation += 1
        write_private(layout.token, grant.token)
        write_private(layout.input, json.dumps(order.spec.input))
        return self._launcher.start(layout, "prepare", name, order, grant)[0], layout.session(name, "lock")

    async def inspect(self, workspace_id: WorkspaceId) -> WorkspaceFacts:
        """Say whether the directory is here, and which sessions run or ended."""
        layout = self._layout(workspace_id)
        states: dict[str, Any] = {}
        for lock in sorted(layout.control.glob("*.lock")):
            ended = layout.session(lock.stem, "exit.json").exists()
            states[lock.stem] = "ended" if ended else "running" if processes.held(lock) else "lost"
        details = {"path": str(layout.base), "sessions": states} if layout.base.is_dir() else {}
        return WorkspaceFacts(workspace_id=workspace_id, exists=layout.base.is_dir(), details=details)

    async def transfer_attachment(
        self, workspace_id: WorkspaceId, attachment_id: str, name: str, content: AsyncIterator[bytes]
    ) -> Acknowledgement:
        """Write the file beside the work directory, under its own name."""
        layout = self._existing(workspace_id)
        with _taken_back(layout):
            path = await attachments.store(layout, attachment_id, name, content)
        return Acknowledgement(workspace_id=workspace_id, details={"name": path.name, "bytes": path.stat().st_size})

    async def start_agent(self, agent: AgentOrder, grant: Grant) -> AgentStarted:
        """Start the turn's program, or find who holds its lock."""
        layout = self._existing(agent.order.workspace_id)
        # A kept workspace is for later attempts; a start of the old one comes late.
        if _stopped(layout, agent.order.attempt):
            raise gone(agent.order.workspace_id)
        called = invocation(agent.order.spec, self._presets, prompt=agent.prompt)
        pid, adopted = await asyncio.to_thread(self._start_agent, layout, agent, grant, called)
        return AgentStarted(turn=agent.turn, pid=pid, adopted=adopted)

    def _start_agent(
        self, layout: Layout, agent: AgentOrder, grant: Grant, called: Invocation
    ) -> tuple[int | None, bool]:
        with _taken_back(layout, attempt=agent.order.attempt):
            write_private(layout.token, grant.token)
            name = sessions.turn_name(agent)
            if layout.session(name, "lock").exists():
                return processes.holder(layout.session(name, "lock")), True
            return self._launcher.start(layout, "agent", name, agent.order, grant, called=called, turn=agent.turn)

    async def wait_agent(self, agent: AgentOrder) -> AgentExit:
        """Watch exit file and process; the file is written before the process ends."""
        layout, name = self._layout(agent.order.workspace_id), sessions.turn_name(agent)
        lock, file = layout.session(name, "lock"), layout.session(name, "exit.json")
        while True:
            alive = processes.held(lock)  # looked at before the file: who is dead now has written it, or never will
            if file.exists():
                return _exit(agent.turn, json.loads(file.read_text("utf-8")))
            if not alive:
                # Whatever outlived its program has no fence any more.
                await asyncio.to_thread(processes.end_all, layout.workspace_id, grace=0)
                return AgentExit(turn=agent.turn, lost=True)
            await processes.ended(lock, within=LOOK)

    async def destroy(self, workspace_id: WorkspaceId, *, keep: bool = False) -> Acknowledgement:
        """End the processes, then remove the files or, to keep them, only the token."""
        layout = self._layout(workspace_id)
        ended, left = await asyncio.to_thread(self._destroy, layout, keep=keep)
        if left:
            raise Failure(
                "processes_remain",
                f"{left} processes of the workspace cannot be ended.",
                category=Category.WORKSPACE,
                transient=True,
                guidance="They hang in the kernel, on a dead file system perhaps: look at the node.",
            )
        kept = keep and layout.base.is_dir()
        return Acknowledgement(workspace_id=workspace_id, details={"ended": ended, "kept": kept})

    def _destroy(self, layout: Layout, *, keep: bool) -> tuple[int, int]:
        if not keep:
            # Also for a workspace that is not here: its creation may still be under way.
            layout.bury()
        if not layout.base.is_dir():
            return processes.end_all(layout.workspace_id, grace=self._grace)
        if keep:
            write_private(layout.stopped, str(sessions.latest_attempt(layout.control)))
        ended, left = processes.end_all(layout.workspace_id, grace=self._grace)
        layout.token.unlink(missing_ok=True)
        if not keep and not left:
            layout.remove()
            # A creation that overlapped with this may have started something after the look around.
            late, left = processes.end_all(layout.workspace_id, grace=0)
            ended += late
            layout.remove()
            self._forget()
        return ended, left

    async def list(self) -> list[WorkspaceId]:
        """Return the names of the directories."""
        if not self._root.is_dir():
            return []
        names = sorted(entry.name for entry in self._root.iterdir() if entry.is_dir())
        return [WorkspaceId(name) for name in names if WORKSPACE_ID.fullmatch(name)]

    def _layout(self, workspace_id: WorkspaceId) -> Layout:
        return Layout(self._root, workspace_id)

    def _existing(self, workspace_id: WorkspaceId) -> Layout:
        layout = self._layout(workspace_id)
        if not layout.control.is_dir():
            raise gone(workspace_id)
        return layout

    def _forget(self) -> None:
        """Remove tombstones that nobody can be late for any more."""
        oldest = time.time() - TOMBSTONES.total_seconds()
        for path in (self._root / ".destroyed").iterdir():
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _taken_back(layout: Layout, *, attempt: int | None = None) -> Iterator[None]:
    """Take back what was made beside a destruction, and refuse it as gone.

    A destruction leaves its mark before it looks around, and here the mark is looked for after the work: one of the
    two sees the other, however slow this is and in whichever process. What was stopped and kept keeps its files, and
    the processes of a later attempt.
    """
    try:
        yield
    finally:
        destroyed = layout.tombstone.exists()
        if destroyed or (attempt is not None and _stopped(layout, attempt)):
            if destroyed or sessions.latest_attempt(layout.control) == attempt:
                processes.end_all(layout.workspace_id, grace=0)
            if destroyed:
                layout.remove()
            raise gone(layout.workspace_id)


def _stopped(layout: Layout, attempt: int) -> bool:
    return layout.stopped.exists() and int(layout.stopped.read_text("ascii")) >= attempt


def _exit(turn: int, content: dict[str, Any]) -> AgentExit:
    error = content["error"]
    if error:
        category = Category(error["category"])
        known = {"retryable": category in TRANSIENT_CATEGORIES, "guidance": GUIDANCE[category]}
        error = TaskError.model_validate({**error, **known})
    return AgentExit(turn=turn, exit_code=content["exit_code"], result=content["result"], error=error)
