"""The log and its fold."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import IllegalTransition
from domain.events import EVENT_OF_OUTCOME, STATUS_OF_EVENT, Event, EventType, Folded, changes, fold
from domain.lifecycle import TASK_TRANSITIONS, Step, TaskStatus
from tests.domain.histories import EPOCH, EVENT_OF_STATUS, History, histories, numbered, values

# The shortest log that ends in each status.
WAYS: dict[TaskStatus, list[TaskStatus]] = {
    TaskStatus.READY: [],
    TaskStatus.QUEUED: [TaskStatus.QUEUED],
    TaskStatus.DELEGATED: [TaskStatus.QUEUED, TaskStatus.DELEGATED],
    TaskStatus.IN_PROGRESS: [TaskStatus.QUEUED, TaskStatus.DELEGATED, TaskStatus.IN_PROGRESS],
    TaskStatus.COMPLETED: [TaskStatus.QUEUED, TaskStatus.DELEGATED, TaskStatus.IN_PROGRESS, TaskStatus.COMPLETED],
    TaskStatus.FAILED: [TaskStatus.QUEUED, TaskStatus.FAILED],
    TaskStatus.CANCELLED: [TaskStatus.CANCELLED],
}
NEVER_IN_A_STATUS = sorted(set(EventType) - set(STATUS_OF_EVENT))


def log_to(status: TaskStatus) -> History:
    """Walk the shortest way to a status."""
    history = History()
    history.add(EventType.TASK_CREATED)
    for passed in WAYS[status]:
        history.add(EVENT_OF_STATUS[passed])
    history.status = status
    return history


@pytest.mark.parametrize(("status", "kind"), list(itertools.product(TaskStatus, EventType)))
def test_each_event_in_each_status(status: TaskStatus, kind: EventType) -> None:
    """An event that means a status is allowed as the table says; every other event leaves the status alone."""
    history = log_to(status)
    history.attempt += kind is EventType.TASK_QUEUED and status is not TaskStatus.READY
    history.add(kind, step=Step.RUNNING)
    new = STATUS_OF_EVENT.get(kind, status)
    if new is status or new in TASK_TRANSITIONS[status]:
        assert fold(history.log()).status is new
        return
    with pytest.raises(IllegalTransition):
        fold(history.log())


@given(histories())
def test_folding_a_log_gives_the_row(history: History) -> None:
    """Status, attempt, step, outcome and last_seq are those that the walk along the tables arrived at."""
    row = fold(history.log())
    assert (row.status, row.attempt, row.step) == (history.status, history.attempt, history.step)
    assert row.outcome == (history.status if history.status.terminal else None)
    assert (row.finished_at is not None) is history.status.terminal
    assert row.last_seq == len(history.events)


@given(histories())
def test_a_log_folds_in_pieces(history: History) -> None:
    """Merging what each event changes, one after the other, is the fold: the flush and the repair tool agree."""
    row: dict[str, Any] = {}
    for event in history.log():
        row |= changes(event)
    folded = fold(history.log()).model_dump(exclude={"last_seq"})
    assert {name: row.get(name, folded[name]) for name in folded} == folded


@given(histories(), st.data())
def test_a_gap_or_a_repeat_is_refused(history: History, data: Any) -> None:
    """ValueError for a log whose numbers are not 1, 2, 3 and so on."""
    log = history.log()
    place = data.draw(st.integers(0, len(log) - 1))
    later = [event.model_copy(update={"seq": event.seq + 1}) for event in log[place:]]
    for broken in (log[:place] + later, log[: place + 1] + log[place:]):
        with pytest.raises(ValueError, match=r"seq \d+ follows \d+"):
            fold(broken)


@given(histories(), st.data())
def test_an_illegal_status_is_refused_wherever_it_stands(history: History, data: Any) -> None:
    """IllegalTransition as soon as a log says something that the table does not hold."""
    place = data.draw(st.integers(1, len(history.events)))
    status = fold(numbered(history.events[:place])).status
    illegal = [
        kind for kind, new in STATUS_OF_EVENT.items() if new is not status and new not in TASK_TRANSITIONS[status]
    ]
    kind = data.draw(st.sampled_from(illegal))
    wrong = history.events[0].model_copy(update={"type": kind, "key": "wrong"})
    with pytest.raises(IllegalTransition):
        fold(numbered([*history.events[:place], wrong, *history.events[place:]]))


def test_nothing_folds_to_a_new_row() -> None:
    """An empty log is a task that is `ready` at attempt 1."""
    assert fold([]) == Folded(status=TaskStatus.READY, attempt=1, last_seq=0)


@pytest.mark.parametrize("kind", NEVER_IN_A_STATUS)
def test_an_event_without_a_status_changes_little(kind: EventType) -> None:
    """Only step, pause, exhaustion and error follow from such events."""
    history = History()
    event = history.add(kind, step=Step.RUNNING, error={"code": "x"})
    expected: dict[EventType, dict[str, Any]] = {
        EventType.STEP_STARTED: {"step": "running", "step_started_at": event.ts, "paused_seconds": 0},
        EventType.TASK_PAUSE_REQUESTED: {"pause_token": None, "pause_reason": None},
        EventType.TASK_PAUSED: {
            "paused": True,
            "pause_token": None,
            "pause_reason": None,
            "paused_at": event.ts,
            "paused_until": None,
        },
        EventType.TASK_RESUMED: {
            "paused": False,
            "pause_token": None,
            "pause_reason": None,
            "paused_at": None,
            "paused_until": None,
            "paused_seconds": 0,
        },
        EventType.TASK_RETRIES_EXHAUSTED: {"exhausted": True},
        EventType.ATTEMPT_FAILED: {"error": {"code": "x"}},
    }
    assert changes(event) == expected.get(kind, {})


def test_a_retry_forgets_the_attempt_before() -> None:
    """Step, outcome, workspace, node and end are the new attempt's own; the last error stays readable."""
    history = log_to(TaskStatus.DELEGATED)
    history.add(EventType.STEP_STARTED, step=Step.WORKSPACE_DISPATCH)
    history.add(EventType.TASK_RETRIES_EXHAUSTED)
    history.add(EventType.TASK_FAILED, error={"code": "x"})
    history.attempt = 2
    history.add(EventType.TASK_QUEUED)
    row = fold(history.log())
    assert (row.status, row.attempt, row.step, row.outcome) == ("queued", 2, None, None)
    assert (row.workspace_id, row.node_id, row.finished_at, row.error) == (None, None, None, {"code": "x"})
    assert row.exhausted is False


@given(values)
def test_a_result_is_the_completed_events(result: Any) -> None:
    """Any JSON value; an earlier error is gone."""
    history = log_to(TaskStatus.IN_PROGRESS)
    history.add(EventType.ATTEMPT_FAILED, error={"code": "x"})
    history.add(EventType.TASK_COMPLETED, result=result)
    row = fold(history.log())
    assert (row.result, row.error, row.outcome) == (result, None, TaskStatus.COMPLETED)


@pytest.mark.parametrize("outcome", [status for status in TaskStatus if status.terminal])
def test_every_outcome_has_its_event(outcome: TaskStatus) -> None:
    """`task.{outcome}`."""
    assert EVENT_OF_OUTCOME[outcome] == f"task.{outcome}"


def test_the_envelope_is_the_contracts() -> None:
    """Ten fields, `v` is 1."""
    [event] = numbered([History().add(EventType.TASK_CREATED)])
    assert list(Event.model_fields) == [
        "task_id",
        "run_id",
        "attempt",
        "seq",
        "ts",
        "type",
        "v",
        "source",
        "step",
        "data",
    ]
    assert (event.v, event.seq, event.ts) == (1, 1, EPOCH)
