"""The floor: a bare workflow with exactly four flushes of three events and two signals.

The same SQL, server, sandbox and worker options as the product's; nothing else. No durable service that mirrors a
task's events can cost less than this.
"""

from datetime import datetime
from typing import Any

from pydantic import BaseModel
from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from domain.events import EventType, NewEvent
    from domain.lifecycle import Step
    from domain.messages import Flush
    from domain.names import TaskId
    from workflows.policies import MIRROR_RETRY, MIRROR_TRY
    from workflows.ports import MirrorActivities

QUEUE = "floor"

BATCHES: tuple[tuple[tuple[EventType, Step | None], ...], ...] = (
    (
        (EventType.ATTEMPT_STARTED, None),
        (EventType.TASK_DELEGATED, None),
        (EventType.STEP_STARTED, Step.WORKSPACE_READY),
    ),
    (
        (EventType.WORKSPACE_READY, None),
        (EventType.TASK_STARTED, None),
        (EventType.STEP_STARTED, Step.RUNNING),
    ),
    (
        (EventType.AGENT_FINISHED, None),
        (EventType.STEP_FINISHED, Step.RUNNING),
        (EventType.STEP_STARTED, Step.CLEANUP),
    ),
    (
        (EventType.STEP_FINISHED, Step.CLEANUP),
        (EventType.ATTEMPT_CLEANED, None),
        (EventType.TASK_COMPLETED, None),
    ),
)


class FloorInput(BaseModel):
    """Which row to mirror into."""

    task_id: TaskId


@workflow.defn(name="Floor")
class Floor:
    """Flush, wait, flush, wait, flush, flush."""

    @workflow.init
    def __init__(self, argument: FloorInput) -> None:
        self._task = argument.task_id
        self._signals = 0
        self._version = 0

    @workflow.run
    async def run(self, argument: FloorInput) -> None:  # noqa: ARG002 - `__init__` has it
        """Do only what the comparison needs."""
        await self._flush(0)
        await workflow.wait_condition(lambda: self._signals >= 1, timeout=1800)
        await self._flush(1)
        await workflow.wait_condition(lambda: self._signals == 2, timeout=1800)
        await self._flush(2)
        await self._flush(3)

    @workflow.signal
    def advance(self) -> None:
        """One of the two signals."""
        self._signals += 1

    async def _flush(self, number: int) -> None:
        self._version += 1
        now: datetime = workflow.now()
        events = [
            NewEvent(key=f"{number}:{kind}", type=kind, ts=now, attempt=1, step=step) for kind, step in BATCHES[number]
        ]
        batch = Flush(task_id=self._task, attempt=1, version=self._version, events=events)
        await workflow.execute_local_activity_method(
            MirrorActivities.flush, batch, start_to_close_timeout=MIRROR_TRY, retry_policy=MIRROR_RETRY
        )


async def serve() -> None:
    """Run the floor's worker until SIGTERM."""
    from settings import Settings  # noqa: PLC0415 - the sandbox imports this file for every run
    from worker import composed, control_worker, until_told  # noqa: PLC0415

    async with composed(Settings()) as parts:
        options: dict[str, Any] = {"task_queue": QUEUE, "workflows": [Floor]}
        async with control_worker(parts.client, parts.database, parts.dispatcher, **options):
            print("ready", flush=True)
            await until_told()


if __name__ == "__main__":
    from worker import run

    run(serve())
