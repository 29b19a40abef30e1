"""What the reconciler decides: every sight of a workflow, for every kind of open row."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from domain.errors import Category
from domain.events import EventSource, EventType
from domain.facts import Facts, StartIntent
from domain.lifecycle import Step, TaskStatus
from domain.names import TaskId
from domain.policy import Budgets
from domain.reconcile import GRACE, IDS, Action, Ending, Report, Seen, Sight, decide, end_of, overdue
from domain.spec import Retry

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=120)
RUNNING = Facts(
    task_id=TaskId("t"),
    status=TaskStatus.IN_PROGRESS,
    attempt=1,
    version=7,
    step=Step.RUNNING,
    step_started_at=NOW - timedelta(minutes=5),
    changed_at=NOW - timedelta(minutes=5),
    read_at=NOW,
    retry=Retry(max_attempts=2),
)
QUEUED = replace(RUNNING, status=TaskStatus.QUEUED, step=None, step_started_at=None, version=0)

DECIDED: dict[Seen, tuple[Action, Ending | None]] = {
    Seen.RUNNING: (Action.LEFT_ALONE, None),
    Seen.PAUSED: (Action.FLAGGED_PAUSED, None),
    Seen.COMPLETED: (Action.ENDED, Ending.UNWRITTEN),
    Seen.FAILED: (Action.ENDED, Ending.UNWRITTEN),
    Seen.CANCELLED: (Action.ENDED, Ending.CANCELLED),
    Seen.TERMINATED: (Action.ENDED, Ending.TERMINATED),
    Seen.TIMED_OUT: (Action.ENDED, Ending.TIMED_OUT),
    Seen.NOT_FOUND: (Action.ENDED, Ending.LOST),
    Seen.UNREACHABLE: (Action.UNREACHABLE, None),
}


@pytest.mark.parametrize("seen", Seen)
def test_every_sight_is_decided(seen: Seen) -> None:
    """Each by the table; only an end is written, and only of what is over."""
    decision = decide(RUNNING, Sight(seen), NOW)
    assert (decision.action, decision.ending) == DECIDED[seen]


def test_a_workflow_with_problems_is_flagged() -> None:
    """The engine says that it cannot go on; it is nobody's to end."""
    assert decide(RUNNING, Sight(Seen.RUNNING, "cause=NonDeterminismError"), NOW).action is Action.FLAGGED_PROBLEMS


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.CLEANUP])
def test_a_held_task_is_left_alone_until_its_cap(step: Step) -> None:
    """However long the step had; past the longest pause it should have failed by itself, and is flagged."""
    until = NOW + timedelta(hours=72)
    held = replace(RUNNING, step=step, paused=True, paused_at=NOW, paused_until=until)
    assert decide(held, Sight(Seen.RUNNING), until + GRACE).action is Action.LEFT_ALONE
    late = until + GRACE + timedelta(seconds=1)
    assert decide(held, Sight(Seen.RUNNING), late).action is Action.FLAGGED_OVERDUE


def test_a_task_that_was_resumed_and_does_not_move_is_flagged() -> None:
    """When its step's budget is over, later by the time in which it was held."""
    held_for = timedelta(hours=3)
    resumed = replace(RUNNING, step=Step.WORKSPACE_READY, paused_for=held_for)
    over = RUNNING.since + held_for + Budgets().workspace_ready + GRACE
    assert decide(resumed, Sight(Seen.RUNNING), over).action is Action.LEFT_ALONE
    late = over + timedelta(seconds=1)
    assert decide(resumed, Sight(Seen.RUNNING), late).action is Action.FLAGGED_OVERDUE


def test_a_workflow_past_its_deadline_is_flagged() -> None:
    """By the deadline of the explanation, with the grace."""
    since = RUNNING.since + Budgets().running + GRACE
    assert overdue(RUNNING, since) == timedelta(0)
    assert decide(RUNNING, Sight(Seen.RUNNING), since).action is Action.LEFT_ALONE
    assert decide(RUNNING, Sight(Seen.RUNNING), since + timedelta(seconds=1)).action is Action.FLAGGED_OVERDUE


@pytest.mark.parametrize("due_in", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_start_that_is_still_stored_is_not_lost(due_in: timedelta) -> None:
    """NOT_FOUND is not started yet, whether it is due or not."""
    facts = replace(QUEUED, start=StartIntent(due_at=NOW + due_in))
    assert decide(facts, Sight(Seen.NOT_FOUND), NOW).action is Action.LEFT_ALONE


def test_a_start_without_intent_and_workflow_is_lost() -> None:
    """Stored again: nothing was ever written by this attempt."""
    assert decide(QUEUED, Sight(Seen.NOT_FOUND), NOW).action is Action.STARTED_AGAIN
    assert decide(replace(QUEUED, version=1), Sight(Seen.NOT_FOUND), NOW).ending is Ending.LOST


@pytest.mark.parametrize("ending", [Ending.LOST, Ending.TIMED_OUT])
def test_what_was_nobodys_word_is_retried_when_the_lease_is_over(ending: Ending) -> None:
    """`attempt.failed` and `task.queued` of the next, due after the lease or the backoff, whichever is longer."""
    end = end_of(RUNNING, ending, NOW, lease=LEASE)
    assert [(event.type, event.attempt) for event in end.events] == [
        (EventType.ATTEMPT_FAILED, 1),
        (EventType.TASK_QUEUED, 2),
    ]
    assert end.due_in == LEASE
    slow = replace(RUNNING, retry=Retry(max_attempts=2, backoff=timedelta(minutes=10)))
    assert end_of(slow, ending, NOW, lease=LEASE).due_in == timedelta(minutes=10)
    assert {event.source for event in end.events} == {EventSource.RECONCILER}


@pytest.mark.parametrize(
    ("facts", "types"),
    [
        (replace(RUNNING, attempt=2), ["task.retries_exhausted", "task.failed"]),
        (replace(RUNNING, retry=Retry(max_attempts=1)), ["task.failed"]),
        (replace(RUNNING, retry=Retry(max_attempts=4, on=frozenset({Category.TIMEOUT}))), ["task.failed"]),
    ],
)
def test_a_loss_without_a_try_left_is_a_failure(facts: Facts, types: list[str]) -> None:
    """By the task's own policy: tries and categories."""
    end = end_of(facts, Ending.LOST, NOW, lease=LEASE)
    assert ([str(event.type) for event in end.events], end.due_in) == (types, None)
    assert end.events[-1].data["error"]["code"] == "workflow_lost"


@pytest.mark.parametrize("ending", [Ending.TERMINATED, Ending.UNWRITTEN])
def test_an_operators_word_and_a_lost_end_are_final(ending: Ending) -> None:
    """Failed, whatever tries are left."""
    end = end_of(RUNNING, ending, NOW, lease=LEASE)
    assert ([event.type for event in end.events], end.due_in) == ([EventType.TASK_FAILED], None)


@pytest.mark.parametrize("ending", Ending)
def test_what_was_to_be_cancelled_is_cancelled(ending: Ending) -> None:
    """However its workflow ended."""
    end = end_of(replace(RUNNING, cancel_requested_at=NOW), ending, NOW, lease=LEASE)
    assert ([event.type for event in end.events], end.due_in) == ([EventType.TASK_CANCELLED], None)


def test_a_report_counts_all_and_names_the_first() -> None:
    """Its size is bounded, its counts are not."""
    report = Report()
    for number in range(10):
        report.note(Action.ENDED, *(f"{number}-{each}" for each in range(10)))
    report.note(Action.ANSWERS_FORGOTTEN, count=7)
    assert report.counts == {Action.ENDED: 100, Action.ANSWERS_FORGOTTEN: 7}
    assert len(report.ids[Action.ENDED]) == IDS
    assert report.ids[Action.ENDED][0] == "0-0"
