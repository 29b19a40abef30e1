"""A control worker that dies of `kill -9` right after the n-th commit of one of the mirror's calls.

Arguments: the Temporal server's address, the database's URL, the queue, the call, n, and how many workflows it caches
(none unless given). A program, not a test: SIGKILL leaves no room for a fixture. With n = 0 it lives until it is told
to stop.
"""

import asyncio
import os
import signal
import sys
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.dispatch import Dispatcher
from activities.failures import FailureInterceptor
from domain.policy import Policy
from store.engine import Database
from worker import control_worker
from workflows.gateway import Gateway


class Mortal(Interceptor):
    """Kills its own process when a call has returned, and with that committed, for the n-th time."""

    def __init__(self, call: str, left: int) -> None:
        self.call, self.left = call, left

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        return _Last(next, self)


class _Last(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, mortal: Mortal) -> None:
        super().__init__(following)
        self.mortal = mortal

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        result = await super().execute_activity(input)
        if activity.info().activity_type == self.mortal.call:
            self.mortal.left -= 1
            if self.mortal.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return result


async def main(address: str, url: str, queue: str, call: str, *numbers: str) -> None:
    """Run until killed."""
    times, cached, *_ = (*map(int, numbers), 0)
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    database = Database(url)
    dispatcher = Dispatcher(name="mortal", database=database, gateway=Gateway(client, queue=queue), policy=Policy())
    interceptors = [FailureInterceptor(), Mortal(call, times)]
    options: dict[str, Any] = {"task_queue": queue, "interceptors": interceptors, "max_cached_workflows": cached}
    async with control_worker(client, database, dispatcher, **options):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
