"""A stage for runs: the stage of TaskRunners, and a node whose tasks end as a table of their names says."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, text
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from domain.errors import Category, TaskError
from domain.ids import new_id
from domain.messages import AgentExit, AgentOrder, CallbackSignal, WorkspaceOrder
from domain.names import DEFAULT_PROJECT, CallbackKind, RunId, SignalName, run_workflow_id
from domain.plan import planned
from domain.policy import Policy
from domain.run_spec import RunCommand, RunSpec
from store import run_growth, runs
from store.models import RunIntent, RunIntentKind
from tests.workflows.node import ScriptedNode
from tests.workflows.stage import Stage, stage_on

PATIENCE = 60


@dataclass
class RunStage:
    """Makes runs, and says how their tasks end: by the member's name, or `name#item`."""

    stage: Stage
    node: ScriptedNode
    exits: dict[str, int] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    # Tasks that go on until they are let go.
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def ready(self, order: WorkspaceOrder) -> None:
        """Say that the workspace is ready, as the program in it does."""
        signal = CallbackSignal(kind=CallbackKind.READY, workspace_id=order.workspace_id)
        await self.stage.gateway.signal(order.task_id, order.attempt, SignalName.WORKSPACE_READY, signal)

    async def supervise(self, order: AgentOrder) -> AgentExit:
        """End a task as the tables say."""
        name = order.order.name
        self.begun.append(name)
        self.inputs[name] = order.order.spec.input
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if name in self.held:
                await self.held[name].wait()
        finally:
            self.at_once -= 1
        code = self.exits.get(name, 0)
        error = None
        if code:
            error = TaskError(code="exit", category=Category.AGENT, message=f"exit {code}", guidance="-")
        return AgentExit(turn=order.turn, exit_code=code, result=self.results.get(name), error=error)

    async def create(
        self, members: Mapping[str, Mapping[str, Any]], edges: str = "", *, traceparent: str | None = None, **body: Any
    ) -> "RunningRun":
        """Write a run, as the API does. An edge is `a>b`, or `a>b:failed`."""
        task = {"command": ["true"], "node_labels": {"node": self.node.id}, "retry": {"max_attempts": 1}}
        drawn = []
        for edge in edges.split():
            ends, _, when = edge.partition(":")
            source, target = ends.split(">")
            drawn.append({"from": source, "to": target} | ({"when": when} if when else {}))
        spec = RunSpec.model_validate(
            {
                "members": [
                    {"name": name, **more, "task": task | dict(more.get("task", {}))} for name, more in members.items()
                ],
                "edges": drawn + body.pop("more_edges", []),
                **body,
            }
        )
        run = RunId(new_id())
        async with self.stage.database.begin("tests.create_run") as connection:
            await runs.create(
                connection,
                run=run,
                project=DEFAULT_PROJECT,
                spec=spec,
                planned=planned(spec.members, spec.edges, breakpoints=spec.breakpoints, on_failure=spec.on_failure),
                now=datetime.now(UTC),
                traceparent=traceparent,
            )
        self.stage.runs.poke()
        return RunningRun(self, run)


@dataclass
class RunningRun:
    """A run that was made."""

    on: RunStage
    run: RunId

    async def row(self) -> dict[str, Any]:
        """Its row."""
        async with self.on.stage.database.read() as connection:
            return await runs.get(connection, DEFAULT_PROJECT, self.run) or {}

    async def members(self) -> dict[str, str]:
        """The members' statuses."""
        async with self.on.stage.database.read() as connection:
            return {row["name"]: row["status"] for row in await runs.members(connection, self.run)}

    async def tasks(self) -> dict[str, dict[str, Any]]:
        """Its tasks, by `member` or `member#item`."""
        query = text("SELECT * FROM tasks WHERE run_id = :run ORDER BY created_at")
        async with self.on.stage.database.read() as connection:
            rows = (await connection.execute(query, {"run": self.run})).mappings()
            return {row["member"] + (f"#{row['item']}" if row["item"] else ""): dict(row) for row in rows}

    async def events(self) -> list[dict[str, Any]]:
        """Its own log."""
        query = text("SELECT * FROM run_events WHERE run_id = :run ORDER BY seq")
        async with self.on.stage.database.read() as connection:
            return [dict(row) for row in (await connection.execute(query, {"run": self.run})).mappings()]

    async def until(self, condition: str, *, within: float = PATIENCE, **parameters: Any) -> None:
        """Wait until a condition on its row `r` holds."""
        query = text(f"SELECT EXISTS (SELECT FROM runs r WHERE id = :run AND ({condition}))")  # noqa: S608
        async with asyncio.timeout(within):
            while True:
                async with self.on.stage.database.read() as connection:
                    if (await connection.execute(query, {"run": self.run, **parameters})).scalar_one():
                        return
                await asyncio.sleep(0.02)

    async def end(self) -> dict[str, Any]:
        """Wait for its end, in the mirror and in the engine; returns the row."""
        await self.until("status IN ('completed', 'failed', 'cancelled')")
        handle = self.on.stage.environment.client.get_workflow_handle(run_workflow_id(self.run))
        try:
            async with asyncio.timeout(PATIENCE):
                await handle.result()
        except WorkflowFailureError:
            pass
        return await self.row()

    async def command(self, body: Mapping[str, Any]) -> None:
        """Give it a command, whatever it is at, and have it look."""
        async with self.on.stage.database.begin("tests.command") as connection:
            row = await runs.get(connection, DEFAULT_PROJECT, self.run, for_update=True) or {}
            command = RunCommand.model_validate(body)
            await run_growth.command(connection, self.run, command, source="api", now=datetime.now(UTC))
            steer = insert(RunIntent).values(run_id=self.run, kind=RunIntentKind.STEER, attempt=row["attempt"])
            await connection.execute(steer)
        self.on.stage.runs.poke()

    async def engine_status(self) -> WorkflowExecutionStatus | None:
        """What the engine says of its workflow."""
        handle = self.on.stage.environment.client.get_workflow_handle(run_workflow_id(self.run))
        return (await handle.describe()).status


@asynccontextmanager
async def run_stage_on(
    environment: WorkflowEnvironment, url: str, *, slots: int = 20, policy: Policy | None = None, **options: Any
) -> AsyncIterator[RunStage]:
    """Run a control plane and a node; workflows are cached, as several are at work at once."""
    options.setdefault("max_cached_workflows", 100)
    async with stage_on(environment, url, policy=policy, **options) as stage, stage.node(slots=slots) as node:
        made = RunStage(stage, node)
        node.script |= {"create_workspace": made.ready, "supervise_agent": made.supervise}
        yield made
