"""A stage for TaskRunners: the real control worker on real PostgreSQL and Temporal, and a node that follows a script.

The node implements the port; what it is told to do stands in `script`. Everything else is the product's own.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert, text
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import WorkflowFailureError, WorkflowHandle, WorkflowHistory
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.dispatch import Dispatcher
from activities.reconcile import Reconciler
from activities.run_dispatch import RunDispatcher
from domain.errors import Category
from domain.events import Event, EventSource, EventType, NewEvent, fold
from domain.ids import new_id, workspace_id
from domain.lifecycle import NodeStatus, TaskStatus
from domain.messages import (
    CallbackSignal,
)
from domain.names import (
    DEFAULT_PROJECT,
    RECONCILE,
    NodeId,
    ProjectId,
    SignalName,
    TaskId,
    WorkspaceId,
)
from domain.policy import Policy, Retention
from domain.reconcile import Report, SweepOrder
from domain.runner import RunnerInput
from domain.spec import TaskSpec
from store import commands, mirror
from store.commands import Outcome
from store.engine import Database
from store.models import Node, Task
from tests.store.rows import log_of, row_of, scalar
from tests.workflows.chain import chain
from tests.workflows.node import ScriptedNode
from worker import control_worker
from workflows.gateway import Gateway, Sent

STEP_LIMIT = 20
PATIENCE = 60.0  # how long the busiest machine may take: a limit for what hangs, and no fact of any test


@dataclass
class Stage:
    """The control plane of one test module."""

    environment: WorkflowEnvironment
    database: Database
    gateway: Gateway
    dispatcher: Dispatcher
    runs: RunDispatcher
    policy: Policy
    url: str
    queue: str

    def worker(self, **options: Any) -> Worker:
        """A control worker that caches no workflow, and so takes one task at a time, unless it is told to cache.

        Without a cache a second workflow's task evicts the first one while its local activity is at work: what that
        wrote is forgotten, and the task is lost until it times out, after 5 s.
        """
        defaults: dict[str, Any] = {"task_queue": self.queue}
        if "max_cached_workflows" not in options:
            defaults |= {"max_cached_workflows": 0, "max_concurrent_workflow_tasks": 1}
        client, policy = self.environment.client, self.policy
        reconciler = Reconciler(
            self.database,
            self.gateway,
            self.dispatcher,
            policy=policy,
            retention=Retention(),
            idempotency=timedelta(days=1),
        )
        worker = control_worker(
            client,
            self.database,
            self.dispatcher,
            reconciler,
            runs=self.runs,
            policy=policy,
            **(defaults | options),
        )
        # The SDK interrupts a workflow that takes 2 s for a step, wherever it is: on a busy machine, a healthy one.
        assert worker._workflow_worker
        worker._workflow_worker._deadlock_timeout_seconds = STEP_LIMIT
        return worker

    async def sweep(self, *, dry_run: bool = False) -> Report:
        """Run one sweep of the reconciler, as `taskrunner reconcile` does."""
        report: Report = await self.environment.client.execute_workflow(
            RECONCILE,
            SweepOrder(dry_run=dry_run),
            id=f"sweep-{new_id()}",
            task_queue=self.queue,
            result_type=Report,
        )
        return report

    async def create(self, *, project: ProjectId = DEFAULT_PROJECT, **body: Any) -> TaskId:
        """Write a task's row and first events, as the API does; nothing is started."""
        body = {"command": ["true"], "retry": {"max_attempts": 1}} | body
        spec = TaskSpec.model_validate(body)
        task, now = TaskId(new_id()), datetime.now(UTC)
        async with self.database.begin("test") as connection:
            row = {
                "id": task,
                "project": project,
                "name": spec.title,
                "status": TaskStatus.READY,
                "max_attempts": spec.retry.max_attempts,
                "priority": spec.priority,
                "spec": spec.model_dump(mode="json", by_alias=True),
                "breakpoints": spec.breakpoints.model_dump(mode="json") if spec.breakpoints else None,
                "created_at": now,
                "updated_at": now,
            }
            await connection.execute(insert(Task).values(row))
            created = [
                NewEvent(key=f"api:{kind}", type=kind, ts=now, attempt=1, source=EventSource.API)
                for kind in (EventType.TASK_CREATED, EventType.TASK_QUEUED)
            ]
            await mirror.append(connection, task, created)
        return task

    async def start(
        self,
        *,
        told: Iterable[CallbackSignal] = (),
        policy: Policy | None = None,
        project: ProjectId = DEFAULT_PROJECT,
        **body: Any,
    ) -> "Running":
        """Create a task, put into its inbox what its workspace has `told` already, and start its first attempt."""
        running = Running(self, await self.create(project=project, **body))
        for callback in told:
            await running.tell(callback)
        await self.begin(running, policy=policy, **body)
        return running

    async def begin(self, task: "Running", *, policy: Policy | None = None, **body: Any) -> None:
        """Start the first attempt of a task that was created with this body."""
        spec = TaskSpec.model_validate({"command": ["true"], "retry": {"max_attempts": 1}} | body)
        row = await task.row()
        argument = RunnerInput(
            task_id=task.task,
            attempt=1,
            project=ProjectId(row["project"]),
            name=spec.title,
            spec=spec,
            policy=policy or self.policy,
            pause=row["pause_token"],
            pause_reason=row["pause_reason"],
            breakpoints=row["breakpoints"],
        )
        assert await self.gateway.start(argument) is Sent.DELIVERED

    async def execute(self, statement: str, **parameters: Any) -> None:
        """Change the database behind everybody's back."""
        async with self.database.begin("test") as connection:
            await connection.execute(text(statement), parameters)

    async def run(self, *statements: str) -> None:
        """Run statements as they stand, in one transaction."""
        async with self.database.begin("test") as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    async def until(self, query: str) -> None:
        """Wait until a query says yes."""
        async with asyncio.timeout(PATIENCE):
            while True:
                async with self.database.begin("test") as connection:
                    if (await connection.execute(text(query))).scalar_one():
                        return
                await asyncio.sleep(0.02)

    async def forget(self, workflow: str) -> None:
        """Have the engine delete a workflow with its history, and wait until it does not know it any more."""
        service, namespace = self.environment.client.workflow_service, self.environment.client.namespace
        execution = WorkflowExecution(workflow_id=workflow)
        request = DeleteWorkflowExecutionRequest(namespace=namespace, workflow_execution=execution)
        await service.delete_workflow_execution(request)
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(RPCError):
                while True:
                    await self.environment.client.get_workflow_handle(workflow).describe()
                    await asyncio.sleep(0.05)

    async def set_slots(self, node: ScriptedNode, slots: int, *, told: bool = True) -> None:
        """Give a node more slots, which go to those who wait; unless they are `told`, their signals are lost."""
        async with self.database.begin("test") as connection:
            for statement in (
                "UPDATE nodes SET slots = :slots WHERE id = :node",
                "SELECT grant_slots(:node)",
                "DELETE FROM outbox WHERE body ->> 'node_id' = :node AND NOT :told",
            ):
                await connection.execute(text(statement), {"node": node.id, "slots": slots, "told": told})
        self.dispatcher.poke()

    async def used(self, node: ScriptedNode) -> int:
        """How many slots of a node are taken."""
        return int(await scalar(self.database, "SELECT used FROM nodes WHERE id = :node", node=node.id))

    @asynccontextmanager
    async def node(self, *, slots: int = 4, status: NodeStatus = NodeStatus.READY) -> AsyncIterator[ScriptedNode]:
        """Run a node of its own, which tasks find by the label `node`."""
        node = await self.dead_node(slots=slots, status=status)
        async with self.alive(node):
            yield node

    async def dead_node(self, *, slots: int = 4, status: NodeStatus = NodeStatus.READY) -> ScriptedNode:
        """Give a node of its own whose workers do not run."""
        node = ScriptedNode(NodeId(f"n-{new_id()}"))
        row = {"id": node.id, "status": status, "slots": slots, "labels": {"node": node.id}}
        async with self.database.begin("tests.setup") as connection:
            await connection.execute(insert(Node).values(row))
        return node

    @asynccontextmanager
    async def alive(self, node: ScriptedNode) -> AsyncIterator[None]:
        """Run a node's workers."""
        async with node.at_work(self.environment.client):
            yield
        # Nobody asks it for its workspaces any more.
        await self.execute("UPDATE nodes SET status = 'gone' WHERE id = :id", id=node.id)


@dataclass
class Running:
    """One task on the stage."""

    stage: Stage
    task: TaskId
    attempt: int = 1
    failure: BaseException | None = None

    @property
    def workspace(self) -> WorkspaceId:
        return workspace_id(self.task, self.attempt, 1)

    @property
    def handle(self) -> WorkflowHandle[Any, Any]:
        return self.stage.environment.client.get_workflow_handle(f"task-{self.task}-a{self.attempt}")

    async def row(self) -> dict[str, Any]:
        return await row_of(self.stage.database, self.task)

    async def events(self) -> list[Event]:
        return await log_of(self.stage.database, self.task)

    async def story(self) -> list[str]:
        """The log in short: `type` or `type(step)`."""
        return [f"{e.type}({e.step})" if e.type.startswith("step.") else str(e.type) for e in await self.events()]

    async def until(self, step: str | None = None, *, status: str | None = None) -> dict[str, Any]:
        """Wait until the mirror says so."""
        async with asyncio.timeout(PATIENCE):
            while True:
                row = await self.row()
                if (step is None or row["step"] == step) and (status is None or row["status"] == status):
                    return row
                await asyncio.sleep(0.02)

    async def signal(self, name: SignalName, **fields: Any) -> None:
        await self.handle.signal(str(name), CallbackSignal.model_validate(fields))

    async def tell(self, callback: CallbackSignal) -> None:
        """Commit a callback whose signal never comes: nobody looks for it for a day."""
        assert callback.kind is not None
        await self.stage.execute(
            "INSERT INTO callbacks (workspace_id, attempt, kind, turn, task_id, body, digest, due_at)"
            " VALUES (:workspace, :attempt, :kind, :turn, :task, CAST(:body AS jsonb), '', now() + interval '1 day')",
            workspace=self.workspace,
            attempt=self.attempt,
            kind=callback.kind,
            turn=callback.turn,
            task=self.task,
            body=callback.model_dump_json(exclude={"kind", "turn", "workspace_id"}, exclude_unset=True),
        )

    async def cancel(self) -> Outcome:
        """Cancel as the API does."""
        stage = self.stage
        async with stage.database.begin("tests.cancel") as connection:
            commanded = await commands.cancel(
                connection,
                DEFAULT_PROJECT,
                self.task,
                now=datetime.now(UTC),
                lease_to=stage.dispatcher.name,
                lease=timedelta(seconds=15),
            )
        assert commanded is not None
        if commanded.intent is not None:
            stage.dispatcher.send(commanded.intent)
        return commanded.outcome

    async def history(self) -> WorkflowHistory:
        return await self.handle.fetch_history()

    async def runs(self) -> list[WorkflowHistory]:
        """The histories of this attempt's runs, the first one first; there are several if it continued as new."""
        return await chain(self.stage.environment.client, self.handle.id)

    async def flushes(self) -> list[str]:
        """Which activities wrote to the mirror, in order: the answers that the history holds."""
        markers = [
            event.marker_recorded_event_attributes
            for event in (await self.history()).events
            if event.HasField("marker_recorded_event_attributes")
        ]
        calls = [json.loads(marker.details["data"].payloads[0].data)["activity_type"] for marker in markers]
        return [call for call in calls if call != "select_node"]

    async def end(self) -> dict[str, Any]:
        """Wait for the workflow's end, whichever; then the row, which its log must add up to."""
        async with asyncio.timeout(PATIENCE):
            try:
                await self.handle.result()
            except WorkflowFailureError as error:
                self.failure = error.cause
        row = await self.row()
        folded = fold(await self.events())
        for column, value in folded.model_dump(exclude={"error"}).items():
            assert row[column] == value, column
        if row["attempt"] == self.attempt and row["outcome"] is not None:
            assert row["outcome"] == outcome_of(self.failure)
        return row

    async def holds(self) -> int:
        """How many ledger entries of this task are open."""
        query = "SELECT count(*) FROM ledger WHERE task_id = :task AND state <> 'released'"
        return int(await scalar(self.stage.database, query, task=self.task))


def outcome_of(failure: BaseException | None) -> str:
    """The written map from Temporal's outcome to the mirror's."""
    if isinstance(failure, ApplicationError):
        return "cancelled" if failure.type == Category.CANCELLED else "failed"
    # Whoever forces a cancel terminates.
    return "cancelled" if isinstance(failure, CancelledError | TerminatedError) else "completed"


@asynccontextmanager
async def stage_on(
    environment: WorkflowEnvironment, url: str, *, policy: Policy | None = None, **options: Any
) -> AsyncIterator[Stage]:
    """Run the control plane on a server and a database; no workflow is cached, so every task replays."""
    async with bare_stage_on(environment, url, policy=policy) as stage, stage.worker(**options):
        yield stage


@asynccontextmanager
async def bare_stage_on(
    environment: WorkflowEnvironment, url: str, *, policy: Policy | None = None
) -> AsyncIterator[Stage]:
    """Set up database, gateway and dispatcher; nobody runs workflows yet.

    Its queue is its own: on the shared server, what others left behind stays theirs, work as well as dead pollers.
    """
    database, queue = Database(url), f"stage-{new_id()}"
    gateway, policy = Gateway(environment.client, queue=queue), policy or Policy()
    dispatcher = Dispatcher(name="stage", database=database, gateway=gateway, policy=policy)
    runs = RunDispatcher(database=database, gateway=gateway, policy=policy)
    loops = [asyncio.create_task(dispatcher.run()), asyncio.create_task(runs.run())]
    yield Stage(environment, database, gateway, dispatcher, runs, policy, url, queue)
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    await runs.close()
    await dispatcher.close()
    await database.close()
