"""A workspace's files on a disk of its own size: a file system in a file, mounted here and seen by its container."""

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from domain.containers import MB
from domain.errors import Category, Failure
from domain.names import WorkspaceId
from workspaces.inside import trees
from workspaces.layout import PRIVATE, Layout

# Blocks for root only, in percent: what the provider writes finds room on a disk that a command has filled.
RESERVED: Final = "2"
# No journal: after a crash of the machine the attempt is lost anyway. Tables are written when they are needed.
FORMAT: Final = ("mkfs.ext4", "-q", "-F", "-m", RESERVED, "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard")
# What a command puts here is no device and no other user's program; deleted blocks go back to the node's disk.
# Nothing waits for the node's disk: what is here need not outlive the machine.
MOUNT: Final = ("mount", "-t", "ext4", "-o", "loop,nosuid,nodev,discard,nobarrier")
COPY: Final = ("cp", "--sparse=always", "--reflink=auto")
BUSY: Final = 5.0  # seconds: a mount namespace that has just died may hold it for a moment
SEARCHABLE: Final = 0o755


@dataclass(frozen=True)
class Volume(Layout):
    """The paths of a workspace in a container, which sees `files` as `/workspace`.

    `files` and what the provider keeps in it belong to root, so that nobody inside can put a link where the node reads
    or writes; the folders in it belong to `user`.
    """

    user: int

    @property
    def files(self) -> Path:
        """Where the disk is mounted."""
        return self.base / "files"

    @property
    def own(self) -> Path:
        """What the provider writes for itself; on the same disk, so that it can be moved to its place at once."""
        return self.files / "own"

    @property
    def seen(self) -> Layout:
        """The same workspace within its container."""
        return Layout(Path("/"), WorkspaceId("workspace"))

    @property
    def owner(self) -> int | None:
        """The container's user."""
        return self.user

    @property
    def disk(self) -> Path:
        """The file that holds the file system."""
        return self.base / "disk"

    @property
    def gate(self) -> Path:
        """The folder with the socket that leads out; the container sees it, and cannot write there."""
        return self.base / "gate"

    @property
    def gate_lock(self) -> Path:
        """Says who listens at the gate."""
        return self.base / "gate.lock"

    def make_disk(self, size_mb: int, *, usual: bool = False) -> None:
        """Make, format and mount what is not there. Raises Failure `workspace_disk`.

        Of the `usual` size an empty one is kept, to be copied: a copy waits for no disk.
        """
        self.tombstone.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        self.base.mkdir(mode=PRIVATE, exist_ok=True)
        self.gate.mkdir(exist_ok=True)
        self.gate.chmod(SEARCHABLE)
        with self._alone() as held:
            if not self.disk.exists():
                draft = self.base / "disk.new"
                if usual:
                    _run([*COPY, str(self._empty(size_mb)), str(draft)], held)
                else:
                    _format(draft, size_mb, held)
                draft.rename(self.disk)
            self._mount(held)

    def _empty(self, size_mb: int) -> Path:
        kept = self.root / ".empty" / str(size_mb)
        if not kept.exists():
            kept.parent.mkdir(mode=PRIVATE, exist_ok=True)
            draft = kept.with_name(f"{size_mb}.{os.urandom(8).hex()}")
            try:
                _format(draft, size_mb)
                draft.rename(kept)
            finally:
                draft.unlink(missing_ok=True)
        return kept

    def mount(self) -> None:
        """Mount the disk again, after the machine was started anew."""
        if self.disk.exists() and not self.files.is_mount():
            with self._alone() as held:
                self._mount(held)

    def _mount(self, held: int) -> None:
        if not self.files.is_mount():
            self.files.mkdir(mode=PRIVATE, exist_ok=True)
            _run([*MOUNT, str(self.disk), str(self.files)], held)
        # Whoever was killed here before has perhaps made a part of it.
        self.files.chmod(SEARCHABLE)
        self.own.mkdir(mode=PRIVATE, exist_ok=True)
        for path in (self.control, self.work, self.home, self.artifacts, self.attachments):
            path.mkdir(mode=PRIVATE, exist_ok=True)
            os.chown(path, self.user, self.user, follow_symlinks=False)

    def remove(self) -> None:
        """Unmount the disk and remove it as a whole. Raises Failure `workspace_disk`."""
        if not self.base.is_dir():
            return
        with self._alone() as held:
            deadline = time.monotonic() + BUSY
            while self.files.is_mount():
                try:
                    _run(["umount", str(self.files)], held)
                except Failure:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            trees.remove(self.base)

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """Wait until nobody else makes or mounts this disk; give what a command inherits.

        A command that outlives its node, which was killed, holds the lock until it has ended too.
        """
        with (self.base / "disk.lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()


def _format(path: Path, size_mb: int, *held: int) -> None:
    try:
        with path.open("wb") as file:
            file.truncate(size_mb * MB)
    except OSError as error:
        raise _failed(f"{size_mb} MB: {error.strerror}") from error
    _run([*FORMAT, str(path)], *held)


def _run(argv: list[str], *held: int) -> None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, pass_fds=held)
    except FileNotFoundError:
        raise _failed(f"{argv[0]} is not installed") from None
    if done.returncode:
        raise _failed(f"{argv[0]}: {done.stderr.strip()[-300:]}")


def _failed(reason: str) -> Failure:
    return Failure(
        "workspace_disk",
        f"The workspace's disk cannot be made or taken away: {reason}.",
        category=Category.INFRASTRUCTURE,
        transient=True,
        guidance="A node with containers runs as root, with ext4 and loop devices; look at its disk and its log.",
    )
