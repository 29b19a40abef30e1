"""What a person sees: colour and a live line on a terminal, plain lines elsewhere."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich import markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

JsonOption = Annotated[bool, typer.Option("--json", help="Print the API's JSON, unchanged.")]

COLOURS = {
    "completed": "green",
    "ready": "green",
    "failed": "red",
    "lost": "red",
    "cancelled": "yellow",
    "in_progress": "cyan",
    "delegated": "cyan",
}
MINUTE = 60
GAP = 2  # between columns
LAST_COLUMN = 12  # the least that is left for it


def printable(text: str) -> str:
    """Return somebody else's text without anything that a terminal would obey."""
    return "".join(part if part.isprintable() or part in "\n\t" else ascii(part)[1:-1] for part in text)


def escape(text: str) -> str:
    """Return somebody else's text as it can be printed: no markup, and nothing that a terminal would obey."""
    return markup.escape(printable(text))


def one_line(text: str) -> str:
    """Return somebody else's text on one line: with line breaks it would look like more of them."""
    return " ".join(text.split())


def told(data: Mapping[str, Any]) -> str:
    """Return what an event says, on one line, as `name=value, name=value`."""
    facts = {name: value for name, value in data.items() if value is not None and name != "error"}
    words = ", ".join(f"{name}={value}" for name, value in facts.items())
    error = data.get("error")
    return one_line(f"{error['category']}/{error['code']}: {error['message']} {words}" if error else words)


def console() -> Console:
    """Return the console of standard output as it is now; on a pipe nothing is wrapped, coloured or live."""
    made = Console(highlight=False, soft_wrap=True, emoji=False)
    return made if made.is_terminal else Console(highlight=False, soft_wrap=True, emoji=False, width=10_000)


def complain(text: str) -> None:
    """Write an error to standard error."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[red]error:[/] {escape(text)}")


def print_json(value: Any) -> None:
    """Write a value as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_line(value: Any) -> None:
    """Write a value as one line of JSON, at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def write_bytes(content: bytes) -> None:
    """Write somebody else's bytes as they are; on a terminal as text, without anything that it would obey."""
    if sys.stdout.isatty():
        sys.stdout.write(printable(content.decode(errors="replace").replace("\r\n", "\n")))
    else:
        sys.stdout.buffer.write(content)
    sys.stdout.flush()


def coloured(status: str | None) -> str:
    """Return a status in its colour, or a dash."""
    if not status:
        return "-"
    colour = COLOURS.get(status)
    return f"[{colour}]{status}[/]" if colour else status


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their names: a table on a terminal, tabs between the columns elsewhere."""
    screen = console()
    rows = [[one_line(cell) for cell in row] for row in rows]
    if not screen.is_terminal:
        for row in (columns, *rows):
            tabbed(screen, row)
        return
    cells = [[Text.from_markup(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    widths[-1] = min(widths[-1], LAST_COLUMN)
    kept = list(range(len(columns)))
    # The first column is what a person copies, the last one what it is: those between are left out, not cut.
    while len(kept) > len((0, -1)) and sum(widths[place] + GAP for place in kept) > screen.width:
        del kept[-2]
    widths[-1] = max(LAST_COLUMN, screen.width - sum(widths[place] + GAP for place in kept[:-1]))
    made = Table(box=None, pad_edge=False)
    for place in kept:
        least = widths[place] if place == 0 else None
        made.add_column(cells[0][place], no_wrap=True, overflow="ellipsis", min_width=least, max_width=widths[place])
    for line in cells[1:]:
        made.add_row(*(line[place] for place in kept))
    screen.print(made)


def tabbed(screen: Console, row: Iterable[str]) -> None:
    """Print cells with tabs between them, which the console itself would make spaces of."""
    screen.file.write("\t".join(Text.from_markup(cell).plain for cell in row) + "\n")
    screen.file.flush()


def duration(span: timedelta) -> str:
    """Return a duration as a person says it: `12 ms`, `3.4 s`, `2 min 5 s`."""
    seconds = span.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < MINUTE:
        return f"{seconds:.1f} s"
    return f"{seconds // MINUTE:.0f} min {seconds % MINUTE:.0f} s"


def moment(text: str) -> datetime:
    """Parse a time of the API (RFC 3339)."""
    return datetime.fromisoformat(text)


def clock(text: str | None) -> str:
    """Return a time of the API to the second, in UTC, or a dash."""
    return moment(text).strftime("%Y-%m-%d %H:%M:%S") if text else "-"
