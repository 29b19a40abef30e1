"""The composition root: settings become adapters, adapters become workers; workers drain on SIGTERM."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import structlog
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.worker import PollerBehaviorAutoscaling, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.dispatch import Dispatcher
from activities.failures import FailureInterceptor
from activities.mirror import Mirror
from activities.placement import Placement
from domain.names import CONTROL_QUEUE, NodeId, node_queue, supervise_queue
from settings import Settings
from store.engine import Database
from workflows.gateway import Gateway
from workflows.ports import NodeActivities
from workflows.task_runner import TaskRunner

log = structlog.get_logger()

# With a 2 s sticky timeout a killed worker's workflows go on elsewhere after 5.5 s instead of 13.5 s.
STICKY: Final = timedelta(seconds=2)
GRACE: Final = timedelta(seconds=10)

# Pure modules: the sandbox would import them again for every run.
SANDBOX: Final = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules(
        "domain", "pydantic", "pydantic_core", "uuid_utils"
    )
)


async def connect(*, lazy: bool = False) -> Client:
    """Return a client by Temporal's own environment configuration (`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, …)."""
    options: dict[str, Any] = {**ClientConfig.load_client_connect_config()}
    options.setdefault("target_host", "127.0.0.1:7233")
    return await Client.connect(**options, data_converter=pydantic_data_converter, lazy=lazy, runtime=Runtime.default())


def process_name() -> str:
    """Return a name for this process, as the holder of leases."""
    return f"{socket.gethostname()}:{os.getpid()}"


def control_worker(client: Client, database: Database, dispatcher: Dispatcher, **options: Any) -> Worker:
    """Return the worker of the TaskRunners and of the mirror."""
    placement, mirror = Placement(database, dispatcher), Mirror(database, dispatcher)
    defaults: dict[str, Any] = {
        "task_queue": CONTROL_QUEUE,
        "workflow_runner": SANDBOX,
        "interceptors": [FailureInterceptor()],
        "max_cached_workflows": 1000,
        "max_concurrent_workflow_tasks": 100,
        "max_concurrent_local_activities": 100,
        "workflow_task_poller_behavior": PollerBehaviorAutoscaling(minimum=2, maximum=20, initial=5),
        "sticky_queue_schedule_to_start_timeout": STICKY,
        "graceful_shutdown_timeout": GRACE,
    }
    return Worker(
        client,
        workflows=[TaskRunner],
        activities=[
            mirror.flush,
            mirror.conclude,
            placement.select_node,
            placement.wait_for_slot,
            placement.wait_for_node,
            placement.reserve_workspace,
        ],
        **(defaults | options),
    )


def node_workers(client: Client, node: NodeActivities, node_id: NodeId, *, slots: int) -> list[Worker]:
    """Return a node's two workers: short work, and one long activity per running agent."""
    short = Worker(
        client,
        task_queue=node_queue(node_id),
        activities=[
            node.create_workspace,
            node.inspect_workspace,
            node.transfer_attachment,
            node.start_agent,
            node.destroy_workspace,
        ],
        interceptors=[FailureInterceptor()],
        max_concurrent_activities=max(2 * slots, 10),
        graceful_shutdown_timeout=GRACE,
    )
    # Twice the slots: what is about to be destroyed must not keep a new agent from being looked after.
    long = Worker(
        client,
        task_queue=supervise_queue(node_id),
        activities=[node.supervise_agent],
        interceptors=[FailureInterceptor()],
        max_concurrent_activities=2 * slots,
        graceful_shutdown_timeout=timedelta(seconds=1),
    )
    return [short, long]


@asynccontextmanager
async def control_plane(settings: Settings) -> AsyncIterator[Dispatcher]:
    """Run the control worker and the dispatcher's loop."""
    client = await connect()
    database = Database(settings.database_url, pool=settings.database_pool)
    gateway = Gateway(client, ui_url=settings.temporal_ui_url)
    dispatcher = Dispatcher(name=process_name(), database=database, gateway=gateway, policy=settings.policy)
    loop = asyncio.create_task(dispatcher.run())
    try:
        async with control_worker(client, database, dispatcher):
            yield dispatcher
    finally:
        loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loop
        await dispatcher.close()
        await database.close()


async def until_told() -> None:
    """Wait for SIGTERM or SIGINT."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()


async def run_control(settings: Settings) -> None:
    """Run the control plane until SIGTERM, then drain."""
    async with control_plane(settings):
        log.info("worker.ready", role="control", queue=CONTROL_QUEUE)
        await until_told()
        log.info("worker.draining", role="control")


async def run_workers(workers: Sequence[Worker]) -> None:
    """Run workers until SIGTERM, then drain them."""
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        log.info("worker.ready", queues=[worker.task_queue for worker in workers])
        await until_told()
        log.info("worker.draining")
