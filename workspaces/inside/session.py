"""A session: one run of the program, in the files of the control directory.

`NAME.json` says what to do (written by the provider), `NAME.lock` who does it, `NAME.exit.json` how it ended.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

MESSAGES = 100_000  # bytes of an exit file beside the result


class Session:
    """What a session shall do, and its marks on the disk."""

    def __init__(self, control: Path, name: str) -> None:
        raw = json.loads((control / f"{name}.json").read_text("utf-8"))
        self.control = control
        self.name = name
        self.workspace_id: str = raw["workspace_id"]
        self.callback_url: str = raw["callback_url"]
        self.traceparent: str | None = raw.get("traceparent")
        self.lease_seconds: float = raw["lease_seconds"]
        self.heartbeat_seconds: float = raw["heartbeat_seconds"]
        self.log_limit: int = raw["log_limit"]
        self.result_limit: int = raw["result_limit"]
        self.artifact_limit: int = raw["artifact_limit"]
        self.environment: dict[str, str] = raw["environment"]
        self.visible_secrets: list[str] = raw["secrets"]
        self.resources: dict[str, float] = raw["resources"]
        self.confined: bool = raw.get("confined", False)
        self.repo: dict[str, Any] | None = raw["repo"]
        self.protocols: str = raw["protocols"]
        self.setup: list[list[str]] = raw["setup"]
        self.argv: list[str] = raw["argv"]
        self.stdin: str | None = raw["stdin"]
        self.globs: list[str] = raw["artifacts"]
        paths: dict[str, str] = raw["paths"]
        self.work = Path(paths["work"])
        self.home = Path(paths["home"])
        self.artifacts = Path(paths["artifacts"])
        self.result = Path(paths["result"])
        self.token = Path(paths["token"])
        self.log = Path(paths["log"])
        self._room = control / f"{name}.room"
        self._lock = -1

    def claim(self) -> bool:
        """Take the session's lock for as long as this process lives; False when somebody has or had it.

        The lock file appears by `link`, complete and already under `flock`: as exclusive as O_EXCL, but nobody can
        see it half-written, and who finds the `flock` free knows that its holder is gone, whatever its pid is now.
        """
        lock = self.control / f"{self.name}.lock"
        draft = self.control / f"{self.name}.{os.urandom(8).hex()}"
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, json.dumps({"pid": os.getpid()}).encode())
            os.link(draft, lock)
        except FileExistsError:
            os.close(descriptor)
            return False
        finally:
            draft.unlink()
        self._lock = descriptor
        if self.confined:
            self._reserve()
        return True

    def _reserve(self) -> None:
        """Keep room on the disk, in bytes and inodes, for the exit file of a command that fills it."""
        try:
            descriptor = os.open(self._room, os.O_CREAT | os.O_RDWR, 0o600)
            os.posix_fallocate(descriptor, 0, 2 * self.result_limit + MESSAGES)
            os.close(descriptor)
        except OSError:  # an earlier turn has filled it
            return

    def environment_with(self, secrets: dict[str, str]) -> dict[str, str]:
        """Return the environment of commands: the given one, and the secrets that the task names."""
        return {**self.environment, **{name: secrets[name] for name in self.visible_secrets}}

    def end(self, outcome: dict[str, Any]) -> None:
        """Write the exit file: it is there entirely or not at all, also after a power cut."""
        with suppress(OSError):
            self._room.unlink()
        target = self.control / f"{self.name}.exit.json"
        draft = self.control / f".{self.name}.{os.urandom(8).hex()}"  # nobody knew its name before
        with draft.open("x", encoding="utf-8") as file:
            json.dump(outcome, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
        directory = os.open(self.control, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def read_secrets(stream: BinaryIO) -> dict[str, str]:
    """Return the secrets that the provider wrote, one line; half of it raises `ValueError`: the writer was killed."""
    return dict(json.loads(stream.readline()))


def problem(code: str, category: str, message: str) -> dict[str, Any]:
    """Return an error as the API and the exit file hold it."""
    text = "".join(character if character.isprintable() or character == "\n" else " " for character in message)
    return {"code": code, "category": category, "message": text[:4000]}


def told(error: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return an error as callbacks carry it."""
    return {key: error[key] for key in ("code", "category", "message")} if error else None


def masked(text: str, secrets: dict[str, str]) -> str:
    """Return the text without the secrets' values: messages end in histories, which are plain text."""
    for value in sorted(secrets.values(), key=len, reverse=True):
        if value:
            text = text.replace(value, "***")
    return text
