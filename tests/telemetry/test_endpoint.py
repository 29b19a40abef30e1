"""The metrics' own endpoint, when many processes start at once."""

import asyncio
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier

import uvloop

from cli.embedded.temporal import free_port
from telemetry.endpoint import serving
from telemetry.metrics import Metrics

ROUNDS = 400


def test_processes_that_start_at_once_get_a_port_each() -> None:
    """No start fails, on the loop that we run on: of two that bind together only one may listen, and the other goes on.

    The loop's own server said nothing to one of them, in about one of a hundred such starts.
    """
    context = get_context("spawn")
    barrier = context.Barrier(2)
    port = free_port(0)
    starting = [context.Process(target=_start, args=(barrier, port)) for _ in range(2)]
    for process in starting:
        process.start()
    for process in starting:
        process.join(60)
    assert [process.exitcode for process in starting] == [0, 0]


def _start(barrier: Barrier, port: int) -> None:
    uvloop.run(_starts(barrier, port))


async def _starts(barrier: Barrier, port: int) -> None:
    metrics = Metrics()
    try:
        for _ in range(ROUNDS):
            barrier.wait(30)
            async with serving(metrics, host="127.0.0.1", port=port) as address:
                assert address.startswith("http://127.0.0.1:")
                barrier.wait(30)
            await asyncio.sleep(0)
    except BaseException:
        barrier.abort()
        raise
