"""The application: composed here from what a process holds, and nowhere else."""

from functools import partial

from fastapi import FastAPI

from api import openapi, problems, reference
from api.auth import KeyRing
from api.deliveries import Deliveries
from api.deps import Context, Courier, Decode, RunCourier
from api.edge import Answered, Edge
from api.feeds import Feeds, ManyFeeds, TaskLogs
from api.health import Health
from api.rates import Rates
from api.routes import (
    artifacts,
    attachments,
    attempts,
    callbacks,
    codec,
    conversations,
    deletions,
    events,
    explanations,
    health,
    keys,
    logs,
    nodes,
    probes,
    retries,
    run_commands,
    run_graph,
    run_steering,
    runs,
    sessions,
    steering,
    stream,
    tasks,
    webhooks,
    workspaces,
)
from api.traced import Traced
from domain.signatures import SigningKeys
from domain.tokens import TokenKeys
from settings import Settings
from store.engine import Database
from telemetry.metrics import HealthGauges, Metrics
from telemetry.traces import Traces
from workflows.gateway import Gateway

DESCRIPTION = (
    "Durable tasks in fresh workspaces. Errors are `application/problem+json` (RFC 9457); "
    "lists are keyset pages; times are UTC, RFC 3339 with microseconds."
)
# The API's own, as in its paths; the package has another.
VERSION = "1"
ROUTERS = (
    *(
        module.router
        for module in (tasks, steering, conversations, retries, deletions, events, stream, attempts, explanations)
    ),
    *(module.router for module in (runs, run_graph, run_steering, run_commands)),
    *(module.of_run for module in (events, stream)),
    *(module.router for module in (logs, artifacts, attachments)),
    *(module.router for module in (workspaces, callbacks)),
    *(module.of_workspace for module in (logs, artifacts, attachments)),
    *(module.router for module in (nodes, keys, webhooks, sessions, codec, health, probes)),
    stream.of_project,
)


def create_app(
    *,
    settings: Settings,
    database: Database,
    gateway: Gateway,
    courier: Courier,
    runs: RunCourier,
    decode: Decode | None = None,
    metrics: Metrics | None = None,
    traces: Traces | None = None,
) -> FastAPI:
    """Return the API; raises ValueError if the settings hold no callback key.

    `decode` reads encrypted histories, where they are; `metrics` and `traces` are those of the process, if it has
    any. The caller owns database, gateway and couriers, and closes them after the server has stopped.
    """
    metrics = metrics or Metrics()
    app = assemble(answered=metrics.requested)
    if traces is not None:
        app.add_middleware(Traced, traces=traces)
    health = Health(database, gateway, budgets=settings.policy.budgets, thresholds=settings.health)
    metrics.refresh = partial(health.show, HealthGauges(metrics.registry))
    app.state.context = Context(
        settings=settings,
        policy=settings.policy,
        database=database,
        gateway=gateway,
        courier=courier,
        runs=runs,
        deliveries=Deliveries(courier),
        feeds=Feeds(database, TaskLogs(database)),
        many_feeds=Feeds(database, ManyFeeds(database)),
        health=health,
        metrics=metrics,
        keys=KeyRing(database),
        rates=Rates(settings.request_rate),
        tokens=TokenKeys.parse(settings.callback_keys.get_secret_value()),
        signing=SigningKeys.parse(settings.webhook_keys.get_secret_value()),
        decode=decode,
    )
    return app


def assemble(*, answered: Answered | None = None) -> FastAPI:
    """Return the routes without a context: enough for the application to describe itself."""
    app = FastAPI(
        title="Taskrunner",
        version=VERSION,
        description=DESCRIPTION,
        docs_url=None,  # theirs runs scripts of another site
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_middleware(Edge, answered=answered)
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app)
    reference.install(app)
    return app
