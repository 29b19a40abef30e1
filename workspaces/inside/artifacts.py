"""What a turn leaves: its result and its artifacts. Read after every process of the turn has ended."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

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


def found(session: Session, output: Output) -> Iterator[tuple[str, Path]]:
    """Give name and path of each artifact: all of the artifacts directory, then what the task's globs match."""
    seen: set[str] = set()
    sources: list[tuple[Path, Iterable[Path]]] = [(session.artifacts, _walk(session.artifacts))]
    sources += [(session.work, _matches(session.work, pattern, output)) for pattern in session.globs]
    for root, paths in sources:
        real = Path(os.path.realpath(root))
        for path in paths:
            name = os.path.relpath(path, root)
            if name in seen or path.is_dir():
                continue
            seen.add(name)
            # Equal only when no part of the way is a link or leads upwards.
            if Path(os.path.realpath(path)) != real / name or not stat.S_ISREG(path.lstat().st_mode):
                output.note(f"artifact {name} is not kept: links and special files are not followed")
            elif path.stat().st_size > session.artifact_limit:
                output.note(f"artifact {name} is not kept: it is larger than {session.artifact_limit} bytes")
            elif len(seen) > MOST:
                output.note(f"no more than {MOST} artifacts are kept")
                return
            else:
                yield name, path


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders.sort()
        for name in sorted(files + links):
            yield Path(folder) / name


def _matches(root: Path, pattern: str, output: Output) -> list[Path]:
    try:
        paths = sorted(root.glob(pattern))
    except (ValueError, NotImplementedError, OSError) as error:
        output.note(f"the artifact pattern {pattern!r} is not used: {error}")
        return []
    if not paths:
        output.note(f"the artifact pattern {pattern!r} matches nothing")
    return [path for path in paths if ".git" not in path.relative_to(root).parts[:1]]


def upload(name: str, path: Path, callbacks: Callbacks, output: Output, *, until: float) -> None:
    """Put one artifact; what cannot be put is said in the log, and is no reason to fail the task."""
    try:
        status = callbacks.send(
            "PUT", f"artifacts/{quote(name)}", path, "application/octet-stream", until=lambda: until
        )
    except Unheard:
        output.note(f"artifact {name} is not kept: the API did not answer")
        return
    if status >= 300:  # noqa: PLR2004 - the 2xx
        output.note(f"artifact {name} is not kept: the API answered {status}")
