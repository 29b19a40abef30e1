"""The node's secrets: names to values, from a file of its own or from its environment."""

import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from domain.errors import Category, Failure

PREFIX: Final = "TASKRUNNER_SECRET_"
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Secrets:
    """Looks values up when they are needed, so that a rotated file counts at once.

    The file holds a JSON object of strings, or lines `NAME=VALUE` (`#` begins a comment line); it wins over the
    environment variables `TASKRUNNER_SECRET_NAME`.
    """

    def __init__(self, *, file: Path | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._file = file
        self._environment = {
            name.removeprefix(PREFIX): value for name, value in (environment or {}).items() if name.startswith(PREFIX)
        }

    def values(self, names: Iterable[str]) -> dict[str, str]:
        """Return the values of these names. Raises Failure `missing_secret` or `secrets_file_unusable`."""
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}
        known = {**self._environment, **self._read()}
        missing = [name for name in wanted if name not in known]
        if missing:
            raise Failure(
                "missing_secret",
                f"The node has no secret named {', '.join(missing)}.",
                category=Category.INPUT,
                guidance="Add it to the node's secrets file, or to its environment with the prefix "
                f"{PREFIX}; or correct its name in the task.",
            )
        return {name: known[name] for name in wanted}

    def _read(self) -> dict[str, str]:
        if self._file is None:
            return {}
        try:
            with self._file.open(encoding="utf-8") as file:
                facts = os.fstat(file.fileno())
                if facts.st_mode & OTHERS or facts.st_uid not in (0, os.getuid()):
                    raise _unusable(f"{self._file.name} can be read by others", "Run `chmod 600` on it, as its owner.")
                text = file.read()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise _unusable(f"{self._file.name} cannot be read ({type(error).__name__})", "Look at the file.") from None
        return parse(text, self._file.name)


def parse(text: str, name: str) -> dict[str, str]:
    """Return the secrets in a file's text. No message quotes any of it."""
    guidance = "Write a JSON object of strings, or lines NAME=VALUE."
    if text.lstrip().startswith("{"):
        try:
            pairs = json.loads(text)
        except ValueError:
            raise _unusable(f"{name} is not JSON", guidance) from None
        if not all(isinstance(value, str) for value in pairs.values()):
            raise _unusable(f"{name} holds a value that is not a string", guidance)
        return dict(pairs)
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise _unusable(f"{name} has no = in line {number}", guidance)
        found[key.strip()] = value.strip()
    return found


def _unusable(reason: str, guidance: str) -> Failure:
    return Failure(
        "secrets_file_unusable",
        f"The node's secrets file is not used: {reason}.",
        category=Category.INFRASTRUCTURE,
        guidance=guidance,
    )
