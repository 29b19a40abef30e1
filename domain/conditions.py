"""What an edge asks of a result: a place in it, by JSON Pointer (RFC 6901), and a comparison that never fails."""

import re
from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt
from typing import Any, Final

from domain.errors import TaskrunnerError
from domain.run_spec import Operator

_KINDS: Final[Mapping[type, str]] = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}
_PART: Final = re.compile(r"(?:[^~]|~[01])*")
# No leading zero, no sign; of more digits there is no array, and Python reads no number of thousands of them.
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_SHOWN: Final = 100


class Miss(TaskrunnerError):  # noqa: N818 - named for the fact
    """A pointer that leads to nothing: it led as far as `at`, where there is no `part`."""

    def __init__(self, pointer: str, *, at: str, part: str, kind: str) -> None:
        where = f"{at or 'the document':.{_SHOWN}}, {kind}"
        super().__init__(f"{pointer:.{_SHOWN}} leads to nothing: no {part:.{_SHOWN}} in {where}")
        self.pointer = pointer
        self.at = at
        self.part = part


def resolve(pointer: str, document: Any) -> Any:
    """Return what a JSON Pointer leads to in a document of JSON; raises Miss, also for what is no pointer."""
    found = document
    begin, *parts = pointer.split("/")
    if begin:
        raise Miss(pointer, at="", part=pointer, kind=_kind(document))
    for place, escaped in enumerate(parts):
        part = escaped.replace("~1", "/").replace("~0", "~") if _PART.fullmatch(escaped) else None
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and _INDEX.fullmatch(escaped) and int(escaped) < len(found):
            found = found[int(escaped)]
        else:
            at = "".join(f"/{each}" for each in parts[:place])
            raise Miss(pointer, at=at, part=escaped if part is None else part, kind=_kind(found))
    return found


def holds(pointer: str, op: Operator, value: Any, document: Any) -> bool:
    """Return whether what the pointer leads to compares with the value as the operator says.

    Numbers are ordered, and strings, by code point; values of unlike kinds are not equal and in no order, and a boolean
    is no number. `in` looks for what is found in the value, a list; `contains` for the value in what is found: an
    element, a part of a string, a name of an object. Where the pointer leads to nothing only `exists: false` holds.
    """
    try:
        found = resolve(pointer, document)
    except Miss:
        return op == Operator.EXISTS and value is False
    return _HOLDS[op](found, value)


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _equal(one: Any, other: Any) -> bool:
    """Return whether two documents are the same: as deep as they are, without recursion."""
    todo = [(one, other)]
    while todo:
        left, right = todo.pop()
        if _kind(left) != _kind(right):
            return False
        if isinstance(left, dict):
            if left.keys() != right.keys():
                return False
            todo += [(value, right[name]) for name, value in left.items()]
        elif isinstance(left, list):
            if len(left) != len(right):
                return False
            todo += zip(left, right, strict=True)
        elif left != right:
            return False
    return True


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compared(found: Any, value: Any) -> bool:
        return _kind(found) == _kind(value) in ("a number", "a string") and compare(found, value)

    return compared


def _in(found: Any, value: Any) -> bool:
    return isinstance(value, list) and any(_equal(found, each) for each in value)


def _contains(found: Any, value: Any) -> bool:
    if isinstance(found, list):
        return _in(value, found)
    return isinstance(value, str) and isinstance(found, str | dict) and value in found


_HOLDS: Final[Mapping[Operator, Callable[[Any, Any], bool]]] = {
    Operator.EQ: _equal,
    Operator.NE: lambda found, value: not _equal(found, value),
    Operator.LT: _ordered(lt),
    Operator.LE: _ordered(le),
    Operator.GT: _ordered(gt),
    Operator.GE: _ordered(ge),
    Operator.IN: _in,
    Operator.CONTAINS: _contains,
    Operator.EXISTS: lambda _, value: value is True,
}
