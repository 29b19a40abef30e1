"""Where a workspace on a node keeps what: `ROOT/WORKSPACE_ID/`, for its owner only."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from domain.errors import Category, Failure
from domain.names import WorkspaceId
from workspaces.inside import trees

PRIVATE: Final = 0o700
# Becomes a directory's name: nothing that leads elsewhere.
WORKSPACE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")


@dataclass(frozen=True)
class Layout:
    """The paths of one workspace.

    `work` is the clone or an empty directory, `home` its HOME, `attachments` what was transferred, `artifacts` what is
    to be kept; `control` holds session files, token, input, result and the attempt's log.
    """

    root: Path
    workspace_id: WorkspaceId

    def __post_init__(self) -> None:
        if not WORKSPACE_ID.fullmatch(self.workspace_id):
            raise Failure("workspace_id_invalid", "The workspace's id is not an id.", category=Category.INTERNAL)

    @property
    def base(self) -> Path:
        """The workspace's own directory."""
        return self.root / self.workspace_id

    @property
    def files(self) -> Path:
        """What the workspace's processes see."""
        return self.base

    @property
    def own(self) -> Path:
        """What the provider writes for itself."""
        return self.control

    @property
    def seen(self) -> "Layout":
        """The same workspace as its processes see it."""
        return self

    @property
    def owner(self) -> int | None:
        """The user and group that files belong to; None: whoever writes them."""
        return None

    @property
    def control(self) -> Path:
        """What provider and program tell each other."""
        return self.files / "control"

    @property
    def work(self) -> Path:
        """Where commands run."""
        return self.files / "work"

    @property
    def home(self) -> Path:
        """HOME of the commands."""
        return self.files / "home"

    @property
    def artifacts(self) -> Path:
        """Files left here are kept with the task."""
        return self.files / "artifacts"

    @property
    def attachments(self) -> Path:
        """The task's attachments, by name."""
        return self.files / "attachments"

    @property
    def token(self) -> Path:
        """The callback token, for its owner only."""
        return self.control / "token"

    @property
    def input(self) -> Path:
        """The task's input, JSON."""
        return self.control / "input.json"

    @property
    def result(self) -> Path:
        """Where a turn leaves its result, JSON."""
        return self.control / "result.json"

    @property
    def stopped(self) -> Path:
        """The last attempt that worked here, once the workspace was stopped and kept."""
        return self.own / "stopped"

    @property
    def tombstone(self) -> Path:
        """Says that this id was destroyed: a creation that comes late must not bring it back."""
        return self.root / ".destroyed" / self.workspace_id

    def log(self, attempt: int) -> Path:
        """Return the attempt's whole output."""
        return self.control / f"output-a{attempt}.log"

    def session(self, name: str, suffix: str = "json") -> Path:
        """Return one of a session's files: `json`, `lock`, `exit.json`."""
        return self.control / f"{name}.{suffix}"

    def make(self) -> None:
        """Make the directories that are not there."""
        self.tombstone.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        for path in (self.base, self.control, self.work, self.home, self.artifacts, self.attachments):
            path.mkdir(mode=PRIVATE, exist_ok=True)

    def bury(self) -> None:
        """Note that this workspace is not to be made again."""
        self.tombstone.parent.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        self.tombstone.touch()

    def remove(self) -> None:
        """Remove all files, also what was made read-only or very deep."""
        trees.remove(self.base)

    def paths(self, attempt: int) -> dict[str, str]:
        """Return what the program is told of all this."""
        seen = self.seen
        return {
            "work": str(seen.work),
            "home": str(seen.home),
            "artifacts": str(seen.artifacts),
            "attachments": str(seen.attachments),
            "input": str(seen.input),
            "result": str(seen.result),
            "token": str(seen.token),
            "log": str(seen.log(attempt)),
        }

    def write(self, path: Path, content: str) -> None:
        """Replace one of the files that the program reads."""
        write_private(path, content, owner=self.owner)


def write_private(path: Path, content: str, *, owner: int | None = None) -> None:
    """Replace a file at once, whatever lies in its place; only its owner may read it."""
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
        if owner is not None:
            os.fchown(file.fileno(), owner, owner)
    if trees.is_folder(path):
        trees.remove(path)
    draft.replace(path)
