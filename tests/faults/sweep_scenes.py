"""What the safety net finds, one scene each: ends and losses that no workflow and no API has told."""

import asyncio
import secrets
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from domain.events import EventSource, EventType, NewEvent
from domain.ids import new_id
from domain.messages import Flush
from domain.names import DEFAULT_PROJECT, TaskId, workflow_id
from domain.spec import TaskSpec
from store import mirror, tasks
from tests.faults.caller import Caller, noting
from tests.faults.invariants.logs import ITEM
from tests.faults.snapshot import Created
from tests.faults.stack import FaultStack
from tests.faults.sweeps import Ends, Scene, swept

UNREAD: Final = 60  # seconds; whoever dies over it leaves it leased for fifteen


async def terminated(stack: FaultStack, caller: Caller) -> Ends:
    """Somebody terminates a workflow in Temporal's UI while its command runs."""
    task = await caller.create(**noting(stack.effects, "sleep 60"))
    await caller.reaches(task, step="running")
    await stack.client.get_workflow_handle(workflow_id(TaskId(task), 1)).terminate("by hand")
    return await swept(stack, caller, {task: ("failed",)})


async def ended_from_outside(stack: FaultStack, caller: Caller) -> Ends:
    """A row was ended by another than its workflow, which has not heard of it."""
    task = await caller.create(command=["true"], provider="external")
    await caller.reaches(task, status="delegated")
    error = {"code": "cancelled", "category": "cancelled", "message": "forced"}
    event = NewEvent(
        key=f"tests:{task}",
        type=EventType.TASK_CANCELLED,
        ts=datetime.now(UTC),
        attempt=1,
        source=EventSource.RECONCILER,
        data={"error": error},
    )
    async with stack.database.commit("tests.end") as connection:
        await mirror.flush(connection, Flush(task_id=TaskId(task), attempt=1, version=2**62, events=[event]))
    return await swept(stack, caller, {task: ("cancelled",)})


async def lost_start(stack: FaultStack, caller: Caller) -> Ends:
    """A row of ten minutes ago whose start nobody has sent, and nobody will."""
    task, item = TaskId(new_id()), secrets.token_hex(8)
    spec = TaskSpec.model_validate(noting(stack.effects, "true", labels={ITEM: item}))
    async with stack.database.begin("tests.lost_start") as connection:
        await tasks.create(
            connection,
            task=task,
            project=DEFAULT_PROJECT,
            spec=spec,
            start=True,
            now=datetime.now(UTC) - timedelta(minutes=10),
            lease_to="nobody",
            lease=timedelta(0),
        )
        await connection.execute(text("DELETE FROM outbox WHERE task_id = :task"), {"task": task})
    caller.witness.created.append(Created(item=item, task=task))
    return await swept(stack, caller, {task: ("completed",)})


async def unreadable(stack: FaultStack, caller: Caller) -> Ends:
    """A start whose body this version cannot read: it waits, and goes once the body has been mended."""
    task, item = TaskId(new_id()), secrets.token_hex(8)
    spec = TaskSpec.model_validate(noting(stack.effects, "true", labels={ITEM: item}))
    priority = text("UPDATE tasks SET spec = jsonb_set(spec, '{priority}', CAST(:priority AS jsonb)) WHERE id = :task")
    async with stack.database.begin("tests.unreadable") as connection:
        await tasks.create(
            connection,
            task=task,
            project=DEFAULT_PROJECT,
            spec=spec,
            start=True,
            now=datetime.now(UTC),
            lease_to="nobody",
            lease=timedelta(0),
        )
        await connection.execute(priority, {"task": task, "priority": '"urgent"'})
    caller.witness.created.append(Created(item=item, task=task))
    why = text("SELECT last_error FROM outbox WHERE task_id = :task AND last_error IS NOT NULL")
    read, mended = 0, False
    while not mended:  # whatever becomes of the database meanwhile: nobody else will mend it
        with suppress(SQLAlchemyError, OSError):
            async with stack.database.begin("tests.readable") as connection:
                read += 1
                if read > UNREAD or (await connection.execute(why, {"task": task})).first():
                    await connection.execute(priority, {"task": task, "priority": "3"})
                    mended = True
        await asyncio.sleep(1)
    return {task: ("completed",)}


async def drifted(stack: FaultStack, caller: Caller) -> Ends:
    """A node counts a slot as used that nobody holds."""
    async with stack.database.begin("tests.drift") as connection:
        await connection.execute(text("UPDATE nodes SET used = used + 1 WHERE id = 'n0' AND used < slots"))
    return await swept(stack, caller, {})


SCENE_OF: Final[Mapping[str, Scene]] = {
    "engine.clean_up": terminated,
    "engine.killed": drifted,
    "engine.look": terminated,
    "engine.terminate": ended_from_outside,
    "ledger.": terminated,
    "outbox.unreadable": unreadable,
    "provider.list": drifted,
    "reaper.": drifted,
    "retention.": drifted,
    "sweeps.": terminated,
    "sweeps.checked_ended": ended_from_outside,
    "sweeps.clean_up": ended_from_outside,
    "sweeps.start_again": lost_start,
}
