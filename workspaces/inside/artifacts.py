"""What a turn leaves: its result and its artifacts. Read after every process of the turn has ended."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from workspaces.inside import trees
from workspaces.inside.callbacks import Callbacks, Unheard
from workspaces.inside.output import Output
from workspaces.inside.session import Session, problem

MOST = 1000  # artifacts of one turn


def result(session: Session) -> tuple[Any, dict[str, Any] | None]:
    """Return the result file's JSON, or the error to report; no file, or an empty one, is the result `null`."""
    limit = session.result_limit
    try:
        content, size = _read(session.result, limit + 1)
        if size > limit:
            text = f"The result file has {size} bytes, the limit is {limit}. Leave what is larger as an artifact."
            return None, problem("result_too_large", "agent", text)
        return _parsed(content) if content.strip() else None, None
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, RecursionError) as error:
        return None, problem("result_not_json", "agent", f"The result file is not JSON: {error}.")


def _read(path: Path, most: int) -> tuple[bytes, int]:
    """Return a file's first bytes and its size. Raises OSError for a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("it is not a regular file")
        return file.read(most), facts.st_size


def _parsed(content: bytes) -> Any:
    """Return JSON without what no database keeps: infinities, lone surrogates, NUL. Raises ValueError."""
    value = json.loads(content)
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    if any("\x00" in text for text in _strings(value)):
        raise ValueError("a string holds a NUL character")
    return value


def _strings(value: Any) -> Iterator[str]:
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            rest += item
        elif isinstance(item, dict):
            yield from item
            rest += item.values()


def found(session: Session, output: Output) -> Iterator[tuple[str, BinaryIO]]:
    """Give name and open file of each artifact: all of the artifacts directory, then what the task's globs match."""
    seen: set[str] = set()
    sources: list[tuple[Path, Iterable[Path]]] = [(session.artifacts, trees.walk(session.artifacts))]
    sources += [(session.work, _matches(session.work, pattern, output)) for pattern in session.globs]
    for root, paths in sources:
        if not trees.is_folder(root):
            # A link could lead through the whole machine.
            output.note(f"no artifact of {root.name} is kept: links and special files are not followed")
            continue
        for path in paths:
            name = os.path.relpath(path, root)
            if name in seen or trees.is_folder(path):
                continue
            seen.add(name)
            if len(seen) > MOST:
                output.note(f"no more than {MOST} artifacts are kept")
                return
            if file := _opened(session, root, name, output):
                yield name, file


def _opened(session: Session, root: Path, name: str, output: Output) -> BinaryIO | None:
    """Open an artifact, or say in the log why it is not kept."""
    try:
        name.encode()
        file = trees.opened(root, name)
    except UnicodeEncodeError:
        output.note(f"artifact {name} is not kept: its name is no text")
        return None
    except OSError:
        output.note(f"artifact {name} is not kept: links and special files are not followed")
        return None
    if trees.size(file) <= session.artifact_limit:
        return file
    file.close()
    output.note(f"artifact {name} is not kept: it is larger than {session.artifact_limit} bytes")
    return None


def _matches(root: Path, pattern: str, output: Output) -> list[Path]:
    if not trees.is_folder(root):
        return []
    try:
        paths = sorted(root.glob(pattern))
    except (ValueError, NotImplementedError, OSError, RecursionError) as error:
        output.note(f"the artifact pattern {pattern!r} is not used: {error}")
        return []
    if not paths:
        output.note(f"the artifact pattern {pattern!r} matches nothing")
    return [path for path in paths if ".git" not in path.relative_to(root).parts[:1]]


def upload(name: str, file: BinaryIO, callbacks: Callbacks, output: Output, *, until: float) -> None:
    """Put one artifact and close it; what cannot be put is said in the log, and is no reason to fail the task."""
    try:
        status = callbacks.send(
            "PUT", f"artifacts/{quote(name)}", file, "application/octet-stream", until=lambda: until
        )
    except Unheard:
        output.note(f"artifact {name} is not kept: the API did not answer")
        return
    finally:
        file.close()
    if status >= 300:  # noqa: PLR2004 - the 2xx
        output.note(f"artifact {name} is not kept: the API answered {status}")
