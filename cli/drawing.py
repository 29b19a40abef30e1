"""A run's graph on a terminal: a picture from left to right, or a list by layer where it is too large for one."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from cli.gutters import gutter
from cli.screen import COLOURS, duration, one_line, printable
from domain.graph import Edge, EdgeKind, Graph
from domain.layout import Place, layout

# More of them cannot be followed by eye.
DRAWN_MEMBERS: Final = 40
DRAWN_EDGES: Final = 80
LISTED: Final = 20  # of a layer, and of the edges that have something to say
BLOCKERS: Final = 3
NAME: Final = 32

# In the order in which members of a large layer are shown.
MARKS: Final = {
    "failed": "✗", "cancelled": "!", "in_progress": "●", "waiting": "○", "completed": "✓", "skipped": "-",
}  # fmt: skip
ENDED: Final = ("completed", "failed", "cancelled", "skipped")
# What a terminal without Unicode has instead.
ASCII: Final = str.maketrans("✗●○✓─│┌┐└┘├┤┬┴┼▶→←…", "x*.v-|+++++++++>><~")


@dataclass(frozen=True, slots=True)
class Drawing:
    """The graph that `GET /v1/runs/{id}/graph` gives, as the console has room for it; a live view takes it, too."""

    graph: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = _picture(self.graph)
        if not lines or max(map(len, lines)) > options.max_width:
            lines = [*_listed(self.graph)]
        for line in (*lines, *_notes(self.graph)):
            if options.ascii_only:
                line.plain = line.plain.translate(ASCII)
            yield line


def condition(edge: Mapping[str, Any]) -> str:
    """Return what an edge asks of its source beside having completed, on one line; mostly nothing."""
    when = edge.get("when") or "completed"
    if isinstance(when, Mapping):
        when = f"{when['pointer']} {when['op']} {json.dumps(when.get('value'), ensure_ascii=False)}"
    return "" if when == "completed" else one_line(printable(when))


def title(member: Mapping[str, Any]) -> str:
    """Return a member's name; with it, for a fan-out, how many of its children have ended: `shard 3/10`."""
    name = one_line(printable(member["name"]))
    name = name if len(name) <= NAME else f"{name[: NAME - 1]}…"
    if member["kind"] != "fan_out":
        return name
    ended = sum((member["counts"] or {}).get(status, 0) for status in ENDED)
    return f"{name} {ended}/{'?' if member['size'] is None else member['size']}"


def _picture(graph: Mapping[str, Any]) -> list[Text]:
    """Return the graph from left to right; nothing of one that is empty or too large to be followed."""
    edges = [Edge(edge["from"], edge["to"], EdgeKind(edge["kind"])) for edge in graph["edges"]]
    if not 0 < len(graph["members"]) <= DRAWN_MEMBERS or len(edges) > DRAWN_EDGES:
        return []
    made = layout(Graph.of([member["name"] for member in graph["members"]], edges))
    labels: dict[tuple[int, int], Text] = {}
    for member in graph["members"]:
        labels[_at(made.places[member["name"]])] = _label(member)
    lines: list[dict[int, dict[int, None]]] = [{} for _ in graph["layers"]]
    for edge, passes in made.passes.items():
        way = [_at(place) for place in (made.places[edge.source], *passes, made.places[edge.target])]
        for (x, here), (_, there) in pairwise(way):
            lines[x].setdefault(here, {})[there] = None
    height = 2 + max((*(row for _, row in labels), *(row for begins in lines for row in begins)))
    rows = [Text(no_wrap=True) for _ in range(height)]
    for x, begins in enumerate(lines):
        width = max(len(label) for (column, _), label in labels.items() if column == x)
        arrows = {end: "▶ " if (x + 1, end) in labels else "──" for ends in begins.values() for end in ends}
        for row, between in enumerate(gutter(begins, height)):
            label = labels.get((x, row), Text())
            fill = "─" if row in begins else " "
            rows[row].append_text(label).append(" " if label else fill).append(fill * (width - len(label)))
            rows[row].append(between + arrows.get(row, "  "))
    for text in rows:
        text.rstrip()
    # A row in which tracks only pass says nothing.
    return [text for text in rows if not set(text.plain) <= {" ", "│"}]


def _at(place: Place) -> tuple[int, int]:
    """Return the column, and the row of characters: every second one, the others are for detours."""
    return place.x, 2 * int(place.y)


def _label(member: Mapping[str, Any]) -> Text:
    status = member["status"]
    faint = "dim" if status == "skipped" or (status == "waiting" and not member["ready"]) else ""
    return Text.assemble((MARKS[status], COLOURS.get(status, faint)), (f" {title(member)}", faint))


def _listed(graph: Mapping[str, Any]) -> Iterator[Text]:
    """Yield a line for each member with what it still waits for, layer by layer; of large layers what matters most."""
    members = {member["name"]: member for member in graph["members"]}
    urgency = list(MARKS)
    width = max((len(title(member)) for member in members.values()), default=0)
    for number, names in enumerate(graph["layers"], 1):
        layer = [members[name] for name in names]
        if len(layer) > LISTED:
            layer.sort(key=lambda member: urgency.index(member["status"]))
        for place, member in enumerate(layer[:LISTED]):
            line = Text(f"{'' if place else number:>{len(str(len(graph['layers'])))}}  ", no_wrap=True)
            line.append_text(_label(member))
            fact = _blockers(member) or member["reason"] or _took(member)
            line.append(" " * (width - len(title(member))) + f"  {fact}")
            line.rstrip()
            line.overflow = "ellipsis"
            yield line
        if more := Counter(member["status"] for member in layer[LISTED:]):
            counted = ", ".join(f"{more[status]} {status}" for status in MARKS if more[status])
            yield Text(f"{'':{len(str(len(graph['layers'])))}}  and {more.total():,} more: {counted}", no_wrap=True)


def _took(member: Mapping[str, Any]) -> str:
    seconds = member["duration_seconds"]
    return "" if seconds is None else duration(timedelta(seconds=seconds))


def _blockers(member: Mapping[str, Any]) -> str:
    names = [one_line(printable(name)) for name in member["blockers"]]
    more = f" and {len(names) - BLOCKERS:,} more" if len(names) > BLOCKERS else ""
    return f"← {', '.join(names[:BLOCKERS])}{more}" if names else ""


def _notes(graph: Mapping[str, Any]) -> Iterator[Text]:
    """Yield a line for each edge that does something else than to wait for a member to complete."""
    told = [(edge, said) for edge in graph["edges"] if (said := _said(edge))]
    for edge, said in told[:LISTED]:
        names = " → ".join(one_line(printable(edge[end])) for end in ("from", "to"))
        yield Text(f"{names}: {said}", style="dim", no_wrap=True, overflow="ellipsis")
    if len(told) > LISTED:
        yield Text(f"and {len(told) - LISTED:,} more edges of this kind", style="dim", no_wrap=True)


def _said(edge: Mapping[str, Any]) -> str:
    return "preferred" if edge["kind"] == EdgeKind.PREFERRED_ORDER else condition(edge)
