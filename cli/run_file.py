"""The file of a run, or of a command to one: YAML or JSON, and in which of its lines a field is."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cli.documents import DocumentError, Node, compose
from cli.remote import Remote, RemoteError

# What the API says of a body that it does not take.
REFUSALS: Final = (413, 422)
JSON: Final = re.compile(r'\s*\{\s*["}]')


class FileError(ValueError):
    """A file that makes no body, or whose body is refused, with its lines."""


@dataclass(frozen=True, slots=True)
class RunFile:
    """A body, and the nodes of its text; without them where YAML cannot read what is JSON."""

    name: str
    body: dict[str, Any]
    root: Node | None

    def post(self, remote: Remote, path: str) -> Any:
        """Return what the API answers to the body. Raises FileError for one that it refuses, RemoteError."""
        try:
            return remote.post(path, self.body)
        except RemoteError as error:
            if error.status not in REFUSALS:
                raise
            reasons = [f"{self.place(field)}: {field}: {reason}" for field, reason in error.fields]
            raise FileError("\n  ".join([error.first_line, *(reasons or [self.name])])) from None

    def place(self, field: str) -> str:
        """Return the line of a field, as the API names it, or of what it would be in."""
        place, node, rest = self.name, self.root, field
        while node and rest:
            # A name may have dots in it.
            found = max((name for name in node.children if f"{rest}.".startswith(f"{name}.")), key=len, default=None)
            if found is not None:
                line, node = node.children[found]
                place = f"{self.name}:{line}"
            # What the file has not, its schema may have: it names which of two kinds of a thing is meant.
            rest = rest.partition(".")[2] if found is None else rest[len(found) + 1 :]
        return place


def read(path: Path) -> RunFile:
    """Return the body that is in a file, or for `-` in standard input. Raises FileError."""
    typed = str(path) == "-"
    name = "<stdin>" if typed else str(path)
    try:
        text = (sys.stdin.buffer.read() if typed else path.read_bytes()).decode("utf-8-sig")
        body, root = (_json if JSON.match(text) else _yaml)(text)
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except OSError as error:
        raise FileError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise FileError(f"{name}: is not text in UTF-8") from None
    except UnicodeEncodeError:
        raise FileError(f"{name}: half a surrogate pair is no text") from None
    except RecursionError:
        raise FileError(f"{name}: is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise FileError(f"{name}:{error.lineno}:{error.colno}: {error.msg}") from None
    except DocumentError as error:
        raise FileError(f"{name}:{error.place}: {error}" if error.place else f"{name}: {error}") from None
    except ValueError as error:
        raise FileError(f"{name}: {error}") from None
    if not isinstance(body, dict):
        raise FileError(f"{name}: is no object with named fields")
    return RunFile(name, body, root)


def _yaml(text: str) -> tuple[Any, Node | None]:
    root = compose(text)
    return root and root.value, root


def _json(text: str) -> tuple[Any, Node | None]:
    body = json.loads(text, object_pairs_hook=_once)
    try:
        # JSON is YAML, but for tabs; only its lines are wanted.
        return body, compose(text.replace("\t", " "))
    except DocumentError:
        return body, None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise ValueError(f"{name} is there twice")
        made[name] = value
    return made
