"""A followed task as a person sees it: its steps with their timings, and the output between them."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from rich.console import Console

from cli.screen import coloured, escape, one_line
from cli.stream import ENDS
from cli.view import Live, reason

STEP_WIDTH: Final = 26
TOOK_WIDTH: Final = 12


class Steps(Live):
    """Steps with their timings, and the output between them."""

    wants_output = True

    def __init__(self, screen: Console) -> None:
        super().__init__(screen)
        self._exit_code: int | None = None

    def show(self, event: dict[str, Any], took: str) -> None:
        """Print a line for what ends, and for what a person would want to know."""
        if event["type"] == "agent.finished":
            self._exit_code = event["data"].get("exit_code")
        elif event["type"] == "task.queued":
            self._exit_code = None
        show = SHOWN.get(event["type"])
        if show:
            show(self, event, took)

    def output(self, lines: Sequence[str], *, attempt: int) -> None:  # noqa: ARG002 - an attempt says where it begins
        """Print each line behind a bar."""
        for line in lines:
            self.screen.print(f"  [dim]│[/] {escape(line)}")

    def truncated(self) -> None:
        """Say so."""
        self.screen.print("[yellow]! output beyond the log's bound was dropped[/]")

    def step_ended(self, event: dict[str, Any], took: str) -> None:
        """Print the step, its time, and why it failed."""
        mark = "[green]✓[/]" if event["type"] == "step.finished" else "[red]✗[/]"
        self.screen.print(f"{mark} {event['step']:<{STEP_WIDTH}}{took:>{TOOK_WIDTH}}{_because(event)}")

    def step_skipped(self, event: dict[str, Any], _: str) -> None:
        """Print the step, and why there was nothing to do."""
        self.screen.print(f"[dim]- {event['step']:<{STEP_WIDTH}}{'skipped':>{TOOK_WIDTH}}{_because(event)}[/]")

    def fact(self, event: dict[str, Any], _: str) -> None:
        """Print what happened beside the steps."""
        self.screen.print(f"[yellow]! {event['type']}[/]{_because(event)}")

    def attempt(self, event: dict[str, Any], _: str) -> None:
        """Print that another attempt begins; the first one goes without saying."""
        if event["attempt"] > 1:
            self.screen.print(f"[yellow]! attempt {event['attempt']}[/]")

    def ended(self, event: dict[str, Any], took: str) -> None:
        """Print how the task ended, and what to do about it."""
        exit_code = "" if self._exit_code is None else f", exit code {self._exit_code}"
        self.screen.print(f"{coloured(ENDS[event['type']])} in {took or '?'}{exit_code}")
        error = event["data"].get("error")
        if error:
            said = f"{error['category']}/{error['code']}: {error['message']}\n{error.get('guidance') or ''}"
            for line in said.splitlines():
                self.screen.print(f"  {escape(line)}")


SHOWN: Final[dict[str, Callable[[Steps, dict[str, Any], str], None]]] = {
    "step.finished": Steps.step_ended,
    "step.failed": Steps.step_ended,
    "step.skipped": Steps.step_skipped,
    "step.retrying": Steps.fact,
    "attempt.started": Steps.attempt,
    "attempt.failed": Steps.fact,
    "agent.followup": Steps.fact,
    "task.pause_requested": Steps.fact,
    "task.paused": Steps.fact,
    "task.resumed": Steps.fact,
    "task.cap_warning": Steps.fact,
    "task.cancel_requested": Steps.fact,
    "task.completed": Steps.ended,
    "task.failed": Steps.ended,
    "task.cancelled": Steps.ended,
}


def _because(event: dict[str, Any]) -> str:
    text = one_line(reason(event))
    return f"  {escape(text)}" if text else ""
