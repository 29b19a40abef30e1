"""Commands to a run: checked like a new graph, merged into its rows, and numbered for its orchestrator to obey."""

from datetime import datetime
from typing import Final

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import MemberStatus
from domain.names import RunId
from domain.plan import BadRun, commanded, when
from domain.run import EdgePlan, FanPlan, Plan
from domain.run_spec import OnFailure, RunCommand, RunMode
from domain.spec import json_of
from store import jsonb, run_log, run_results, runs
from store.models import RunCommandRow

_NEXT: Final = text("""
SELECT r.attempt, r.mode, r.on_failure, (SELECT coalesce(max(n), 0) + 1 FROM run_commands c WHERE c.run_id = r.id) AS n
FROM runs r WHERE r.id = :run
""")
_EDGES: Final = text("UPDATE runs SET edges = CAST(:edges AS jsonb) WHERE id = :run")


async def command(connection: AsyncConnection, run: RunId, asked: RunCommand, *, source: str, now: datetime) -> int:
    """Take in a command under the run's lock, and return its number. Raises BadRun for one that cannot be."""
    rows = await runs.members(connection, run)
    edges = await run_results.edges(connection, run)
    waiting = [row["name"] for row in rows if row["status"] == MemberStatus.WAITING]
    row = (await connection.execute(_NEXT, {"run": run})).one()
    if asked.replace is not None and row.mode != RunMode.SUPERSTEP:
        raise BadRun("not_superstep", "replace", "an eager run has no frontier that could be replaced")
    planned = commanded(runs.stored(rows), edges, waiting, asked, on_failure=OnFailure(row.on_failure))
    await runs.add_members(connection, run, asked.append.members, first=len(rows))
    if len(planned.edges) > len(edges):
        text_ = jsonb.dumps([json_of(edge) for edge in planned.edges])
        await connection.execute(_EDGES, {"run": run, "edges": text_})
    place = {name: number for number, name in enumerate(planned.plan.names)}
    added = Plan(
        names=[member.name for member in asked.append.members],
        edges=[
            EdgePlan(source=place[edge.from_], target=place[edge.to], when=when(edge))
            for edge in planned.edges[len(edges) :]
        ],
        fans={
            number: FanPlan(size=member.fan_out.size, max_parallel=member.fan_out.max_parallel)
            for number, member in enumerate(asked.append.members)
            if member.fan_out is not None
        },
    )
    values = {"n": row.n, "source": source, "body": json_of(asked), "plan": added.model_dump(mode="json")}
    await connection.execute(insert(RunCommandRow).values(run_id=run, **values))
    data = {
        "n": row.n,
        "source": source,
        "append": {"members": added.names, "edges": len(added.edges)},
        "replace": asked.replace,
        "skip": asked.skip,
    }
    event = NewEvent(
        key=f"command:{row.n}",
        type=EventType.RUN_COMMANDED,
        ts=now,
        attempt=row.attempt,
        source=EventSource.API if source == "api" else EventSource.WORKFLOW,
        data=data,
    )
    await run_log.append(connection, run, [event])
    return int(row.n)
