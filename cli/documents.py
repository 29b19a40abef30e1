"""A YAML document as JSON knows its values, each with the line that it stands in.

By the core schema of version 1.2, in which `on` and `no` are words and a date is text: PyYAML's own values are of 1.1.
It is read event by event, because the parser's own way to a tree has no bound: deep nesting would end the process.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

# A task's input may have 64 levels.
DEEPEST: Final = 100
# Characters and values. A body has 1 MB, unless a setting says more; by aliases a small file may stand for far more.
LARGEST: Final = 16_000_000
# The parser in C, where PyYAML was built with it, is twenty times as fast.
LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

TAG: Final = "tag:yaml.org,2002:"
MERGE: Final = "<<"
# https://yaml.org/spec/1.2.2/#103-core-schema, without the numbers that JSON has not. The first that fits is meant.
SCALARS: Final[Mapping[str, tuple[re.Pattern[str], Callable[[str], Any]]]] = {
    kind: (re.compile(pattern), value)
    for kind, pattern, value in (
        ("null", r"~|null|Null|NULL|", lambda _: None),
        ("bool", r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", lambda text: int(text, 0 if text[1:2] in ("o", "x") else 10)),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
        ("str", r"[\s\S]*", str),
    )
}


class DocumentError(ValueError):
    """What is wrong with a text; `place` says where, as `3:7`, counted from 1, if that is known."""

    def __init__(self, mark: Any, what: str) -> None:
        super().__init__(what)
        self.place = f"{mark.line + 1}:{mark.column + 1}" if mark else None


@dataclass(slots=True)
class Node:
    """A value, how much it stands for, and by name or place (from 0) the line and the node of what is in it."""

    value: Any
    size: int = 1
    children: dict[str, tuple[int, "Node"]] = field(default_factory=dict)


@dataclass(slots=True)
class _Begun:
    """A list or an object before its end; of an object also the name that was read last, and what `<<` took in."""

    event: Any
    node: Node
    name: Any = None
    merged: dict[str, Any] = field(default_factory=dict)


def compose(text: str) -> Node | None:
    """Return the document in a text; None for nothing. Raises DocumentError."""
    reader = _Reader()
    try:
        for event in yaml.parse(text, LOADER):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        raise DocumentError(error.problem_mark or error.context_mark, str(error.problem or error.context)) from None
    except yaml.YAMLError as error:
        raise DocumentError(None, " ".join(str(error).split())) from None
    return reader.root


class _Reader:
    """Makes nodes of events. Every method raises DocumentError."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._begun: list[_Begun] = []
        self._anchors: dict[str, Node] = {}

    def take(self, event: Any) -> None:
        """Take the next event."""
        within = self._begun[-1] if self._begun else None
        if isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise DocumentError(event.start_mark, "another document begins here")
        elif isinstance(event, yaml.NodeEvent):
            if within and isinstance(within.node.value, dict) and within.name is None:
                _name(within, event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._begin(event)
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in self._anchors:
                    raise DocumentError(event.start_mark, f"*{event.anchor} stands for nothing that ends above")
                self._put(self._anchors[event.anchor], event)
            else:
                self._ended(Node(_scalar(event), 1 + len(event.value)), event)

    def _begin(self, event: Any) -> None:
        is_object = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", TAG + ("map" if is_object else "seq")):
            raise _foreign(event)
        if len(self._begun) == DEEPEST:
            raise DocumentError(event.start_mark, "is nested too deeply")
        self._begun.append(_Begun(event, Node({} if is_object else [])))

    def _end(self) -> None:
        over = self._begun.pop()
        if over.merged:
            over.node.value = over.merged | over.node.value
        self._ended(over.node, over.event)

    def _ended(self, node: Node, event: Any) -> None:
        if event.anchor:
            self._anchors[event.anchor] = node
        self._put(node, event)

    def _put(self, node: Node, event: Any) -> None:
        """Put a node that has ended where it belongs."""
        if not self._begun:
            self.root = node
            return
        within = self._begun[-1]
        into, name, within.name = within.node, within.name, None
        into.size += node.size
        if into.size > LARGEST:
            raise DocumentError(event.start_mark, "is too large, with all that its aliases stand for")
        if isinstance(into.value, list):
            into.children[str(len(into.value))] = (event.start_mark.line + 1, node)
            into.value.append(node.value)
        elif name.value == MERGE and name.implicit[0]:
            for more in node.value if isinstance(node.value, list) else [node.value]:
                if not isinstance(more, dict):
                    raise DocumentError(event.start_mark, f"{MERGE} takes in objects only")
                within.merged = more | within.merged
        else:
            into.children[name.value] = (name.start_mark.line + 1, node)
            into.value[name.value] = node.value


def _name(within: _Begun, event: Any) -> None:
    if not isinstance(event, yaml.ScalarEvent):
        raise DocumentError(event.start_mark, "a name is needed here")
    if event.value in within.node.value:
        raise DocumentError(event.start_mark, f"{event.value} is there twice")
    within.name = event


def _scalar(event: Any) -> Any:
    plain = event.implicit[0]
    fits = (kind for kind, (pattern, _) in SCALARS.items() if pattern.fullmatch(event.value))
    kind = next(fits) if plain else (event.tag or "str").removeprefix(TAG)
    kind = "str" if kind == "!" else kind
    if kind not in SCALARS:
        raise _foreign(event)
    try:
        return SCALARS[kind][1](event.value)
    except ValueError as error:
        raise DocumentError(event.start_mark, str(error)) from None


def _foreign(event: Any) -> DocumentError:
    return DocumentError(event.start_mark, f"the tag {event.tag} is of nothing that JSON has")
