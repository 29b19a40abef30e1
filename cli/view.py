"""What is seen of a task that is followed: what each view has, and the line that says what goes on now."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

from cli.remote import RemoteError
from cli.screen import complain, duration, escape, moment, one_line, printable, told
from cli.stream import ENDS

# Events that end something which began with another one.
STEP_ENDS: Final = {"step.finished", "step.failed", "step.skipped"}


class View:
    """Shows nothing: what it takes to follow a task quietly."""

    wants_output = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def event(self, event: dict[str, Any]) -> None:
        """Show the next event of the log."""

    def output(self, lines: Sequence[str], *, attempt: int) -> None:
        """Show whole lines that an attempt wrote."""

    def truncated(self) -> None:
        """Say that output was dropped."""

    def away(self, error: RemoteError | None) -> None:
        """Say that the API is away, and is waited for; or, with None, that it is back."""
        if error:
            complain(f"{error.first_line}; trying again")


class Clock:
    """When the task began, and each step that is not over: from the log, so that a late view has the same timings."""

    def __init__(self) -> None:
        self._task: datetime | None = None
        self._steps: dict[str, datetime] = {}

    def took(self, event: dict[str, Any]) -> str:
        """Return how long that took which this event ends; nothing for the others, or where its begin was not seen."""
        kind, now = event["type"], moment(event["ts"])
        if kind == "task.created":
            self._task = now
        if kind == "step.started":
            self._steps[event["step"]] = now
        began = self._task if kind in ENDS else self._steps.pop(event["step"], None) if kind in STEP_ENDS else None
        return duration(now - began) if began else ""


@dataclass
class Now:
    """The live line: the step, how long it has lasted, and what was last said of its progress."""

    step: str = "waiting"
    since: datetime | None = None
    says: str = ""
    away: str = ""

    def __rich__(self) -> Text:
        lasts = f"  {duration(max(datetime.now(UTC) - self.since, datetime.resolution))}" if self.since else ""
        says = self.away or self.says
        text = f"{self.step}{lasts}{says and '  '}{says}"
        return Text(one_line(printable(text)), no_wrap=True, overflow="ellipsis")

    def event(self, event: dict[str, Any]) -> None:
        """Take in what an event says of the present."""
        kind = event["type"]
        if kind == "step.started":
            self.step, self.since, self.says = event["step"], moment(event["ts"]), ""
        elif kind == "agent.progress":
            self.says = told(event["data"])
        elif kind == "task.paused":
            self.says = f"paused {reason(event)}".rstrip()
        elif kind == "task.resumed":
            self.says = ""
        elif kind == "task.queued":
            self.step, self.since, self.says = "waiting", None, ""


class Live(View):
    """A view with a line at the bottom, on a terminal, that says what goes on now."""

    def __init__(self, screen: Console) -> None:
        self.screen = screen
        self.clock = Clock()
        self._now = Now()
        self._line: Status | None = None

    def __enter__(self) -> Self:
        self._line = self.screen.status(self._now)
        self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._line:
            self._line.stop()

    def event(self, event: dict[str, Any]) -> None:
        """Take in what it says of the present, and show it."""
        self._now.event(event)
        self.show(event, self.clock.took(event))

    def away(self, error: RemoteError | None) -> None:
        """Keep it in the line, below a sentence; without a terminal, on standard error."""
        self._now.away = "the API is away" if error else ""
        if error and self.screen.is_terminal:
            self.screen.print(f"[red]![/] {escape(error.first_line)}; trying again")
        else:
            super().away(error)

    def show(self, event: dict[str, Any], took: str) -> None:
        """Show an event, and how long that took which it ends."""


def reason(event: dict[str, Any]) -> str:
    """Return why, as the event has it; nothing where it has none."""
    data = event["data"]
    return str(data.get("reason") or (data.get("error") or {}).get("message") or "")
