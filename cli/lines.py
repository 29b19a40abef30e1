"""A followed task line by line: its output, or its log, for people or as JSON."""

from collections.abc import Sequence
from typing import Any, Final, Self

from rich.console import Console

from cli.screen import clock, escape, print_line, tabbed, told
from cli.view import Live, View

COLUMNS: Final = ("seq", "ts", "attempt", "type", "step", "took", "source", "data")


class Lines(View):
    """The output alone."""

    wants_output = True

    def __init__(self, screen: Console) -> None:
        self._screen = screen

    def output(self, lines: Sequence[str], *, attempt: int) -> None:  # noqa: ARG002
        """Print each line as it is, without what a terminal would obey."""
        for line in lines:
            self._screen.print(escape(line))


class Events(Live):
    """The log, one line for each event: in columns on a terminal, with tabs under their names elsewhere."""

    def __init__(self, screen: Console, *, kind: str | None = None) -> None:
        super().__init__(screen)
        self._kind = kind

    def __enter__(self) -> Self:
        if not self.screen.is_terminal:
            tabbed(self.screen, COLUMNS)
        return super().__enter__()

    def show(self, event: dict[str, Any], took: str) -> None:
        """Print the event."""
        if self._kind not in (None, event["type"]):
            return
        data, step, seq = escape(told(event["data"])), event["step"] or "-", event["seq"]
        if self.screen.is_terminal:
            time = clock(event["ts"]).partition(" ")[2]
            line = f"{seq:>4} {time} {event['type']:<20} {step:<26}{took:>9}  [dim]{data}[/]"
            self.screen.print(line, soft_wrap=False, no_wrap=True, overflow="ellipsis")
        else:
            attempt = str(event["attempt"])
            tabbed(
                self.screen, (str(seq), event["ts"], attempt, event["type"], step, took or "-", event["source"], data)
            )


class Json(View):
    """Each event, or each line of output, as a line of JSON."""

    def __init__(self, *, output: bool = False, kind: str | None = None) -> None:
        self.wants_output = output
        self._kind = kind

    def event(self, event: dict[str, Any]) -> None:
        """Write the envelope, unless output is wanted."""
        if not self.wants_output and self._kind in (None, event["type"]):
            print_line(event)

    def output(self, lines: Sequence[str], *, attempt: int) -> None:
        """Write each line with its attempt."""
        for line in lines:
            print_line({"attempt": attempt, "output": line})
