"""Tasks: the row that everybody reads, how it is made, and the lists of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, bindparam, case, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.lifecycle import TERMINAL, TaskStatus, WorkspaceStatus
from domain.names import ProjectId, RunId, TaskId
from domain.spec import TaskSpec, json_of
from store.models import OutboxKind, Task, Workspace
from store.outbox import Intent

# What callers see of a row; the rest is the workflow's own.
COLUMNS: Final = (
    Task.id,
    Task.project,
    Task.run_id,
    Task.member,
    Task.item,
    Task.name,
    Task.status,
    Task.step,
    Task.step_started_at,
    Task.outcome,
    Task.attempt,
    Task.max_attempts,
    Task.paused,
    Task.exhausted,
    Task.pause_reason,
    Task.pause_token,
    Task.paused_at,
    Task.paused_until,
    Task.paused_seconds,
    Task.breakpoints,
    Task.priority,
    Task.labels,
    Task.spec,
    Task.result,
    Task.error,
    Task.workspace_id,
    Task.node_id,
    Task.version,
    Task.last_seq,
    Task.cancel_requested_at,
    Task.created_at,
    Task.updated_at,
    Task.started_at,
    Task.finished_at,
    Task.traceparent,
)
# Made once: SQLAlchemy matches the columns of a statement anew for every new object.
_GET: Final = select(*COLUMNS).where(Task.id == bindparam("task"), Task.project == bindparam("project"))
_LOCK: Final = _GET.with_for_update()
FIRST_QUEUED: Final = "1:task.queued"

# Rows, first events and start intents in one statement: it is a transaction of its own, or rides in one.
_CREATE: Final = text("""
WITH given AS (
  SELECT * FROM jsonb_to_recordset(CAST(:tasks AS jsonb)) AS _ (
    id text, run_id text, member text, item int, name text, max_attempts int, priority int, labels jsonb, spec jsonb,
    breakpoints jsonb, facts jsonb
  )
), created AS (
  INSERT INTO tasks (id, project, run_id, member, item, name, status, max_attempts, priority, labels, spec, breakpoints,
                     last_seq, created_at, updated_at, traceparent)
  SELECT id, :project, run_id, member, item, name, CASE WHEN :start THEN 'queued' ELSE 'ready' END, max_attempts,
         priority, labels, spec, breakpoints, CASE WHEN :start THEN 2 ELSE 1 END, :now, :now, :traceparent
  FROM given
), first AS (
  SELECT id, seq, type, data, key
  FROM given, LATERAL (
    VALUES (1, 'task.created', facts, 'api:created'), (2, 'task.queued', '{}', '1:task.queued')
  ) AS e (seq, type, data, key)
  WHERE seq = 1 OR :start
), logged AS (
  INSERT INTO events (task_id, seq, attempt, ts, type, source, data, key)
  SELECT id, seq, 1, :now, type, 'api', data, key FROM first
), delivered AS (
  INSERT INTO deliveries (id, webhook_id, task_id, seq)
  SELECT new_uuid7(), w.id, first.id, seq
  FROM (
    SELECT id, events FROM webhooks
    WHERE project = :project AND disabled_at IS NULL AND events && ARRAY['task.created', 'task.queued']
    FOR KEY SHARE
  ) w
  JOIN first ON type = ANY(w.events)
)
INSERT INTO outbox (kind, task_id, attempt, leased_by, leased_until)
SELECT 'start', id, 1, :lease_to, clock_timestamp() + :lease FROM given WHERE :start
RETURNING task_id, id
""")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What a list is narrowed to; None and the empty tuple leave a column alone."""

    status: Sequence[str] = ()
    step: Sequence[str] = ()
    paused: bool | None = None
    exhausted: bool | None = None
    run_id: str | None = None
    member: str | None = None
    labels: dict[str, str] | None = None
    q: str | None = None
    created_after: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Created:
    """A new row, as a later read would give it, with its start intent if it was started."""

    row: dict[str, Any]
    intent: Intent | None


@dataclass(frozen=True, kw_only=True)
class Belonging:
    """Whose task it is: of a member of a run, or of one child of its fan-out."""

    run_id: RunId
    member: str
    item: int | None = None


@dataclass(frozen=True, kw_only=True)
class New:
    """A task that is to be written."""

    task: TaskId
    spec: TaskSpec
    of: Belonging | None = None


async def create(
    connection: AsyncConnection,
    *,
    task: TaskId,
    project: ProjectId,
    spec: TaskSpec,
    start: bool,
    now: datetime,
    lease_to: str,
    lease: timedelta,
    traceparent: str | None = None,
) -> Created:
    """Write a task, its first events and (unless `start` is False) its start intent, leased to the writer."""
    [created] = await create_all(
        connection,
        [New(task=task, spec=spec)],
        project=project,
        start=start,
        now=now,
        lease_to=lease_to,
        lease=lease,
        traceparent=traceparent,
    )
    return created


async def create_all(
    connection: AsyncConnection,
    new: Sequence[New],
    *,
    project: ProjectId,
    start: bool,
    now: datetime,
    lease_to: str,
    lease: timedelta,
    traceparent: str | None = None,
) -> list[Created]:
    """Write tasks as `create` does, all in one statement; returns them in the same order."""
    own = [_own(each) for each in new]
    facts = [{"name": each.spec.title, "provider": each.spec.provider, "start": start} for each in new]
    parameters = {
        "tasks": json.dumps([row | {"facts": fact} for row, fact in zip(own, facts, strict=True)]),
        "project": project,
        "start": start,
        "now": now,
        "lease_to": lease_to,
        "lease": lease,
        "traceparent": traceparent,
    }
    numbers = {row.task_id: row.id for row in await connection.execute(_CREATE, parameters)}
    shared = dict.fromkeys(column.key for column in COLUMNS) | {
        "project": project,
        "status": TaskStatus.QUEUED if start else TaskStatus.READY,
        "attempt": 1,
        "paused": False,
        "paused_seconds": 0.0,
        "exhausted": False,
        "version": 0,
        "last_seq": 2 if start else 1,
        "created_at": now,
        "updated_at": now,
        "traceparent": traceparent,
    }
    return [Created(row=shared | row, intent=_start_intent(row["id"], numbers)) for row in own]


def _start_intent(task: TaskId, numbers: Mapping[str, int]) -> Intent | None:
    return Intent(id=numbers[task], kind=OutboxKind.START, task_id=task, attempt=1) if task in numbers else None


def _own(new: New) -> dict[str, Any]:
    """Return what a row has of its own."""
    spec, of = new.spec, new.of
    plain = json_of(spec)
    plain.pop("start", None)
    return {
        "id": new.task,
        "run_id": of.run_id if of else None,
        "member": of.member if of else None,
        "item": of.item if of else None,
        "name": spec.title,
        "max_attempts": spec.retry.max_attempts,
        "breakpoints": spec.breakpoints.model_dump(mode="json") if spec.breakpoints else None,
        "priority": spec.priority,
        "labels": spec.labels,
        "spec": plain,
    }


async def get(
    connection: AsyncConnection, project: ProjectId, task: str, *, for_update: bool = False
) -> dict[str, Any] | None:
    """Return a task of this project, locked if it is about to be written."""
    statement = _LOCK if for_update else _GET
    row = (await connection.execute(statement, {"task": task, "project": project})).mappings().one_or_none()
    return dict(row) if row else None


async def page(
    connection: AsyncConnection, project: ProjectId, filters: Filters, *, before: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` tasks, newest first, that come after the one with the id `before`."""
    statement = _narrowed(select(*COLUMNS).where(Task.project == project), filters)
    if before is not None:
        statement = statement.where(Task.id < before)
    statement = statement.order_by(Task.id.desc()).limit(limit)
    return [dict(row) for row in (await connection.execute(statement)).mappings()]


def _narrowed(statement: Select[Any], filters: Filters) -> Select[Any]:
    """Add a condition for each filter that was given."""
    conditions: dict[str, Callable[[Any], ColumnElement[bool]]] = {
        "status": Task.status.in_,
        "step": Task.step.in_,
        "paused": Task.paused.is_,
        "exhausted": Task.exhausted.is_,
        "run_id": lambda run: Task.run_id == run,
        "member": lambda name: Task.member == name,
        "labels": Task.labels.contains,
        "q": lambda part: Task.name.icontains(part, autoescape=True),
        "created_after": lambda moment: Task.created_at > moment,
    }
    given = {name: value for name in conditions if (value := getattr(filters, name)) not in (None, (), [], "")}
    return statement.where(*(conditions[name](value) for name, value in given.items()))


async def start_argument(connection: AsyncConnection, task: TaskId, attempt: int) -> dict[str, Any] | None:
    """Return what a TaskRunner's input is made of, or None when the attempt has ended or the task was deleted.

    An attempt that owns a workspace before it was started goes on in it: a retry has given it that of the one before.
    One that has written already has made its own; its start comes again because a reply was lost, and changes nothing.
    """
    resume = func.jsonb_build_object("workspace_id", Workspace.id, "node_id", Workspace.node_id)
    owned = and_(
        Workspace.task_id == Task.id,
        Workspace.attempt == attempt,
        Workspace.status == WorkspaceStatus.READY.value,
        Task.version == 0,
    )
    statement = (
        select(
            Task.id.label("task_id"),
            Task.project,
            Task.run_id,
            Task.name,
            Task.spec,
            Task.pause_token.label("pause"),
            Task.pause_reason,
            Task.breakpoints,
            Task.traceparent,
            case((Workspace.id.is_not(None), resume)).label("resume"),
        )
        .join(Workspace, owned, isouter=True)
        .where(*_is_live(task, attempt))
    )
    row = (await connection.execute(statement)).mappings().one_or_none()
    return {**row, "attempt": attempt} if row else None


async def is_live(connection: AsyncConnection, task: TaskId, attempt: int) -> bool:
    """Return whether this attempt is the task's current one and has not ended."""
    statement = select(Task.id).where(*_is_live(task, attempt))
    return (await connection.execute(statement)).scalar_one_or_none() is not None


def _is_live(task: TaskId, attempt: int) -> tuple[ColumnElement[bool], ...]:
    return Task.id == task, Task.attempt == attempt, Task.status.not_in([status.value for status in TERMINAL])
