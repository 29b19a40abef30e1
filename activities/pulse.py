"""The pulse of short work on a node: a dead node is noticed within seconds, and a cancel leaves no effect half done."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Final

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

BEATS_PER_TIMEOUT: Final = 3  # of which two may be lost
# What may stop at any byte: it is begun anew or thrown away as a whole.
INTERRUPTIBLE: Final = frozenset({"transfer_attachment", "inspect_workspace"})


class PulseInterceptor(Interceptor):
    """Wraps every activity of a worker that has a heartbeat timeout."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Wrap one activity."""
        return _Pulse(next)


class _Pulse(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's own name
        info = activity.info()
        if info.heartbeat_timeout is None:
            return await super().execute_activity(input)
        beat = asyncio.create_task(_beat(info.heartbeat_timeout / BEATS_PER_TIMEOUT))
        try:
            if info.activity_type in INTERRUPTIBLE:
                return await super().execute_activity(input)
            return await _whole(super().execute_activity(input))
        finally:
            beat.cancel()


async def _whole(work: Coroutine[Any, Any, Any]) -> Any:
    """Finish an effect although its workflow has cancelled it, and does not wait: what came too late is taken back.

    Heartbeats bring the cancel here, and they bring it once; a worker that shuts down still interrupts.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        details = activity.cancellation_details()
        if task.done() or details is None or not details.cancel_requested:
            task.cancel()
            raise
    return await task


async def _beat(period: timedelta) -> None:
    """Begin after a period: what is over sooner needs no heartbeat, and costs none."""
    while True:
        await asyncio.sleep(period.total_seconds())
        activity.heartbeat()
