"""Follow a task: its events and its output, as they happen, until it has ended."""

import asyncio
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx2

from cli.output import PAUSE, Output
from cli.remote import Remote, RemoteError
from cli.stream import AWAY_LIMIT, ENDS, Stream
from cli.view import View

# Output comes in these steps only, and is written before the fact that ends them: so it is shown before that fact.
SPEAKING = {"workspace_ready", "agent_session", "running", "awaiting_followup", "cleanup"}
AFTER_OUTPUT = {("step.finished", "workspace_ready"), ("step.failed", "workspace_ready"), ("agent.finished", "running")}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a task ended, and how its process did where there was one."""

    outcome: str
    exit_code: int | None

    @property
    def code(self) -> int:
        """The exit code of a command that followed this task."""
        if self.outcome == "completed":
            return self.exit_code or 0
        return self.exit_code or 1


class Follower:
    """Gives one task's events and output to a view in order of their happening; keeps its place between calls."""

    def __init__(self, remote: Remote, task_id: str, view: View, *, after: int = 0) -> None:
        self._remote = remote
        self._view = view
        path = f"/v1/tasks/{task_id}"
        self._stream = Stream(remote, f"{path}/stream", after=after, log=f"{path}/events", away=view.away)
        self._output = Output(remote, task_id)
        self._attempt = 1
        self._step = ""
        self._exit_code: int | None = None
        self._ending: Ending | None = None

    def run(self, *, patience: timedelta | None = None) -> Ending | None:
        """Follow to the end and return it, or None when the patience is over first.

        An API that is away for a while is waited for: the task goes on without it. Raises RemoteError.
        """
        return asyncio.run(self._run(patience))

    async def _run(self, patience: timedelta | None) -> Ending | None:
        self._speaking = asyncio.Event()
        self._turn_to(self._step)
        async with self._remote.asynchronous() as client:
            with self._view:
                listening = asyncio.create_task(self._listen(client))
                try:
                    async with asyncio.timeout(patience.total_seconds() if patience else None):
                        await self._watch(client)
                except TimeoutError:
                    return None
                finally:
                    listening.cancel()
                    await asyncio.wait({listening})
        return self._ending

    async def _watch(self, client: httpx2.AsyncClient) -> None:
        async with aclosing(self._stream.frames()) as frames:
            async for frame in frames:
                event = frame.event
                if event["attempt"] != self._attempt:
                    await self._speak(client, last=True)
                    self._attempt = event["attempt"]
                    self._output.turn_to(self._attempt)
                elif (event["type"], event["step"]) in AFTER_OUTPUT or event["type"] in ENDS:
                    await self._speak(client, last=event["type"] in ENDS)
                self._note(event)
                self._view.event(event)

    def _note(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "step.started":
            self._turn_to(event["step"])
        if kind == "agent.finished":
            self._exit_code = event["data"].get("exit_code")
        if kind in ENDS:
            self._ending = Ending(ENDS[kind], self._exit_code)
            self._turn_to("")
        elif kind == "task.queued":
            self._ending, self._exit_code = None, None

    def _turn_to(self, step: str) -> None:
        self._step = step
        if step in SPEAKING and self._view.wants_output:
            self._speaking.set()
        else:
            self._speaking.clear()

    async def _listen(self, client: httpx2.AsyncClient) -> None:
        """Show output as it comes, while there may be some; what is wrong with the API, the stream says."""
        with suppress(RemoteError):
            while True:
                await self._speaking.wait()
                if not await self._speak(client, wait=True):
                    self._speaking.clear()

    async def _speak(self, client: httpx2.AsyncClient, *, wait: bool = False, last: bool = False) -> bool:
        """Show what was written since, as soon as the API tells; returns whether more may come. Raises RemoteError."""
        if not self._view.wants_output:
            return False
        until = time.monotonic() + AWAY_LIMIT.total_seconds()
        while True:
            try:
                lines, more = await self._output.read(client, wait=wait, last=last)
            except RemoteError as error:
                if not error.transient:
                    return False  # the task was deleted
                if self._remote.stopping.is_set() or time.monotonic() > until:
                    raise
                await asyncio.sleep(PAUSE)
            else:
                self._view.output(lines, attempt=self._attempt)
                if last and self._output.truncated:
                    self._view.truncated()
                return more
