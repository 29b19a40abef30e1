"""What people ask of a run that is under way: pause, resume, breakpoints, commands. Each holds the run's row meanwhile.

The row is the truth: every answer to the orchestrator brings token, breakpoints and commands along. The intent tells
it to look.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.events import EventSource, EventType, NewEvent
from domain.lifecycle import RunStatus
from domain.names import ProjectId, RunId
from domain.plan import BadRun
from domain.run_spec import RunBreakpoints, RunCommand
from store import run_growth, run_intents, run_log, runs
from store.models import Run, RunCommandRow, RunIntentKind
from store.steering import Refusal, Steered, unresumable

_UNKNOWN: Final = text("""
SELECT asked FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS _ (asked, place)
WHERE NOT EXISTS (SELECT FROM members WHERE run_id = :run AND name = asked) ORDER BY place LIMIT 10
""")


@dataclass(frozen=True, kw_only=True)
class SteeredRun(Steered):
    """With the number of a command that was taken in."""

    command: int | None = None


async def pause(
    connection: AsyncConnection, project: ProjectId, run: RunId, *, reason: str | None, token: str
) -> SteeredRun | None:
    """Ask a run to hold, by this token unless it has one already; None when there is no such run."""
    row = await runs.get(connection, project, run, for_update=True)
    if row is None:
        return None
    if RunStatus(row["status"]).terminal:
        return SteeredRun(row=row, refused=Refusal.ALREADY_ENDED)
    if row["pause_token"] is not None:
        return SteeredRun(row=row, repeated=True)
    await _set(connection, run, pause_token=token, pause_reason=reason)
    return await _steered(connection, row)


async def resume(
    connection: AsyncConnection, project: ProjectId, run: RunId, *, token: str, now: datetime
) -> SteeredRun | None:
    """Let a run go on that is held, or is to be, by this token; None when there is no such run."""
    row = await runs.get(connection, project, run, for_update=True)
    if row is None:
        return None
    if refusal := unresumable(row, token):
        return SteeredRun(row=row, refused=refusal)
    event = NewEvent(
        key=f"api:resumed:{token}",
        type=EventType.RUN_RESUMED,
        ts=now,
        attempt=row["attempt"],
        source=EventSource.API,
        data={"token": token},
    )
    await run_log.append(connection, run, [event])
    return await _steered(connection, row)


async def set_breakpoints(
    connection: AsyncConnection, project: ProjectId, run: RunId, breakpoints: RunBreakpoints
) -> SteeredRun | None:
    """Replace a run's breakpoints; a hold that is in effect stays. None when there is no such run.

    Raises BadRun for names that no member has.
    """
    row = await runs.get(connection, project, run, for_update=True)
    if row is None:
        return None
    if RunStatus(row["status"]).terminal:
        return SteeredRun(row=row, refused=Refusal.ALREADY_ENDED)
    await _check_names(connection, run, breakpoints.before, "before")
    await _check_names(connection, run, breakpoints.after, "after")
    wanted = breakpoints.model_dump(mode="json") if breakpoints else None
    if wanted == row["breakpoints"]:
        return SteeredRun(row=row, repeated=True)
    await _set(connection, run, breakpoints=wanted)
    return await _steered(connection, row)


async def command(
    connection: AsyncConnection, project: ProjectId, run: RunId, asked: RunCommand, *, now: datetime
) -> SteeredRun | None:
    """Let a paused run's graph grow, or leave members out of it; None when there is no such run.

    Raises BadRun for a command that cannot be obeyed: the run stays as it is.
    """
    row = await runs.get(connection, project, run, for_update=True)
    if row is None:
        return None
    if RunStatus(row["status"]).terminal:
        return SteeredRun(row=row, refused=Refusal.ALREADY_ENDED)
    if not row["paused"]:
        return SteeredRun(row=row, refused=Refusal.NOT_PAUSED)
    number = await run_growth.command(connection, run, asked, source="api", now=now)
    return await _steered(connection, row, command=number)


async def added(connection: AsyncConnection, run: RunId, number: int) -> dict[str, Any]:
    """Return the plan of what a command has added."""
    statement = select(RunCommandRow.plan).where(RunCommandRow.run_id == run, RunCommandRow.n == number)
    return dict((await connection.execute(statement)).scalar_one())


async def _set(connection: AsyncConnection, run: RunId, **values: Any) -> None:
    statement = update(Run).where(Run.id == run).values(updated_at=func.clock_timestamp(), **values)
    await connection.execute(statement)


async def _steered(connection: AsyncConnection, row: dict[str, Any], *, command: int | None = None) -> SteeredRun:
    """Return the row as it is by now; its orchestrator is told to look at it."""
    run = RunId(row["id"])
    await run_intents.put(connection, run, RunIntentKind.STEER, attempt=row["attempt"])
    after = await runs.get(connection, row["project"], run)
    return SteeredRun(row=after or row, command=command)


async def _check_names(connection: AsyncConnection, run: RunId, names: Sequence[str], field: str) -> None:
    unknown = (await connection.execute(_UNKNOWN, {"run": run, "names": list(names)})).scalars().all()
    if unknown:
        raise BadRun("unknown_member", field, f"no member has the name: {', '.join(unknown)}")
