"""What a scene is, and how one has the safety net look at once."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Final

from temporalio.client import WorkflowFailureError

from domain.lifecycle import TERMINAL
from domain.names import CONTROL_QUEUE, RECONCILE
from domain.reconcile import Report, SweepOrder
from tests.faults.caller import Caller
from tests.faults.stack import FaultStack

SWEEPS: Final = 10

# A scene gives the tasks that it made, each with the statuses in which it may end.
Ends = Mapping[str, tuple[str, ...]]
Scene = Callable[[FaultStack, Caller], Awaitable[Ends]]


async def swept(stack: FaultStack, caller: Caller, ends: Ends) -> Ends:
    """Sweep by hand until one sweep was whole and these tasks have ended; one that fails is followed by the next."""
    for _ in range(SWEEPS):
        try:
            await stack.client.execute_workflow(
                RECONCILE,
                SweepOrder(),
                id=f"sweep-{secrets.token_hex(8)}",
                task_queue=CONTROL_QUEUE,
                result_type=Report,
                execution_timeout=timedelta(minutes=1),
            )
        except WorkflowFailureError:
            continue
        if all([(await caller.show(task))["status"] in TERMINAL for task in ends]):
            break
        await asyncio.sleep(1)
    return ends
