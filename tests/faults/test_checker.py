"""The invariants are functions of a snapshot: a whole one has no violation, each thing that is wrong has one."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from domain.events import Event, EventSource, EventType, NewEvent, fold
from domain.lifecycle import Step
from domain.names import TaskId
from domain.run_events import fold as fold_run
from tests.containers import record
from tests.faults.checker import INVARIANTS, check, name_of
from tests.faults.snapshot import Created, Effect, Execution, Place, Read, Recovery, SeenRun, Snapshot, Told
from workspaces import container

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASK, SPACE, RUN = "task", "space", "r"


def log_of(*entries: tuple[EventType, Step | None, dict[str, Any]]) -> list[Event]:
    """Return a log of one attempt."""
    return [
        Event(
            task_id=TaskId(TASK),
            run_id=None,
            attempt=1,
            seq=seq,
            ts=NOW,
            type=kind,
            source=EventSource.WORKFLOW,
            step=step,
            data=data,
        )
        for seq, (kind, step, data) in enumerate(entries, 1)
    ]


LOG = log_of(
    (EventType.TASK_CREATED, None, {}),
    (EventType.TASK_QUEUED, None, {}),
    (EventType.STEP_STARTED, Step.NODE_SELECTION, {}),
    (EventType.STEP_FINISHED, Step.NODE_SELECTION, {"outcome": "done"}),
    (EventType.TASK_DELEGATED, Step.NODE_SELECTION, {"workspace_id": SPACE, "node_id": "n"}),
    (EventType.WORKSPACE_READY, None, {"details": {"nonce": "r"}}),
    (EventType.TASK_STARTED, None, {}),
    (EventType.AGENT_FINISHED, None, {"turn": 1, "exit_code": 0}),
    (EventType.TASK_COMPLETED, None, {"result": {"nonce": "f"}}),
)


RUN_LOG = [
    (seq, NewEvent(key=str(seq), type=kind, ts=NOW, attempt=1, data=data))
    for seq, (kind, data) in enumerate(
        [
            (EventType.RUN_CREATED, {}),
            (EventType.RUN_STARTED, {"attempt": 1}),
            (EventType.RUN_MEMBER_READY, {"member": "a", "task_id": TASK}),
            (EventType.RUN_MEMBER_FINISHED, {"member": "a", "outcome": "completed"}),
            (EventType.RUN_COMPLETED, {}),
        ],
        1,
    )
]


def run_seen(*, row: Mapping[str, Any] | None = None, **more: Any) -> Mapping[str, SeenRun]:
    """Return a run of that task, with something else in it."""
    folded = fold_run(event for _, event in RUN_LOG).model_dump() | {"id": RUN, "last_seq": len(RUN_LOG)}
    return {RUN: replace(SeenRun(row=folded | dict(row or {}), members={"a": "completed"}, log=RUN_LOG), **more)}


def orchestrator(status: str, **more: Any) -> Mapping[str, Execution]:
    """Return a run's execution."""
    return {f"run-{RUN}": Execution(workflow_id=f"run-{RUN}", status=status, **more)}


def whole() -> Snapshot:
    """Return what one completed local task, and its run, leave behind."""
    row = fold(LOG).model_dump() | {"id": TASK, "labels": {"item": "i"}, "spec": {}, "run_id": RUN}
    entry = {"task_id": TASK, "attempt": 1, "state": "released", "node_id": "n"}
    return Snapshot(
        created=[Created(item="i", task=TASK)],
        told=[told(kind="ready", nonce="r"), told(kind="finished", nonce="f")],
        reads=[Read(reader="r", task=TASK, seqs=tuple(range(1, 10)), types=tuple(str(each.type) for each in LOG))],
        tasks={TASK: row},
        logs={TASK: LOG},
        ledger=[entry | {"tag": SPACE, "kind": "workspace"}, entry | {"tag": "slot", "kind": "slot"}],
        workspaces=[{"id": SPACE, "task_id": TASK, "attempt": 1, "status": "released"}],
        nodes=[{"id": "n", "used": 0, "slots": 1, "status": "ready", "labels": {}}],
        inbox=[inbox(kind="ready"), inbox(kind="finished")],
        executions={f"task-{TASK}-a1": Execution(workflow_id=f"task-{TASK}-a1", status="COMPLETED")},
        effects=[effect("prepare"), effect("start"), effect("stop")],
        places=[Place(node="n", buried=frozenset({SPACE}))],
        recoveries=[Recovery(fault="a death", took=1, within=2)],
        created_runs=[RUN],
        runs=run_seen(),
        orchestrators=orchestrator("COMPLETED"),
    )


def told(**more: Any) -> Told:
    """Return an answer to a callback."""
    known: dict[str, Any] = {"task": TASK, "workspace": SPACE, "attempt": 1, "turn": 1, "status": 200}
    return Told(**(known | more))


def inbox(**more: Any) -> dict[str, Any]:
    """Return an inbox row."""
    return {"workspace_id": SPACE, "task_id": TASK, "attempt": 1, "body": {}, "delivered_at": NOW} | more


def effect(what: str) -> Effect:
    """Return a command's line."""
    return Effect(task=TASK, attempt=1, turn=1, workspace=SPACE, what=what)


def row(**more: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the task's row with something else in it."""
    return {TASK: dict(whole().tasks[TASK]) | more}


def execution(**more: Any) -> Mapping[str, Execution]:
    """Return the execution with something else in it."""
    return {name: replace(each, **more) for name, each in whole().executions.items()}


def entries(**more: Any) -> list[dict[str, Any]]:
    """Return the ledger with something else in each entry."""
    return [dict(entry) | more for entry in whole().ledger]


def log_with(kind: EventType, step: Step | None = None, **data: Any) -> Mapping[str, list[Event]]:
    """Return the log with one more event after its end."""
    return {TASK: log_of(*((each.type, each.step, each.data) for each in LOG), (kind, step, data))}


WRONG: dict[str, tuple[int, dict[str, Any]]] = {
    "nothing was created": (1, {"created": [], "created_runs": []}),
    "a run that is gone": (1, {"created_runs": ["other"]}),
    "a deletion of a run that was acknowledged": (1, {"deleted": frozenset({RUN})}),
    "a run that has not ended": (1, {"runs": run_seen(row={"status": "in_progress"})}),
    "a member that has not ended": (1, {"runs": run_seen(members={"a": "in_progress"})}),
    "a task of a run that is gone": (1, {"runs": {}, "created_runs": []}),
    "a task that its run has left behind": (1, {"tasks": row(status="in_progress"), "created": []}),
    "a gap in a run's log": (3, {"runs": run_seen(log=[*RUN_LOG[:2], *RUN_LOG[3:]])}),
    "a run that is not its log": (3, {"runs": run_seen(row={"superstep": 7})}),
    "a member that is not its log": (3, {"runs": run_seen(members={"a": "failed"})}),
    "a run's log that is not legal": (3, {"runs": run_seen(log=[*RUN_LOG[:4], (5, RUN_LOG[1][1])])}),
    "a run that failed there": (4, {"orchestrators": orchestrator("FAILED")}),
    "a run that runs there": (4, {"orchestrators": orchestrator("RUNNING")}),
    "a run unknown there": (4, {"orchestrators": {}}),
    "a run unknown here": (4, {"runs": {}}),
    "a run that is still to be told": (7, {"runs": run_seen(intents=["ended"])}),
    "a run's problem": (8, {"orchestrators": orchestrator("COMPLETED", problems=("category=WorkflowTaskFailed",))}),
    "a deletion that was acknowledged": (1, {"deleted": frozenset({TASK})}),
    "no answer": (1, {"created": [Created(item="i", task=None)]}),
    "acknowledged and gone": (1, {"created": [Created(item="i", task="other")]}),
    "not ended": (1, {"tasks": row(status="in_progress")}),
    "not ended, and nobody was told": (1, {"tasks": row(status="queued"), "created": []}),
    "two agents in turn": (2, {"effects": [*whole().effects, effect("start")]}),
    "two agents at once": (2, {"effects": [*whole().effects, effect("double")]}),
    "no agent": (2, {"effects": []}),
    "two executions": (2, {"executions": execution(runs=2)}),
    "a gap": (3, {"logs": {TASK: [*LOG[:4], *LOG[5:]]}}),
    "a row that is not its log": (3, {"tasks": row(step="running")}),
    "an event after the end": (3, {"logs": log_with(EventType.DEBUG_TRACE), "tasks": row(last_seq=10)}),
    "a step that does not follow": (
        3,
        {
            "logs": {
                TASK: log_of(
                    *((e.type, Step.RUNNING if e.seq == 4 else e.step, e.data) for e in LOG[:4]),
                    (EventType.STEP_STARTED, Step.WORKSPACE_READY, {}),
                )
            }
        },
    ),
    "failed there": (4, {"executions": execution(status="FAILED")}),
    "cancelled there": (4, {"executions": execution(status="CANCELED")}),
    "terminated there": (4, {"executions": execution(status="TERMINATED")}),
    "running there": (4, {"executions": execution(status="RUNNING")}),
    "unknown there": (4, {"executions": {}}),
    "unknown here": (
        4,
        {"executions": {**whole().executions, "task-x-a1": Execution(workflow_id="task-x-a1", status="COMPLETED")}},
    ),
    "a reader that missed one": (
        5,
        {"reads": [Read(reader="r", task=TASK, seqs=(1, 3), types=("task.created", "step.started"))]},
    ),
    "a forgery that was taken": (6, {"told": [told(kind="ready", nonce="x", ours=False)]}),
    "a refusal with an effect": (6, {"told": [told(kind="ready", nonce="r", status=409)]}),
    "two contents": (6, {"told": [*whole().told, told(kind="ready", nonce="x")]}),
    "ready without a row": (6, {"inbox": []}),
    "an open entry": (7, {"ledger": entries(state="created")}),
    "a workspace without an entry": (7, {"ledger": []}),
    "a workspace that was not released": (7, {"workspaces": [dict(whole().workspaces[0]) | {"status": "stopping"}]}),
    "a slot that nobody holds": (7, {"nodes": [dict(whole().nodes[0]) | {"used": 1}]}),
    "a waiter that is over": (7, {"waiters": [{"task_id": TASK, "attempt": 1, "granted": "n", "labels": {}}]}),
    "an intent that is over": (7, {"outbox": [{"task_id": TASK, "attempt": 1, "kind": "start"}]}),
    "an undelivered callback": (7, {"inbox": [inbox(kind="ready", delivered_at=None)]}),
    "a directory": (7, {"places": [Place(node="n", directories=frozenset({SPACE}))]}),
    "a container": (7, {"places": [Place(node="n", containers=frozenset({SPACE}))]}),
    "a container of nobody": (7, {"places": [Place(node="n", containers=frozenset({"x"}))]}),
    "a directory of nobody": (7, {"places": [Place(node="n", directories=frozenset({"x"}))]}),
    "a process": (7, {"places": [Place(node="n", processes={SPACE: [1]})]}),
    "a grave of nobody": (7, {"places": [Place(node="n", buried=frozenset({"x"}))]}),
    "a problem": (8, {"executions": execution(problems=("category=WorkflowTaskFailed",))}),
    "too slow": (9, {"recoveries": [Recovery(fault="a death", took=3, within=2)]}),
}


def test_a_whole_snapshot_has_no_violation() -> None:
    """Nine invariants, nothing found."""
    assert check(whole()) == {name: [] for name in INVARIANTS}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    """At least one violation of that invariant."""
    number, wrong = WRONG[name]
    assert check(replace(whole(), **wrong))[name_of(number)]


def test_a_forced_end_was_terminated() -> None:
    """What the reconciler ended is TERMINATED in the engine, and not COMPLETED."""
    last = LOG[-1].model_copy(update={"type": EventType.TASK_CANCELLED, "source": EventSource.RECONCILER})
    forced = replace(whole(), logs={TASK: [*LOG[:-1], last]})
    assert check(forced)[name_of(4)]
    assert not check(replace(forced, executions=execution(status="TERMINATED")))[name_of(4)]


def test_who_was_overtaken_by_a_later_attempt_may_say_so() -> None:
    """An attempt that is cancelled here is FAILED there as superseded, where a later attempt is, and only there."""
    last = LOG[-1].model_copy(update={"type": EventType.TASK_CANCELLED})
    later = last.model_copy(update={"type": EventType.TASK_QUEUED, "attempt": 2, "seq": last.seq + 1})
    engine = execution(status="FAILED", error="superseded")
    alone = replace(whole(), logs={TASK: [*LOG[:-1], last]}, executions=engine)
    assert check(alone)[name_of(4)]
    assert not check(replace(alone, logs={TASK: [*LOG[:-1], last, later]}))[name_of(4)]


def test_who_was_terminated_while_its_worker_was_frozen_had_no_problem_of_its_own() -> None:
    """A task that nobody answers is a problem of who runs, and none of who was terminated meanwhile."""
    unanswered = ("category=WorkflowTaskTimedOut", "cause=WorkflowTaskTimedOutCauseStartToClose")
    found = {
        status: check(replace(whole(), executions=execution(status=status, problems=unanswered)))[name_of(8)] != []
        for status in ("RUNNING", "TERMINATED")
    }
    assert found == {"RUNNING": True, "TERMINATED": False}


def engine_said(action: str, when: int, workspace: str, execution: str = "") -> Mapping[str, Any]:
    """Return an event of an engine."""
    labels = {container.TASK: TASK, container.WORKSPACE: workspace, "execID": execution}
    return {"Action": action, "timeNano": when, "Actor": {"Attributes": labels}}


@pytest.mark.parametrize(
    ("end", "found"),
    [
        (engine_said("exec_die", 2, "a", "1"), 0),
        (engine_said("die", 2, "a"), 0),
        (engine_said("exec_die", 4, "a", "1"), 1),
        (engine_said("exec_die", 2, "a", "a preparation's"), 1),
    ],
)
def test_two_agents_at_once_are_found_in_an_engines_record(end: Mapping[str, Any], found: int) -> None:
    """The second one may begin when the first has ended, or its container has; what else ended is no end of it."""
    agent = "exec_start: python3 program agent control turn-1"
    events = [engine_said(agent, 1, "a", "1"), end, engine_said(agent, 3, "b", "2"), engine_said("die", 5, "a")]
    assert len(list(record.doubles(events))) == found
