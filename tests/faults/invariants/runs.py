"""Invariants 1, 3, 4 and 7 of runs: acknowledged ones end, logs are whole, the engine agrees, nothing is left over."""

from collections.abc import Iterator
from typing import Final

from domain.errors import IllegalTransition
from domain.events import NewEvent
from domain.lifecycle import RUN_TERMINAL, TERMINAL, MemberStatus, RunStatus, TaskStatus
from domain.names import RunId, run_workflow_id
from domain.run_events import STATUS_OF_RUN_EVENT, FoldedRun, fold
from tests.faults.invariants.outcomes import OUTCOMES, TAKEN_OUT_OF_ITS_HANDS, forced, in_words
from tests.faults.snapshot import SeenRun, Snapshot

OPEN: Final = frozenset({MemberStatus.WAITING, MemberStatus.IN_PROGRESS})


def acknowledged(snapshot: Snapshot) -> Iterator[str]:
    """Every acknowledged run exists and has ended, and so has each of its members and tasks."""
    for run in snapshot.created_runs:
        if run not in snapshot.runs and run not in snapshot.deleting | snapshot.deleted:
            yield f"run {run} was acknowledged and does not exist"
    for run, seen in snapshot.runs.items():
        if run in snapshot.deleted:
            yield f"run {run} was deleted and is still there"
        elif seen.row["status"] not in RUN_TERMINAL:
            yield f"run {run} has not ended: it is {seen.row['status']}"
        else:
            yield from (f"{name} of run {run} is {is_}" for name, is_ in seen.members.items() if is_ in OPEN)
    for task, row in snapshot.tasks.items():
        owner = row.get("run_id")
        if owner is None:
            continue
        if owner not in snapshot.runs:
            yield f"task {task} is of run {owner}, which does not exist"
        elif row["status"] not in TERMINAL and snapshot.runs[owner].row["status"] in RUN_TERMINAL:
            yield f"task {task} is {row['status']}, and its run {owner} has ended"


def log(snapshot: Snapshot) -> Iterator[str]:
    """`seq` has no gap, every transition is one of the tables', and the fold is the row and its members."""
    for run, seen in snapshot.runs.items():
        if [seq for seq, _ in seen.log] != list(range(1, seen.row["last_seq"] + 1)):
            yield f"the log of run {run} has a gap: it ends at {seen.row['last_seq']} and has {len(seen.log)} events"
        try:
            folded = fold(event for _, event in seen.log)
        except (ValueError, IllegalTransition) as fault:
            yield f"the log of run {run} does not fold: {fault}"
            continue
        for name in FoldedRun.model_fields.keys() - {"members"}:
            if seen.row[name] != getattr(folded, name):
                yield f"run {run}: the row has {name} = {seen.row[name]!r}, its log {getattr(folded, name)!r}"
        for name, status in seen.members.items():
            if status != folded.members.get(name, MemberStatus.WAITING):
                yield f"{name} of run {run} is {status}, and {folded.members.get(name)} by the log"


def agreement(snapshot: Snapshot) -> Iterator[str]:
    """Each run's last attempt ended there as it did here, by the map of tasks."""
    known = set()
    for run, seen in snapshot.runs.items():
        name = run_workflow_id(RunId(run))
        known.add(name)
        end = _end(seen)
        if end is None:
            continue
        found = in_words(snapshot.orchestrators.get(name))
        allowed = OUTCOMES[TaskStatus(STATUS_OF_RUN_EVENT[end.type])] | (
            TAKEN_OUT_OF_ITS_HANDS if forced(end) else set()
        )
        if found not in allowed:
            yield f"{name} is {seen.row['status']} in the mirror, and {found} in the engine"
    gone = {run_workflow_id(RunId(run)) for run in snapshot.deleting}
    for name, execution in snapshot.orchestrators.items():
        if name not in known | gone:
            yield f"{name} is {execution.status} in the engine, and the mirror has no such run"


def _end(seen: SeenRun) -> NewEvent | None:
    """Return the event with which the run's current attempt ended."""
    ends = [
        event
        for _, event in seen.log
        if RunStatus(STATUS_OF_RUN_EVENT.get(event.type, RunStatus.QUEUED)).terminal
        and event.attempt == seen.row["attempt"]
    ]
    return ends[-1] if ends else None


def leftovers(snapshot: Snapshot) -> Iterator[str]:
    """Nobody is still to be told anything of a run that is over."""
    for run, seen in snapshot.runs.items():
        if seen.row["status"] in RUN_TERMINAL:
            yield from (f"run {run} has ended, and is still to be told: {kind}" for kind in seen.intents)
