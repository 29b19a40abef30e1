"""Follow a run to its end: as a picture that is drawn anew on a terminal, as lines elsewhere."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segments
from rich.text import Text

from cli.drawing import Drawing
from cli.remote import Remote, RemoteError
from cli.run_lines import Members
from cli.screen import COLOURS, coloured, console, duration, escape, moment, one_line, printable
from cli.stream import Stream
from cli.view import View

# The picture is asked for so often at most, and for a third of the time at most: a large one takes a second.
PAUSE: Final = 0.25  # seconds
SHARE: Final = 2
# Tasks of a failed run whose errors are told.
NAMED: Final = 10
COUNTED: Final = ("completed", "failed", "cancelled", "skipped", "in_progress", "waiting")


def counted(run: Mapping[str, Any]) -> str:
    """Return how many members are in which status."""
    return ", ".join(f"{run['counts'][status]} {status}" for status in COUNTED if run["counts"].get(status))


def lasted(run: Mapping[str, Any]) -> str:
    """Return how long this attempt of the run has taken so far, or in all."""
    ended = moment(run["finished_at"]) if run["finished_at"] else datetime.now(UTC)
    return duration(max(ended - moment(run["started_at"] or run["created_at"]), timedelta(0)))


async def follow(remote: Remote, run_id: str, view: View, *, after: int = 0) -> None:
    """Show the events of a run and its tasks in a view, until the run has ended. Raises RemoteError."""
    with view:
        await _give(remote, run_id, view, after=after)


async def _give(remote: Remote, run_id: str, view: View, *, after: int | None) -> None:
    path = f"/v1/runs/{run_id}"
    stream = Stream(remote, f"{path}/stream", after=after, log=f"{path}/events", away=view.away)
    async with aclosing(stream.frames()) as frames:
        async for frame in frames:
            if frame.event:
                view.event({"cursor": frame.number} | frame.event)


def watch(remote: Remote, run_id: str, *, quiet: bool = False, patience: timedelta | None = None) -> str | None:
    """Show a run until it has ended, and what it has come to; returns that, or None when the patience is over first.

    An API that is away for a while is waited for. Raises RemoteError.
    """
    screen = console()

    async def bounded() -> None:
        async with asyncio.timeout(patience.total_seconds() if patience else None):
            if screen.is_terminal and not quiet:
                await _draw(remote, run_id, screen)
            else:
                await follow(remote, run_id, View() if quiet else Members(screen))

    try:
        asyncio.run(bounded())
    except TimeoutError:
        return None
    run = remote.get(f"/v1/runs/{run_id}")
    if not quiet:
        _tell(remote, run, screen)
    return str(run["outcome"])


def _tell(remote: Remote, run: Mapping[str, Any], screen: Console) -> None:
    """Print what a run has come to, and which of its tasks have failed."""
    screen.print(f"{coloured(run['status'])} in {lasted(run)}: {counted(run)}")
    if run["error"]:
        screen.print(f"  {escape(one_line(run['error']['message']))}")
    for task in remote.pages("/v1/tasks", run_id=run["id"], status="failed", limit=NAMED):
        error = task["error"] or {"category": "?", "code": "?", "message": ""}
        said = f"{task['name']}: {error['category']}/{error['code']}: {error['message']}"
        screen.print(f"  [red]✗[/] {escape(one_line(said))}  [dim]taskrunner tasks logs {task['id']}[/]")


async def _draw(remote: Remote, run_id: str, screen: Console) -> None:
    with Picture(remote, run_id, screen) as picture:
        works = {
            asyncio.create_task(picture.keep()),
            asyncio.create_task(_give(remote, run_id, picture, after=None)),
        }
        try:
            done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            for work in done:
                work.result()
        finally:
            for work in works:
                work.cancel()
            await asyncio.wait(works)
        await picture.look()


class Picture(View):
    """A run's graph, drawn anew after each change, below a line that says how far the run is."""

    def __init__(self, remote: Remote, run_id: str, screen: Console) -> None:
        self._remote = remote
        self._path = f"/v1/runs/{run_id}"
        self._changed = asyncio.Event()
        self._away = ""
        self.run: Mapping[str, Any] | None = None
        self.graph: Mapping[str, Any] = {"members": [], "edges": [], "layers": []}
        self._drawn: tuple[Any, int, Segments] | None = None
        self._live = Live(self, console=screen, refresh_per_second=1 / PAUSE)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def event(self, event: dict[str, Any]) -> None:
        """Have it drawn anew after an event of the run's own; what its tasks do in between is not in it."""
        if event["task_id"] is None:
            self._changed.set()

    def away(self, error: RemoteError | None) -> None:
        """Keep it in the line on top; draw anew when the API is back."""
        self._away = f"the API is away, trying again: {error.first_line}" if error else ""
        self._changed.set()

    async def keep(self) -> None:
        """Draw it anew whenever it has changed. Raises RemoteError for what waiting does not mend."""
        while True:
            self._changed.clear()
            began = monotonic()
            try:
                await self.look()
            except RemoteError as error:
                if not error.transient:
                    raise
            await asyncio.sleep(max(PAUSE, SHARE * (monotonic() - began)))
            await self._changed.wait()

    async def look(self) -> None:
        """Ask how far the run is by now. Raises RemoteError."""
        self.run = await asyncio.to_thread(self._remote.get, self._path)
        self.graph = await asyncio.to_thread(self._remote.get, f"{self._path}/graph")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._head()
        yield self.drawn(console, options)

    def drawn(self, console: Console, options: ConsoleOptions) -> Segments:
        """Return the picture, which is made once for each change: a large one takes longer than it is shown."""
        graph, width, made = self._drawn or (None, 0, None)
        if made is None or graph is not self.graph or width != options.max_width:
            made = Segments(console.render(Drawing(self.graph), options))
            self._drawn = (self.graph, options.max_width, made)
        return made

    def _head(self) -> Text:
        run = self.run
        if run is None:
            return _line(self._away or "looking")
        head = _line(run["status"], COLOURS.get(run["status"], "")).append(
            f"  {lasted(run)}  {counted(run)}", "default"
        )
        if run["paused"]:
            head.append(f"  paused: {printable(one_line(run['pause_reason'] or 'by hand'))}", "yellow")
        return head.append(f"  {printable(one_line(self._away))}", "red") if self._away else head


def _line(text: str, style: str = "") -> Text:
    return Text(one_line(printable(text)), style=style, no_wrap=True, overflow="ellipsis")
