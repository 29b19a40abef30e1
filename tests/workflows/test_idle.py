"""The idle cap: a hanging agent is found, a working one is left alone, and nobody looks more often than needed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import permutations
from typing import Any, Final

import pytest

from domain.events import EventType
from domain.lifecycle import Step
from domain.tokens import Claims
from store import callbacks, logs
from tests.workflows.scenes import CLAIMED, READY, external, scene
from tests.workflows.stage import Running, Stage

HOUR: Final = 3600
FAR: Final = datetime.max.replace(tzinfo=UTC)
CAPS: Final = ("running_soft", "running", "running_absolute", "running_idle")
CODES: Final = {"running": "cap_hard", "running_absolute": "cap_absolute", "running_idle": "cap_idle"}


async def looks(task: Running) -> int:
    """How often the workflow has read when there was activity."""
    return (await task.flushes()).count("read_activity")


@asynccontextmanager
async def beating(stage: Stage, task: Running) -> AsyncIterator[None]:
    """Send a workspace's heartbeats all the time."""

    async def beat() -> None:
        claims = Claims(task_id=task.task, workspace_id=task.workspace, attempt=1, turn=1, expires_at=FAR)
        while True:
            async with stage.database.commit("test") as connection:
                await callbacks.heartbeat(connection, claims)
            await asyncio.sleep(0.1)

    beats = asyncio.create_task(beat())
    try:
        yield
    finally:
        beats.cancel()
        await asyncio.gather(beats, return_exceptions=True)


@pytest.mark.parametrize("order", list(permutations(CAPS)), ids=lambda order: "-".join(c[8:] or "hard" for c in order))
async def test_whichever_cap_comes_first(skipping_stage: Stage, order: tuple[str, ...]) -> None:
    """Ended by the first of the three that end; warned before if the soft one came before that."""
    timeouts = {cap: (place + 1) * HOUR for place, cap in enumerate(order)}
    task = await skipping_stage.start(provider="external", told=[CLAIMED, READY], timeouts=timeouts)
    row = await task.end()
    ending = next(cap for cap in order if cap in CODES)
    assert (row["error"]["code"], row["error"]["category"]) == (CODES[ending], "timeout")
    warned = [event.data["cap"] for event in await task.events() if event.type is EventType.TASK_CAP_WARNING]
    assert warned == (["soft"] if order[0] == "running_soft" else [])
    assert await looks(task) == (1 if ending == "running_idle" else 0)


async def test_a_hanging_agent_is_found(stage: Stage) -> None:
    """cap_idle, after one look: the program beside it is heard all the time, and says nothing of the agent."""
    async with scene(stage, Step.RUNNING, timeouts={"running_idle": 1}) as at, beating(stage, at.task):
        row = await at.task.end()
        assert (row["error"]["code"], row["error"]["context"]["cap"]) == ("cap_idle", "idle")
        assert await looks(at.task) == 1
        await at.assert_clean()


@pytest.mark.parametrize("sign", ["log", "progress"])
async def test_output_and_progress_are_activity(stage: Stage, sign: str) -> None:
    """Two looks: at the first there was a sign of life within the cap, and the second was a whole cap after that."""
    async with scene(stage, Step.RUNNING, timeouts={"running_idle": 2}) as at, beating(stage, at.task):
        claims = Claims(task_id=at.task.task, workspace_id=at.task.workspace, attempt=1, turn=1, expires_at=FAR)
        await asyncio.sleep(1)
        async with stage.database.commit("test") as connection:
            if sign == "log":
                await logs.append(connection, claims, position=0, data=b"still here", limit=1000)
            else:
                await callbacks.progress(connection, claims, {"percent": 1})
        row = await at.task.end()
        assert (row["error"]["code"], await looks(at.task)) == ("cap_idle", 2)
        events = await at.task.events()
        began = next(event.ts for event in events if event.type is EventType.TASK_STARTED)
        failed = next(event.ts for event in events if event.type is EventType.STEP_FAILED)
        assert 3 <= (failed - began).total_seconds() < 6


async def test_a_controllers_heartbeat_is_activity(stage: Stage) -> None:
    """Running for as long as it beats, failed a cap after it fell silent."""
    task = await external(stage, Step.RUNNING, timeouts={"running_idle": 1})
    async with beating(stage, task), asyncio.timeout(20):
        while await looks(task) < 3:  # noqa: ASYNC110 - a history has no event
            await asyncio.sleep(0.1)
        assert (await task.row())["status"] == "in_progress"
    assert (await task.end())["error"]["code"] == "cap_idle"


async def test_the_absolute_cap_does_not_care_about_heartbeats(stage: Stage) -> None:
    """cap_absolute, with heartbeats going on and an idle cap that they keep off."""
    timeouts = {"running_idle": 1, "running_absolute": 3}
    task = await external(stage, Step.RUNNING, timeouts=timeouts)
    async with beating(stage, task):
        assert (await task.end())["error"]["code"] == "cap_absolute"


async def test_a_workspace_that_nobody_hears_is_not_called_idle(stage: Stage) -> None:
    """cap_hard: each look finds no contact at all, so the count begins anew, and there are no more looks than that."""
    async with scene(stage, Step.RUNNING, timeouts={"running_idle": 1, "running": 3.5}) as at:
        row = await at.task.end()
        assert (row["error"]["code"], await looks(at.task)) == ("cap_hard", 3)


async def test_a_cap_while_the_node_is_away(stage: Stage) -> None:
    """cap_hard at its time, although nobody is there to stop the command; its workspace is left to the reaper."""
    timeouts: dict[str, Any] = {"running": 3, "cleanup": 1}
    async with scene(stage, Step.RUNNING, timeouts=timeouts) as at:
        task = at.task
    row = await task.end()
    assert row["error"]["code"] == "cap_hard"
    assert (await task.events())[-1].data["cleanup"] == "pending"
