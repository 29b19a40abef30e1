"""Follow a task: its steps with timings and its output, as they happen, until it has ended."""

import codecs
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.status import Status

from cli.remote import Remote, RemoteError
from cli.screen import coloured, duration, escape, moment

PAUSE = 0.2  # seconds between two looks at the log
PAGE = 200
AWAY_LIMIT = timedelta(seconds=60)
ENDS = {"task.completed": "completed", "task.failed": "failed", "task.cancelled": "cancelled"}
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
    """Prints one task's events and output in order of their happening; keeps its place between calls."""

    def __init__(self, remote: Remote, task_id: str, screen: Console, *, steps: bool = True) -> None:
        self._remote = remote
        self._task = task_id
        self._screen = screen
        self._steps = steps
        self._seq = 1
        self._attempt = 1
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._half_line = ""
        self._step = ""
        self._began: dict[str, datetime] = {}
        self._first: datetime | None = None
        self._exit_code: int | None = None
        self._ending: Ending | None = None
        self._away_since: float | None = None

    def run(self, *, patience: timedelta | None = None) -> Ending | None:
        """Follow to the end and return it, or None when the patience is over first.

        An API that is away for a while is waited for: the task goes on without it. Raises RemoteError.
        """
        until = None if patience is None else time.monotonic() + patience.total_seconds()
        with self._screen.status("waiting") as line:
            if not self._steps:
                line.stop()
            while True:
                try:
                    events = self._look(line)
                    self._away_since = None
                except RemoteError as error:
                    events = self._away(error)
                if self._ending:
                    return self._ending
                if until is not None and time.monotonic() > until:
                    return None
                if events < PAGE:
                    time.sleep(PAUSE)

    def _away(self, error: RemoteError) -> int:
        """Note that the API is away; raise when that is no reason or has lasted too long."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        too_long = now - self._away_since > AWAY_LIMIT.total_seconds()
        if not error.transient or too_long or self._remote.stopping.is_set():
            raise error
        return 0

    def _look(self, line: Status) -> int:
        page = self._remote.get(f"/v1/tasks/{self._task}/events", fromSeq=self._seq, limit=PAGE)["items"]
        for event in page:
            self._seq = event["seq"] + 1
            if (event["type"], event["step"]) in AFTER_OUTPUT or event["type"] in ENDS:
                self._output()
            if event["attempt"] != self._attempt:
                self._output(last=True)
                self._attempt, self._offset = event["attempt"], 0
            self._show(event, line)
        if self._step in SPEAKING or self._ending:
            self._output(last=self._ending is not None)
        return len(page)

    def _show(self, event: dict[str, Any], line: Status) -> None:
        self._first = self._first or moment(event["ts"])
        kind = event["type"]
        if kind == "step.started":
            self._step = event["step"]
        if kind == "agent.finished":
            self._exit_code = event["data"].get("exit_code")
        if kind in ENDS:
            self._ending = Ending(ENDS[kind], self._exit_code)
        elif kind == "task.queued":
            self._ending, self._exit_code = None, None
        show = SHOWN.get(kind)
        if self._steps and show:
            show(self, event, line)

    def _step_started(self, event: dict[str, Any], line: Status) -> None:
        self._began[event["step"]] = moment(event["ts"])
        line.update(f"{event['step']}")

    def _step_ended(self, event: dict[str, Any], _: Status) -> None:
        began = self._began.pop(event["step"], None)
        took = duration(moment(event["ts"]) - began) if began else ""
        mark = "[green]✓[/]" if event["type"] == "step.finished" else "[red]✗[/]"
        self._say(f"{mark} {event['step']:<26}{took:>12}{self._why(event)}")

    def _step_skipped(self, event: dict[str, Any], _: Status) -> None:
        self._say(f"[dim]- {event['step']:<26}{'skipped':>12}{self._why(event)}[/]")

    def _fact(self, event: dict[str, Any], _: Status) -> None:
        self._say(f"[yellow]! {event['type']}[/]{self._why(event)}")

    def _ended(self, event: dict[str, Any], _: Status) -> None:
        outcome = ENDS[event["type"]]
        took = duration(moment(event["ts"]) - self._first) if self._first else ""
        exit_code = "" if self._exit_code is None else f", exit code {self._exit_code}"
        self._say(f"{coloured(outcome)} in {took}{exit_code}")
        error = event["data"].get("error")
        if error:
            self._say(f"  {escape(error['category'])}/{escape(error['code'])}: {escape(error['message'])}")
            if error.get("guidance"):
                self._say(f"  {escape(error['guidance'])}")

    @staticmethod
    def _why(event: dict[str, Any]) -> str:
        data = event["data"]
        error = data.get("error")
        text = data.get("reason") or (error or {}).get("message") or ""
        return f"  {escape(str(text))}" if text else ""

    def _say(self, text: str) -> None:
        self._screen.print(text)

    def _output(self, *, last: bool = False) -> None:
        """Print what the task wrote since the last look, whole lines only unless it is the last one."""
        answer = self._remote.text(f"/v1/tasks/{self._task}/logs", attempt=self._attempt, offset=self._offset)
        self._offset = int(answer.headers["X-Next-Offset"])
        if last and answer.headers["X-Truncated"] == "true":
            self._say("[yellow]! output beyond the log's bound was dropped[/]")
        text = self._half_line + self._decoder.decode(answer.content, final=last)
        *lines, self._half_line = text.split("\n")
        if last and self._half_line:
            lines.append(self._half_line)
            self._half_line = ""
        for line in lines:
            prefix = "  [dim]│[/] " if self._steps else ""
            self._screen.print(prefix + escape(line.rstrip("\r")))


SHOWN: dict[str, Callable[[Follower, dict[str, Any], Status], None]] = {
    "step.started": Follower._step_started,  # noqa: SLF001 - its own table
    "step.finished": Follower._step_ended,  # noqa: SLF001
    "step.failed": Follower._step_ended,  # noqa: SLF001
    "step.skipped": Follower._step_skipped,  # noqa: SLF001
    "step.retrying": Follower._fact,  # noqa: SLF001
    "attempt.failed": Follower._fact,  # noqa: SLF001
    "task.cap_warning": Follower._fact,  # noqa: SLF001
    "task.cancel_requested": Follower._fact,  # noqa: SLF001
    "task.completed": Follower._ended,  # noqa: SLF001
    "task.failed": Follower._ended,  # noqa: SLF001
    "task.cancelled": Follower._ended,  # noqa: SLF001
}
