"""A node that follows a script: what it is told to do stands in `script`, all else it does at once."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from activities.failures import FailureInterceptor
from domain.errors import Category, Failure
from domain.messages import (
    Acknowledgement,
    AgentExit,
    AgentOrder,
    AgentStarted,
    AttachmentOrder,
    WorkspaceFacts,
    WorkspaceOrder,
    WorkspaceRef,
)
from domain.names import NodeId, WorkspaceId, node_queue, supervise_queue
from domain.reconcile import ListOrder, NodeWorkspaces
from workflows.ports import NodeActivities

Script = Callable[[Any], Awaitable[Any]]


class ScriptedNode(NodeActivities):
    """A node that does at once what each activity promises, unless `script` names something else for it."""

    def __init__(self, node_id: NodeId) -> None:
        self.id = node_id
        self.script: dict[str, Script] = {}
        self.calls: dict[str, list[Any]] = defaultdict(list)
        self.workspaces: set[WorkspaceId] = set()
        self.buried: set[WorkspaceId] = set()
        self.exits: dict[int, asyncio.Future[AgentExit]] = defaultdict(asyncio.Future)

    async def _play(self, name: str, argument: Any) -> Any:
        self.calls[name].append(argument)
        return await self.script[name](argument) if name in self.script else None

    @activity.defn
    async def create_workspace(self, order: WorkspaceOrder) -> Acknowledgement:
        answer = await self._play("create_workspace", order)
        if order.workspace_id in self.buried:  # an id that was destroyed cannot be created again
            raise Failure("workspace_gone", "It was destroyed.", category=Category.WORKSPACE)
        self.workspaces.add(order.workspace_id)
        return answer or Acknowledgement(workspace_id=order.workspace_id)

    @activity.defn
    async def inspect_workspace(self, ref: WorkspaceRef) -> WorkspaceFacts:
        await self._play("inspect_workspace", ref)
        return WorkspaceFacts(workspace_id=ref.workspace_id, exists=ref.workspace_id in self.workspaces)

    @activity.defn
    async def transfer_attachment(self, order: AttachmentOrder) -> Acknowledgement:
        await self._play("transfer_attachment", order)
        return Acknowledgement(workspace_id=order.workspace_id)

    @activity.defn
    async def start_agent(self, order: AgentOrder) -> AgentStarted:
        answer = await self._play("start_agent", order)
        return answer or AgentStarted(turn=order.turn, pid=4711)

    @activity.defn
    async def supervise_agent(self, order: AgentOrder) -> AgentExit:
        answer = await self._play("supervise_agent", order)
        if answer is not None:
            return answer  # type: ignore[no-any-return]
        while not self.exits[order.turn].done():
            activity.heartbeat()
            await asyncio.wait([self.exits[order.turn]], timeout=0.2)
        return self.exits[order.turn].result()

    @activity.defn
    async def destroy_workspace(self, ref: WorkspaceRef) -> Acknowledgement:
        await self._play("destroy_workspace", ref)
        kept = ref.keep and ref.workspace_id in self.workspaces
        if not ref.keep:
            self.buried.add(ref.workspace_id)
            self.workspaces.discard(ref.workspace_id)
        return Acknowledgement(workspace_id=ref.workspace_id, details={"kept": kept})

    @activity.defn
    async def list_workspaces(self, order: ListOrder) -> list[NodeWorkspaces]:
        await self._play("list_workspaces", order)
        return [NodeWorkspaces(provider="local", workspace_ids=sorted(self.workspaces))]

    @asynccontextmanager
    async def at_work(self, client: Client) -> AsyncIterator[None]:
        """Run its workers: one for what is short, one that supervises."""
        activities: list[Callable[..., Any]] = [
            self.create_workspace,
            self.inspect_workspace,
            self.transfer_attachment,
            self.start_agent,
            self.destroy_workspace,
            self.list_workspaces,
        ]
        boundary = [FailureInterceptor()]
        short = Worker(client, task_queue=node_queue(self.id), activities=activities, interceptors=boundary)
        long = Worker(
            client, task_queue=supervise_queue(self.id), activities=[self.supervise_agent], interceptors=boundary
        )
        async with short, long:
            yield
