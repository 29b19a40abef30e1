"""The order of a queue, against a search for the next one at each grant."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from domain.names import ProjectId, TaskId
from domain.queue import NEVER, Waiting, in_order

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
PROJECTS = st.sampled_from([ProjectId(name) for name in "abc"])
MOMENTS = st.integers(0, 9).map(lambda minutes: BEGAN + timedelta(minutes=minutes))


@st.composite
def queues(draw: st.DrawFn) -> list[Waiting]:
    """Give a queue of up to 20 of three projects."""
    held = draw(st.dictionaries(PROJECTS, st.integers(0, 4)))
    turns = draw(st.dictionaries(PROJECTS, MOMENTS))
    waiting = []
    for number in range(draw(st.integers(0, 20))):
        project = draw(PROJECTS)
        waiting.append(
            Waiting(
                task_id=TaskId(f"t{number:02}"),
                project=project,
                priority=draw(st.integers(1, 3)),
                since=draw(MOMENTS),
                held=held.get(project, 0),
                turn=turns.get(project),
            )
        )
    return waiting


def searched(waiting: list[Waiting]) -> list[TaskId]:
    """Grant one slot after the other, each to the best of those who are left."""
    left, order = list(waiting), list[TaskId]()
    grants: Counter[ProjectId] = Counter()
    turns = {each.project: each.turn or NEVER for each in waiting}
    while left:
        best = min(
            left,
            key=lambda w: (w.priority, w.held + grants[w.project], turns[w.project], w.since, w.task_id),
        )
        left.remove(best)
        order.append(best.task_id)
        grants[best.project] += 1
        turns[best.project] = BEGAN + timedelta(days=len(order))
    return order


@given(queues())
def test_the_order_is_that_of_one_grant_after_the_other(waiting: list[Waiting]) -> None:
    """The same, whatever the priorities, shares, turns and ages."""
    assert list(in_order(waiting)) == searched(waiting)
