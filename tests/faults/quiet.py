"""The quiet after the faults: everything gets its time to end, and then it is looked at."""

import asyncio
import time
from typing import Final

from tests.faults.checker import check
from tests.faults.collect import Witness, collect
from tests.faults.snapshot import Snapshot
from tests.faults.stack import FaultStack

# The longest lease of an intent whose sender died (15 s), what the reaper leaves alone for a while (60 s), and
# two sweeps.
BUDGET: Final = 150.0


async def look(stack: FaultStack, witness: Witness) -> Snapshot:
    """Take a snapshot of a whole stack."""
    nodes = {node: stack.data_dir(node) for node in stack.nodes}
    return await collect(
        stack.database, witness, client=stack.client, nodes=nodes, effects=stack.effects, engine=stack.engine
    )


async def settled(stack: FaultStack, witness: Witness, *, within: float = BUDGET) -> Snapshot:
    """Return the first snapshot without a violation, or the last one before the budget is over."""
    deadline = time.monotonic() + within
    while True:
        snapshot = await look(stack, witness)
        if not any(check(snapshot).values()) or time.monotonic() > deadline:
            return snapshot
        await asyncio.sleep(1)
