"""Runs: the row that everybody reads, its members, how it is made, and the lists of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import MemberStatus, RunStatus
from domain.names import ProjectId, RunId
from domain.plan import Planned
from domain.run_spec import Member, RunSpec
from domain.spec import json_of
from store import run_intents, run_log
from store.models import FeedRow, Run, RunIntentKind, RunMember
from store.project_feed import feed_of_run

COLUMNS: Final = tuple(
    column for column in Run.__table__.columns if column.key not in ("checked_at", "merged", "traceparent")
)
# A list has no use for its runs' edges, of which there may be 50,000 each.
_LISTED: Final = tuple(column for column in COLUMNS if column.key != "edges")
_GET: Final = select(*COLUMNS).where(Run.id == bindparam("run"), Run.project == bindparam("project"))
_LOCK: Final = _GET.with_for_update(key_share=True)
_COUNTS: Final = text("""
SELECT run_id, status, count(*) FROM members WHERE run_id = ANY(:runs) GROUP BY run_id, status
""")
_MEMBERS: Final = text("""
SELECT m.name, m.position, m.status, m.reason, m.task, m.fan_out, m.affinity, m.expected_seconds, m.size, m.error,
       m.started_at, m.finished_at, t.id AS task_id
FROM members m LEFT JOIN tasks t ON t.run_id = m.run_id AND t.member = m.name AND t.item IS NULL
WHERE m.run_id = :run ORDER BY m.position
""")
_CHILDREN: Final = text("""
SELECT member, status, count(*) FROM tasks WHERE run_id = :run AND item IS NOT NULL GROUP BY member, status
""")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """What a list is narrowed to."""

    status: Sequence[str] = ()
    labels: dict[str, str] | None = None
    q: str | None = None


async def create(
    connection: AsyncConnection,
    *,
    run: RunId,
    project: ProjectId,
    spec: RunSpec,
    planned: Planned,
    now: datetime,
    traceparent: str | None = None,
) -> dict[str, Any]:
    """Write a run with its members, its first event and its start intent; returns the row."""
    row = {
        "id": run,
        "project": project,
        "name": spec.name,
        "status": RunStatus.QUEUED,
        "mode": spec.mode,
        "on_failure": spec.on_failure,
        "max_parallel": spec.max_parallel,
        "edges": [json_of(edge) for edge in planned.edges],
        "priority": spec.priority,
        "labels": spec.labels,
        "breakpoints": spec.breakpoints.model_dump(mode="json") if spec.breakpoints else None,
        "state": spec.state,
        "state_versions": dict.fromkeys(spec.state, 1),
        "reducers": spec.reducers,
        "created_at": now,
        "updated_at": now,
        "traceparent": traceparent,
    }
    await connection.execute(insert(Run).values(row))
    await add_members(connection, run, spec.members, first=0)
    data = {"name": spec.name, "members": len(spec.members), "edges": len(planned.edges), "mode": spec.mode}
    event = NewEvent(
        key="api:created", type=EventType.RUN_CREATED, ts=now, attempt=1, source=EventSource.API, data=data
    )
    await run_log.append(connection, run, [event])
    await run_intents.put(connection, run, RunIntentKind.START, attempt=1)
    return await get(connection, project, run) or {}


async def add_members(connection: AsyncConnection, run: RunId, members: Sequence[Member], *, first: int) -> None:
    """Write members that have not begun, from this position on."""
    rows = [
        {
            "run_id": run,
            "name": member.name,
            "position": first + place,
            "status": MemberStatus.WAITING,
            "task": json_of(member.task),
            "fan_out": json_of(member.fan_out) if member.fan_out else None,
            "affinity": member.affinity,
            "expected_seconds": member.expected.total_seconds() if member.expected else None,
            "size": member.fan_out.size if member.fan_out else None,
        }
        for place, member in enumerate(members)
    ]
    if rows:
        await connection.execute(insert(RunMember), rows)


async def get(
    connection: AsyncConnection, project: ProjectId, run: str, *, for_update: bool = False
) -> dict[str, Any] | None:
    """Return a run of this project, locked if it is about to be written."""
    statement = _LOCK if for_update else _GET
    row = (await connection.execute(statement, {"run": run, "project": project})).mappings().one_or_none()
    return dict(row) if row else None


async def page(
    connection: AsyncConnection, project: ProjectId, filters: Filters, *, before: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return up to `limit` runs, newest first, that come after the one with the id `before`."""
    statement = select(*_LISTED).where(Run.project == project)
    if filters.status:
        statement = statement.where(Run.status.in_(filters.status))
    if filters.labels:
        statement = statement.where(Run.labels.contains(filters.labels))
    if filters.q:
        statement = statement.where(Run.name.icontains(filters.q, autoescape=True))
    if before is not None:
        statement = statement.where(Run.id < before)
    statement = statement.order_by(Run.id.desc()).limit(limit)
    return [dict(row) for row in (await connection.execute(statement)).mappings()]


async def counts(connection: AsyncConnection, runs: Sequence[str]) -> dict[str, dict[str, int]]:
    """Return for each run how many members are in which status; each status is there."""
    found = {run: dict.fromkeys(map(str, MemberStatus), 0) for run in runs}
    for run, status, count in await connection.execute(_COUNTS, {"runs": list(runs)}):
        found[run][status] = count
    return found


async def members(connection: AsyncConnection, run: str) -> list[dict[str, Any]]:
    """Return the members in the order of the body, each with its task's id if it has one."""
    return [dict(row) for row in (await connection.execute(_MEMBERS, {"run": run})).mappings()]


async def children(connection: AsyncConnection, run: str) -> dict[str, dict[str, int]]:
    """Return for each fan-out how many of its tasks are in which status."""
    found: dict[str, dict[str, int]] = {}
    for member, status, count in await connection.execute(_CHILDREN, {"run": run}):
        found.setdefault(member, {})[status] = count
    return found


async def remove(connection: AsyncConnection, run: RunId) -> None:
    """Delete a run's row, and with it members, log and commands. Its tasks are deleted before."""
    await connection.execute(delete(FeedRow).where(FeedRow.id == feed_of_run(run)))
    await connection.execute(delete(Run).where(Run.id == run))


def stored(members: Sequence[dict[str, Any]]) -> list[Member]:
    """Return members as rows have them, as models."""
    return [
        Member.model_validate(
            {
                "name": row["name"],
                "task": row["task"],
                "fan_out": row["fan_out"],
                "affinity": row["affinity"],
                "expected": row["expected_seconds"],
            }
        )
        for row in members
    ]
