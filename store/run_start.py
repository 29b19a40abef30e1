"""From a run's rows to what its orchestrator begins with, whatever an earlier one has come to."""

from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.graph import EdgeKind
from domain.lifecycle import RUN_TERMINAL, MemberStatus, RunStatus, TaskStatus
from domain.names import RunId
from domain.progress import CONDITION, OF_TASK, PREFERRED, letters
from domain.run import EdgePlan, Ending, FanPlan, Plan, RunInput, RunState, task_key
from domain.run_spec import RunMode
from domain.versions import base_after

_RUN: Final = text("""
SELECT r.*, (SELECT coalesce(max(n), 0) FROM run_commands c WHERE c.run_id = r.id) AS commands,
       failure.at IS NOT NULL AS failing, NOT EXISTS (
         SELECT FROM tasks t
         WHERE t.run_id = r.id AND t.status NOT IN ('completed', 'failed', 'cancelled')
           AND t.cancel_requested_at IS NULL AND t.created_at < failure.at
       ) AS told
FROM runs r
CROSS JOIN LATERAL (
  SELECT min(m.finished_at) AS at FROM members m
  WHERE m.run_id = r.id AND m.status = 'failed' AND r.on_failure = 'fail_fast'
) failure
WHERE r.id = :run
""")
_MEMBERS: Final = text("""
SELECT name, status, fan_out ->> 'max_parallel' AS max_parallel, fan_out IS NOT NULL AS fanned, size
FROM members WHERE run_id = :run ORDER BY position
""")
_TASKS: Final = text("SELECT member, item, status, attempt FROM tasks WHERE run_id = :run ORDER BY member, item")
# Of the superstep that is under way: what has begun since the report of the last one, and what that named as next.
_SUPERSTEP: Final = text("""
WITH last AS (
  SELECT seq, data -> 'next_frontier' AS next FROM run_events
  WHERE run_id = :run AND type = 'run.superstep' ORDER BY seq DESC LIMIT 1
)
SELECT (SELECT next FROM last) AS next, ARRAY(
  SELECT DISTINCT data ->> 'member' FROM run_events
  WHERE run_id = :run AND type IN ('run.member_ready', 'run.fanned_out') AND seq > coalesce((SELECT seq FROM last), 0)
) AS begun
""")
_STATUS: Final = text("SELECT status FROM runs WHERE id = :run")


async def argument(connection: AsyncConnection, run: RunId, attempt: int, *, history_events: int) -> RunInput | None:
    """Return the input of this attempt's orchestrator; None when it has ended, or another attempt has begun.

    It is made of rows alone, so an orchestrator that was lost begins where it was: tasks that have ended are told anew.
    """
    row = (await connection.execute(_RUN, {"run": run})).one_or_none()
    if row is None or row.attempt != attempt or row.status in {str(status) for status in RUN_TERMINAL}:
        return None
    members = (await connection.execute(_MEMBERS, {"run": run})).all()
    places = {member.name: place for place, member in enumerate(members)}
    plan = Plan(
        names=list(places),
        edges=[
            EdgePlan(source=places[edge["from"]], target=places[edge["to"]], when=_when(edge)) for edge in row.edges
        ],
        fans={
            places[member.name]: FanPlan(size=member.size, max_parallel=member.max_parallel)
            for member in members
            if member.fanned
        },
    )
    state = RunState(
        members=letters(MemberStatus(member.status) for member in members),
        flush_base=base_after(row.version),
        superstep=row.superstep,
        state_versions=row.state_versions,
        pause=row.pause_token,
        pause_reason=row.pause_reason,
        breakpoints=row.breakpoints,
        cancel_wanted=row.cancel_requested_at is not None,
        commands_seen=row.commands,
        # What has begun since the failure is there for it, and is let go on.
        failing_told=row.failing and row.told,
    )
    await _tasks(connection, run, plan, places, state)
    if row.mode == RunMode.SUPERSTEP:
        state.frontier = await _frontier(connection, run, plan, state.members)
    return RunInput(
        run_id=run,
        project=row.project,
        attempt=attempt,
        name=row.name,
        mode=row.mode,
        on_failure=row.on_failure,
        max_parallel=row.max_parallel,
        priority=row.priority,
        plan=plan,
        state=state,
        history_events=history_events,
        traceparent=row.traceparent,
    )


async def _frontier(connection: AsyncConnection, run: RunId, plan: Plan, statuses: str) -> list[int]:
    """Return the frontier of a superstep that has begun: its barrier merges also what has ended unmerged.

    Empty when nothing of it has begun: then it is found as ever.
    """
    step = (await connection.execute(_SUPERSTEP, {"run": run})).one()
    waiting = letters([MemberStatus.WAITING])
    below = {edge.target for edge in plan.edges if edge.when != PREFERRED}
    due = {place for place in range(len(plan.names)) if place not in below} if step.next is None else set()
    next_, begun = set(step.next or ()), set(step.begun)
    frontier = [
        place
        for place, name in enumerate(plan.names)
        if (name in next_ or place in due if statuses[place] == waiting else name in begun)
    ]
    return frontier if any(statuses[place] != waiting for place in frontier) else []


def _when(edge: dict[str, Any]) -> str:
    if edge.get("kind") == EdgeKind.PREFERRED_ORDER:
        return PREFERRED
    when = edge.get("when")
    return CONDITION if isinstance(when, dict) else when or ""


async def _tasks(connection: AsyncConnection, run: RunId, plan: Plan, places: dict[str, int], state: RunState) -> None:
    """Add what is known of tasks: children of fan-outs, and the endings that nobody may have heard of.

    In a member that has begun, a task that has ended is told as an ending. In one that waits (it is being retried),
    only what has completed stays.
    """
    children: dict[int, list[MemberStatus]] = {}
    for task in await connection.execute(_TASKS, {"run": run}):
        place, status = places[task.member], TaskStatus(task.status)
        begun = state.members[place] == letters([MemberStatus.IN_PROGRESS])
        if begun and status.terminal:
            ending = Ending(member=task.member, item=task.item, outcome=status, attempt=task.attempt)
            state.endings.append(ending)
        if task.attempt > 1:
            state.attempts[task_key(task.member, task.item)] = task.attempt
        if task.item is not None:
            size = plan.fans[place].size or task.item
            parts = children.setdefault(place, [MemberStatus.WAITING] * size)
            parts += [MemberStatus.WAITING] * (task.item - len(parts))
            if begun:
                parts[task.item - 1] = MemberStatus.IN_PROGRESS
            elif status.terminal:
                ended = OF_TASK[status]
                again = state.members[place] == letters([MemberStatus.WAITING]) and ended is not MemberStatus.COMPLETED
                parts[task.item - 1] = MemberStatus.WAITING if again else ended
    state.children = {place: letters(parts) for place, parts in children.items()}


async def is_live(connection: AsyncConnection, run: RunId) -> bool:
    """Return whether this run is there and has not ended."""
    status = (await connection.execute(_STATUS, {"run": run})).scalar_one_or_none()
    return status is not None and RunStatus(status) not in RUN_TERMINAL
