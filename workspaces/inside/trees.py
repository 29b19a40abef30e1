"""Trees of files that somebody else has made: listed, opened and removed without following a link, however deep."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe without a writer must not block


def opened(root: Path, name: str) -> BinaryIO:
    """Open a regular file below a folder, one part of the name after the other, none of them a link.

    So what is found to be a file cannot be swapped for another before it is opened. Raises OSError.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    folder = os.open(root, FOLDER)
    try:
        for part in parts[:-1]:
            inner = os.open(part, FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        descriptor = os.open(parts[-1], FILE, dir_fd=folder)
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
    return os.fdopen(descriptor, "rb")


def size(file: BinaryIO) -> int:
    """Return an open file's size in bytes."""
    return os.fstat(file.fileno()).st_size


def is_folder(path: Path) -> bool:
    """Tell whether this is a folder, and no link to one."""
    return os.path.isdir(path) and not os.path.islink(path)  # noqa: PTH112, PTH114 - these never raise


def walk(root: Path) -> Iterator[Path]:
    """Give everything below a folder that is no folder, by name; what is too deep for a path is left out."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        below = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield from (Path(entry.path) for entry in entries if not entry.is_dir(follow_symlinks=False))
        folders += [Path(entry.path) for entry in reversed(below)]


def text(root: Path, name: str, *, most: int) -> str | None:
    """Return what a small file says, of `most` bytes; None for what is not there, or is no such file.

    Raises nothing, waits for no pipe and follows no link.
    """
    try:
        with opened(root, name) as file:
            return file.read(most).decode("utf-8")
    except (OSError, ValueError):
        return None


def discard(path: Path) -> None:
    """Remove whatever is in this place, a folder as well as a file. Raises OSError."""
    if is_folder(path):
        remove(path)
    else:
        path.unlink(missing_ok=True)


def remove(top: Path) -> None:
    """Remove a folder as far as that is possible, also what was made read-only or deeper than any path may be long."""
    with suppress(RecursionError):
        shutil.rmtree(top, ignore_errors=True)
    if not is_folder(top):
        return
    # Each folder is moved up before it is emptied: no path grows, and nothing recurses.
    waiting, moved = [top], 0
    emptied: list[Path] = []
    while waiting:
        folder = waiting.pop()
        emptied.append(folder)
        with suppress(OSError):
            folder.chmod(stat.S_IRWXU)
        with suppress(OSError):
            for entry in list(os.scandir(folder)):
                path = Path(entry.path)
                with suppress(OSError):
                    if not entry.is_dir(follow_symlinks=False):
                        path.unlink()
                        continue
                    path.chmod(stat.S_IRWXU)  # a folder that is moved must be writable itself
                    moved += 1
                    shallow = top / f".removed-{moved}-{os.urandom(4).hex()}"
                    path.rename(shallow)
                    waiting.append(shallow)
    for folder in reversed(emptied):
        with suppress(OSError):
            folder.rmdir()
