"""The log of a run: what each event makes of the row and of the members, and its fold."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import IllegalTransition
from domain.events import EventType, NewEvent
from domain.lifecycle import MEMBER_TRANSITIONS, RUN_TRANSITIONS, MemberStatus, RunStatus
from domain.run_events import (
    EVENT_OF_RUN_OUTCOME,
    RUN_EVENTS,
    STATUS_OF_RUN_EVENT,
    FoldedRun,
    changes,
    fold,
    is_retry,
    member_changes,
)
from tests.domain.run_logs import EPOCH, RunLog, run_logs

E, M, R = EventType, MemberStatus, RunStatus
NOT_PAUSED = {"paused": False, "pause_token": None, "pause_reason": None, "paused_at": None}


def event(kind: EventType, *, attempt: int = 1, **data: Any) -> NewEvent:
    """Return an event."""
    return NewEvent(key=kind, type=kind, ts=EPOCH, attempt=attempt, data=data)


def ended(status: RunStatus, error: Any = None) -> dict[str, Any]:
    """Return what an end makes of the row."""
    return {"status": status, "outcome": status, "finished_at": EPOCH, "error": error} | NOT_PAUSED


# (event, what it makes of the run's row, what it makes of the member's)
BEGUN = {"status": M.IN_PROGRESS, "started_at": EPOCH}
FAULT = {"code": "exit"}
CHANGES: dict[str, tuple[NewEvent, dict[str, Any], dict[str, Any]]] = {
    "created": (event(E.RUN_CREATED, name="x", members=3, edges=2, mode="eager"), {"status": R.QUEUED}, {}),
    "started": (event(E.RUN_STARTED, attempt=1), {"status": R.IN_PROGRESS, "started_at": EPOCH}, {}),
    "a member begins": (event(E.RUN_MEMBER_READY, member="a", task_id="t"), {}, BEGUN),
    "a child begins": (event(E.RUN_MEMBER_READY, member="a", item=1, task_id="t"), {}, {}),
    "a fan-out begins": (event(E.RUN_FANNED_OUT, member="a", size=3), {}, BEGUN | {"size": 3}),
    "a fan-out of nothing": (event(E.RUN_FANNED_OUT, member="a", size=0), {}, BEGUN | {"size": 0}),
    "a member ends": (
        event(E.RUN_MEMBER_FINISHED, member="a", outcome="completed", task_id="t"),
        {},
        {"status": "completed", "reason": None, "error": None, "finished_at": EPOCH},
    ),
    "a member is skipped": (
        event(E.RUN_MEMBER_FINISHED, member="a", outcome="skipped", reason="upstream"),
        {},
        {"status": "skipped", "reason": "upstream", "error": None, "finished_at": EPOCH},
    ),
    "a fan-out cannot begin": (
        event(E.RUN_MEMBER_FINISHED, member="a", outcome="failed", error=FAULT),
        {},
        {"status": "failed", "reason": None, "error": FAULT, "finished_at": EPOCH},
    ),
    "a child ends": (event(E.RUN_MEMBER_FINISHED, member="a", item=2, outcome="failed"), {}, {}),
    "a fan-out is aggregated": (event(E.RUN_AGGREGATED, member="a", outcome="failed", counts={"failed": 1}), {}, {}),
    "the run is aggregated": (event(E.RUN_AGGREGATED, outcome="failed", counts={"failed": 1}), {}, {}),
    "a superstep": (
        event(E.RUN_SUPERSTEP, superstep=2, ran=["a"], state_versions={"total": 3}),
        {"superstep": 2, "state_versions": {"total": 3}},
        {},
    ),
    "a pause": (
        event(E.RUN_PAUSED, token="t", reason="look", at="before", member="a"),
        {"paused": True, "pause_token": "t", "pause_reason": "look", "paused_at": EPOCH},
        {},
    ),
    "its end": (event(E.RUN_RESUMED, token="t"), NOT_PAUSED, {}),
    "a command": (event(E.RUN_COMMANDED, n=1, source="api", append={}, skip=["a"]), {}, {}),
    "a retry": (
        event(E.RUN_COMMANDED, attempt=2, retry=True),
        {"status": R.QUEUED, "attempt": 2, "outcome": None, "error": None, "finished_at": None},
        {},
    ),
    "completed": (event(E.RUN_COMPLETED), ended(R.COMPLETED), {}),
    "failed": (event(E.RUN_FAILED, error=FAULT), ended(R.FAILED, FAULT), {}),
    "cancelled": (event(E.RUN_CANCELLED, error=FAULT), ended(R.CANCELLED, FAULT), {}),
}


@pytest.mark.parametrize("case", CHANGES)
def test_an_event_changes(case: str) -> None:
    """These columns of the run's row and of its member's, and no others."""
    given_event, row, member = CHANGES[case]
    assert (changes(given_event), member_changes(given_event)) == (row, member)


def test_every_event_of_runs_is_in_the_table() -> None:
    """So that a new one needs a rule; and each end has its event."""
    assert {given_event.type for given_event, _, _ in CHANGES.values()} == RUN_EVENTS
    assert EVENT_OF_RUN_OUTCOME.keys() == {status for status in RunStatus if status.terminal}


@pytest.mark.parametrize("kind", sorted(set(EventType) - RUN_EVENTS))
def test_an_event_of_a_task_changes_no_run(kind: EventType) -> None:
    """Nor a member, whatever it says."""
    of_a_task = event(kind, member="a", outcome="failed", retry=True)
    assert (changes(of_a_task), member_changes(of_a_task)) == ({}, {})


# --- the fold -------------------------------------------------------------------------------------------------------

# The shortest way from `queued` to each status.
WAYS: dict[RunStatus, list[EventType]] = {
    R.QUEUED: [],
    R.IN_PROGRESS: [E.RUN_STARTED],
    R.COMPLETED: [E.RUN_STARTED, E.RUN_COMPLETED],
    R.FAILED: [E.RUN_FAILED],
    R.CANCELLED: [E.RUN_CANCELLED],
}
MEMBER_WAYS: dict[MemberStatus, list[NewEvent]] = {
    M.WAITING: [],
    M.IN_PROGRESS: [event(E.RUN_MEMBER_READY, member="a")],
    **{status: [event(E.RUN_MEMBER_FINISHED, member="a", outcome=status)] for status in MemberStatus if status.ended},
}


@pytest.mark.parametrize(("old", "kind"), list(product(RunStatus, STATUS_OF_RUN_EVENT)))
def test_a_run_goes_where_its_table_lets_it(old: RunStatus, kind: EventType) -> None:
    """IllegalTransition for every other event that means a status."""
    log = [event(E.RUN_CREATED), *map(event, WAYS[old]), event(kind)]
    new = STATUS_OF_RUN_EVENT[kind]
    if new is old or new in RUN_TRANSITIONS[old]:
        assert fold(log).status is new
    else:
        with pytest.raises(IllegalTransition, match=f"run: no transition from '{old}'"):
            fold(log)


@pytest.mark.parametrize(("old", "new"), [(o, n) for o, n in product(MemberStatus, repeat=2) if n is not M.WAITING])
def test_a_member_goes_where_its_table_lets_it(old: MemberStatus, new: MemberStatus) -> None:
    """IllegalTransition for every other; only a retry leads back to `waiting`."""
    log = [*MEMBER_WAYS[old], *MEMBER_WAYS[new]]
    if new is old or new in MEMBER_TRANSITIONS[old]:
        assert fold(log).members == {"a": new}
    else:
        with pytest.raises(IllegalTransition, match=f"member a: no transition from '{old}'"):
            fold(log)


@pytest.mark.parametrize("old", RunStatus)
def test_only_what_failed_or_was_cancelled_is_retried(old: RunStatus) -> None:
    """Queued again, at the next attempt, and its last end is forgotten; IllegalTransition for any other run."""
    log = [*map(event, WAYS[old]), event(E.RUN_COMMANDED, attempt=2, retry=True)]
    if old in (R.FAILED, R.CANCELLED):
        assert fold(log).model_dump(include={"status", "attempt", "outcome", "finished_at"}) == {
            "status": R.QUEUED,
            "attempt": 2,
            "outcome": None,
            "finished_at": None,
        }
    else:
        with pytest.raises(IllegalTransition):
            fold(log)


@pytest.mark.parametrize("retry", [False, None, 1, "true"])
def test_another_command_is_no_retry(retry: Any) -> None:
    """Only `retry: true` is."""
    assert not is_retry(event(E.RUN_COMMANDED, retry=retry))


def test_a_retry_keeps_what_has_completed() -> None:
    """What failed, was cancelled or was skipped waits again."""
    log = [event(E.RUN_STARTED)]
    log += [event(E.RUN_MEMBER_FINISHED, member=status, outcome=status) for status in MemberStatus if status.ended]
    log += [event(E.RUN_FAILED), event(E.RUN_COMMANDED, attempt=2, retry=True)]
    assert fold(log).members == {
        "completed": "completed",
        "failed": "waiting",
        "cancelled": "waiting",
        "skipped": "waiting",
    }


def test_nothing_folds_to_a_new_row() -> None:
    """An empty log is a run that is queued at attempt 1, and of which no member has begun."""
    assert fold([]) == FoldedRun()


@given(run_logs())
def test_folding_a_log_gives_the_row_and_the_members(log: RunLog) -> None:
    """Those that the walk along the tables arrived at."""
    row = fold(log.events)
    assert (row.status, row.attempt, row.superstep) == (log.status, log.attempt, log.superstep)
    assert row.outcome == (log.status if log.status.terminal else None)
    assert (row.finished_at is not None) is log.status.terminal
    assert (row.paused, row.pause_token) == (log.token is not None, log.token)
    assert {name: row.members.get(name, M.WAITING) for name in log.members} == log.members


@given(run_logs(), st.data())
def test_an_illegal_end_is_refused_wherever_it_stands(log: RunLog, data: st.DataObject) -> None:
    """IllegalTransition as soon as a log says something that the table does not hold."""
    place = data.draw(st.integers(1, len(log.events)))
    status = fold(log.events[:place]).status
    illegal = [k for k, new in STATUS_OF_RUN_EVENT.items() if new is not status and new not in RUN_TRANSITIONS[status]]
    wrong = event(data.draw(st.sampled_from(illegal)))
    with pytest.raises(IllegalTransition):
        fold([*log.events[:place], wrong, *log.events[place:]])
