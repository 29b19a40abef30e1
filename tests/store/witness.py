"""A witness of slots: each one taken is noted with who waits for it and who holds what at that moment.

It is a trigger of the tests' own, so that what is counted here is not computed by what is being tested.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from domain.names import NodeId, ProjectId, TaskId
from store.engine import Database

_INSTALL = (
    """
    CREATE TABLE witness (
      n bigint GENERATED ALWAYS AS IDENTITY, task_id text, node_id text, held jsonb, waiting text[])
    """,
    """
    CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      INSERT INTO witness (task_id, node_id, held, waiting)
      SELECT NEW.task_id, n.id,
        (SELECT jsonb_object_agg(project, slots) FROM (
           SELECT project, count(*) AS slots FROM ledger
           WHERE kind = 'slot' AND state <> 'released' GROUP BY project) h),
        ARRAY(SELECT w.task_id FROM waiters w JOIN tasks t ON t.id = w.task_id AND t.attempt = w.attempt
              WHERE w.granted IS NULL AND w.task_id <> NEW.task_id
                AND t.status = 'queued' AND t.cancel_requested_at IS NULL
                AND (w.pinned = n.id OR w.pinned IS NULL AND n.labels @> w.labels)
                -- Whom another transaction is granting a slot of another node at this very moment waits no more.
                AND (w.xmax = 0 OR pg_xact_status(w.xmax::text::xid8) = 'aborted'))
      FROM nodes n WHERE n.id = NEW.node_id;
      RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER witness AFTER INSERT OR UPDATE ON ledger FOR EACH ROW
    WHEN (NEW.kind = 'slot' AND NEW.state = 'created') EXECUTE FUNCTION witness()
    """,
)
_GRANTS = text("SELECT * FROM witness WHERE task_id = ANY(:tasks) ORDER BY n")
_CLAIMS = text("SELECT id, project, priority, created_at FROM tasks WHERE id = ANY(:tasks)")


@dataclass(frozen=True)
class Claim:
    """Why a task comes before or after another."""

    task: TaskId
    project: ProjectId
    priority: int
    queued: datetime


@dataclass(frozen=True)
class Grant:
    """A slot that was taken, who was waiting for it then, and what each project held, this slot included."""

    claim: Claim
    node: NodeId
    waiting: Sequence[Claim]
    held: dict[str, int]


async def install(database: Database) -> None:
    """Watch a database."""
    async with database.begin("tests.witness") as connection:
        for statement in _INSTALL:
            await connection.exec_driver_sql(statement)


async def grants(database: Database, tasks: Sequence[TaskId]) -> list[Grant]:
    """Return the slots that these tasks took, in order."""
    parameters: dict[str, Any] = {"tasks": list(tasks)}
    async with database.read() as connection:
        rows = (await connection.execute(_GRANTS, parameters)).all()
        claims = {row.id: Claim(*row) for row in await connection.execute(_CLAIMS, parameters)}
    return [
        Grant(
            claim=claims[row.task_id],
            node=row.node_id,
            waiting=[claims[task] for task in row.waiting],
            held=row.held,
        )
        for row in rows
    ]


def by_age(grants: Sequence[Grant]) -> int:
    """Count the pairs where one of the same project and priority, who had come first, was still waiting."""
    return sum(
        (other.project, other.priority) == (grant.claim.project, grant.claim.priority)
        and other.queued < grant.claim.queued
        for grant in grants
        for other in grant.waiting
    )


def by_priority(grants: Sequence[Grant]) -> int:
    """Count the pairs where a more urgent one was still waiting."""
    return sum(other.priority < grant.claim.priority for grant in grants for other in grant.waiting)


def behind(grants: Sequence[Grant], project: ProjectId, *, share: float) -> float:
    """Return by how many slots a project was behind its share at most, while a task of its own was waiting."""
    waiting = [grant for grant in grants if any(other.project == project for other in grant.waiting)]
    return max((share - grant.held.get(project, 0) for grant in waiting), default=0.0)
