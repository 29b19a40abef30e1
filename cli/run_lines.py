"""A followed run line by line: its members as they end, or all its events."""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Self

from rich.console import Console

from cli.drawing import MARKS
from cli.screen import COLOURS, clock, duration, escape, moment, one_line, tabbed, told
from cli.stream import RUN_ENDS
from cli.view import Clock, View, reason

COLUMNS: Final = ("cursor", "ts", "task", "attempt", "type", "step", "took", "source", "data")
BEGINS: Final = ("run.member_ready", "run.fanned_out")
MEMBER_WIDTH: Final = 32
TASK_WIDTH: Final = 16
TOOK_WIDTH: Final = 12


def part(data: dict[str, Any]) -> str:
    """Return the member that an event is about, or the child of a fan-out, as its task is named: `test#2`."""
    member, item = data.get("member"), data.get("item")
    return f"{member or ''}{'' if item is None else f'#{item}'}"


class RunClock:
    """When the run began, and each of its members and tasks: from the events, so that a late view has the same."""

    def __init__(self) -> None:
        self._run: datetime | None = None
        self._parts: dict[str, datetime] = {}
        self._tasks: defaultdict[str, Clock] = defaultdict(Clock)

    def took(self, event: dict[str, Any]) -> str:
        """Return how long that took which this event ends; nothing for the others, or where its begin was not seen."""
        kind, now = event["type"], moment(event["ts"])
        if event["task_id"] is not None:
            return self._tasks[event["task_id"]].took(event)
        if kind == "run.started":
            self._run = now
        if kind in BEGINS:
            self._parts[part(event["data"])] = now
        ended = self._parts.pop(part(event["data"]), None) if kind == "run.member_finished" else None
        began = self._run if kind in RUN_ENDS else ended
        return duration(now - began) if began else ""


class Members(View):
    """A line for each member and each child of a fan-out that has ended, and for what a person would want to know."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._clock = RunClock()

    def event(self, event: dict[str, Any]) -> None:
        """Print its line, if it has one."""
        took = self._clock.took(event)
        if show := SHOWN.get(event["type"]):
            show(self, event, took)

    def ended(self, event: dict[str, Any], took: str) -> None:
        """Print the member, its time, and why it came to this."""
        data = event["data"]
        outcome, name = data["outcome"], escape(one_line(part(data)))
        mark = f"[{COLOURS.get(outcome, 'dim')}]{MARKS[outcome]}[/]"
        took = took if outcome != "skipped" else outcome
        because = escape(one_line(reason(event)))
        self._screen.print(f"{mark} {name:<{MEMBER_WIDTH}}{took:>{TOOK_WIDTH}}  {because}".rstrip())

    def fact(self, event: dict[str, Any], _: str) -> None:
        """Print what happened beside the members."""
        self._screen.print(f"[yellow]! {event['type']}[/]  {escape(told(event['data']))}".rstrip())

    def superstep(self, event: dict[str, Any], _: str) -> None:
        """Print which superstep has ended, and what comes next."""
        data = event["data"]
        following = ", ".join(data["next_frontier"]) or "nothing"
        self._screen.print(f"[dim]= superstep {data['superstep']}: next {escape(one_line(following))}[/]")


SHOWN: Final[dict[str, Callable[[Members, dict[str, Any], str], None]]] = {
    "run.member_finished": Members.ended,
    "run.superstep": Members.superstep,
    "run.paused": Members.fact,
    "run.resumed": Members.fact,
    "run.commanded": Members.fact,
}


class RunEvents(View):
    """The events of a run and its tasks, a line for each: in columns on a terminal, with tabs elsewhere."""

    def __init__(self, screen: Console, tasks: dict[str, str], *, kind: str | None = None) -> None:
        """Know the tasks that there are by their names; those that come are learned."""
        self._screen = screen
        self._tasks = tasks
        self._kind = kind
        self._clock = RunClock()

    def __enter__(self) -> Self:
        if not self._screen.is_terminal:
            tabbed(self._screen, COLUMNS)
        return self

    def event(self, event: dict[str, Any]) -> None:
        """Print the event."""
        took, data = self._clock.took(event), event["data"]
        if event["type"] == "run.member_ready":
            self._tasks[data["task_id"]] = part(data)
        if event["type"] == "task.created":
            self._tasks.setdefault(event["task_id"], data.get("name") or "")
        if self._kind not in (None, event["type"]):
            return
        own = event["task_id"] is None
        name = part(data) if own else self._tasks.get(event["task_id"]) or event["task_id"]
        # The member stands in its own column.
        says = escape(told({key: value for key, value in data.items() if not own or key not in ("member", "item")}))
        task, step, took = escape(one_line(name)) or "-", event["step"] or "-", took or "-"
        if self._screen.is_terminal:
            # Events of the run itself have no step.
            time, where = clock(event["ts"]).partition(" ")[2], "" if own else f"{step:<26}"
            line = (
                f"{event['cursor']:>5} {time} {task:<{TASK_WIDTH}} {event['type']:<19} {where}{took:>9}  [dim]{says}[/]"
            )
            self._screen.print(line, soft_wrap=False, no_wrap=True, overflow="ellipsis")
        else:
            facts = (str(event["cursor"]), event["ts"], task, str(event["attempt"]), event["type"], step)
            tabbed(self._screen, (*facts, took, event["source"], says))
