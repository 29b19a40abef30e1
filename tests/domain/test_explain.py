"""Every (status, step) pair has an explanation, and each says what its table promises."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from domain.errors import Category
from domain.explain import Explanation, Wait, explain
from domain.facts import Facts, StartIntent
from domain.lifecycle import TERMINAL, Step, TaskStatus
from domain.names import NodeId, TaskId
from domain.policy import Budgets
from domain.spec import Retry

S = TaskStatus
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SINCE = NOW - timedelta(minutes=1)
BUDGETS = Budgets()
PAIRS = [*product(TaskStatus, [None, *Step])]

BASE = Facts(
    task_id=TaskId("t"),
    status=S.DELEGATED,
    attempt=1,
    changed_at=SINCE,
    read_at=SINCE,
    step_started_at=SINCE,
    node_id=NodeId("n"),
    attachments=2,
    followup=True,
)

# step: what it waits for, its budget, the next step, what follows when the budget is over.
STEPS: dict[Step, tuple[str, timedelta | None, str, str]] = {
    Step.NODE_SELECTION: ("placement", None, "waiting_for_node_capacity", "retried"),
    Step.WAITING_FOR_NODE_CAPACITY: (
        "slot",
        BUDGETS.waiting_for_node_capacity,
        "workspace_creation",
        "waiting_for_node_capacity_timeout",
    ),
    Step.NODE_PROVISIONING: (
        "placement",
        BUDGETS.node_provisioning,
        "workspace_creation",
        "node_not_made",
    ),
    Step.NODE_AGENT_READY: (
        "node_report",
        BUDGETS.node_agent_ready,
        "workspace_creation",
        "node_agent_ready_timeout",
    ),
    Step.WORKSPACE_CREATION: ("placement", None, "workspace_dispatch", "retried"),
    Step.WORKSPACE_DISPATCH: ("node", BUDGETS.workspace_dispatch, "workspace_ready", "node_unreachable"),
    Step.WORKSPACE_READY: (
        "workspace_ready",
        BUDGETS.workspace_ready,
        "attachment_transfer",
        "workspace_ready_timeout",
    ),
    Step.ATTACHMENT_TRANSFER: ("node", 2 * BUDGETS.attachment_transfer, "agent_session", "node_unreachable"),
    Step.AGENT_SESSION: ("node", BUDGETS.workspace_dispatch, "running", "node_unreachable"),
    Step.RUNNING: ("command", BUDGETS.running, "awaiting_followup", "cap_hard"),
    Step.AWAITING_FOLLOWUP: ("message", BUDGETS.awaiting_followup, "agent_session", "silence"),
    Step.CLEANUP: ("release", BUDGETS.cleanup, "end", "cleanup_pending"),
}


def told(facts: Facts) -> Explanation:
    """The explanation of these facts, now."""
    return explain(facts, now=NOW)


@pytest.mark.parametrize(("status", "step"), PAIRS)
def test_every_pair_is_explained(status: TaskStatus, step: Step | None) -> None:
    """Each of them: what it waits for, in a code and a sentence; what can fail says what follows."""
    explanation = told(replace(BASE, status=status, step=step))
    assert explanation.waits_for.code in {*Wait}
    for said in (explanation.waits_for, explanation.next, explanation.on_failure):
        assert said is None or said.text.endswith(".")
    assert explanation.since == SINCE
    assert explanation.until is None or (explanation.next and explanation.until > SINCE)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_waits_for_one_thing(step: Step) -> None:
    """What, until when, what next, and what when it does not come."""
    explanation = told(replace(BASE, step=step))
    waits_for, budget, following, failing = STEPS[step]
    assert explanation.waits_for.code == waits_for
    assert explanation.until == (SINCE + budget if budget else None)
    assert explanation.next is not None
    assert explanation.on_failure is not None
    assert (explanation.next.code, explanation.on_failure.code) == (following, failing)


def test_the_table_of_this_test_is_whole() -> None:
    """Every step is in it."""
    assert set(STEPS) == set(Step)


@pytest.mark.parametrize(
    ("status", "waits_for", "following"),
    [
        (S.READY, "start", S.QUEUED),
        (S.FAILED, "retry", S.QUEUED),
        (S.CANCELLED, "retry", S.QUEUED),
        (S.COMPLETED, "nothing", None),
    ],
)
def test_what_has_no_workflow_waits_for_people(status: TaskStatus, waits_for: str, following: S | None) -> None:
    """No deadline, and nothing that could fail."""
    explanation = told(replace(BASE, status=status, step=None))
    assert explanation.waits_for.code == waits_for
    assert (explanation.until, explanation.on_failure) == (None, None)
    assert (explanation.next and explanation.next.status) == following


QUEUED = replace(BASE, status=S.QUEUED, step=None, step_started_at=None)
LATER = NOW + timedelta(seconds=40)


@pytest.mark.parametrize(
    ("start", "waits_for", "until"),
    [
        (StartIntent(due_at=LATER), "backoff", LATER),
        (StartIntent(due_at=SINCE), "dispatcher", None),
        (StartIntent(due_at=SINCE, tries=3, last_error="unreachable"), "engine", None),
        (None, "worker", None),
    ],
)
def test_a_queued_task_says_where_its_start_is(
    start: StartIntent | None, waits_for: str, until: datetime | None
) -> None:
    """In its backoff, stored, refused by an engine that is away, or sent and not taken up."""
    explanation = told(replace(QUEUED, start=start))
    assert (explanation.waits_for.code, explanation.until) == (waits_for, until)
    assert explanation.next is not None
    assert explanation.next.code == "node_selection"


def test_a_start_that_does_not_get_through_says_why() -> None:
    """The error and the tries are in the sentence."""
    text = told(replace(QUEUED, start=StartIntent(due_at=SINCE, tries=3, last_error="unreachable"))).waits_for.text
    assert "unreachable" in text
    assert "3 tries" in text


@pytest.mark.parametrize("step", [None, *Step])
@pytest.mark.parametrize("status", [status for status in S if status not in TERMINAL and status is not S.READY])
def test_a_pause_and_a_cancel_come_before_the_step(status: TaskStatus, step: Step | None) -> None:
    """A paused task waits for somebody, a cancelled one for its attempt, until the force is due."""
    facts = replace(BASE, status=status, step=step)
    assert told(replace(facts, paused=True, pause_reason="lunch")).waits_for.code == "resume"
    asked = told(replace(facts, cancel_requested_at=NOW))
    assert (asked.waits_for.code, asked.since) == ("cancel", NOW)
    assert asked.next is not None
    assert asked.next.status is S.CANCELLED
    assert asked.until is None
    taken = told(replace(facts, cancel_requested_at=NOW, force_due_at=LATER))
    assert taken.until == LATER
    held = replace(facts, paused=True, paused_at=NOW, paused_until=LATER)
    explanation = told(held)
    assert (explanation.since, explanation.until) == (NOW, LATER)
    assert explanation.on_failure is not None
    assert (explanation.on_failure.code, explanation.on_failure.status) == ("cap_paused", S.FAILED)
    assert told(replace(held, cancel_requested_at=NOW)).waits_for.code == "cancel"


@pytest.mark.parametrize(
    ("attempt", "on", "status"),
    [
        (1, {Category.TIMEOUT}, S.QUEUED),
        (3, {Category.TIMEOUT}, S.QUEUED),
        (4, {Category.TIMEOUT}, S.FAILED),
        (1, {Category.CAPACITY}, S.FAILED),
    ],
)
def test_a_failure_says_whether_another_attempt_follows(attempt: int, on: set[Category], status: TaskStatus) -> None:
    """Four attempts in all, and only for the categories that the body names."""
    facts = replace(BASE, step=Step.WORKSPACE_READY, attempt=attempt, retry=Retry(on=frozenset(on)))
    failing = told(facts).on_failure
    assert failing is not None
    assert failing.status is status


def test_a_cap_is_final() -> None:
    """Whatever tries are left: a command that ran too long would run too long again."""
    failing = told(replace(BASE, status=S.IN_PROGRESS, step=Step.RUNNING)).on_failure
    assert failing is not None
    assert failing.status is S.FAILED


def test_the_absolute_cap_counts_all_turns() -> None:
    """A late turn ends by the absolute cap, of which earlier ones have used most."""
    ran = BUDGETS.running_absolute - timedelta(hours=1)
    explanation = told(replace(BASE, status=S.IN_PROGRESS, step=Step.RUNNING, ran=ran))
    assert explanation.until == SINCE + timedelta(hours=1)
    assert explanation.on_failure is not None
    assert explanation.on_failure.code == "cap_absolute"


def test_the_idle_cap_counts_from_the_last_word() -> None:
    """Where there is one; the other caps go by the begin."""
    idle = BUDGETS.model_copy(update={"running_idle": timedelta(minutes=10)})
    heard = SINCE + timedelta(seconds=30)
    explanation = told(replace(BASE, status=S.IN_PROGRESS, step=Step.RUNNING, budgets=idle, active_at=heard))
    assert explanation.until == heard + timedelta(minutes=10)
    assert explanation.on_failure is not None
    assert explanation.on_failure.code == "cap_idle"


def test_an_external_workspace_is_claimed_and_needs_no_node() -> None:
    """It waits for a claim, and goes from ready to running."""
    claim = told(replace(BASE, step=Step.WORKSPACE_DISPATCH, external=True))
    assert claim.waits_for.code == "claim"
    assert claim.on_failure is not None
    assert claim.on_failure.code == "workspace_dispatch_timeout"
    ready = told(replace(BASE, step=Step.WORKSPACE_READY, external=True))
    assert ready.next is not None
    assert (ready.next.code, ready.next.status) == ("running", S.IN_PROGRESS)


def test_a_task_that_no_node_can_take_says_what_none_has() -> None:
    """A code of its own, and what it asks for; the deadline and both ways on are the step's."""
    facts = replace(BASE, status=S.QUEUED, step=Step.WAITING_FOR_NODE_CAPACITY, queue_position=1)
    alone = told(replace(facts, unserved=("provider docker", "label gpu=yes")))
    assert alone.waits_for.code == "matching_node"
    assert alone.waits_for.text.startswith(
        "No node that takes tasks has what it asks for: provider docker, label gpu=yes."
    )
    queued = told(facts)
    assert queued.waits_for.code == "slot"
    assert (alone.until, alone.next, alone.on_failure) == (queued.until, queued.next, queued.on_failure)
    assert told(replace(facts, unserved=("provider docker",), paused=True)).waits_for.code == "resume"


def test_the_queue_is_told() -> None:
    """The place in it is in the sentence."""
    facts = replace(BASE, status=S.QUEUED, step=Step.WAITING_FOR_NODE_CAPACITY, queue_position=7)
    assert "place 7" in told(facts).waits_for.text
