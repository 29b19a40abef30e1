"""What workspaces with files on this node have in common: sessions, adoption, attachments, keeping, destruction."""

import asyncio
import contextlib
import json
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from domain.errors import Category, Failure
from domain.messages import Acknowledgement, AgentExit, AgentOrder, AgentStarted, WorkspaceFacts, WorkspaceOrder
from domain.names import WorkspaceId
from workspaces import attachments, exits, processes, sessions
from workspaces.inside import trees
from workspaces.launcher import Launcher, gone
from workspaces.layout import WORKSPACE_ID, Layout
from workspaces.presets import DEFAULTS, Invocation, invocation
from workspaces.provider import Grant, WorkspaceProvider

LOOK: Final = 0.25  # seconds between looks for an exit file while its writer still reports to the API
LINGER: Final = 0.8  # seconds; less than the one within which a step is readable
TOMBSTONES: Final = timedelta(days=7)  # longer than any activity that could come late
NUMBER: Final = 20  # digits of an attempt

Result = TypeVar("Result")


async def whole(effect: Coroutine[Any, Any, Result]) -> Result:
    """Carry an effect through to its end, also when the caller is cancelled meanwhile.

    Half an effect would go on behind the back of the look that takes it back.
    """
    task = asyncio.ensure_future(effect)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


class HostedProvider(WorkspaceProvider):
    """Workspaces below `root`, which is the node's and this provider's alone.

    What differs is the ground that they stand on: how it is laid (`_open`) and made to stand again after an end
    (`_reopen`), how a program is started on it (`_launch`), how everything that runs there is ended (`_end`), and how
    it is taken away (`_remove`). Each may come twice, and at the same time.
    """

    def __init__(
        self, root: Path, *, launcher: Launcher, presets: Mapping[str, Sequence[str]] | None, grace: timedelta
    ) -> None:
        self._root = root.resolve()
        self._launcher = launcher
        self._presets = {**DEFAULTS, **(presets or {})}
        self._grace = grace.total_seconds()

    @abstractmethod
    async def _open(self, layout: Layout, order: WorkspaceOrder, grant: Grant) -> dict[str, Any]:
        """Lay the ground, or find it; return facts about it."""

    async def _reopen(self, layout: Layout, order: WorkspaceOrder, grant: Grant) -> None:
        """See to it that programs can be started on ground that was laid before."""

    @abstractmethod
    async def _launch(
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
        """Start a program for this session and wait until one holds its lock; return its pid, and if it is another."""

    @abstractmethod
    async def _end(self, layout: Layout, *, grace: float) -> tuple[int, int]:
        """End all processes: politely, after `grace` seconds by force. Return how many, and how many stay."""

    @abstractmethod
    async def _remove(self, layout: Layout) -> None:
        """Remove all files."""

    @abstractmethod
    async def _released(self, lock: Path, *, within: float) -> None:
        """Return when nobody holds the lock, or after `within` seconds."""

    def check(self, order: WorkspaceOrder) -> None:
        """Refuse a missing secret, an unknown preset, a file URL where none is allowed."""
        self._launcher.values(order)
        invocation(order.spec, self._presets)
        repo = order.spec.repo
        if repo and repo.url.startswith("file:") and not self._launcher.allow_file_urls:
            raise Failure(
                "protocol_not_allowed",
                "This node does not clone file URLs.",
                category=Category.INPUT,
                guidance="Use an https, ssh or git URL, or allow file URLs in the node's settings.",
            )

    async def create(self, order: WorkspaceOrder, grant: Grant) -> Acknowledgement:
        """Lay the ground and start the preparation, unless one works or has ended with a word."""
        self.check(order)
        layout = self._layout(order.workspace_id)
        pid, lock, facts = await whole(self._create(layout, order, grant))
        # A quick preparation calls ready meanwhile: both facts reach the workflow in one task and one flush.
        await self._released(lock, within=LINGER)
        return Acknowledgement(workspace_id=order.workspace_id, details={"pid": pid, "path": str(layout.base), **facts})

    async def _create(
        self, layout: Layout, order: WorkspaceOrder, grant: Grant
    ) -> tuple[int | None, Path, dict[str, Any]]:
        async with self._taken_back(layout):
            if layout.tombstone.exists():
                raise gone(order.workspace_id)
            facts = await self._open(layout, order, grant)
            pid, lock = await self._prepare(layout, order, grant)
            return pid, lock, facts

    async def _prepare(self, layout: Layout, order: WorkspaceOrder, grant: Grant) -> tuple[int | None, Path]:
        generation = 1
        while layout.session(name := sessions.preparation(generation), "lock").exists():
            if processes.held(layout.session(name, "lock")) or layout.session(name, "exit.json").exists():
                return processes.holder(layout.session(name, "lock")), layout.session(name, "lock")
            # It died without a word, with its machine perhaps: begin again, when nothing of it is left.
            await self._end(layout, grace=0)
            await self._reopen(layout, order, grant)
            generation += 1
        layout.write(layout.token, grant.token)
        layout.write(layout.input, json.dumps(order.spec.input))
        pid, _ = await self._launch(layout, "prepare", name, order, grant)
        return pid, layout.session(name, "lock")

    async def inspect(self, workspace_id: WorkspaceId) -> WorkspaceFacts:
        """Say whether the directory is here, and which sessions run or ended."""
        layout = self._layout(workspace_id)
        states: dict[str, Any] = {}
        for name in sessions.names(layout.control, "lock"):
            ended = layout.session(name, "exit.json").exists()
            states[name] = "ended" if ended else "running" if processes.held(layout.session(name, "lock")) else "lost"
        details = {"path": str(layout.base), "sessions": states} if layout.base.is_dir() else {}
        return WorkspaceFacts(workspace_id=workspace_id, exists=layout.base.is_dir(), details=details)

    async def transfer_attachment(
        self, workspace_id: WorkspaceId, attachment_id: str, name: str, content: AsyncIterator[bytes]
    ) -> Acknowledgement:
        """Write the file beside the work directory, under its own name."""
        layout = self._existing(workspace_id)
        async with self._taken_back(layout):
            stored, size = await attachments.store(layout, attachment_id, name, content)
        return Acknowledgement(workspace_id=workspace_id, details={"name": stored, "bytes": size})

    async def start_agent(self, agent: AgentOrder, grant: Grant) -> AgentStarted:
        """Start the turn's program, or find who holds its lock."""
        layout = self._existing(agent.order.workspace_id)
        # A kept workspace is for later attempts; a start of the old one comes late.
        if _stopped(layout, agent.order.attempt):
            raise gone(agent.order.workspace_id)
        called = invocation(agent.order.spec, self._presets, prompt=agent.prompt)
        pid, adopted = await whole(self._start_agent(layout, agent, grant, called))
        return AgentStarted(turn=agent.turn, pid=pid, adopted=adopted)

    async def _start_agent(
        self, layout: Layout, agent: AgentOrder, grant: Grant, called: Invocation
    ) -> tuple[int | None, bool]:
        async with self._taken_back(layout, attempt=agent.order.attempt):
            await self._reopen(layout, agent.order, grant)
            layout.write(layout.token, grant.token)
            name = sessions.turn_name(agent)
            if layout.session(name, "lock").exists():
                return processes.holder(layout.session(name, "lock")), True
            return await self._launch(layout, "agent", name, agent.order, grant, called=called, turn=agent.turn)

    async def wait_agent(self, agent: AgentOrder) -> AgentExit:
        """Watch exit file and process; the file is written before the process ends."""
        layout = self._layout(agent.order.workspace_id)
        lock = layout.session(sessions.turn_name(agent), "lock")
        while True:
            alive = processes.held(lock)  # looked at before the file: who is dead now has written it, or never will
            if ended := exits.read(layout, agent):
                return ended
            if not alive:
                # Whatever outlived its program has no fence any more.
                await whole(self._end(layout, grace=0))
                return AgentExit(turn=agent.turn, lost=True)
            await self._released(lock, within=LOOK)

    async def destroy(self, workspace_id: WorkspaceId, *, keep: bool = False) -> Acknowledgement:
        """End the processes, then remove the files or, to keep them, only the token."""
        layout = self._layout(workspace_id)
        ended, left = await whole(self._destroy(layout, keep=keep))
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

    async def _destroy(self, layout: Layout, *, keep: bool) -> tuple[int, int]:
        if not keep:
            # Also for a workspace that is not here: its creation may still be under way.
            await self._bury(layout)
        if keep and layout.own.is_dir():
            layout.write(layout.stopped, str(sessions.latest_attempt(layout.control)))
        ended, left = await self._end(layout, grace=self._grace)
        if keep:
            trees.discard(layout.token)
        elif not left:
            await self._remove(layout)
            # A creation that overlapped with this may have started something after the look around.
            late, left = await self._end(layout, grace=0)
            ended += late
            await self._remove(layout)
            self._forget()
        return ended, left

    async def _bury(self, layout: Layout) -> None:
        """Leave the mark of a destruction; on a disk without room for it, what is removed here makes room."""
        try:
            layout.bury()
        except OSError:
            await self._end(layout, grace=self._grace)
            await self._remove(layout)
            layout.bury()

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

    @contextlib.asynccontextmanager
    async def _taken_back(self, layout: Layout, *, attempt: int | None = None) -> AsyncIterator[None]:
        """Take back what was made beside a destruction, and refuse it as gone.

        A destruction leaves its mark before it looks around, and here the mark is looked for after the work: one of the
        two sees the other, however slow this is and in whichever process. What was stopped and kept keeps its files,
        and the processes of a later attempt.
        """
        try:
            yield
        finally:
            destroyed = layout.tombstone.exists()
            if destroyed or (attempt is not None and _stopped(layout, attempt)):
                if destroyed or sessions.latest_attempt(layout.control) == attempt:
                    await self._end(layout, grace=0)
                if destroyed:
                    await self._remove(layout)
                raise gone(layout.workspace_id)


def _stopped(layout: Layout, attempt: int) -> bool:
    told = trees.text(layout.own, layout.stopped.name, most=NUMBER) or ""
    return told.isdecimal() and int(told) >= attempt
