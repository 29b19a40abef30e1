"""An API process without a server: the application in memory, and attempts whose mirror the test writes itself."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import select

from activities.dispatch import Dispatcher
from activities.run_dispatch import RunDispatcher
from api.app import create_app
from api.auth import new_key
from domain.events import EventSource, EventType, NewEvent
from domain.ids import workspace_id
from domain.lifecycle import Step, TaskStatus
from domain.messages import Flush
from domain.names import NodeId, ProjectId, Scope, TaskId, WorkspaceId
from settings import Settings
from store import keys, mirror
from store.engine import Database
from store.models import Callback
from tests.store.runs import DIAMOND
from workflows.gateway import Gateway

EVERY_SCOPE = tuple(scope for scope in Scope if scope is not Scope.ADMIN)
FINAL = {
    TaskStatus.COMPLETED: EventType.TASK_COMPLETED,
    TaskStatus.FAILED: EventType.TASK_FAILED,
    TaskStatus.CANCELLED: EventType.TASK_CANCELLED,
}


@dataclass(kw_only=True)
class Api:
    """A client with a key of every scope, and what the application holds."""

    app: FastAPI
    database: Database
    dispatcher: Dispatcher
    runs: RunDispatcher
    settings: Settings
    client: httpx2.AsyncClient
    keys: dict[str, str] = field(default_factory=dict)

    async def key(self, *scopes: Scope, project: str = "default", node: str | None = None) -> dict[str, str]:
        """Give the header of a new key of a project."""
        text = new_key()
        async with self.database.begin("test") as connection:
            await keys.ensure(
                connection,
                sha256=keys.sha256_of(text),
                project=ProjectId(project),
                name="test",
                scopes=scopes or EVERY_SCOPE,
                node_id=NodeId(node) if node else None,
            )
        return {"Authorization": f"Bearer {text}"}

    async def create(self, **body: Any) -> dict[str, Any]:
        """Create an `external` task."""
        response = await self.client.post("/v1/tasks", json={"command": ["true"], "provider": "external"} | body)
        assert response.status_code == 201, response.text
        return dict(response.json())

    async def create_run(self, **body: Any) -> dict[str, Any]:
        """Create a run: DIAMOND, with what is given instead."""
        response = await self.client.post("/v1/runs", json=DIAMOND | body)
        assert response.status_code == 201, response.text
        return dict(response.json())

    async def claim(self, workspace: str, **body: Any) -> dict[str, str]:
        """Give the header with a callback token of this workspace."""
        response = await self.client.post(f"/v1/workspaces/{workspace}/callback-token", json=body)
        assert response.status_code == 200, response.text
        return {"Authorization": f"Bearer {response.json()['token']}"}

    async def live(self, **body: Any) -> "Attempt":
        """Give a task whose workspace is reserved, as its workflow would have done it."""
        task = await self.create(**body)
        # A workspace is reserved by its workflow, so the start has gone before.
        await self.dispatcher.close()
        attempt = Attempt(api=self, task=TaskId(task["id"]))
        await attempt.reserve()
        attempt.token = await self.claim(attempt.workspace)
        return attempt

    async def events(self, task: str, *types: str) -> list[dict[str, Any]]:
        """Give the events of a task."""
        response = await self.client.get(f"/v1/tasks/{task}/events", params={"type": list(types), "limit": 500})
        assert response.status_code == 200, response.text
        return list(response.json()["items"])


@dataclass(kw_only=True)
class Attempt:
    """An attempt whose mirror this test writes in the place of the workflow."""

    api: Api
    task: TaskId
    number: int = 1
    version: int = 0
    token: dict[str, str] = field(default_factory=dict)

    @property
    def workspace(self) -> WorkspaceId:
        """The workspace of this attempt."""
        return workspace_id(self.task, self.number, 1)

    async def reserve(self, *, provider: str = "external", node: NodeId | None = None) -> None:
        """Reserve the workspace."""
        event = self.event(EventType.TASK_DELEGATED, data={"workspace_id": self.workspace, "node_id": node})
        async with self.api.database.begin("test") as connection:
            await mirror.reserve(
                connection, self.batch(event), workspace=self.workspace, visit=1, provider=provider, node=node
            )

    async def inbox(self) -> dict[str, Any]:
        """Give the bodies in the inbox, by kind."""
        async with self.api.database.begin("test") as connection:
            rows = await connection.execute(
                select(Callback.kind, Callback.body)
                .where(Callback.workspace_id == self.workspace)
                .order_by(Callback.received_at)
            )
            return {row.kind: row.body for row in rows}

    async def flush(self, *events: NewEvent) -> dict[str, Any]:
        """Write events."""
        async with self.api.database.begin("test") as connection:
            return await mirror.flush(connection, self.batch(*events))

    async def begin(self) -> None:
        """Let the command run."""
        await self.flush(self.event(EventType.STEP_STARTED, step=Step.RUNNING), self.event(EventType.TASK_STARTED))

    async def end(self, status: TaskStatus = TaskStatus.COMPLETED) -> None:
        """End the attempt, and the task with it."""
        if status is TaskStatus.COMPLETED:
            await self.begin()
        await self.flush(self.event(FINAL[status], data={"result": None}))

    async def next(self) -> "Attempt":
        """Fail this attempt, and put the task back for the next."""
        queued = self.event(EventType.TASK_QUEUED, attempt=self.number + 1)
        await self.flush(self.event(EventType.ATTEMPT_FAILED, data={"error": None}), queued)
        following = Attempt(api=self.api, task=self.task, number=self.number + 1)
        await following.reserve()
        return following

    def batch(self, *events: NewEvent) -> Flush:
        """Give the next flush."""
        self.version += 1
        return Flush(task_id=self.task, attempt=self.number, version=self.version, events=list(events))

    def event(
        self,
        kind: EventType,
        *,
        step: Step | None = None,
        attempt: int | None = None,
        data: dict[str, Any] | None = None,
    ) -> NewEvent:
        """Give an event of the workflow."""
        return NewEvent(
            key=f"{attempt or self.number}:{kind}:{step}:{self.version}",
            type=kind,
            ts=datetime.now(UTC),
            attempt=attempt or self.number,
            source=EventSource.WORKFLOW,
            step=step,
            data=data or {},
        )

    async def tell(self, kind: str, body: dict[str, Any] | None = None) -> httpx2.Response:
        """Post a callback with this attempt's token."""
        path = f"/v1/workspaces/{self.workspace}/{kind}"
        return await self.api.client.post(path, json=body, headers=self.token)


def settings_for(url: str) -> Settings:
    """Give settings with a callback key."""
    keys = SecretStr(f"k1:{'ab' * 32}")
    return Settings(database_url=url, callback_keys=keys, webhook_keys=keys)


async def serve(url: str, gateway: Gateway, settings: Settings | None = None) -> AsyncIterator[Api]:
    """Give an application and close what it holds."""
    settings = settings or settings_for(url)
    database = Database(url, pool=10)
    dispatcher = Dispatcher(name="api-test", database=database, gateway=gateway, policy=settings.policy)
    runs = RunDispatcher(database=database, gateway=gateway, policy=settings.policy)
    app = create_app(settings=settings, database=database, gateway=gateway, courier=dispatcher, runs=runs)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api.test") as client:
        api = Api(app=app, database=database, dispatcher=dispatcher, runs=runs, settings=settings, client=client)
        client.headers.update(await api.key())
        yield api
    await runs.close()
    await dispatcher.close()
    await database.close()
