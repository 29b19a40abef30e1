"""What people ask of a task on the stage that it shall hold, as the API does it."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from api.deps import INTENT_LEASE
from domain.ids import new_id
from domain.lifecycle import Step
from domain.messages import Hold
from domain.names import DEFAULT_PROJECT
from domain.spec import Breakpoints
from store import holds, outbox
from store.holds import SteeredTask
from store.steering import Refusal
from tests.workflows.stage import PATIENCE, Running


async def ask_pause(task: Running, reason: str | None = "lunch", *, told: bool = True) -> str:
    """Ask a task to hold, and have that sent unless its signal is to be lost; returns the token."""

    async def asked(connection: AsyncConnection) -> SteeredTask | None:
        return await holds.pause(
            connection,
            DEFAULT_PROJECT,
            task.task,
            reason=reason,
            token=new_id(),
            now=datetime.now(UTC),
            lease_to=task.stage.dispatcher.name,
            lease=INTENT_LEASE,
        )

    return str((await _commit(task, asked, told=told)).row["pause_token"])


async def pause(task: Running, reason: str | None = "lunch") -> Hold | None:
    """Ask a task to hold, then the attempt whether it does."""
    await ask_pause(task, reason)
    return await task.stage.gateway.pause(task.task, task.attempt)


async def resume(task: Running, token: str | None = None, *, told: bool = True) -> Refusal | None:
    """Resume a task, by the token that its row has if none is given."""
    given = token or str((await task.row())["pause_token"])

    async def asked(connection: AsyncConnection) -> SteeredTask | None:
        return await holds.resume(
            connection,
            DEFAULT_PROJECT,
            task.task,
            token=given,
            now=datetime.now(UTC),
            lease_to=task.stage.dispatcher.name,
            lease=INTENT_LEASE,
        )

    return (await _commit(task, asked, told=told)).refused


async def set_breakpoints(
    task: Running, *, before: list[Step] | None = None, after: list[Step] | None = None, each_step: bool = False
) -> None:
    """Replace a task's breakpoints."""
    wanted = Breakpoints(before=before or [], after=after or [], each_step=each_step)

    async def asked(connection: AsyncConnection) -> SteeredTask | None:
        return await holds.set_breakpoints(
            connection,
            DEFAULT_PROJECT,
            task.task,
            wanted,
            lease_to=task.stage.dispatcher.name,
            lease=INTENT_LEASE,
        )

    await _commit(task, asked)
    await task.stage.gateway.pause(task.task, task.attempt)


async def _commit(task: Running, asked: Any, *, told: bool = True) -> SteeredTask:
    async with task.stage.database.begin("tests.steer") as connection:
        steered: SteeredTask | None = await asked(connection)
        assert steered is not None
        if steered.intent is not None and not told:
            await outbox.sent(connection, [steered.intent.id])
    if steered.intent is not None and told:
        task.stage.dispatcher.send(steered.intent)
    return steered


async def held(task: Running, *, but: str | None = None) -> dict[str, Any]:
    """Wait until the row says that the task is held (by another token than `but`); returns the row."""
    async with asyncio.timeout(PATIENCE):
        while not (row := await task.row())["paused"] or row["pause_token"] == but:
            assert row["outcome"] is None, f"it ended: {row['outcome']} {row['error']}"
            await asyncio.sleep(0.02)
    return row


async def where(task: Running) -> list[tuple[str, str | None]]:
    """Where the task was held, in order: the side and the step."""
    return [(event.data["at"], event.step) for event in await task.events() if event.type == "task.paused"]
