"""The facts by which a task is explained: one row each, with its start intent and its place in the queue."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.facts import Facts, StartIntent
from domain.lifecycle import Step, TaskStatus
from domain.names import NodeId, ProjectId, TaskId
from domain.policy import Budgets
from domain.queue import Waiting, in_order
from domain.spec import Retry, Timeouts

COLUMNS: Final = """
t.id, t.status, t.step, t.attempt, t.version, t.updated_at, t.step_started_at, t.cancel_requested_at,
t.paused, t.pause_reason, t.paused_at, t.paused_until, t.paused_seconds,
t.node_id, t.spec -> 'timeouts' AS timeouts, t.spec -> 'retry' AS retry,
t.spec ->> 'provider' = 'external' AS external, t.spec -> 'followup' = 'true' AS followup,
CASE jsonb_typeof(t.spec -> 'attachments') WHEN 'array' THEN jsonb_array_length(t.spec -> 'attachments') END
  AS attachments,
s.due_at, s.tries, s.last_error, f.due_at AS force_due_at, clock_timestamp() AS read_at
"""
INTENTS: Final = """
LEFT JOIN LATERAL (
  SELECT due_at, tries, last_error FROM outbox
  WHERE task_id = t.id AND attempt = t.attempt AND kind = 'start' ORDER BY id LIMIT 1
) s ON true
LEFT JOIN LATERAL (
  SELECT due_at FROM outbox
  WHERE t.cancel_requested_at IS NOT NULL AND task_id = t.id AND attempt = t.attempt AND kind = 'force' LIMIT 1
) f ON true
"""
# Who may take a slot of the same nodes as this task, as `grant_slots` says it, and is not less urgent.
_RIVALS: Final = text("""
SELECT w.task_id, w.project, w.priority, w.since, coalesce(held.slots, 0) AS held, turn.taken_at AS turn
FROM waiters own
JOIN tasks mine ON mine.id = own.task_id
JOIN waiters w ON w.granted IS NULL AND w.priority <= own.priority
JOIN tasks t ON t.id = w.task_id AND t.attempt = w.attempt AND t.status = 'queued' AND t.cancel_requested_at IS NULL
  AND ((w.labels, w.pinned, t.spec -> 'provider') IS NOT DISTINCT FROM (own.labels, own.pinned, mine.spec -> 'provider')
    OR EXISTS (SELECT FROM nodes n WHERE serves(n, own.pinned, own.labels, mine.spec ->> 'provider')
                                     AND serves(n, w.pinned, w.labels, t.spec ->> 'provider')))
LEFT JOIN (
  SELECT project, count(*) AS slots FROM ledger WHERE kind = 'slot' AND state <> 'released' GROUP BY project
) held ON held.project = w.project
LEFT JOIN (
  SELECT p.project, (SELECT max(created_at) FROM ledger l WHERE l.kind = 'slot' AND l.project = p.project) AS taken_at
  FROM (SELECT DISTINCT project FROM waiters WHERE granted IS NULL) p
) turn ON turn.project = w.project
WHERE own.task_id = :task AND own.attempt = :attempt
""")
# What it asks of a node, if no node that takes tasks serves it.
_UNSERVED: Final = text("""
SELECT own.labels, own.pinned, coalesce(mine.spec ->> 'provider', 'local') AS provider
FROM waiters own JOIN tasks mine ON mine.id = own.task_id
WHERE own.task_id = :task AND own.attempt = :attempt AND NOT EXISTS (
  SELECT FROM nodes n WHERE n.status IN ('ready', 'warm', 'provisioning')
    AND serves(n, own.pinned, own.labels, mine.spec ->> 'provider'))
""")
# Earlier visits of `running` in this attempt, and the last output or progress since this one began.
_COMMAND: Final = text("""
SELECT coalesce(sum(ended.ts - began.ts), interval '0') AS ran,
       (SELECT coalesce(w.active_at, t.step_started_at) FROM tasks t LEFT JOIN workspaces w ON w.id = t.workspace_id
        WHERE t.id = :task) AS active_at
FROM events began
JOIN events ended ON ended.task_id = began.task_id AND ended.attempt = began.attempt AND ended.step = began.step
  AND ended.type = 'step.finished' AND ended.key = replace(began.key, 'step.started', 'step.finished')
WHERE began.task_id = :task AND began.attempt = :attempt AND began.type = 'step.started' AND began.step = 'running'
""")
_OF_TASK: Final = text(f"SELECT {COLUMNS} FROM tasks t {INTENTS} WHERE t.id = :task AND t.project = :project")  # noqa: S608


async def of_task(connection: AsyncConnection, project: ProjectId, task: str, *, budgets: Budgets) -> Facts | None:
    """Return the facts of a task of this project; None when there is none."""
    row = (await connection.execute(_OF_TASK, {"task": task, "project": project})).mappings().one_or_none()
    if row is None:
        return None
    found, named = read(dict(row), budgets=budgets), {"task": task, "attempt": row["attempt"]}
    if found.step is Step.WAITING_FOR_NODE_CAPACITY:
        rows = (await connection.execute(_RIVALS, named)).mappings()
        order = enumerate(in_order(Waiting(**row) for row in rows), start=1)
        place = next((place for place, waiting in order if waiting == task), None)
        asks = (await connection.execute(_UNSERVED, named)).mappings().one_or_none()
        return replace(found, queue_position=place, unserved=_asked(**asks) if asks else ())
    if found.step is Step.RUNNING:
        command = (await connection.execute(_COMMAND, named)).one()
        return replace(found, ran=command.ran, active_at=command.active_at)
    return found


def read(row: Mapping[str, Any], *, budgets: Budgets) -> Facts:
    """Return the facts of a row of COLUMNS. Raises ValueError for one that this version cannot read.

    Without what only `of_task` looks up a deadline is never told too early.
    """
    start = None
    if row["due_at"] is not None:
        start = StartIntent(due_at=row["due_at"], tries=row["tries"], last_error=row["last_error"])
    return Facts(
        task_id=TaskId(row["id"]),
        status=TaskStatus(row["status"]),
        step=Step(row["step"]) if row["step"] else None,
        attempt=row["attempt"],
        version=row["version"],
        changed_at=row["updated_at"],
        read_at=row["read_at"],
        step_started_at=row["step_started_at"],
        cancel_requested_at=row["cancel_requested_at"],
        force_due_at=row["force_due_at"],
        paused=row["paused"],
        pause_reason=row["pause_reason"],
        paused_at=row["paused_at"],
        paused_until=row["paused_until"],
        paused_for=timedelta(seconds=row["paused_seconds"]),
        node_id=NodeId(row["node_id"]) if row["node_id"] else None,
        external=bool(row["external"]),
        followup=bool(row["followup"]),
        attachments=row["attachments"] or 0,
        budgets=_budgets(budgets, json.dumps(row["timeouts"])) if row["timeouts"] else budgets,
        retry=_retry(json.dumps(row["retry"])),
        start=start,
    )


def _asked(labels: Mapping[str, str], pinned: str | None, provider: str) -> tuple[str, ...]:
    """Return what a task asks a node for, as words for a person."""
    if pinned:
        return (f"node {pinned}, where its workspace was kept",)
    return (f"provider {provider}", *(f"label {name}={value}" for name, value in sorted(labels.items())))


# Most tasks have the same few: a sweep reads thousands of rows.
@lru_cache(maxsize=1024)
def _budgets(budgets: Budgets, timeouts: str) -> Budgets:
    return budgets.overridden(Timeouts.model_validate_json(timeouts))


@lru_cache(maxsize=1024)
def _retry(retry: str) -> Retry:
    return Retry.model_validate(json.loads(retry) or {})
