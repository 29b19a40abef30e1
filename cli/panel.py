"""What `watch` shows of a board: a table that is drawn anew, or a line for each change."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.board import RUNNING, Board, Row
from cli.remote import RemoteError
from cli.screen import COLOURS, complain, duration, escape, one_line, print_line, printable, tabbed, told

COLUMNS: Final = ("ts", "id", "status", "step", "attempt", "node", "paused", "progress", "name")
# The least width of a terminal for a column; the others are always there.
WIDE: Final = {"id": 130, "node": 90, "attempt": 70, "progress": 60, "status": 50, "for": 30}
SHOWN: Final = ("status", "step", "for", "attempt", "node", "progress", "name", "id")


class Changes:
    """A line for each task as it is, and for each change that can be told."""

    def __init__(self, screen: Console, *, as_json: bool) -> None:
        self._screen = screen
        self._json = as_json
        self._last: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> None:
        if not self._json:
            tabbed(self._screen, COLUMNS)

    def __exit__(self, *_: object) -> None:
        return None

    def away(self, error: RemoteError | None) -> None:
        """Say it on standard error."""
        if error:
            complain(f"{error.first_line}; trying again")

    def changed(self, row: Row, *, ts: str | None = None) -> None:
        """Write the row, unless it looks as it did."""
        facts = row.facts()
        if self._last.get(row.id) == facts or not (row.running or row.ended_at):
            return
        self._last[row.id] = facts
        ts = ts or datetime.now(UTC).isoformat()
        if self._json:
            print_line({"ts": ts, **facts})
            return
        progress = told(row.progress or {})
        cells = (row.status, row.step, row.attempt, row.node_id, "paused" if row.paused else "", progress, row.name)
        tabbed(self._screen, (ts, row.id, *(escape(one_line(str(cell or "-"))) for cell in cells)))

    def draw(self, board: Board) -> None:
        """Forget what has ended: nothing is drawn."""
        board.shown(now=datetime.now(UTC))
        for task in self._last.keys() - board.rows.keys():
            del self._last[task]


class Panel:
    """A table of as many rows as there is room for, drawn anew a few times a second."""

    def __init__(self, screen: Console, url: str) -> None:
        self._screen = screen
        self._url = url
        self._away = ""
        self._live = Live(console=screen, screen=True, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def away(self, error: RemoteError | None) -> None:
        """Keep it for the line on top."""
        self._away = error.first_line if error else ""

    def changed(self, row: Row, *, ts: str | None = None) -> None:
        """Nothing: the next drawing shows it."""

    def draw(self, board: Board) -> None:
        """Draw what runs now."""
        now = datetime.now(UTC)
        self._live.update(self.picture(board, now=now), refresh=True)

    def picture(self, board: Board, *, now: datetime) -> Group:
        """Return the screen: what runs in numbers, the rows that have room, and how many have not."""
        rows = board.shown(now=now)
        room = max(1, self._screen.height - 4)
        counts = Counter(row.status for row in rows)
        numbers = ", ".join(f"{counts[status]} {status}" for status in RUNNING if counts[status])
        paused = sum(row.paused for row in rows)
        head = f"{numbers or ('nothing runs' if board.known else 'looking')}{f', {paused} paused' if paused else ''}"
        parts: list[Text | Table] = [_line(f"{head}   {self._url}", "bold")]
        if self._away:
            parts.append(_line(f"the API is away, trying again: {self._away}", "red"))
        else:
            parts.append(_line("Ctrl-C ends", "dim"))
        parts.append(self._table(rows[:room], now=now))
        if len(rows) > room:
            parts.append(_line(f"and {len(rows) - room} more: taskrunner tasks list", "dim"))
        return Group(*parts)

    def _table(self, rows: list[Row], *, now: datetime) -> Table:
        made = Table(box=None, pad_edge=False, expand=True, header_style="dim")
        names = [name for name in SHOWN if self._screen.width >= WIDE.get(name, 0)]
        for name in names:
            ratio = {"name": 3, "progress": 2}.get(name)
            made.add_column(
                name, no_wrap=True, overflow="ellipsis", ratio=ratio, justify="right" if name == "for" else "left"
            )
        for row in rows:
            cells = _cells(row, now=now)
            made.add_row(*(cells[name] for name in names))
        return made


def _cells(row: Row, *, now: datetime) -> dict[str, Text]:
    lasts = duration(max(now - row.step_started_at, datetime.resolution)) if row.step_started_at else ""
    status = "paused" if row.paused else row.status
    return {
        "status": Text(status, style="yellow" if row.paused else COLOURS.get(row.status, "")),
        "step": Text(row.step or "-"),
        "for": Text(lasts),
        "attempt": Text(str(row.attempt)),
        "node": Text(one_line(printable(row.node_id or "-"))),
        "progress": Text(_progress(row.progress or {})),
        "name": Text(one_line(printable(row.name))),
        "id": Text(row.id, style="dim"),
    }


def _progress(said: Any) -> str:
    """Return progress as a person reads it: `40 % compiling`."""
    percent, message = said.get("percent"), said.get("message")
    words = [f"{percent:g} %" if percent is not None else "", str(message or "")]
    return one_line(printable(" ".join(words))) or told({"data": said.get("data") or None})


def _line(text: str, style: str) -> Text:
    return Text(one_line(printable(text)), style=style, no_wrap=True, overflow="ellipsis")
