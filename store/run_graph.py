"""A run's graph as it is shown: how far each member is, without the bodies of their tasks."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.names import ProjectId
from store import runs

_MEMBERS: Final = text("""
SELECT m.name, m.fan_out IS NOT NULL AS fanned, m.status, m.reason, m.expected_seconds, m.size, m.started_at,
       m.finished_at, t.id AS task_id
FROM members m LEFT JOIN tasks t ON t.run_id = m.run_id AND t.member = m.name AND t.item IS NULL
WHERE m.run_id = :run ORDER BY m.position
""")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A run, its members in the order of the body, and the tasks of each fan-out counted by status."""

    run: dict[str, Any]
    members: list[dict[str, Any]]
    children: dict[str, dict[str, int]]


async def read(connection: AsyncConnection, project: ProjectId, run: str) -> Rows | None:
    """Return the graph of this project's run; None when there is no such run."""
    row = await runs.get(connection, project, run)
    if row is None:
        return None
    members = [dict(each) for each in (await connection.execute(_MEMBERS, {"run": run})).mappings()]
    return Rows(run=row, members=members, children=await runs.children(connection, run))
