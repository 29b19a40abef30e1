"""Legal logs of runs, walked along the tables, with the row and the members that they must add up to."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hypothesis import strategies as st

from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import MEMBER_TRANSITIONS, MemberStatus, RunStatus
from domain.run_events import EVENT_OF_RUN_OUTCOME
from tests.domain.histories import text, values

E, M, R = EventType, MemberStatus, RunStatus
EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
NAMES: Final = ("a", "b", "c")
AGAIN: Final = (M.FAILED, M.CANCELLED, M.SKIPPED)


@dataclass
class RunLog:
    """The events of a run of three members from its creation on, and what is to be seen of them."""

    events: list[NewEvent] = field(default_factory=list)
    status: RunStatus = R.QUEUED
    attempt: int = 1
    superstep: int = 0
    token: str | None = None
    members: dict[str, MemberStatus] = field(default_factory=lambda: dict.fromkeys(NAMES, M.WAITING))

    def add(self, kind: EventType, **data: Any) -> None:
        """Append an event; its key and its time come from its place."""
        number = len(self.events)
        at = EPOCH + timedelta(seconds=number)
        given = {"key": f"{kind}:{number}", "type": kind, "ts": at, "attempt": self.attempt, "data": data}
        self.events.append(NewEvent(source=EventSource.WORKFLOW, **given))


@st.composite
def run_logs(draw: st.DrawFn, *, retries: bool = True, moves: int = 20) -> RunLog:
    """Walk the tables: each move is the run's, a member's, or one that changes no status."""
    log = RunLog()
    log.add(E.RUN_CREATED, name=draw(text), members=len(NAMES), edges=0, mode="eager")
    for _ in range(draw(st.integers(1, moves))):
        if log.status in (R.FAILED, R.CANCELLED) and retries:
            log.attempt += 1
            log.add(E.RUN_COMMANDED, retry=True)
            log.status = R.QUEUED
            log.members = {name: M.WAITING if was in AGAIN else was for name, was in log.members.items()}
        elif log.status.terminal:
            break
        elif log.status is R.QUEUED and draw(st.booleans()):
            log.add(E.RUN_STARTED, attempt=log.attempt)
            log.status = R.IN_PROGRESS
        else:
            draw(st.sampled_from([_member, _member, _member, _other, _end]))(draw, log)
    return log


def _member(draw: st.DrawFn, log: RunLog) -> None:
    name = draw(st.sampled_from(NAMES))
    following = sorted(MEMBER_TRANSITIONS[log.members[name]] - {M.WAITING})
    if not following:
        return
    new = draw(st.sampled_from(following))
    if new is not M.IN_PROGRESS:
        reason = "upstream" if new is M.SKIPPED else None
        log.add(E.RUN_MEMBER_FINISHED, member=name, outcome=new, reason=reason, error=draw(st.none() | values))
    elif draw(st.booleans()):
        log.add(E.RUN_FANNED_OUT, member=name, size=draw(st.integers(0, 5)))
    else:
        log.add(E.RUN_MEMBER_READY, member=name, task_id=draw(text))
    log.members[name] = new


def _other(draw: st.DrawFn, log: RunLog) -> None:
    kind = draw(st.sampled_from((E.RUN_PAUSED, E.RUN_RESUMED, E.RUN_SUPERSTEP, E.RUN_COMMANDED, E.RUN_AGGREGATED)))
    data: dict[str, Any] = {"note": draw(values)}
    if kind is E.RUN_PAUSED and log.token is not None:
        kind = E.RUN_RESUMED  # one hold at a time: while one lasts, a breakpoint's is not written
    if kind is E.RUN_PAUSED:
        log.token = draw(text.filter(bool))
        data |= {"token": log.token, "reason": draw(st.none() | text), "breakpoint": True}
    elif kind is E.RUN_RESUMED:
        log.token = None
    elif kind is E.RUN_SUPERSTEP:
        log.superstep += 1
        data |= {
            "superstep": log.superstep,
            "state_versions": draw(st.dictionaries(text, st.integers(1, 9), max_size=3)),
        }
    else:
        # Of a child of a fan-out: it changes no member.
        data |= {"member": draw(st.sampled_from(NAMES)), "item": 1, "outcome": "failed"}
    log.add(kind, **data)


def _end(draw: st.DrawFn, log: RunLog) -> None:
    allowed = (R.FAILED, R.CANCELLED) if log.status is R.QUEUED else (R.COMPLETED, R.FAILED, R.CANCELLED)
    log.status = draw(st.sampled_from(allowed))
    log.token = None
    log.add(EVENT_OF_RUN_OUTCOME[log.status], error=draw(st.none() | st.fixed_dictionaries({"code": text})))
