"""What a run is to do next, in places of its plan."""

from dataclasses import dataclass, field

from domain.lifecycle import MemberStatus


@dataclass(frozen=True, slots=True)
class Part:
    """A task of the run: of a member, or of one child of a fan-out, counted from 1."""

    member: int
    item: int | None = None


@dataclass(slots=True)
class Finished:
    """A member has ended; `reason` says why it was skipped."""

    member: int
    outcome: MemberStatus
    reason: str | None = None


@dataclass(slots=True)
class Moves:
    """What is to be done now. Members that `fan` out are told with `fanned` or `refused` before anything else is."""

    starts: list[Part] = field(default_factory=list)
    fans: list[int] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.starts or self.fans or self.finished)
