"""The facts by which a task is explained: one row each, with its start intent and its place in the queue."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.explain import Facts, StartIntent
from domain.lifecycle import Step, TaskStatus
from domain.names import NodeId, ProjectId, TaskId
from domain.policy import Budgets
from domain.spec import Retry, Timeouts

COLUMNS: Final = """
t.id, t.status, t.step, t.attempt, t.version, t.updated_at, t.step_started_at, t.started_at, t.cancel_requested_at,
t.paused, t.pause_reason, t.node_id, t.spec -> 'timeouts' AS timeouts, t.spec -> 'retry' AS retry,
t.spec ->> 'provider' = 'external' AS external, t.spec -> 'followup' = 'true' AS followup,
CASE jsonb_typeof(t.spec -> 'attachments') WHEN 'array' THEN jsonb_array_length(t.spec -> 'attachments') END
  AS attachments,
s.due_at, s.tries, s.last_error
"""
START: Final = """
LEFT JOIN LATERAL (
  SELECT due_at, tries, last_error FROM outbox
  WHERE task_id = t.id AND attempt = t.attempt AND kind = 'start' ORDER BY id LIMIT 1
) s ON true
"""
# The order of `grant_slots`, among those who ask for the same nodes.
_PLACE: Final = """
SELECT place FROM (
  SELECT w.task_id, w.attempt, row_number() OVER (ORDER BY w.priority, coalesce(held.slots, 0), w.since) AS place
  FROM waiters w
  LEFT JOIN (
    SELECT project, count(*) AS slots FROM ledger WHERE kind = 'slot' AND state <> 'released' GROUP BY project
  ) held ON held.project = w.project
  WHERE w.granted IS NULL
    AND w.labels = (SELECT labels FROM waiters own WHERE own.task_id = :task AND own.attempt = :attempt)
) queue
WHERE task_id = :task AND attempt = :attempt
"""
_OF_TASK: Final = text(f"SELECT {COLUMNS} FROM tasks t {START} WHERE t.id = :task AND t.project = :project")  # noqa: S608
_POSITION: Final = text(_PLACE)


async def of_task(connection: AsyncConnection, project: ProjectId, task: str, *, budgets: Budgets) -> Facts | None:
    """Return the facts of a task of this project; None when there is none."""
    row = (await connection.execute(_OF_TASK, {"task": task, "project": project})).mappings().one_or_none()
    if row is None:
        return None
    position = None
    if row["step"] == Step.WAITING_FOR_NODE_CAPACITY:
        place = await connection.execute(_POSITION, {"task": task, "attempt": row["attempt"]})
        position = place.scalar_one_or_none()
    return read(dict(row), budgets=budgets, queue_position=position)


def read(row: Mapping[str, Any], *, budgets: Budgets, queue_position: int | None = None) -> Facts:
    """Return the facts of a row of COLUMNS. Raises ValueError for one that this version cannot read."""
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
        step_started_at=row["step_started_at"],
        started_at=row["started_at"],
        cancel_requested_at=row["cancel_requested_at"],
        paused=row["paused"],
        pause_reason=row["pause_reason"],
        node_id=NodeId(row["node_id"]) if row["node_id"] else None,
        external=bool(row["external"]),
        followup=bool(row["followup"]),
        attachments=row["attachments"] or 0,
        budgets=_budgets(budgets, json.dumps(row["timeouts"])) if row["timeouts"] else budgets,
        retry=_retry(json.dumps(row["retry"])),
        start=start,
        queue_position=queue_position,
    )


# Most tasks have the same few: a sweep reads thousands of rows.
@lru_cache(maxsize=1024)
def _budgets(budgets: Budgets, timeouts: str) -> Budgets:
    return budgets.overridden(Timeouts.model_validate_json(timeouts))


@lru_cache(maxsize=1024)
def _retry(retry: str) -> Retry:
    return Retry.model_validate(json.loads(retry) or {})
