"""How far a run is: against rules that are looked up from scratch, and in figures."""

from dataclasses import replace
from itertools import product
from random import Random
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.lifecycle import MemberStatus, RunStatus, TaskStatus
from domain.moves import Finished, Part
from domain.outcomes import OF_TASK, aggregate, letters, statuses
from domain.progress import CONDITION
from domain.run import FanPlan, Plan, RunState
from domain.run_spec import OnFailure, Outcome, RunMode
from tests.domain.runs import Case, Drive, cases, plan, through

M, T = MemberStatus, TaskStatus
DICE = st.randoms(use_true_random=False)


def _dice(seed: int) -> Random:
    return Random(seed)  # noqa: S311 - seeded dice


# --- what parts come to ---------------------------------------------------------------------------------------------

ENDS = [status for status in MemberStatus if status.ended]


@pytest.mark.parametrize("seen", list(product((True, False), repeat=len(ENDS))))
def test_an_aggregate_is_that_of_the_truth_table(seen: tuple[bool, ...]) -> None:
    """Any failed: failed. Else any cancelled: cancelled. Else completed; skipped counts as neither."""
    there = {status for status, is_there in zip(ENDS, seen, strict=True) if is_there}
    table = {
        frozenset({M.FAILED, M.CANCELLED}): M.FAILED,
        frozenset({M.FAILED}): M.FAILED,
        frozenset({M.CANCELLED}): M.CANCELLED,
        frozenset(): M.COMPLETED,
    }
    assert aggregate(there) is table[frozenset(there & {M.FAILED, M.CANCELLED})]


def test_statuses_are_carried_as_letters() -> None:
    """One for each, all different, and back."""
    assert statuses(letters(MemberStatus)) == list(MemberStatus)
    assert len(letters(MemberStatus)) == len(set(letters(MemberStatus))) == len(MemberStatus)


def test_every_end_of_a_task_is_one_of_a_member() -> None:
    """By the same word."""
    assert {task.value: member.value for task, member in OF_TASK.items()} == {
        task.value: task.value for task in TaskStatus if task.terminal
    }


# --- edges ----------------------------------------------------------------------------------------------------------

# What becomes of the target, by the edge's `when` and by how the upstream has ended: it starts, or why it is skipped.
STARTS = None
EDGES: dict[tuple[str, MemberStatus], str | None] = {
    ("", M.COMPLETED): STARTS,
    ("", M.FAILED): "upstream",
    ("", M.CANCELLED): "upstream",
    ("", M.SKIPPED): "upstream",
    (Outcome.COMPLETED, M.COMPLETED): STARTS,
    (Outcome.COMPLETED, M.FAILED): "upstream",
    (Outcome.COMPLETED, M.CANCELLED): "upstream",
    (Outcome.COMPLETED, M.SKIPPED): "upstream",
    (Outcome.FAILED, M.COMPLETED): "condition",
    (Outcome.FAILED, M.FAILED): STARTS,
    (Outcome.FAILED, M.CANCELLED): "upstream",
    (Outcome.FAILED, M.SKIPPED): "upstream",
    (Outcome.FINISHED, M.COMPLETED): STARTS,
    (Outcome.FINISHED, M.FAILED): STARTS,
    (Outcome.FINISHED, M.CANCELLED): STARTS,
    (Outcome.FINISHED, M.SKIPPED): STARTS,
    ("holds", M.COMPLETED): STARTS,
    ("holds not", M.COMPLETED): "condition",
    ("holds", M.FAILED): "upstream",
    ("holds", M.CANCELLED): "upstream",
    ("holds", M.SKIPPED): "upstream",
}
# Where a mode says something else.
OTHERWISE: dict[tuple[OnFailure, str, MemberStatus], str | None] = {
    (OnFailure.CONTINUE, "", M.FAILED): STARTS,
    (OnFailure.FAIL_FAST, "", M.FAILED): "fail_fast",
    (OnFailure.FAIL_FAST, Outcome.COMPLETED, M.FAILED): "fail_fast",
    (OnFailure.FAIL_FAST, "holds", M.FAILED): "fail_fast",
}


@pytest.mark.parametrize("mode", RunMode)
@pytest.mark.parametrize("on_failure", OnFailure)
@pytest.mark.parametrize(("when", "end"), EDGES)
def test_an_edge_starts_its_target_or_skips_it(
    when: str, end: MemberStatus, on_failure: OnFailure, mode: RunMode
) -> None:
    """Every `when`, every end of the upstream, every `on_failure`, in both modes."""
    edge = CONDITION if when.startswith("holds") else when
    case = Case(plan(3, (0, 1, Outcome.COMPLETED), (1, 2, edge)), mode, on_failure)
    # What is cancelled is no failure: the one after it is skipped in every mode.
    ends = {Part(0): T.CANCELLED} if end is M.SKIPPED else {Part(1): T(end)}
    found = through(case, ends, holds={1: when == "holds"})
    assert found[1].outcome is end
    expected = OTHERWISE.get((on_failure, when, end), EDGES[when, end])
    assert (found[2].outcome, found[2].reason) == ((M.COMPLETED, None) if expected is STARTS else (M.SKIPPED, expected))


def test_every_edge_is_in_the_table() -> None:
    """So that a new one needs a rule."""
    assert {when for when, _ in EDGES} == {"", *Outcome, "holds", "holds not"}


# --- whole runs -----------------------------------------------------------------------------------------------------


@settings(max_examples=400)
@given(cases(), DICE)
def test_a_run_comes_to_what_its_rules_say(case: Case, dice: Random) -> None:
    """Whatever ends in whatever order, and wherever it is carried on: each member ends once, as looked up from scratch.

    On the way, after every move: no more is open than may be, nothing has started before its upstreams have ended or
    against them, a preferred one is not left behind, and nothing waits that could begin.
    """
    drive = Drive(case, dice)

    def between() -> None:
        if dice.random() < 0.2:
            drive.carry()
        if dice.random() < 0.2:
            drive.nonsense()

    drive.run(between)
    expected = drive.expected()
    assert drive.progress.status == expected
    assert drive.progress.outcome is RunStatus(aggregate(expected))
    assert drive.progress.counts == {status: expected.count(status) for status in set(expected)}


@given(cases(), st.integers(0, 2**32))
def test_a_run_is_the_same_each_time(case: Case, seed: int) -> None:
    """The same input, the same moves in the same order: a workflow decides by them, and is replayed."""
    logs = []
    for _ in range(2):
        drive = Drive(case, _dice(seed))
        drive.run()
        logs.append(drive.log)
    assert logs[0] == logs[1]


@given(cases(), st.integers(0, 2**32), DICE)
def test_what_is_carried_on_is_all_there_is(case: Case, seed: int, dice: Random) -> None:
    """A run that is carried on at random moments ends as the one that never is: the same starts in the same order."""
    plain, carried = Drive(case, _dice(seed)), Drive(case, _dice(seed))
    plain.run()
    carried.run(lambda: carried.carry() if dice.random() < 0.5 else None)
    assert carried.log == plain.log


@settings(max_examples=400)
@given(cases(), DICE)
def test_commands_leave_nobody_waiting(case: Case, dice: Random) -> None:
    """A graph that grows, members that are skipped or put in front, a cancel: still every member ends, and once.

    What a command put into the frontier starts whatever its upstreams do; everything else waits for them as ever.
    """
    drive = Drive(case, dice)
    commands = [
        drive.grow,
        drive.grow,
        drive.skip,
        drive.replace,
        drive.replace,
        drive.carry,
        drive.cancel,
        drive.give_up,
    ]
    left = [5]

    def between() -> None:
        if left[0] and dice.random() < 0.3:
            left[0] -= 1
            dice.choice(commands)()

    drive.run(between)


def test_a_fan_out_that_is_cut_short_has_not_completed() -> None:
    """Cancelled: the children that were not begun when something else failed are work that was not done."""
    case = Case(plan(2, m0=FanPlan(size=5, max_parallel=2)), on_failure=OnFailure.FAIL_FAST)
    progress = case.progress()
    ends = through(case, {Part(1): T.FAILED}, progress=progress)
    assert ends[0].outcome is M.CANCELLED
    assert progress.counts_of(0) == {M.COMPLETED: 2, M.CANCELLED: 3}


def test_a_fan_out_that_is_there_for_failures_runs_when_the_run_fails_fast() -> None:
    """All of its children: it is judged as ever."""
    case = Case(plan(2, (0, 1, Outcome.FAILED), m1=FanPlan(size=3, max_parallel=1)), on_failure=OnFailure.FAIL_FAST)
    progress = case.progress()
    ends = through(case, {Part(0): T.FAILED}, progress=progress)
    assert ends[1].outcome is M.COMPLETED
    assert progress.counts_of(1) == {M.COMPLETED: 3}


def test_a_fan_out_that_learns_its_size_after_a_failure_begins_no_child() -> None:
    """Cancelled at once: another of the same moves could not begin, and the run fails fast."""
    case = Case(plan(2, m0=FanPlan(), m1=FanPlan()), on_failure=OnFailure.FAIL_FAST)
    progress = case.progress()
    assert progress.moves().fans == [0, 1]
    progress.refused(0)
    assert progress.fanned(1, 3) == Finished(1, M.CANCELLED)
    assert not progress.moves()


def test_what_a_command_puts_into_the_frontier_starts_against_its_edges() -> None:
    """Also when it was to be skipped a moment ago."""
    progress = Case(plan(2, (0, 1)), RunMode.SUPERSTEP).progress()
    progress.next_frontier()
    progress.moves()
    progress.ended(Part(0), T.FAILED)
    assert progress.next_frontier([1]) == [1]
    assert progress.moves().starts == [Part(1)]


def test_a_run_that_begins_anew_still_fails_fast() -> None:
    """What has not begun is skipped: rows say that a member has failed, and nobody says it again."""
    case = Case(plan(4, m1=FanPlan(size=3), m2=FanPlan(size=2)), on_failure=OnFailure.FAIL_FAST)
    progress = case.progress(RunState(members=letters([M.FAILED, M.IN_PROGRESS, M.WAITING, M.WAITING])))
    assert progress.moves().starts == []
    assert progress.status == [M.FAILED, M.CANCELLED, M.SKIPPED, M.SKIPPED]


def test_a_fan_out_of_which_no_child_is_known_begins_with_the_first() -> None:
    """It had begun when there was no room for a child: its children follow."""
    case = Case(plan(1, m0=FanPlan(size=3)), max_parallel=2)
    assert case.progress(RunState(members=letters([M.IN_PROGRESS]))).moves().starts == [Part(0, 1), Part(0, 2)]


@pytest.mark.parametrize("item", [0, -1, 4])
def test_an_item_counts_from_one(item: int) -> None:
    """What is told of another item is ignored, and ends none."""
    progress = Case(plan(1, m0=FanPlan(size=3))).progress()
    progress.moves()
    progress.fanned(0, 3)
    progress.moves()
    assert progress.ended(Part(0, item), T.FAILED) is None
    assert progress.counts_of(0) == {M.IN_PROGRESS: 3}


# --- what it costs --------------------------------------------------------------------------------------------------


def _tangle(count: int) -> Plan:
    dice = _dice(4)
    pairs = {(a, dice.randrange(a + 1, min(a + 60, count))) for a in range(count - 1) for _ in range(5)}
    return plan(count, *sorted(pairs))


LARGE = {
    "a chain of 10,000": Case(plan(10_000, *((n, n + 1) for n in range(9_999)))),
    "a star of 10,000": Case(plan(10_000, *((0, n) for n in range(1, 10_000)))),
    "a star of 10,000, ten at once": Case(plan(10_000, *((0, n) for n in range(1, 10_000))), max_parallel=10),
    "10,000 into one": Case(plan(10_000, *((n, 9_999) for n in range(9_999)))),
    "10,000 pairs, superstep": Case(plan(10_000, *((n, n + 5_000) for n in range(5_000))), RunMode.SUPERSTEP),
    "2,000 at random": Case(_tangle(2_000)),
    "2,000 at random, superstep": Case(_tangle(2_000), RunMode.SUPERSTEP, max_parallel=3),
    "a fan-out of 10,000, ten at once": Case(plan(1, m0=FanPlan(size=10_000, max_parallel=10))),
    "a fan-out of 10,000, ten of all at once": Case(plan(1, m0=FanPlan(size=10_000)), max_parallel=10),
    "2,000 fan-outs of 5, ten at once": Case(
        plan(2_000, **{f"m{n}": FanPlan(size=5) for n in range(2_000)}), max_parallel=10
    ),
}


@pytest.mark.parametrize("case", LARGE)
def test_a_large_run_costs_what_its_edges_cost(case: str) -> None:
    """All calls together take less than a second of processor time, when each end is told for itself."""
    large = LARGE[case]
    progress = large.progress()
    began = process_time()
    ends = through(large, progress=progress)
    assert process_time() - began < 1
    assert len(ends) == len(large.plan.names)
    assert progress.outcome is RunStatus.COMPLETED


@pytest.mark.parametrize("case", LARGE)
def test_a_large_run_goes_down_as_fast(case: str) -> None:
    """Its first task fails; what hangs on it is skipped, one after the other, in less than a second."""
    large = replace(LARGE[case], on_failure=OnFailure.FAIL_FAST)
    progress = large.progress()
    first = Part(0, 1) if 0 in large.plan.fans else Part(0)
    began = process_time()
    through(large, {first: T.FAILED}, progress=progress)
    assert process_time() - began < 1
    assert progress.outcome is RunStatus.FAILED


def test_a_large_run_is_carried_on_in_little_time() -> None:
    """10,000 members and 50,000 edges: less than two seconds of processor time, and 10 kB for the members."""
    case = Case(_tangle(10_000))
    state = RunState()
    began = process_time()
    case.progress().carried(state)
    assert process_time() - began < 2
    assert len(state.members) == 10_000
