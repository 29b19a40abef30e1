"""Takes the snapshot: rows, logs, executions, disks, process tables, and the lines that commands wrote."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import psutil
from sqlalchemy import select
from temporalio.api.enums.v1 import EventType as HistoryEvent
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import SearchAttributeKey
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from domain.events import Event, NewEvent
from domain.names import RUN_ORCHESTRATOR, NodeId, TaskId, workflow_id
from domain.spec import Provider
from store.engine import Database
from store.models import (
    Base,
    Callback,
    EventRow,
    Ledger,
    LogChunk,
    Node,
    Outbox,
    Run,
    RunEvent,
    RunIntent,
    RunMember,
    Task,
    Waiter,
    Workspace,
)
from tests.containers import record
from tests.faults.invariants.logs import out_of_order
from tests.faults.snapshot import Created, Effect, Execution, Place, Read, Recovery, Row, SeenRun, Snapshot, Told
from workspaces.processes import MARK

PROBLEMS: Final = SearchAttributeKey.for_keyword_list("TemporalReportedProblems")

# The engine reports a problem after more failures in a row; a task that has failed this often will.
STUCK_TRIES: Final = 3


@dataclass
class Witness:
    """What those outside were told, collected while it happens."""

    created: list[Created] = field(default_factory=list)
    created_runs: list[str] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    # Tasks and runs whose deletion was asked for, and of those: whose was acknowledged.
    deleting: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)


async def collect(
    database: Database,
    witness: Witness | None = None,
    *,
    client: Client | None = None,
    nodes: Mapping[NodeId, Path] | None = None,
    effects: Path | None = None,
    engine: str | None = None,
) -> Snapshot:
    """Return what there is now; without a client or nodes there is nothing of them in it."""
    seen = witness or Witness()
    # Before the rows: an entry of the ledger is committed before its workspace is made.
    there = places(nodes or {}, engine)
    async with database.read() as connection:

        async def rows(table: type[Base]) -> list[Row]:
            return [dict(row) for row in (await connection.execute(select(table.__table__))).mappings()]

        tasks = {row["id"]: row for row in await rows(Task)}
        logs: dict[str, list[Event]] = defaultdict(list)
        ordered = select(EventRow.__table__).order_by(EventRow.task_id, EventRow.seq)
        for row in (await connection.execute(ordered)).mappings():
            known = {name: value for name, value in row.items() if name != "key"}
            logs[row["task_id"]].append(Event.model_validate({**known, "run_id": None}))
        ledger, workspaces, registered = await rows(Ledger), await rows(Workspace), await rows(Node)
        waiters, outbox, inbox = await rows(Waiter), await rows(Outbox), await rows(Callback)
        runs, members, intents = await rows(Run), await rows(RunMember), await rows(RunIntent)
        run_events, printed = await rows(RunEvent), await rows(LogChunk) if engine else []
    names = [
        workflow_id(TaskId(task), number) for task, row in tasks.items() for number in range(1, row["attempt"] + 1)
    ]
    return Snapshot(
        created=seen.created,
        told=seen.told,
        reads=seen.reads,
        recoveries=seen.recoveries,
        deleting=seen.deleting,
        deleted=seen.deleted,
        tasks=tasks,
        logs=logs,
        ledger=ledger,
        workspaces=workspaces,
        nodes=registered,
        waiters=waiters,
        outbox=outbox,
        inbox=inbox,
        executions=await executions(client, names, _detours(logs)) if client else {},
        created_runs=seen.created_runs,
        runs=_runs(runs, members, run_events, intents),
        orchestrators=await orchestrators(client) if client else {},
        effects=[*(effects_in(effects) if effects else ()), *effects_printed(tasks, printed)],
        places=there,
    )


def _runs(
    rows: Sequence[Row], members: Sequence[Row], events: Sequence[Row], intents: Sequence[Row]
) -> dict[str, SeenRun]:
    return {
        row["id"]: SeenRun(
            row=row,
            members={member["name"]: member["status"] for member in members if member["run_id"] == row["id"]},
            log=[
                (event["seq"], NewEvent.model_validate(event))
                for event in sorted(events, key=lambda event: int(event["seq"]))
                if event["run_id"] == row["id"]
            ],
            intents=[intent["kind"] for intent in intents if intent["run_id"] == row["id"]],
        )
        for row in rows
    }


def _detours(logs: Mapping[str, Sequence[Event]]) -> frozenset[str]:
    """Return the workflows whose logs do not follow the table of steps: their histories may say why."""
    return frozenset(
        workflow_id(TaskId(task), attempt) for task, log in logs.items() for attempt, _ in out_of_order(log)
    )


async def executions(client: Client, names: Sequence[str], detours: AbstractSet[str]) -> dict[str, Execution]:
    """Describe these workflows by id, and those that the engine lists beside them."""
    runs: Counter[str] = Counter()
    async for listed in client.list_workflows("WorkflowType = 'TaskRunner'"):
        if listed.status is not WorkflowExecutionStatus.CONTINUED_AS_NEW:
            runs[listed.id] += 1
    found = {}
    for name in {*names, *runs}:
        with contextlib.suppress(RPCError):  # never started
            redone = name in detours and await _redone(client, name)
            found[name] = replace(await _described(client, name), runs=max(runs[name], 1), redone=redone)
    return found


async def orchestrators(client: Client) -> dict[str, Execution]:
    """Describe the newest execution of each run's workflow that the engine lists."""
    found = {}
    names = {listed.id async for listed in client.list_workflows(f"WorkflowType = '{RUN_ORCHESTRATOR}'")}
    for name in names:
        with contextlib.suppress(RPCError):  # deleted
            found[name] = await _described(client, name)
    return found


async def _described(client: Client, name: str) -> Execution:
    """Describe the newest execution with this id. Raises RPCError when there is none."""
    described = await client.get_workflow_handle(name).describe()
    status = described.status.name if described.status else "UNKNOWN"
    error = await _error(client, name) if status == "FAILED" else None
    problems = list(described.typed_search_attributes.get(PROBLEMS) or ())
    tries = described.raw_description.pending_workflow_task.attempt
    # The engine still shows the last task of an execution that was terminated.
    if status == "RUNNING" and tries >= STUCK_TRIES:
        problems.append(f"a workflow task in its try {tries}")
    return Execution(workflow_id=name, status=status, error=error, problems=tuple(problems))


async def _redone(client: Client, name: str) -> bool:
    """Say whether a workflow task of this history failed or timed out."""
    history = await client.get_workflow_handle(name).fetch_history()
    again = (HistoryEvent.EVENT_TYPE_WORKFLOW_TASK_FAILED, HistoryEvent.EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT)
    return any(event.event_type in again for event in history.events)


async def _error(client: Client, name: str) -> str | None:
    try:
        await client.get_workflow_handle(name).result()
    except WorkflowFailureError as failure:
        cause = failure.cause
        return cause.type if isinstance(cause, ApplicationError) else type(cause).__name__
    return None


def effects_in(file: Path) -> list[Effect]:
    """Read the lines of commands: task, attempt, turn, workspace, what."""
    return _effects(file.read_text().splitlines()) if file.exists() else []


def _effects(lines: Iterable[str]) -> list[Effect]:
    return [
        Effect(task=task, attempt=int(attempt), turn=int(turn), workspace=workspace, what=what)
        for task, attempt, turn, workspace, what in (line.split() for line in lines)
    ]


def effects_printed(tasks: Mapping[str, Row], chunks: Sequence[Row]) -> list[Effect]:
    """Read the same lines in the output of containers, among others."""
    outputs: dict[tuple[str, int], bytes] = defaultdict(bytes)
    for chunk in sorted(chunks, key=lambda chunk: int(chunk["position"])):
        outputs[chunk["task_id"], chunk["attempt"]] += chunk["data"]
    found = []
    for (task, attempt), output in outputs.items():
        if tasks[task]["spec"].get("provider") == Provider.DOCKER:
            found += _effects(line for line in output.decode().splitlines() if line.startswith(f"{task} {attempt} "))
    return found


def places(nodes: Mapping[NodeId, Path], engine: str | None = None) -> list[Place]:
    """Look at each node's disk and engine, and for the processes of the workspaces that are there or were."""
    processes: dict[str, list[int]] = defaultdict(list)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            marked = process.environ().get(MARK)
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                processes[marked].append(process.pid)
    looked = []
    for node, path in nodes.items():
        roots = (path / "workspaces", path / "containers")
        directories = frozenset[str]().union(*map(_names, roots))
        buried = frozenset[str]().union(*(_names(root / ".destroyed", folders=False) for root in roots))
        containers = frozenset(record.of_node(engine, node)) if engine else frozenset[str]()
        here = {workspace: pids for workspace, pids in processes.items() if workspace in directories | buried}
        looked.append(Place(node=node, directories=directories, containers=containers, buried=buried, processes=here))
    return looked


def _names(folder: Path, *, folders: bool = True) -> frozenset[str]:
    if not folder.is_dir():
        return frozenset()
    return frozenset(
        entry.name for entry in folder.iterdir() if entry.is_dir() is folders and not entry.name.startswith(".")
    )


def rows_of(snapshot: Snapshot, **wanted: Any) -> list[Row]:
    """Return the tasks whose rows have these values."""
    return [row for row in snapshot.tasks.values() if all(row[name] == value for name, value in wanted.items())]
