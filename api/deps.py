"""What endpoints are given: the context of the process, the caller behind a key, the claims of a callback token."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Protocol

from fastapi import Depends, Request
from structlog.contextvars import bind_contextvars

from api.auth import Caller, KeyRing
from api.deliveries import Deliveries
from api.feeds import Feeds
from api.health import Health
from api.problems import Problem
from api.rates import Rates
from domain.names import DEFAULT_PROJECT, RunId, Scope, TaskId
from domain.policy import Policy
from domain.runner import RunnerInput
from domain.signatures import SigningKeys
from domain.tokens import Claims, TokenKeys
from settings import Settings
from store.engine import Database
from store.outbox import Intent, Undelivered
from telemetry.metrics import Metrics
from workflows.gateway import Gateway, Sent

# Longer than the engine's own limit for a start, so that nobody sends what its owner is still sending.
INTENT_LEASE: Final = timedelta(seconds=15)
# Read by GET only, and sent by the browser to this site only: nothing that changes anything can be forged with it.
SESSION_COOKIE: Final = "taskrunner_session"


class Courier(Protocol):
    """Who carries committed intents and callbacks to the engine."""

    name: str

    def send(self, intent: Intent, argument: RunnerInput | None = None) -> None:
        """Send an intent in the background."""

    def grown(self, task: TaskId) -> None:
        """Tell those who watch that a task's log has grown."""

    async def deliver(self, callback: Undelivered) -> Sent:
        """Send a callback's signal now."""


class RunCourier(Protocol):
    """Who carries committed intents of runs to the engine."""

    def send(self, run: RunId) -> None:
        """Send what is to be told to this run, in the background."""


# Takes a JSON document of encrypted payloads and gives the plain one; raises ValueError.
Decode = Callable[[bytes], Coroutine[Any, Any, bytes]]


@dataclass(kw_only=True)
class Context:
    """All that an API process holds; one per application."""

    settings: Settings
    policy: Policy
    database: Database
    gateway: Gateway
    courier: Courier
    runs: RunCourier
    deliveries: Deliveries
    feeds: Feeds
    many_feeds: Feeds
    health: Health
    metrics: Metrics
    keys: KeyRing
    rates: Rates
    tokens: TokenKeys
    signing: SigningKeys | None
    decode: Decode | None = None

    def told(self, run: RunId) -> None:
        """Tell a run's orchestrator, and those who watch, what was committed."""
        self.runs.send(run)
        self.courier.grown(TaskId(run))


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


async def context(request: Request) -> Context:
    """Return the context of the application that serves this request."""
    found: Context = request.app.state.context
    return found


def bearer(request: Request) -> str:
    """Return the credential of the Authorization header, or nothing."""
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    return credential.strip() if scheme.lower() == "bearer" else ""


def needs(*scopes: Scope) -> Callable[[Request], Coroutine[Any, Any, Caller]]:
    """Return the dependency that admits keys with any of these scopes."""

    async def admitted(request: Request) -> Caller:
        ctx = await context(request)
        if request.method == "GET" and "authorization" not in request.headers:
            caller = await ctx.keys.visitor(request.cookies.get(SESSION_COOKIE, ""))
        else:
            caller = await ctx.keys.caller(bearer(request))
        if caller is None:
            raise Problem("unauthorized")
        if not ctx.rates.admit(caller.key_id):
            raise Problem("too_fast")
        if not caller.may(*scopes):
            raise Problem("forbidden", f"this needs a key with the scope {' or '.join(scopes)}")
        return caller

    return admitted


async def operator(request: Request) -> Caller:
    """Admit a node's token, and keys for nodes of the project that operates them: nodes serve all projects."""
    caller = await needs(Scope.NODES_WRITE)(request)
    if caller.node_id is None and caller.project != DEFAULT_PROJECT:
        raise Problem("forbidden", f"only keys of the project {DEFAULT_PROJECT} change nodes, which serve all projects")
    return caller


async def claimant(request: Request) -> Caller:
    """Admit who may claim callback tokens: a controller of `external` workspaces, and a node for its own."""
    caller = await needs(Scope.WORKSPACES_WRITE, Scope.NODES_WRITE)(request)
    if caller.node_id is None and not caller.may(Scope.WORKSPACES_WRITE):
        raise Problem("forbidden", f"this needs a key with the scope {Scope.WORKSPACES_WRITE}, or a node's token")
    return caller


async def claims(request: Request, workspace_id: str) -> Claims:
    """Admit the callback token of this workspace; whatever is wrong with one, the answer is the same."""
    ctx = await context(request)
    found = ctx.tokens.verify(bearer(request), workspace=workspace_id, now=now())
    if found is None:
        ctx.metrics.rejected_tokens.inc()
        raise Problem("unauthorized")
    if not ctx.rates.admit(workspace_id):
        raise Problem("too_fast")
    bind_contextvars(task=found.task_id, attempt=found.attempt, workspace=workspace_id)
    return found


Ctx = Annotated[Context, Depends(context)]
Token = Annotated[Claims, Depends(claims)]
Reader = Annotated[Caller, Depends(needs(Scope.TASKS_READ))]
Writer = Annotated[Caller, Depends(needs(Scope.TASKS_WRITE))]
WorkspaceReader = Annotated[Caller, Depends(needs(Scope.TASKS_READ, Scope.WORKSPACES_WRITE))]
Claimant = Annotated[Caller, Depends(claimant)]
Operator = Annotated[Caller, Depends(operator)]
Anybody = Annotated[Caller, Depends(needs(*Scope))]
Admin = Annotated[Caller, Depends(needs(Scope.ADMIN))]
