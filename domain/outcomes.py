"""Statuses of members and of children: what many of them come to, and how they are carried in few letters."""

from collections.abc import Iterable, Mapping
from typing import Final

from domain.lifecycle import MemberStatus, TaskStatus

M: Final = MemberStatus

# As letters a run of 10,000 members is 10 kB.
_LETTERS: Final[Mapping[MemberStatus, str]] = {
    M.WAITING: ".",
    M.IN_PROGRESS: "i",
    M.COMPLETED: "c",
    M.FAILED: "f",
    M.CANCELLED: "x",
    M.SKIPPED: "s",
}
_STATUSES: Final = {letter: status for status, letter in _LETTERS.items()}
OF_TASK: Final[Mapping[TaskStatus, MemberStatus]] = {
    TaskStatus.COMPLETED: M.COMPLETED,
    TaskStatus.FAILED: M.FAILED,
    TaskStatus.CANCELLED: M.CANCELLED,
}


def letters(statuses: Iterable[MemberStatus]) -> str:
    """Return statuses as they are carried."""
    return "".join(_LETTERS[status] for status in statuses)


def statuses(text: str) -> list[MemberStatus]:
    """Return carried statuses."""
    return [_STATUSES[letter] for letter in text]


def aggregate(parts: Iterable[MemberStatus]) -> MemberStatus:
    """Return what parts that have all ended come to: any failed, else any cancelled, else completed."""
    seen = set(parts)
    for status in (M.FAILED, M.CANCELLED):
        if status in seen:
            return status
    return M.COMPLETED
