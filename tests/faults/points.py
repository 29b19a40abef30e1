"""The failpoints: found in the source, armed by files, counted when they strike.

An armed failpoint is a file by its name; the process that reaches it first takes the file, notes the hit, and only then
does what the file says: whoever kills itself has counted before.
"""

import ast
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from psycopg import OperationalError as DriverError
from sqlalchemy.exc import OperationalError
from temporalio.service import RPCError, RPCStatusCode

from domain.failpoints import AFTER, BEFORE

ROOT: Final = Path(__file__).parents[2]
FLOORS: Final = ("activities", "api", "cli", "store", "workflows", "workspaces", "node.py", "worker.py")
# By the name of the call, which of its arguments names the failpoint.
NAMED: Final = {"begin": 0, "commit": 0, "boundary": 0, "once": 1}
# Where a name is passed on, and not given.
PASSED_ON: Final = frozenset({"store/engine.py", "api/idempotency.py"})


class Action(StrEnum):
    """What strikes: the process dies, or the caller gets an error (after the call: the reply is lost)."""

    KILL = "kill"
    ERROR = "error"


@dataclass(frozen=True, order=True)
class Site:
    """A boundary in the source."""

    name: str
    file: str
    line: int


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Yield the syntax trees of the source, by path."""
    for floor in FLOORS:
        path = ROOT / floor
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield str(file.relative_to(ROOT)), ast.parse(file.read_text(encoding="utf-8"))


def called(call: ast.Call) -> str:
    """Return the last name of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def sites() -> list[Site]:
    """Return every boundary that has a name of its own."""
    found = []
    for file, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or called(node) not in NAMED:
                continue
            position = NAMED[called(node)]
            given = node.args[position] if len(node.args) > position else None
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                found.append(Site(given.value, file, node.lineno))
    return sorted(found)


def points() -> list[str]:
    """Return both sides of every boundary."""
    return [name + side for name in sorted({site.name for site in sites()}) for side in (BEFORE, AFTER)]


class Armoury:
    """The files by which the harness arms failpoints, and the list of hits."""

    def __init__(self, folder: Path) -> None:
        self._armed = folder / "armed"
        self._taken = folder / "taken"
        self._hits = folder / "hits"
        for each in (self._armed, self._taken):
            each.mkdir(parents=True, exist_ok=True)
        self._hits.touch()

    def arm(self, point: str, action: Action) -> None:
        """Let the next process that reaches this point do this."""
        draft = self._taken / f"{point}.draft"
        draft.write_text(action)
        draft.replace(self._armed / point)

    def disarm(self) -> None:
        """Take back what has not struck."""
        for path in self._armed.iterdir():
            path.unlink(missing_ok=True)

    def armed(self, point: str) -> bool:
        """Whether the point still waits for somebody."""
        return (self._armed / point).exists()

    def hits(self) -> Counter[tuple[str, Action]]:
        """Return how often each point struck, by what it did."""
        lines = (line.split() for line in self._hits.read_text().splitlines())
        return Counter((point, Action(action)) for point, action in lines)

    def reached(self, point: str) -> None:
        """Do what the point is armed for, if it is; to be called by the process that reaches it."""
        taken = self._taken / f"{point}.{os.getpid()}"
        try:
            (self._armed / point).rename(taken)
        except FileNotFoundError:
            return
        action = Action(taken.read_text())
        descriptor = os.open(self._hits, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, f"{point} {action}\n".encode())
        os.close(descriptor)
        if action is Action.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        raise lost(point)


def lost(point: str) -> Exception:
    """Return what a caller gets there when the connection is lost."""
    if point.startswith("engine."):
        return RPCError("the connection was lost", RPCStatusCode.UNAVAILABLE, b"")
    if point.startswith(("provider.", "api.", "machines.", "webhooks.send")):
        return OSError(5, "the connection was lost")
    return OperationalError("", None, DriverError("the connection was lost"))
