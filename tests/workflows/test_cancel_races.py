"""A cancel against the attempt's own end: whoever comes first, there is one end, legal, and nothing is held."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from temporalio import activity
from temporalio.client import WorkflowFailureError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.failures import FailureInterceptor
from activities.force import force
from domain.events import STATUS_OF_EVENT, fold
from domain.lifecycle import Step
from domain.messages import CallbackSignal
from domain.names import CallbackKind, SignalName
from tests.workflows.scenes import external, scene
from tests.workflows.stage import Running, Stage
from tests.workflows.test_cancel_forced import assert_empty
from workflows.gateway import Sent

ENDS: dict[str, tuple[dict[str, Any], SignalName, dict[str, Any]]] = {
    "completed": ({}, SignalName.WORKSPACE_FINISHED, {"exit_code": 0}),
    "failed": ({}, SignalName.WORKSPACE_FINISHED, {"exit_code": 1}),
    "retried": ({"retry": {"max_attempts": 2, "backoff": 1000}}, SignalName.WORKSPACE_FAILED, {}),
}


class Around(Interceptor):
    """Does something once, right before or right after a call of the mirror."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.before: Callable[[], Awaitable[Any]] | None = None
        self.after: Callable[[], Awaitable[Any]] | None = None
        self.done = asyncio.Event()

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        return _Watched(next, self)


class _Watched(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, around: Around) -> None:
        super().__init__(following)
        self.around = around

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's own name
        watched = activity.info().activity_type == self.around.call
        if watched and self.around.before is not None:
            before, self.around.before = self.around.before, None
            await before()
            self.around.done.set()
        result = await super().execute_activity(input)
        if watched and self.around.after is not None:
            after, self.around.after = self.around.after, None
            await after()
            self.around.done.set()
        return result


@asynccontextmanager
async def watched(stage: Stage, call: str) -> AsyncIterator[Around]:
    """Run a control worker whose calls are watched."""
    around = Around(call)
    async with stage.worker(interceptors=[FailureInterceptor(), around]):
        yield around


async def over(task: Running) -> dict[str, Any]:
    """Wait until the row has ended, or another attempt waits; the log has one end and adds up to the row."""
    row = await task.row()
    while row["status"] not in ("completed", "failed", "cancelled") and row["attempt"] == 1:
        await asyncio.sleep(0.02)
        row = await task.row()
    await assert_empty(task)
    log = await task.events()
    folded = fold(log)
    assert (folded.status, folded.attempt, folded.last_seq) == (row["status"], row["attempt"], row["last_seq"])
    ends = [event for event in log if event.type in STATUS_OF_EVENT and STATUS_OF_EVENT[event.type].terminal]
    assert len(ends) == (1 if row["outcome"] else 0)
    return row


@pytest.fixture
async def staffed(bare_stage: Stage) -> AsyncIterator[Stage]:
    """Give a control plane with a worker. There is one dispatcher in this module: it starts Cleanups on its queue."""
    async with bare_stage.worker():
        yield bare_stage


def forced(task: Running) -> Awaitable[Sent]:
    """Force this attempt, as the dispatcher does at the deadline."""
    stage = task.stage
    return force(stage.database, stage.gateway, stage.policy, task.task, 1, grown=stage.dispatcher.grown)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("how", ["cancel", "force"])
async def test_a_cancel_beside_the_last_flush(bare_stage: Stage, end: str, moment: str, how: str) -> None:
    """What comes first holds: a force before the flush ends the attempt, one after it finds that it has ended.

    A cancel before the flush prevents another attempt, and no other end; one after it finds the next attempt's start.
    """
    body, signal, told = ENDS[end]
    async with watched(bare_stage, "conclude") as around:
        task = await external(bare_stage, Step.RUNNING, **body)
        setattr(around, moment, lambda: forced(task) if how == "force" else task.cancel())
        await task.signal(signal, **told)
        await around.done.wait()
        row = await over(task)
        wanted = {"completed": "completed", "failed": "failed", "retried": "queued"}[end]
        if moment == "before" and (how == "force" or end == "retried"):
            wanted = "cancelled"
        if moment == "after" and how == "cancel" and end == "retried":
            wanted = "cancelled"  # its start was voided
        assert row["status"] == wanted
        assert (row["error"] or {}).get("code") != "cancel_forced" or how == "force"


@pytest.mark.parametrize("call", ["flush", "reserve_workspace", "conclude"])
async def test_a_flush_that_is_under_way_while_its_workflow_is_terminated(bare_stage: Stage, call: str) -> None:
    """Forced by another look: the version had moved between the first one and the termination."""
    async with watched(bare_stage, call) as around:
        task = Running(bare_stage, await bare_stage.create(provider="external"))
        pending: list[asyncio.Task[Sent]] = []

        async def begin() -> None:
            pending.append(asyncio.ensure_future(forced(task)))

        around.before = begin
        for kind in (CallbackKind.CLAIMED, CallbackKind.READY, CallbackKind.FINISHED):
            await task.tell(CallbackSignal(kind=kind, exit_code=0))
        await bare_stage.begin(task, provider="external")
        row = await over(task)
        assert await pending[0] is Sent.DELIVERED
        assert row["status"] in ("cancelled", "completed")


async def test_force_and_a_normal_end_at_any_moment(staffed: Stage) -> None:
    """Given 25 of them at seeded distances, each has one end and an empty ledger, and both ways were taken."""
    seeded = random.Random(7)  # noqa: S311 - a seed, not a secret

    async def one() -> str:
        task = await external(staffed, Step.RUNNING)
        await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0)
        await asyncio.sleep(seeded.random() * 0.15)
        await forced(task)
        return str((await over(task))["status"])

    seen = [await one() for _ in range(25)]
    assert set(seen) == {"cancelled", "completed"}


async def test_cancels_beside_the_start_of_the_next_attempt(staffed: Stage) -> None:
    """Cancelled at attempt 2 whether its start was taken back, was on its way, or had been sent."""
    seeded = random.Random(11)  # noqa: S311 - a seed, not a secret

    async def one(distance: float) -> None:
        async with scene(staffed, Step.WORKSPACE_READY, retry={"max_attempts": 2, "backoff": 0.2}) as at:
            await at.task.signal(SignalName.WORKSPACE_FAILED)
            await at.task.until(status="queued")
            await asyncio.sleep(distance)
            await at.task.cancel()
            row = await at.task.until(status="cancelled")
            assert row["attempt"] == 2
            await assert_empty(at.task)
            await at.assert_clean()
            assert (await at.task.story()).count("task.cancelled") == 1

    await asyncio.gather(*(one(seeded.random() * 0.5) for _ in range(10)))


async def test_a_cancel_beside_a_cancel_from_the_ui_is_one(staffed: Stage) -> None:
    """One end, and both are content."""

    async def one() -> None:
        async with scene(staffed, Step.WORKSPACE_READY) as at:
            await asyncio.gather(at.task.cancel(), at.task.handle.cancel(), at.task.cancel(), forced(at.task))
            row = await over(at.task)
            assert row["status"] == "cancelled"
            with pytest.raises(WorkflowFailureError):
                await at.task.handle.result()
            await at.assert_clean()

    await asyncio.gather(*(one() for _ in range(5)))
