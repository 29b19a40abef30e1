"""The flush against any order: permutation, repetition, redo with other content, delay, any number of writers."""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.events import STATUS_OF_EVENT, EventType, NewEvent
from domain.lifecycle import TaskStatus
from domain.names import TaskId
from store.engine import Database
from tests.domain.histories import NEUTRAL, History, histories, values
from tests.store.rows import assert_folds, batch, create_task, flush, keys_of, log_of

# The fixture is one database for all examples: each of them writes a task of its own.
PROPERTY: Final = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
LOST: Final = (EventType.TASK_FAILED, EventType.TASK_CANCELLED)


@dataclass(frozen=True)
class Write:
    """One flush, as somebody may send it at some time, or again."""

    version: int
    events: tuple[NewEvent, ...]


@st.composite
def walks(draw: st.DrawFn) -> list[NewEvent]:
    """Give the events of one attempt: from `queued` on, to its end if it gets there."""
    history: History = draw(histories(queued=True, by_hand=False))
    return history.events[2:]


@st.composite
def cumulative(draw: st.DrawFn) -> tuple[list[Write], list[list[Write]]]:
    """Give flushes that each redo all before them, and the turns in which writers send them, often more than once."""
    events = draw(walks())
    ends = sorted(draw(st.sets(st.integers(0, len(events)), max_size=6)) | {len(events)})
    writes = [Write(version, tuple(events[:end])) for version, end in enumerate(ends, start=1)]
    again = draw(st.lists(st.sampled_from(writes), max_size=10))
    order = draw(st.permutations(writes + again))
    cuts = sorted(draw(st.sets(st.integers(0, len(order)), max_size=4)))
    turns = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    return writes, turns


async def send(database: Database, task: TaskId, write: Write) -> dict[str, Any]:
    """Send it as attempt 1."""
    return await flush(database, batch(task, write.version, *write.events))


@PROPERTY
@given(plan=cumulative())
async def test_any_order_of_redone_flushes_ends_in_the_same_row(
    database: Database, plan: tuple[list[Write], list[list[Write]]]
) -> None:
    """Permuted, repeated and sent by concurrent writers, a task's flushes end in the row and the log of the one
    writer who sent them in order.
    """
    writes, turns = plan
    expected, task = await create_task(database), await create_task(database)
    for write in writes:
        await send(database, expected, write)
    for turn in turns:
        await asyncio.gather(*(send(database, task, write) for write in turn))
    assert await keys_of(database, task) == await keys_of(database, expected)
    own = {"id", "created_at", "updated_at"}
    rows = [await assert_folds(database, one) for one in (task, expected)]
    assert {k: v for k, v in rows[0].items() if k not in own} == {k: v for k, v in rows[1].items() if k not in own}
    logs = [
        [event.model_dump(exclude={"task_id", "ts"}) for event in await log_of(database, t)] for t in (task, expected)
    ]
    assert logs[0][2:] == logs[1][2:]


@dataclass
class Reference:
    """What the mirror must answer, said in a few lines of Python."""

    status: TaskStatus = TaskStatus.QUEUED
    attempt: int = 1
    version: int = 0
    keys: list[str] = field(default_factory=list)

    def answer(self, write: Write) -> str:
        if self.attempt != 1:
            return "superseded"
        if self.status.terminal and write.version != self.version:
            return "ended"
        if write.version <= self.version:
            return "repeat"
        self.version = write.version
        for event in write.events:
            if event.key not in self.keys:
                self.keys.append(event.key)
                self.status = STATUS_OF_EVENT.get(event.type, self.status)
                self.attempt = max(self.attempt, event.attempt)
        return "applied"


@st.composite
def redone(draw: st.DrawFn) -> list[list[Write]]:
    """Give the writes of a workflow whose workflow tasks fail and are redone with other content.

    Each batch may have been tried before under a shorter history: the same first events, then something else, maybe
    even another end. What was sent once may arrive again at any later time.
    """
    events = draw(walks())
    cuts = sorted(draw(st.sets(st.integers(0, len(events)), max_size=4)) | {0, len(events)})
    groups: list[list[Write]] = []
    sent: list[Write] = []
    for number, (begin, end) in enumerate(itertools.pairwise(cuts), start=1):
        tries = [draw(_abandoned(events[begin:end], number, n)) for n in range(draw(st.integers(0, 2)))]
        canonical = Write(number * 10, tuple(events[begin:end]))
        for write in [*tries, canonical]:
            late = draw(st.lists(st.sampled_from(sent), max_size=2)) if sent else []
            groups.append([write, *late])
            sent.append(write)
    groups.append(draw(st.permutations(sent)))
    return groups


@st.composite
def _abandoned(draw: st.DrawFn, events: list[NewEvent], number: int, nth: int) -> Write:
    same = draw(st.integers(0, len(events)))
    changed = [event.model_copy(update={"data": {**event.data, "redo": draw(values)}}) for event in events[:same]]
    others = draw(st.lists(st.sampled_from([*NEUTRAL, *LOST]), max_size=2))
    if any(event.type is EventType.TASK_QUEUED or event.type in (*LOST, EventType.TASK_COMPLETED) for event in changed):
        others = []
    del others[next((n + 1 for n, kind in enumerate(others) if kind in LOST), len(others)) :]
    extra = [
        NewEvent(key=f"abandoned:{number}:{nth}:{n}", type=kind, ts=events[0].ts, attempt=1)
        for n, kind in enumerate(others)
    ]
    return Write(number * 10 - 9 + nth, tuple(changed + extra))


@PROPERTY
@given(groups=redone())
async def test_redone_flushes_are_answered_by_the_four_rules(database: Database, groups: list[list[Write]]) -> None:
    """One after the other: each answer is the reference's, the log has its keys in its order, and folds to the row."""
    task, reference = await create_task(database), Reference()
    for write in (write for group in groups for write in group):
        expected = reference.answer(write)
        answer = await send(database, task, write)
        assert answer["verdict"] == expected
    row = await assert_folds(database, task)
    assert (await keys_of(database, task))[2:] == reference.keys
    assert (row["status"], row["attempt"]) == (reference.status, reference.attempt)


@PROPERTY
@given(groups=redone())
async def test_redone_flushes_from_concurrent_writers_keep_the_log_whole(
    database: Database, groups: list[list[Write]]
) -> None:
    """Late and repeated writes beside the current one: no gap, no repeat, legal by the table, fold(log) == row."""
    task = await create_task(database)
    for group in groups:
        await asyncio.gather(*(send(database, task, write) for write in group))
    await assert_folds(database, task)
    keys = await keys_of(database, task)
    assert len(keys) == len(set(keys))
