"""A run's graph as a flowchart for Mermaid: https://mermaid.js.org/syntax/flowchart.html."""

import re
from collections.abc import Mapping
from typing import Any, Final

from cli.drawing import condition, title
from domain.graph import EdgeKind

# Fill and stroke of each status; black on them is readable on a dark page, too.
CLASSES: Final = {
    "waiting": ("#f1f3f5", "#868e96"),
    "in_progress": ("#d0ebff", "#1971c2"),
    "completed": ("#d3f9d8", "#2f9e44"),
    "failed": ("#ffe3e3", "#e03131"),
    "cancelled": ("#fff3bf", "#f08c00"),
    "skipped": ("#ffffff", "#ced4da"),
}
SHAPES: Final = {"task": '["{}"]', "fan_out": '[["{}"]]'}


def mermaid(graph: Mapping[str, Any]) -> str:
    """Return what `GET /v1/runs/{id}/graph` gave as a flowchart: a class for each status, preferred orders dotted."""
    ids = {member["name"]: f"m{number}" for number, member in enumerate(graph["members"], 1)}
    lines = ["flowchart LR"]
    for member in graph["members"]:
        shape = SHAPES[member["kind"]].format(_escaped(title(member)))
        lines.append(f"    {ids[member['name']]}{shape}:::{member['status']}")
    for edge in graph["edges"]:
        arrow = "-.->" if edge["kind"] == EdgeKind.PREFERRED_ORDER else "-->"
        said = condition(edge)
        label = f'|"{_escaped(said)}"|' if said else ""
        lines.append(f"    {ids[edge['from']]} {arrow}{label} {ids[edge['to']]}")
    lines += [
        f"    classDef {status} fill:{fill},stroke:{stroke},color:#000" for status, (fill, stroke) in CLASSES.items()
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Return the text with everything as an entity that Mermaid, Markdown or HTML could take for its own."""
    return re.sub(r"[^\w .,/-]", lambda found: f"#{ord(found[0])};", text)
