"""Invariants 1, 3 and 5: what was acknowledged is there and ends; logs are whole and legal; readers got the log."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from domain.errors import IllegalTransition
from domain.events import Event, EventType, Folded, fold
from domain.lifecycle import NEXT_STEP, STEP_ORDER, TERMINAL, Step, StepOutcome
from domain.names import TaskId, workflow_id
from tests.faults.snapshot import Snapshot

ENDS = frozenset({EventType.TASK_COMPLETED, EventType.TASK_FAILED, EventType.TASK_CANCELLED})
# A workspace of an earlier attempt may still knock; the note of it carries its own attempt's number.
OF_AN_EARLIER_ATTEMPT = frozenset({EventType.CALLBACK_STALE})
ITEM = "item"
# A task that goes on in a kept workspace begins with its agent.
BEGINNINGS = (STEP_ORDER[0], Step.AGENT_SESSION, Step.CLEANUP)


def something(snapshot: Snapshot) -> Iterator[str]:
    """Of nothing nothing can be said."""
    if not snapshot.created and not snapshot.created_runs:
        yield "nothing was created"


def acknowledged(snapshot: Snapshot) -> Iterator[str]:
    """Every acknowledged create exists, once, and has ended; so has what was created and never acknowledged."""
    by_item = Counter(row["labels"].get(ITEM) for row in snapshot.tasks.values())
    for create in snapshot.created:
        if create.task is None:
            yield f"item {create.item} was never answered"
            continue
        row = snapshot.tasks.get(create.task)
        if row is None:
            if create.task not in snapshot.deleting | snapshot.deleted:
                yield f"task {create.task} was acknowledged and does not exist"
        elif create.task in snapshot.deleted:
            yield f"task {create.task} was deleted and is still there"
        elif row["status"] not in TERMINAL:
            yield f"task {create.task} has not ended: it is {row['status']} at {row['step']}"
        if by_item[create.item] > 1:
            yield f"item {create.item} was created {by_item[create.item]} times"
    known = {create.task for create in snapshot.created}
    for task, row in snapshot.tasks.items():
        if task not in known and row["status"] not in TERMINAL:
            yield f"task {task}, of which nobody was told, has not ended: it is {row['status']} at {row['step']}"


def log(snapshot: Snapshot) -> Iterator[str]:
    """`seq` has no gap, every transition is one of the tables', the fold is the row, and an end is an end."""
    for task, row in snapshot.tasks.items():
        events = snapshot.logs.get(task, ())
        try:
            folded = fold(events)
        except (ValueError, IllegalTransition) as fault:
            yield f"the log of {task} does not fold: {fault}"
            continue
        for name, value in folded.model_dump(include=set(Folded.model_fields)).items():
            if row[name] != value:
                yield f"{task}: the row has {name} = {row[name]!r}, its log {value!r}"
        yield from (f"{task}: {fault}" for fault in _after_the_end(events))
        yield from (
            f"{task}: {fault}" for attempt, fault in out_of_order(events) if not _redone(snapshot, task, attempt)
        )


def _after_the_end(events: Sequence[Event]) -> Iterator[str]:
    """Nothing of an attempt comes after its end, and nothing of an earlier attempt after a later one has begun."""
    current, over = 1, False
    for event in events:
        if event.type in OF_AN_EARLIER_ATTEMPT:
            continue
        if event.attempt < current:
            yield f"seq {event.seq}, {event.type}, is of attempt {event.attempt} and comes during {current}"
        elif event.attempt == current and over:
            yield f"seq {event.seq}, {event.type}, comes after the end of attempt {current}"
        if event.attempt > current:
            current, over = event.attempt, False
        if event.type in ENDS or event.type is EventType.ATTEMPT_FAILED:
            over = True


def _redone(snapshot: Snapshot, task: str, attempt: int) -> bool:
    execution = snapshot.executions.get(workflow_id(TaskId(task), attempt))
    return execution is not None and execution.redone


def out_of_order(events: Sequence[Event]) -> Iterator[tuple[int, str]]:
    """Within an attempt each step follows from the one before by the table of steps; yields what does not, by attempt.

    A workflow task that was redone may have gone another way: its log has both.
    """
    expected: dict[int, set[Step | None]] = defaultdict(lambda: {*BEGINNINGS})
    for event in events:
        if event.type in (EventType.STEP_STARTED, EventType.STEP_SKIPPED) and event.step not in expected[event.attempt]:
            allowed = ", ".join(sorted(str(step) for step in expected[event.attempt]))
            yield event.attempt, f"seq {event.seq} begins {event.step}, where only {allowed} may follow"
        if event.step is not None and event.type in _OUTCOMES_OF:
            outcome = StepOutcome(event.data.get("outcome", _OUTCOMES_OF[event.type]))
            expected[event.attempt] = {NEXT_STEP.get((event.step, outcome)), Step.CLEANUP}


_OUTCOMES_OF = {
    EventType.STEP_FINISHED: StepOutcome.DONE,
    EventType.STEP_SKIPPED: StepOutcome.SKIPPED,
    EventType.STEP_FAILED: StepOutcome.FAILED,
}


def readers(snapshot: Snapshot) -> Iterator[str]:
    """What each reader got, page after page, is the log from its first event on: nothing lost, nothing twice."""
    for read in snapshot.reads:
        wanted = [(event.seq, str(event.type)) for event in snapshot.logs.get(read.task, ())]
        got = list(zip(read.seqs, read.types, strict=True))
        ended = snapshot.tasks.get(read.task, {}).get("status") in TERMINAL
        if got != (wanted if ended else wanted[: len(got)]):
            yield f"reader {read.reader} of {read.task} got {got}, the log is {wanted}"
