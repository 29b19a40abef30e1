"""The barrier of a superstep: results are merged into the run's state, and their commands into its graph, once."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.errors import GUIDANCE, Category, TaskError
from domain.names import RunId
from domain.plan import BadRun
from domain.reducers import BadUpdate, merged
from domain.run import Barrier
from domain.run_spec import Reducer, RunCommand
from store import jsonb, run_growth, run_results

_STATE: Final = text("SELECT merged, state, state_versions, reducers FROM runs WHERE id = :run")
_MERGE: Final = text("""
UPDATE runs SET merged = :superstep, state = CAST(:state AS jsonb), state_versions = CAST(:versions AS jsonb)
WHERE id = :run
""")


async def merge(
    connection: AsyncConnection, barrier: Barrier, now: datetime
) -> tuple[dict[str, int], TaskError | None]:
    """Merge what the members that ran have come to; returns the versions of the state's keys.

    The caller holds the run's lock. A barrier that was merged before is not merged again. What cannot be merged, or a
    command that cannot be obeyed, is returned as an error, and then nothing is merged at all.
    """
    run = barrier.flush.run_id
    row = (await connection.execute(_STATE, {"run": run})).one()
    if row.merged >= barrier.superstep:
        return row.state_versions, None
    ends = await run_results.ends(connection, run, barrier.ran)
    results = [(name, part) for name in barrier.ran for part in _parts(ends[name].result)]
    reducers = {key: Reducer(reducer) for key, reducer in row.reducers.items()}
    try:
        updates = [(name, part["state"]) for name, part in results if isinstance(part.get("state"), dict)]
        state, versions = merged(row.state, row.state_versions, updates, reducers)
        async with connection.begin_nested():
            await _obey(connection, run, barrier.superstep, results, now)
    except BadUpdate as bad:
        return row.state_versions, _error("bad_state", bad.member, str(bad))
    except _BadCommandError as bad:
        return row.state_versions, _error("bad_command", bad.member, str(bad))
    parameters = {"state": jsonb.dumps(state), "versions": jsonb.dumps(versions)}
    await connection.execute(_MERGE, {"run": run, "superstep": barrier.superstep, **parameters})
    return versions, None


class _BadCommandError(Exception):
    def __init__(self, member: str, message: str) -> None:
        super().__init__(f"{member}: {message}")
        self.member = member


def _parts(result: Any) -> Sequence[dict[str, Any]]:
    """Return the objects among a member's result, or its children's."""
    return [part for part in (result if isinstance(result, list) else [result]) if isinstance(part, dict)]


async def _obey(
    connection: AsyncConnection,
    run: RunId,
    superstep: int,
    results: Sequence[tuple[str, dict[str, Any]]],
    now: datetime,
) -> None:
    for name, part in results:
        given = part.get("commands")
        for body in given if isinstance(given, list) else [given] if given is not None else []:
            try:
                command = RunCommand.model_validate(body)
                await run_growth.command(connection, run, command, source=f"{name} at {superstep}", now=now)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(part) for part in first["loc"])
                raise _BadCommandError(name, f"commands.{place}: {first['msg']}") from None
            except BadRun as bad:
                raise _BadCommandError(name, f"commands.{bad.field}: {bad}") from None


def _error(code: str, member: str, message: str) -> TaskError:
    return TaskError(
        code=code,
        category=Category.INPUT,
        message=message,
        guidance=GUIDANCE[Category.INPUT],
        context={"member": member},
    )
