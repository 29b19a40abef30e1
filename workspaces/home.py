"""A node's folder: one process at a time works in it, and it has an id by which the API knows it again."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from domain.ids import new_id
from workspaces.layout import write_private

LOCK: Final = "node.lock"
ID: Final = "node.home"


class HomeTakenError(RuntimeError):
    """Another node's process works in this folder."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[str]:
    """Hold a folder for one process, and give its id, which is made once; the kernel gives it back on every death.

    Two nodes in one folder would each destroy the workspaces of the other one, which are not its own. Raises
    HomeTakenError, or OSError where nothing can be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeTakenError(f"another node works in {folder}: give this one a --data-dir of its own") from None
        yield _id(folder / ID)
    finally:
        os.close(descriptor)


def _id(file: Path) -> str:
    """Return the id in a file; a file that is not there, or broken, gets a new one."""
    with contextlib.suppress(OSError, ValueError):
        known = file.read_text().strip()
        if re.fullmatch(r"[0-9a-f-]{36}", known):
            return known
    write_private(file, made := new_id())
    return made
