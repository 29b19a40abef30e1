"""What a command that holds a task or a run, or lets one go on, answers."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Refusal(StrEnum):
    """Why nothing was changed."""

    ALREADY_ENDED = "already_ended"
    NOT_PAUSED = "not_paused"
    STALE_TOKEN = "stale_token"  # noqa: S105 - a word


@dataclass(frozen=True, kw_only=True)
class Steered:
    """The row as it is now, or why it was not changed."""

    row: dict[str, Any]
    refused: Refusal | None = None
    repeated: bool = False


def unresumable(row: dict[str, Any], token: str) -> Refusal | None:
    """Return why a row cannot be let go on by this token."""
    if row["pause_token"] is None:
        return Refusal.NOT_PAUSED
    return Refusal.STALE_TOKEN if row["pause_token"] != token else None
