"""What opens which route. A route without a row here fails `test_routes.py`; a POST says how it is repeated, too."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final

from domain.lifecycle import RunStatus, TaskStatus
from domain.names import DEFAULT_PROJECT, RunId, Scope, TaskId
from store import holds
from tests.api.harness import Api
from tests.store.runs import Orchestrator


class Door(Enum):
    """What is asked for where it is no scope of a key."""

    OPEN = "open"  # nothing
    TOKEN = "token"  # the callback token of the workspace in the path


# Makes what a POST acts on, and returns the values of its path.
Prepare = Callable[[Api], Awaitable[dict[str, str]]]


async def nothing(_: Api) -> dict[str, str]:
    """Make nothing."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """How a POST takes an Idempotency-Key: on `path`, with `body`."""

    path: Prepare = nothing
    body: bytes = b"{}"


class Elsewhere(str):
    """A POST that takes a key, and which test proves it: it needs more than this suite has."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Who may: keys with any of `scopes` (an admin may always), or what `door` says.

    `hides` is the part of the path that names something of a project: another project's is like an unknown one. A
    route that leaves nothing of what it acts on `spends` it: each request gets one of its own.
    """

    scopes: tuple[Scope, ...] = ()
    door: Door | None = None
    hides: str | None = None
    spends: Prepare = nothing
    operators: bool = False  # only of the project `default`
    page: bool = True  # a GET without an id answers with a page of the project's own things
    params: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    repeat: Repeat | str | None = None  # a string: why it needs no key


async def ready(api: Api) -> dict[str, str]:
    """Make a task that was not started."""
    return {"task_id": (await api.create(start=False))["id"]}


async def queued(api: Api) -> dict[str, str]:
    """Make a task that was started."""
    return {"task_id": (await api.create())["id"]}


async def failed(api: Api) -> dict[str, str]:
    """Make a task that failed."""
    attempt = await api.live()
    await attempt.end(TaskStatus.FAILED)
    return {"task_id": attempt.task}


async def live(api: Api) -> dict[str, str]:
    """Make a task with a workspace."""
    return {"workspace_id": (await api.live()).workspace}


async def paused(api: Api) -> dict[str, str]:
    """Make a task that is to be held, by a token that the table knows."""
    task = TaskId((await api.create())["id"])
    async with api.database.begin("test") as connection:
        await holds.pause(
            connection,
            DEFAULT_PROJECT,
            task,
            reason=None,
            token="of-the-table",
            now=datetime.now(UTC),
            lease_to="test",
            lease=timedelta(0),
        )
    return {"task_id": task}


async def node(api: Api) -> dict[str, str]:
    """Make a node."""
    response = await api.client.post("/v1/nodes", json={"id": "of-the-table", "slots": 0})
    assert response.is_success
    return {"node_id": "of-the-table"}


async def webhook(api: Api) -> dict[str, str]:
    """Make a webhook."""
    made = await api.client.post("/v1/webhooks", content=WEBHOOK, headers=await api.key(*Scope))
    assert made.is_success, made.text
    return {"webhook_id": made.json()["id"]}


async def delivery(api: Api) -> dict[str, str]:
    """Make a webhook, and a delivery of it."""
    ids = await webhook(api)
    await api.create(start=False)
    admin = await api.key(*Scope)
    found = (await api.client.get(f"/v1/webhooks/{ids['webhook_id']}/deliveries", headers=admin)).json()["items"]
    return ids | {"delivery_id": found[0]["id"]}


async def run(api: Api) -> dict[str, str]:
    """Make a run."""
    return {"run_id": (await api.create_run())["id"]}


async def paused_run(api: Api) -> dict[str, str]:
    """Make a run that is held, by a token that the table knows."""
    made = RunId((await api.create_run())["id"])
    await api.runs.close()
    orchestrator = Orchestrator(api.database, made)
    await orchestrator.begin()
    await orchestrator.hold("of-the-table")
    return {"run_id": made}


async def completed_run(api: Api) -> dict[str, str]:
    """Make a run that completed."""
    run = RunId((await api.create_run())["id"])
    await api.runs.close()
    orchestrator = Orchestrator(api.database, run)
    await orchestrator.begin()
    for member in "abcd":
        await orchestrator.run_through(member)
    await orchestrator.finish(RunStatus.COMPLETED)
    return {"run_id": run}


async def failed_run(api: Api) -> dict[str, str]:
    """Make a run that failed."""
    run = RunId((await api.create_run())["id"])
    await api.runs.close()
    await Orchestrator(api.database, run).fail()
    return {"run_id": run}


WEBHOOK: Final = b'{"url": "https://1.1.1.1/", "events": ["task.created"]}'
READ, WRITE = (Scope.TASKS_READ,), (Scope.TASKS_WRITE,)
INBOX: Final = "the inbox: one row per workspace, attempt, kind and turn; other content is 409 conflicting_callback"
CONVERSATION: Final = "tests/workflows/test_conversation.py::test_a_repeat_is_the_same_turn"
LATEST: Final = "the latest wins, and the same again changes nothing"
TASK: Final = b'{"command": ["true"], "provider": "external"}'
RUN: Final = b'{"members": [{"name": "a", "task": {"command": ["true"]}}]}'

TABLE: Final[Mapping[str, Rule]] = {
    "GET /docs": Rule(door=Door.OPEN),
    "GET /openapi.json": Rule(door=Door.OPEN),
    "GET /livez": Rule(door=Door.OPEN),
    "GET /readyz": Rule(door=Door.OPEN),
    "GET /metrics": Rule(scopes=(Scope.ADMIN,), operators=True, page=False),
    "POST /v1/tasks": Rule(scopes=WRITE, repeat=Repeat(body=TASK)),
    "GET /v1/tasks": Rule(scopes=READ),
    "GET /v1/tasks/{task_id}": Rule(scopes=READ, hides="task_id"),
    "DELETE /v1/tasks/{task_id}": Rule(scopes=WRITE, hides="task_id", spends=failed),
    "POST /v1/tasks/{task_id}/start": Rule(scopes=WRITE, hides="task_id", repeat=Repeat(path=ready)),
    "POST /v1/tasks/{task_id}/cancel": Rule(scopes=WRITE, hides="task_id", repeat=Repeat(path=queued)),
    "POST /v1/tasks/{task_id}/pause": Rule(scopes=WRITE, hides="task_id", repeat=Repeat(path=queued)),
    "POST /v1/tasks/{task_id}/resume": Rule(
        scopes=WRITE,
        hides="task_id",
        spends=paused,
        body={"token": "of-the-table"},
        repeat=Repeat(path=paused, body=b'{"token": "of-the-table"}'),
    ),
    "POST /v1/tasks/{task_id}/followups": Rule(
        scopes=WRITE, hides="task_id", body={"message": "go on"}, repeat=Elsewhere(CONVERSATION)
    ),
    "POST /v1/tasks/{task_id}/close": Rule(scopes=WRITE, hides="task_id", repeat=Elsewhere(CONVERSATION)),
    "PUT /v1/tasks/{task_id}/breakpoints": Rule(scopes=WRITE, hides="task_id", body={}),
    "POST /v1/tasks/{task_id}/retry": Rule(scopes=WRITE, hides="task_id", repeat=Repeat(path=failed)),
    "GET /v1/tasks/{task_id}/events": Rule(scopes=READ, hides="task_id"),
    "GET /v1/tasks/{task_id}/stream": Rule(scopes=READ, hides="task_id"),
    # A cursor beyond the end: an answer that ends, from behind the door.
    "GET /v1/stream": Rule(scopes=READ, params={"fromSeq": "1000000"}, page=False),
    "GET /v1/tasks/{task_id}/attempts": Rule(scopes=READ, hides="task_id"),
    "GET /v1/tasks/{task_id}/explain": Rule(scopes=READ, hides="task_id"),
    "GET /v1/tasks/{task_id}/logs": Rule(scopes=READ, hides="task_id"),
    "GET /v1/tasks/{task_id}/artifacts": Rule(scopes=READ, hides="task_id"),
    "GET /v1/tasks/{task_id}/artifacts/{name}": Rule(scopes=READ, hides="task_id"),
    "POST /v1/runs": Rule(scopes=WRITE, repeat=Repeat(body=RUN)),
    "GET /v1/runs": Rule(scopes=READ),
    "GET /v1/runs/{run_id}": Rule(scopes=READ, hides="run_id"),
    "DELETE /v1/runs/{run_id}": Rule(scopes=WRITE, hides="run_id", spends=failed_run),
    "POST /v1/runs/{run_id}/cancel": Rule(scopes=WRITE, hides="run_id", repeat=Repeat(path=run)),
    "POST /v1/runs/{run_id}/pause": Rule(scopes=WRITE, hides="run_id", repeat=Repeat(path=run)),
    "POST /v1/runs/{run_id}/resume": Rule(
        scopes=WRITE,
        hides="run_id",
        spends=paused_run,
        body={"token": "of-the-table"},
        repeat=Repeat(path=paused_run, body=b'{"token": "of-the-table"}'),
    ),
    "PUT /v1/runs/{run_id}/breakpoints": Rule(scopes=WRITE, hides="run_id", body={}),
    "POST /v1/runs/{run_id}/commands": Rule(
        scopes=WRITE,
        hides="run_id",
        body={"skip": ["b"]},
        repeat=Repeat(path=paused_run, body=b'{"skip": ["b"]}'),
    ),
    "POST /v1/runs/{run_id}/retry": Rule(scopes=WRITE, hides="run_id", repeat=Repeat(path=failed_run)),
    "GET /v1/runs/{run_id}/graph": Rule(scopes=READ, hides="run_id"),
    "GET /v1/runs/{run_id}/events": Rule(scopes=READ, hides="run_id"),
    "GET /v1/runs/{run_id}/stream": Rule(scopes=READ, hides="run_id"),
    "POST /v1/attachments": Rule(scopes=WRITE, params={"name": "x"}, repeat=Repeat(body=b"the file")),
    "GET /v1/workspaces": Rule(scopes=(Scope.TASKS_READ, Scope.WORKSPACES_WRITE)),
    "POST /v1/workspaces/{workspace_id}/callback-token": Rule(
        scopes=(Scope.WORKSPACES_WRITE,), hides="workspace_id", repeat=Repeat(path=live)
    ),
    "POST /v1/workspaces/{workspace_id}/ready": Rule(door=Door.TOKEN, repeat=INBOX),
    "POST /v1/workspaces/{workspace_id}/failed": Rule(
        door=Door.TOKEN, body={"error": {"code": "x", "message": "x"}}, repeat=INBOX
    ),
    "POST /v1/workspaces/{workspace_id}/finished": Rule(door=Door.TOKEN, repeat=INBOX),
    "POST /v1/workspaces/{workspace_id}/heartbeat": Rule(door=Door.TOKEN, repeat=LATEST),
    "POST /v1/workspaces/{workspace_id}/progress": Rule(door=Door.TOKEN, body={"percent": 1}, repeat=LATEST),
    "POST /v1/workspaces/{workspace_id}/logs": Rule(
        door=Door.TOKEN, params={"offset": "0"}, repeat="the offset: what is there already is trimmed off"
    ),
    "PUT /v1/workspaces/{workspace_id}/artifacts/{name}": Rule(door=Door.TOKEN),
    "GET /v1/workspaces/{workspace_id}/attachments/{attachment_id}": Rule(door=Door.TOKEN),
    "GET /v1/nodes": Rule(scopes=READ),
    "POST /v1/nodes": Rule(
        scopes=(Scope.NODES_WRITE,),
        operators=True,
        body={"id": "scene", "slots": 0},
        repeat=Repeat(body=b'{"id": "repeated", "slots": 0}'),
    ),
    "POST /v1/nodes/{node_id}/ready": Rule(scopes=(Scope.NODES_WRITE,), operators=True, repeat=Repeat(path=node)),
    "POST /v1/nodes/{node_id}/heartbeat": Rule(scopes=(Scope.NODES_WRITE,), operators=True, repeat=LATEST),
    "POST /v1/nodes/{node_id}/drain": Rule(scopes=(Scope.NODES_WRITE,), operators=True, repeat=Repeat(path=node)),
    "GET /v1/health/report": Rule(scopes=READ, page=False),
    "GET /v1/keys": Rule(scopes=(Scope.ADMIN,)),
    "POST /v1/keys": Rule(scopes=(Scope.ADMIN,), repeat=Repeat(body=b'{"name": "x", "scopes": ["tasks:read"]}')),
    "DELETE /v1/keys/{key_id}": Rule(scopes=(Scope.ADMIN,), hides="key_id"),
    "GET /v1/webhooks": Rule(scopes=(Scope.ADMIN,)),
    "POST /v1/webhooks": Rule(scopes=(Scope.ADMIN,), repeat=Repeat(body=WEBHOOK)),
    "DELETE /v1/webhooks/{webhook_id}": Rule(scopes=(Scope.ADMIN,), hides="webhook_id", spends=webhook),
    "POST /v1/webhooks/{webhook_id}/rotate": Rule(
        scopes=(Scope.ADMIN,), hides="webhook_id", repeat=Repeat(path=webhook)
    ),
    "GET /v1/webhooks/{webhook_id}/deliveries": Rule(scopes=(Scope.ADMIN,), hides="webhook_id"),
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": Rule(
        scopes=(Scope.ADMIN,), hides="delivery_id", repeat=Repeat(path=delivery)
    ),
    "POST /v1/sessions": Rule(scopes=tuple(Scope), repeat=Repeat()),
    "DELETE /v1/sessions": Rule(door=Door.OPEN),
    "POST /v1/codec/decode": Rule(scopes=(Scope.ADMIN,), operators=True, body={}, repeat="it changes nothing"),
    "OPTIONS /v1/codec/decode": Rule(door=Door.OPEN),
}
