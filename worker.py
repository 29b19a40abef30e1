"""The composition root: settings become adapters, adapters become workers; workers drain on SIGTERM."""

import asyncio
import importlib.util
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import httpcore2
import structlog
from pydantic import SecretStr
from temporalio.client import Client
from temporalio.envconfig import ClientConfig
from temporalio.runtime import Runtime
from temporalio.service import RPCError
from temporalio.worker import Interceptor, PollerBehaviorAutoscaling, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities import hooks
from activities.dispatch import Dispatcher
from activities.failures import FailureInterceptor
from activities.fleet import Fleet
from activities.ledger import LedgerKeeper
from activities.mirror import Mirror
from activities.placement import NOBODY, Placement
from activities.post import GuardedNetwork, Post
from activities.postman import Postman
from activities.reconcile import Reconciler
from activities.run_dispatch import RunDispatcher
from activities.runs import Runs
from codec import UNENCRYPTED, data_converter
from domain.names import CONTROL_QUEUE
from domain.policy import Policy
from domain.provisioning import NodeProvider, Provisioning
from domain.signatures import SigningKeys
from settings import Settings
from store.engine import Database
from telemetry.endpoint import Counting, counting
from telemetry.lines import LinesInterceptor
from telemetry.metering import MeteringInterceptor
from telemetry.metrics import Metrics
from telemetry.traces import Traces, tracing
from workflows import schedule
from workflows.cleanup import Cleanup
from workflows.gateway import Gateway
from workflows.reconcile import Reconcile
from workflows.run_orchestrator import RunOrchestrator
from workflows.task_runner import TaskRunner
from workspaces.machine_processes import ProcessMachines, handed_on

log = structlog.get_logger()

# With a 2 s sticky timeout a killed worker's workflows go on elsewhere after 5.5 s instead of 13.5 s.
STICKY: Final = timedelta(seconds=2)
GRACE: Final = timedelta(seconds=10)
SCHEDULE_AGAIN: Final = 1.0

DEFAULTS: Final = Policy()

# Pure modules: the sandbox would import them again for every run.
SANDBOX: Final = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules(
        "domain", "workflows", "opentelemetry", "pydantic", "pydantic_core", "uuid_utils"
    )
)


class EngineAwayError(RuntimeError):
    """Temporal cannot be reached, as a sentence for a person."""


async def connect(
    *,
    payload_keys: SecretStr = UNENCRYPTED,
    lazy: bool = False,
    runtime: Runtime | None = None,
    traces: Traces | None = None,
    address: str | None = None,
    namespace: str | None = None,
) -> Client:
    """Return a client by Temporal's own environment configuration (`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, …).

    Without `payload_keys` it is for those who look at no payload. `address` and `namespace` are for where the
    configuration names none. Raises EngineAwayError.
    """
    options: dict[str, Any] = {**ClientConfig.load_client_connect_config()}
    options.setdefault("target_host", address or "127.0.0.1:7233")
    options.setdefault("namespace", namespace or "default")
    converter = data_converter(payload_keys)
    options["interceptors"] = [traces.interceptor] if traces else []
    try:
        return await Client.connect(
            **options, data_converter=converter, lazy=lazy, runtime=runtime or Runtime.default()
        )
    except RuntimeError as error:  # the SDK's word for who cannot be reached
        raise EngineAwayError(f"Temporal does not answer at {options['target_host']}: {error}") from None


def process_name() -> str:
    """Return a name for this process, as the holder of leases."""
    return f"{socket.gethostname()}:{os.getpid()}"


def control_worker(
    client: Client,
    database: Database,
    dispatcher: Dispatcher,
    reconciler: Reconciler | None = None,
    *,
    runs: RunDispatcher | None = None,
    policy: Policy = DEFAULTS,
    provisioning: Provisioning = NOBODY,
    fleet: Fleet | None = None,
    metrics: Metrics | None = None,
    **options: Any,
) -> Worker:
    """Return the worker of the TaskRunners and their Cleanups, of the mirror, and of the reconciler if one is given."""
    metering: list[Interceptor] = [MeteringInterceptor(metrics)] if metrics else []
    placement, mirror = Placement(database, dispatcher, provisioning), Mirror(database, dispatcher, runs)
    of_runs = Runs(database, dispatcher, policy)
    ledger = LedgerKeeper(database, dispatcher)
    fleet = fleet or Fleet(database, None, policy=provisioning, within=policy.budgets.node_provisioning)
    sweeping: list[Callable[..., Any]] = [reconciler.sweep, reconciler.orphans] if reconciler else []
    defaults: dict[str, Any] = {
        "task_queue": CONTROL_QUEUE,
        "workflows": [TaskRunner, RunOrchestrator, Cleanup, Reconcile],
        "workflow_runner": SANDBOX,
        "interceptors": [*metering, LinesInterceptor(), FailureInterceptor()],
        "max_cached_workflows": 1000,
        "max_concurrent_workflow_tasks": 100,
        "max_concurrent_local_activities": 100,
        "workflow_task_poller_behavior": PollerBehaviorAutoscaling(minimum=2, maximum=20, initial=5),
        "sticky_queue_schedule_to_start_timeout": STICKY,
        "graceful_shutdown_timeout": GRACE,
    }
    return Worker(
        client,
        activities=[
            mirror.flush,
            mirror.read_activity,
            mirror.conclude,
            placement.select_node,
            placement.wait_for_slot,
            placement.wait_for_node,
            placement.reserve_workspace,
            ledger.held,
            ledger.release,
            fleet.make_node,
            of_runs.flush_run,
            of_runs.start_members,
            of_runs.find_out,
            of_runs.barrier,
            of_runs.cancel_tasks,
            *sweeping,
        ],
        **(defaults | options),
    )


@dataclass(frozen=True)
class Parts:
    """What the control plane's processes are made of."""

    settings: Settings
    client: Client
    database: Database
    gateway: Gateway
    dispatcher: Dispatcher
    runs: RunDispatcher
    counting: Counting
    traces: Traces | None


def counted(settings: Settings) -> AbstractAsyncContextManager[Counting]:
    """Count, and serve what was counted, where the settings say."""
    token = settings.metrics_token.get_secret_value()
    return counting(host=settings.metrics_host, port=settings.metrics_port, token=token)


@asynccontextmanager
async def composed(
    settings: Settings, *, service: str = "taskrunner", lazy: bool = False, observed: bool = False
) -> AsyncIterator[Parts]:
    """Compose a process of the control plane; `lazy` lets it boot while Temporal is away, `observed` loads hooks."""
    async with counted(settings) as counting, tracing(service) as traces:
        keys, runtime = settings.payload_keys, counting.runtime
        client = await connect(payload_keys=keys, lazy=lazy, runtime=runtime, traces=traces)
        database = Database(settings.database_url, pool=settings.database_pool)
        gateway = Gateway(client, ui_url=settings.temporal_ui_url)
        dispatcher = Dispatcher(
            name=process_name(),
            database=database,
            gateway=gateway,
            policy=settings.policy,
            hooks=hooks.installed(database) if observed else None,
        )
        runs = RunDispatcher(database=database, gateway=gateway, policy=settings.policy)
        try:
            yield Parts(settings, client, database, gateway, dispatcher, runs, counting, traces)
        finally:
            await runs.close()
            await dispatcher.close()
            await database.close()


@asynccontextmanager
async def control_plane(settings: Settings) -> AsyncIterator[Parts]:
    """Run the control worker and the dispatcher's loop, and see to the reconciler's schedule."""
    async with composed(settings, service="taskrunner-control", observed=True) as parts:
        fleet = fleet_of(settings, parts.database)
        reconciler = Reconciler(
            parts.database,
            parts.gateway,
            parts.dispatcher,
            policy=settings.policy,
            retention=settings.retention,
            idempotency=settings.idempotency,
            fleet=fleet,
        )
        metrics = parts.counting.metrics
        async with (
            webhooks_delivered(settings, parts.database),
            control_worker(
                parts.client,
                parts.database,
                parts.dispatcher,
                reconciler,
                runs=parts.runs,
                policy=settings.policy,
                provisioning=settings.provisioning,
                fleet=fleet,
                metrics=metrics,
            ),
        ):
            loops = [
                asyncio.create_task(parts.dispatcher.run()),
                asyncio.create_task(parts.runs.run()),
                asyncio.create_task(keep_schedule(parts.client, settings.reconcile_every)),
            ]
            try:
                yield parts
            finally:
                for loop in loops:
                    loop.cancel()
                await asyncio.gather(*loops, return_exceptions=True)


def fleet_of(settings: Settings, database: Database) -> Fleet:
    """Return who makes nodes, with the provider that the settings name."""
    policy, machines = settings.provisioning, None
    if policy.provider is NodeProvider.PROCESS:
        given = handed_on(os.environ) | {"TASKRUNNER_URL": settings.public_url}
        machines = ProcessMachines(settings.data_dir / "machines", environment=given)
    return Fleet(database, machines, policy=policy, within=settings.budgets.node_provisioning)


@asynccontextmanager
async def webhooks_delivered(settings: Settings, database: Database) -> AsyncIterator[None]:
    """Send webhooks meanwhile, where there is a key that signs them. Raises OSError for a `ca_file` that is none."""
    keys = SigningKeys.parse(settings.webhook_keys.get_secret_value())
    if keys is None:
        yield
        return
    authorities = httpcore2.default_ssl_context()
    if settings.webhooks.ca_file is not None:
        authorities.load_verify_locations(settings.webhooks.ca_file)
    post = Post(GuardedNetwork(settings.webhooks.allowed_networks), authorities=authorities)
    postman = Postman(database, post, keys, settings.webhooks)
    rounds = asyncio.create_task(postman.run())
    try:
        yield
    finally:
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)
        await postman.close()


async def keep_schedule(client: Client, every: timedelta, *, queue: str = CONTROL_QUEUE) -> None:
    """Create or update the reconciler's schedule, as soon as Temporal lets it."""
    while True:
        try:
            await schedule.keep(client, every=every, queue=queue)
        except (RPCError, RuntimeError) as error:
            log.warning("reconcile.no_schedule", error=str(error).splitlines()[0])
        else:
            return
        await asyncio.sleep(SCHEDULE_AGAIN)


async def until_told() -> None:
    """Wait for SIGTERM or SIGINT."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a process's main coroutine, on uvloop where there is one: a quarter less of the processor's time."""
    factory = None
    if importlib.util.find_spec("uvloop"):
        factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


async def run_control(settings: Settings) -> None:
    """Run the control plane until SIGTERM, then drain."""
    async with control_plane(settings) as parts:
        log.info("worker.ready", role="control", queue=CONTROL_QUEUE, metrics=parts.counting.address)
        await until_told()
        log.info("worker.draining", role="control")
