"""The tasks of a run: made when their members start, started anew by a retry, cancelled with the run.

All of it happens under the run's lock, which the flush takes: run before task, everywhere.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from domain.ids import member_task_id, new_id
from domain.lifecycle import TERMINAL
from domain.names import AttachmentId, ProjectId, RunId, TaskId
from domain.run import RunFlush, Start, task_key
from domain.run_spec import FanOut, RunMode
from domain.spec import TaskSpec
from store import attachments, blobs, commands, retries, run_results, tasks
from store.outbox import Intent
from store.run_results import End, listed

# Bytes that a body holds of upstreams' results; what is longer becomes a file.
INLINE: Final = 64 * 1024
UPSTREAM: Final = "upstream.json"

_RUN: Final = text("SELECT project, mode, priority, state, traceparent FROM runs WHERE id = :run")
_MEMBERS: Final = text("SELECT name, task, fan_out, affinity FROM members WHERE run_id = :run AND name = ANY(:names)")
# In the order of the edges; all of them, of a run with many, would be read for each start.
_UPSTREAM: Final = text("""
SELECT e ->> 'from' AS source, e ->> 'to' AS target
FROM runs r, jsonb_array_elements(r.edges) WITH ORDINALITY AS _ (e, ord)
WHERE r.id = :run AND e ->> 'to' = ANY(:names) AND coalesce(e ->> 'kind', 'blocking') = 'blocking'
ORDER BY ord
""")
_THERE: Final = text("SELECT id, status, attempt FROM tasks WHERE id = ANY(:tasks)")
_OPEN: Final = text("""
SELECT id FROM tasks
WHERE run_id = :run AND status NOT IN ('completed', 'failed', 'cancelled') AND cancel_requested_at IS NULL
ORDER BY id LIMIT :limit
""")
_HEAR: Final = text("""
INSERT INTO run_intents (run_id, kind, attempt, body)
SELECT run_id, 'ended', 0, jsonb_build_object('member', member, 'item', item, 'outcome', status, 'attempt', attempt)
FROM tasks WHERE id = :task
""")


@dataclass(slots=True)
class Started:
    """What was made: intents that this process sends, and the attempts of tasks that are not at their first."""

    intents: list[Intent] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Who makes the tasks, and holds their start intents for so long."""

    name: str
    lease: timedelta
    agent_lease: timedelta
    now: datetime


@dataclass(slots=True)
class _Members:
    """What all starts of one transaction have in common."""

    run_id: RunId
    run: Any
    rows: Mapping[str, Any]
    upstream: dict[str, list[str]]
    ends: dict[str, End]
    stored: dict[str, AttachmentId] = field(default_factory=dict)


async def start(connection: AsyncConnection, flush: RunFlush, starts: Sequence[Start], sender: Sender) -> Started:
    """Make the tasks that are not there, and queue the next attempts of those that have ended."""
    ids = {member_task_id(flush.run_id, each.member, each.item): each for each in starts}
    there = {row.id: row for row in await connection.execute(_THERE, {"tasks": list(ids)})}
    members = await _members(connection, flush.run_id, starts)
    started, new = Started(), list[tasks.New]()
    for task, each in ids.items():
        row = there.get(task)
        if row is None:
            of = tasks.Belonging(run_id=flush.run_id, member=each.member, item=each.item)
            new.append(tasks.New(task=task, spec=await _spec(connection, members, each), of=of))
            continue
        intent, attempt = await _again(connection, members.run.project, row, sender)
        if intent is not None:
            started.intents.append(intent)
        if attempt > 1:
            started.attempts[task_key(each.member, each.item)] = attempt
    created = await tasks.create_all(
        connection,
        new,
        project=ProjectId(members.run.project),
        start=True,
        now=sender.now,
        lease_to=sender.name,
        lease=sender.lease,
        traceparent=members.run.traceparent,
    )
    started.intents += [each.intent for each in created if each.intent is not None]
    return started


async def _again(
    connection: AsyncConnection, project: ProjectId, row: Any, sender: Sender
) -> tuple[Intent | None, int]:
    """Queue the next attempt of a task that failed or was cancelled; one that is under way, or completed, is left."""
    if row.status not in {str(status) for status in TERMINAL}:
        return None, row.attempt
    retried = await retries.retry(
        connection,
        project,
        TaskId(row.id),
        from_attempt=row.attempt,
        by_run=True,
        agent_lease=sender.agent_lease,
        now=sender.now,
        lease_to=sender.name,
        lease=sender.lease,
    )
    if retried is None or retried.refused is not None:
        # It has completed: a workflow task that is done again hears of it anew.
        await connection.execute(_HEAR, {"task": row.id})
        return None, row.attempt
    return retried.intent, retried.row["attempt"]


async def cancel(connection: AsyncConnection, run: RunId, sender: Sender, *, limit: int) -> tuple[list[Intent], int]:
    """Ask up to `limit` open tasks to cancel themselves; returns the intents, and whether there may be more."""
    found = (await connection.execute(_OPEN, {"run": run, "limit": limit})).scalars().all()
    project = (await connection.execute(_RUN, {"run": run})).one().project
    intents = []
    for task in found:
        commanded = await commands.cancel(
            connection, project, TaskId(task), now=sender.now, lease_to=sender.name, lease=sender.lease
        )
        if commanded is not None and commanded.intent is not None:
            intents.append(commanded.intent)
    return intents, int(len(found) == limit)


# --- the body of a task ---------------------------------------------------------------------------------------------


async def _members(connection: AsyncConnection, run_id: RunId, starts: Sequence[Start]) -> _Members:
    names = sorted({each.member for each in starts})
    run = (await connection.execute(_RUN, {"run": run_id})).one()
    rows = {row.name: row for row in await connection.execute(_MEMBERS, {"run": run_id, "names": names})}
    upstream: dict[str, list[str]] = {name: [] for name in names}
    for edge in await connection.execute(_UPSTREAM, {"run": run_id, "names": names}):
        upstream[edge.target].append(edge.source)
    wanted = {above for some in upstream.values() for above in some}
    ends = await run_results.ends(connection, run_id, wanted)
    return _Members(run_id, run, rows, upstream, ends)


async def _spec(connection: AsyncConnection, members: _Members, each: Start) -> TaskSpec:
    """Return the body of a member's task: its own, with what it is given by the run."""
    row = members.rows[each.member]
    spec = TaskSpec.model_validate(row.task)
    given: dict[str, Any] = dict(spec.input) if isinstance(spec.input, dict) else {}
    update: dict[str, Any] = {}
    if members.upstream[each.member]:
        upstream = _upstream(members, each.member)
        if len(upstream) <= INLINE:
            given["upstream"] = json.loads(upstream)
        else:
            given["upstream"] = {"attachment": UPSTREAM}
            stored = await _stored(connection, members, each.member, upstream)
            update["attachments"] = [*spec.attachments, stored]
    if row.fan_out is not None:
        given |= {"index": each.item} | _item(members, FanOut.model_validate(row.fan_out), each)
    if members.run.mode == RunMode.SUPERSTEP:
        given["state"] = members.run.state
    if given or spec.input is not None:
        update["input"] = given
    if spec.name is None:
        update["name"] = task_key(each.member, each.item)
    if "priority" not in row.task:
        update["priority"] = members.run.priority
    if row.affinity is not None and (node := _node(members.ends[row.affinity], each)) is not None:
        update["preferred_node"] = node
    return spec.model_copy(update=update)


def _upstream(members: _Members, name: str) -> bytes:
    """Return what a member's upstreams have come to, as JSON."""
    ends = members.ends
    given = [
        {"member": above, "outcome": ends[above].outcome, "result": ends[above].result}
        for above in members.upstream[name]
    ]
    return json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()


def _item(members: _Members, fan: FanOut, each: Start) -> dict[str, Any]:
    place = (each.item or 1) - 1
    if fan.items is not None:
        return {"item": fan.items[place]}
    if fan.source is None:
        return {}
    member, pointer = fan.source
    items = listed(members.ends[member].result, pointer)
    return {"item": items[place]} if isinstance(items, list) else {}


def _node(end: End, each: Start) -> str | None:
    """Return where the upstream ran: the child of the same item, if both fan out."""
    nodes = end.nodes
    place = (each.item or 1) - 1
    return nodes[place] if place < len(nodes) else nodes[0] if nodes else None


async def _stored(connection: AsyncConnection, members: _Members, name: str, data: bytes) -> AttachmentId:
    """Store what upstreams have come to as a file, once for all children of a fan-out."""
    if name not in members.stored:
        blob, attachment = new_id(), AttachmentId(new_id())
        await blobs.begin(connection, blob)
        for n, first in enumerate(range(0, len(data), blobs.CHUNK)):
            await blobs.append(connection, blob, n, data[first : first + blobs.CHUNK])
        await blobs.complete(connection, blob, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        await attachments.add(
            connection,
            attachment=attachment,
            project=ProjectId(members.run.project),
            name=UPSTREAM,
            media_type="application/json",
            blob=blob,
        )
        members.stored[name] = attachment
    return members.stored[name]
