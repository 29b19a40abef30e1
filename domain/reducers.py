"""How the barrier of a superstep merges what its members bring along into the run's state."""

import json
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from math import isfinite
from typing import Any, Final

from domain.errors import TaskrunnerError
from domain.run_spec import STATE_BYTES, Reducer, size_of

State = dict[str, Any]
Versions = dict[str, int]


class BadUpdate(TaskrunnerError):  # noqa: N818 - a fact about a result
    """What a member brings along for a key cannot be merged: `member`, `key` and `message` say what and why."""

    def __init__(self, member: str, key: str, message: str) -> None:
        super().__init__(f"{member}: state.{key}: {message}")
        self.member = member
        self.key = key
        self.message = message


def merged(
    state: Mapping[str, Any],
    versions: Mapping[str, int],
    contributions: Iterable[tuple[str, Mapping[str, Any]]],
    reducers: Mapping[str, Reducer],
) -> tuple[State, Versions]:
    """Return the state after a barrier, and the versions of its keys: one more for each key that is not as it was.

    Contributions are merged in their order, each as `(member, update)`; a key without a reducer is replaced. The
    arguments stay as they are. Raises BadUpdate for a value that the key's reducer cannot take, and for a state that
    would be larger than STATE_BYTES.
    """
    made: State = dict(state)
    writers: dict[str, str] = {}
    for member, update in contributions:
        for key, value in update.items():
            reducer = reducers.get(key, Reducer.REPLACE)
            held = made.get(key, _EMPTY[reducer])
            if key not in writers:
                held = copy(held)  # from now on it is written in place: 10,000 appends are not 10,000 copies
            try:
                made[key] = _REDUCE[reducer](held, value)
            except ValueError as error:
                raise BadUpdate(member, key, f"{reducer}: {error}") from None
            writers[key] = member
    _check_size(made, writers)
    changed = [key for key in writers if key not in state or _text(state[key]) != _text(made[key])]
    return made, {**versions, **{key: versions.get(key, 0) + 1 for key in changed}}


def _replace(_: Any, value: Any) -> Any:
    return value


def _append(held: Any, value: Any) -> list[Any]:
    items: list[Any] = _the("a list", held)
    items += value if isinstance(value, list) else [value]
    return items


def _merge(held: Any, value: Any) -> dict[str, Any]:
    entries: dict[str, Any] = _the("an object", held)
    entries |= _the("an object", value)
    return entries


def _sum(held: Any, value: Any) -> float:
    try:
        total: float = _the("a number", held) + _the("a number", value)
        finite = isfinite(total)
    except OverflowError:
        finite = False
    if not finite:
        raise ValueError("the sum is too large for a number")
    return total


_REDUCE: Final[Mapping[Reducer, Callable[[Any, Any], Any]]] = {
    Reducer.REPLACE: _replace,
    Reducer.APPEND: _append,
    Reducer.MERGE: _merge,
    Reducer.SUM: _sum,
}
# What a key that is not there yet is taken to hold.
_EMPTY: Final[Mapping[Reducer, Any]] = {Reducer.REPLACE: None, Reducer.APPEND: [], Reducer.MERGE: {}, Reducer.SUM: 0}
_KINDS: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def _the(kind: str, value: Any) -> Any:
    """Return the value if it is of this kind of JSON; true is no number."""
    if (found := _KINDS[type(value)]) != kind:
        raise ValueError(f"takes {kind}, not {found}")
    return value


def _check_size(state: Mapping[str, Any], writers: Mapping[str, str]) -> None:
    """Refuse a state that is too large; the largest of the keys that were written is named, and who wrote it last."""
    size = size_of(state)
    if size > STATE_BYTES and writers:
        key = max(writers, key=lambda key: len(_text(state[key])))
        raise BadUpdate(writers[key], key, f"the state would have {size:,} bytes; it may have {STATE_BYTES:,}")


def _text(value: Any) -> str:
    """Return a value as JSON, written in one way: that tells true from 1, which Python's `==` does not."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
