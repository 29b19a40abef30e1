"""The data directory: what a stack keeps between starts, and what tells the other commands where it is."""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT = Path(".taskrunner")

DataDirOption = Annotated[
    Path,
    typer.Option("--data-dir", envvar="TASKRUNNER_DATA_DIR", help="Where the embedded stack keeps its files."),
]


class RunsAlreadyError(RuntimeError):
    """Another process runs a stack on this data directory."""


class DataDirError(RuntimeError):
    """The data directory cannot be made, written or read, as a sentence for a person."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"the data directory cannot be used: {error.filename or path}: {error.strerror}")


class DataDir:
    """A folder of files: `address.json`, `*.key` (0600), `logs/`, `postgres/`, `temporal.db`, `nodes/`."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @property
    def logs(self) -> Path:
        """The folder of the children's logs."""
        return self.path / "logs"

    def prepare(self) -> None:
        """Make the folder, closed to others by its files' modes and ignored by git. Raises DataDirError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
            ignore = self.path / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")
            (self.path / "lock").touch()
        except OSError as error:
            raise DataDirError(self.path, error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one stack; the kernel gives it back on every death. Raises RunsAlreadyError."""
        self.prepare()
        with (self.path / "lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunsAlreadyError(self._who_runs()) from None
            yield

    def _who_runs(self) -> str:
        known = self.address()
        where = f": API {known['api']}, process {known['pid']}" if known else ""
        return f"a stack runs already on {self.path}{where}"

    def address(self) -> dict[str, Any]:
        """Return what the running stack wrote about itself; empty when none does or the file is broken."""
        return _read_object(self.path / "address.json")

    def write_address(self, address: dict[str, Any]) -> None:
        """Tell the other commands where this stack is, in one step."""
        half = self.path / "address.json.new"
        half.write_text(json.dumps(address, indent=2) + "\n")
        half.replace(self.path / "address.json")

    def forget_address(self) -> None:
        """Take the address back: the stack stops."""
        (self.path / "address.json").unlink(missing_ok=True)

    def port(self, name: str, wanted: int) -> int:
        """Return the port that this wish came to at an earlier start, or the wish itself."""
        kept = self._ports().get(name)
        return kept[1] if kept and kept[0] == wanted else wanted

    def keep_port(self, name: str, wanted: int, got: int) -> None:
        """Remember what a wish came to."""
        (self.path / "ports.json").write_text(json.dumps(self._ports() | {name: [wanted, got]}) + "\n")

    def _ports(self) -> dict[str, list[int]]:
        return _read_object(self.path / "ports.json")

    def secret(self, name: str) -> str | None:
        """Return the content of `name.key`, or None when there is no such file. Raises DataDirError."""
        try:
            return (self.path / f"{name}.key").read_text().strip() or None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataDirError(self.path, error) from None

    def keep_secret(self, name: str, value: str) -> str:
        """Write `name.key` as a 0600 file, whole or not at all, unless it is there; return its content."""
        known = self.secret(name)
        if known:
            return known
        half = self.path / f".{name}.{secrets.token_hex(4)}"
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(value + "\n")
        half.rename(self.path / f"{name}.key")
        return value


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
