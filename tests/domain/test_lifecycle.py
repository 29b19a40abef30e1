"""The tables: every pair is a case."""

import itertools
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import IllegalTransition
from domain.lifecycle import (
    FIRST_STEP,
    MEMBER_TRANSITIONS,
    NEXT_STEP,
    NODE_TRANSITIONS,
    RUN_TRANSITIONS,
    STEP_ORDER,
    TASK_TRANSITIONS,
    TERMINAL,
    WORKSPACE_TRANSITIONS,
    MemberStatus,
    NodeStatus,
    RunStatus,
    Step,
    StepOutcome,
    TaskStatus,
    WorkspaceStatus,
    advance,
    check_status,
)

S, O = Step, StepOutcome  # noqa: E741 - beside its sibling it reads well

# The contract's table of statuses, written down a second time, from its page and not from the code.
CONTRACT: dict[str, set[str]] = {
    "ready": {"queued", "cancelled"},
    "queued": {"delegated", "failed", "cancelled"},
    "delegated": {"in_progress", "queued", "failed", "cancelled"},
    "in_progress": {"completed", "queued", "failed", "cancelled"},
    "failed": {"queued"},
    "cancelled": {"queued"},
    "completed": set(),
}
# Every way that does not lead to the next step.
BACK = {
    (S.NODE_AGENT_READY, O.NODE_GONE): S.NODE_SELECTION,
    (S.WORKSPACE_CREATION, O.SLOT_LOST): S.NODE_SELECTION,
    (S.WORKSPACE_READY, O.UNACKNOWLEDGED): S.WORKSPACE_DISPATCH,
    (S.AWAITING_FOLLOWUP, O.NEXT_TURN): S.AGENT_SESSION,
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(TaskStatus, repeat=2)))
def test_a_task_goes_where_the_contract_allows(old: TaskStatus, new: TaskStatus) -> None:
    """`new` for each pair of the contract's table and for staying; IllegalTransition for every other pair."""
    if new is old or new in CONTRACT[old]:
        assert check_status(old, new) is new
        return
    with pytest.raises(IllegalTransition, match=f"task: no transition from '{old}' by or to '{new}'"):
        check_status(old, new)


@pytest.mark.parametrize(("step", "outcome"), list(itertools.product(Step, StepOutcome)))
def test_a_step_leads_where_the_table_says(step: Step, outcome: StepOutcome) -> None:
    """Done and skipped lead to the next step, failed and cancelled to `cleanup`, three detours back, no other pair."""
    place = STEP_ORDER.index(step)
    if outcome in (O.DONE, O.SKIPPED):
        expected = STEP_ORDER[place + 1] if place + 1 < len(STEP_ORDER) else None
    elif outcome in (O.FAILED, O.CANCELLED):
        expected = S.CLEANUP if step is not S.CLEANUP else None
    elif (step, outcome) in BACK:
        expected = BACK[step, outcome]
    else:
        with pytest.raises(IllegalTransition, match=f"step: no transition from '{step}' by or to '{outcome}'"):
            advance(step, outcome)
        return
    assert advance(step, outcome) is expected


def test_the_steps_are_the_contracts_in_its_order() -> None:
    """Twelve steps; the first is `node_selection`, the last `cleanup`."""
    assert [str(step) for step in STEP_ORDER] == [
        "node_selection",
        "waiting_for_node_capacity",
        "node_provisioning",
        "node_agent_ready",
        "workspace_creation",
        "workspace_dispatch",
        "workspace_ready",
        "attachment_transfer",
        "agent_session",
        "running",
        "awaiting_followup",
        "cleanup",
    ]
    assert FIRST_STEP is S.NODE_SELECTION


@pytest.mark.parametrize("status", TaskStatus)
def test_terminal_statuses_are_left_by_a_retry_only(status: TaskStatus) -> None:
    """From `completed` nothing leads away; from `failed` and `cancelled` only `queued` does."""
    assert status.terminal is (status in {"completed", "failed", "cancelled"})
    assert status.terminal is (status in TERMINAL)
    if status.terminal:
        assert TASK_TRANSITIONS[status] <= {TaskStatus.QUEUED}


@pytest.mark.parametrize(
    ("table", "states", "ends"),
    [
        (TASK_TRANSITIONS, TaskStatus, {TaskStatus.COMPLETED}),
        (WORKSPACE_TRANSITIONS, WorkspaceStatus, {WorkspaceStatus.RELEASED}),
        (NODE_TRANSITIONS, NodeStatus, set()),
        (RUN_TRANSITIONS, RunStatus, {RunStatus.COMPLETED}),
        (MEMBER_TRANSITIONS, MemberStatus, {MemberStatus.COMPLETED}),
    ],
)
def test_each_table_is_whole(
    table: Mapping[StrEnum, frozenset[StrEnum]], states: type[StrEnum], ends: set[StrEnum]
) -> None:
    """A row for each status, none leads to itself, all are reachable from the first, and only the ends lead nowhere."""
    assert set(table) == set(states)
    assert all(state not in nexts for state, nexts in table.items())
    assert {state for state, nexts in table.items() if not nexts} == ends
    seen, front = set[StrEnum](), {next(iter(states))}
    while front:
        seen |= front
        front = {new for old in front for new in table[old]} - seen
    assert seen == set(states)


def test_there_is_no_way_back_but_the_documented_ones() -> None:
    """Of all pairs, exactly two steps back and the next turn lead to an earlier step."""
    back = {
        pair: following
        for pair, following in NEXT_STEP.items()
        if following is not None and STEP_ORDER.index(following) <= STEP_ORDER.index(pair[0])
    }
    assert back == BACK


@given(st.data())
def test_every_walk_ends_in_cleanup(data: Any) -> None:
    """Whatever the outcomes: no step is entered from behind but by a detour, and None comes after `cleanup` only."""
    step: Step | None = FIRST_STEP
    for _ in range(60):
        if step is None:
            break
        outcomes = [outcome for of, outcome in NEXT_STEP if of is step]
        outcome = data.draw(st.sampled_from(outcomes))
        following = advance(step, outcome)
        if following is None:
            assert step is S.CLEANUP
        elif (step, outcome) not in BACK:
            assert STEP_ORDER.index(following) > STEP_ORDER.index(step)
        step = following


@given(st.lists(st.sampled_from(TaskStatus), max_size=40))
def test_no_walk_leaves_a_terminal_status_but_by_a_retry(wishes: list[TaskStatus]) -> None:
    """Statuses asked for at random: what is allowed never leads from a terminal status to anything but `queued`."""
    status = TaskStatus.READY
    for wish in wishes:
        try:
            new = check_status(status, wish)
        except IllegalTransition:
            continue
        assert not status.terminal or new is status or new is TaskStatus.QUEUED
        status = new
