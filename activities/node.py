"""The node's adapter: workspaces through their providers, tokens and attachments through the API."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from email.message import Message
from typing import Final
from urllib.parse import quote

import httpx2
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.failures import MESSAGE_LIMIT
from domain.errors import Category, Failure, TaskError
from domain.failpoints import boundary
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
from domain.names import WorkspaceId
from domain.reconcile import ListOrder, NodeWorkspaces
from workflows.ports import NodeActivities
from workspaces.provider import Grant, WorkspaceProvider

LONGEST_BEAT: Final = timedelta(seconds=5)
BEATS_PER_TIMEOUT: Final = 3  # of which two may be lost
# A look at a process that fails at once, this often in a row, will not succeed; a drain of the node is no failure.
BROKEN_TRIES: Final = 10
SERVER_ERRORS: Final = 500
TRANSIENT_STATUSES: Final = frozenset({408, 425, 429})


class NodeWork(NodeActivities):
    """Does a node's work with the providers that it has, by name.

    `client` talks to the API; `token` is the node's own, and fetches the callback tokens of its own workspaces.
    """

    def __init__(self, providers: Mapping[str, WorkspaceProvider], *, client: httpx2.AsyncClient, token: str) -> None:
        self._providers = dict(providers)
        self._client = client
        self._token = token

    @activity.defn
    async def create_workspace(self, order: WorkspaceOrder) -> Acknowledgement:
        """Make the workspace and start the program in it that prepares it and calls back."""
        provider = self._provider(order.spec.provider)
        provider.check(order)
        grant = await self._grant(order.callback_url, order.workspace_id)
        with _files(), boundary("provider.create"):
            return await provider.create(order, grant)

    @activity.defn
    async def inspect_workspace(self, ref: WorkspaceRef) -> WorkspaceFacts:
        """Say whether the node has this workspace."""
        with boundary("provider.inspect"):
            return await self._provider(ref.provider).inspect(ref.workspace_id)

    @activity.defn
    async def transfer_attachment(self, order: AttachmentOrder) -> Acknowledgement:
        """Stream one attachment from the API into the workspace."""
        provider = await self._owner(order.workspace_id)
        grant = await self._grant(order.callback_url, order.workspace_id)
        url = f"{grant.callback_url}/attachments/{quote(order.attachment_id, safe='')}"
        async with self._asked("GET", url, grant.token) as answer:
            name = _file_name(answer) or order.attachment_id
            pieces = _beating(answer.aiter_bytes())
            with _files(), boundary("provider.transfer_attachment"):
                return await provider.transfer_attachment(order.workspace_id, order.attachment_id, name, pieces)

    @activity.defn
    async def start_agent(self, order: AgentOrder) -> AgentStarted:
        """Start the command or agent of one turn, or adopt the one that an earlier try started."""
        provider = self._provider(order.order.spec.provider)
        provider.check(order.order)
        grant = await self._grant(order.order.callback_url, order.order.workspace_id, turn=order.turn)
        with _files(), boundary("provider.start_agent"):
            return await provider.start_agent(order, grant)

    @activity.defn
    async def supervise_agent(self, order: AgentOrder) -> AgentExit:
        """Heartbeat while the agent runs; return how it ended. A cancel ends the watching, not the agent."""
        info = activity.info()
        timeout, broken = info.heartbeat_timeout, int(next(iter(info.heartbeat_details), 0))
        period = min(LONGEST_BEAT, timeout / BEATS_PER_TIMEOUT) if timeout else LONGEST_BEAT
        began, beat = time.monotonic(), asyncio.create_task(_beat(period, broken))
        try:
            with boundary("provider.wait_agent"):
                return await self._provider(order.order.spec.provider).wait_agent(order)
        except Exception as failure:
            beat.cancel()
            broken = broken + 1 if time.monotonic() - began < period.total_seconds() else 1
            activity.heartbeat(broken)
            if broken < BROKEN_TRIES:
                raise
            raise _blind(failure) from failure
        finally:
            beat.cancel()

    @activity.defn
    async def destroy_workspace(self, ref: WorkspaceRef) -> Acknowledgement:
        """Stop every process of the workspace and remove its files; a workspace that is gone is no error."""
        with _files(), boundary("provider.destroy"):
            return await self._provider(ref.provider).destroy(ref.workspace_id, keep=ref.keep)

    @activity.defn
    async def list_workspaces(self, order: ListOrder) -> list[NodeWorkspaces]:
        """Return the workspaces that are here, kept ones too."""
        found = []
        for name, provider in self._providers.items():
            with boundary("provider.list"):
                found.append(NodeWorkspaces(provider=name, workspace_ids=(await provider.list())[: order.limit]))
        return found

    def _provider(self, name: str) -> WorkspaceProvider:
        if provider := self._providers.get(name):
            return provider
        raise Failure(
            "provider_not_available",
            f"This node has no provider {name}.",
            category=Category.INPUT,
            guidance=f"Choose one of this node's providers ({', '.join(sorted(self._providers))}), or another node.",
        )

    async def _owner(self, workspace_id: WorkspaceId) -> WorkspaceProvider:
        for provider in self._providers.values():
            with boundary("provider.locate"):
                facts = await provider.inspect(workspace_id)
            if facts.exists:
                return provider
        raise Failure("workspace_gone", "The workspace is not on this node.", category=Category.WORKSPACE)

    async def _grant(self, base: str, workspace_id: WorkspaceId, *, turn: int = 1) -> Grant:
        """Fetch a fresh callback token."""
        url = f"{base.rstrip('/')}/v1/workspaces/{workspace_id}"
        with boundary("api.callback_token"):
            async with self._asked("POST", f"{url}/callback-token", self._token, body={"turn": turn}) as answer:
                await answer.aread()
                return Grant(token=answer.json()["token"], callback_url=url)

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, url: str, bearer: str, *, body: dict[str, int] | None = None
    ) -> AsyncIterator[httpx2.Response]:
        """Give a 2xx answer, not yet read. Raises Failure, transient when the same call may succeed later."""
        try:
            async with self._client.stream(
                method, url, json=body, headers={"Authorization": f"Bearer {bearer}"}
            ) as answer:
                if not answer.is_success:
                    raise _refused(answer.status_code, url)
                yield answer
        except httpx2.TransportError as error:
            raise Failure(
                "api_unreachable",
                f"The node does not reach the API: {type(error).__name__}.",
                category=Category.INFRASTRUCTURE,
                transient=True,
            ) from error


@contextlib.contextmanager
def _files() -> Iterator[None]:
    """Name a full disk, or one without permission, for what it is."""
    try:
        yield
    except OSError as error:
        raise Failure(
            "node_files",
            f"The node cannot write the workspace's files: {error.strerror or type(error).__name__}.",
            category=Category.INFRASTRUCTURE,
            transient=True,
            guidance="Look at the node's disk: space, inodes, permissions.",
        ) from error


def _refused(status: int, url: str) -> Failure:
    what = url.rpartition("/")[2]
    # A token that was revoked is the node's affair: another attempt has another node.
    transient = status >= SERVER_ERRORS or status in TRANSIENT_STATUSES | {401}
    guidance = {
        401: "The node's token was revoked or is none: give it another one (`taskrunner nodes tokens create`).",
        403: "The node's token is another node's, or no node's: `taskrunner nodes tokens create` makes one.",
        404: "Look whether it was deleted, and whether it is this node's.",
        410: "The attempt has ended.",
    }
    return Failure(
        "api_refused",
        f"The API answered {status} to the node's request ({what}).",
        category=Category.INFRASTRUCTURE,
        transient=transient,
        guidance=guidance.get(status),
    )


def _file_name(answer: httpx2.Response) -> str | None:
    """Return the file name of a Content-Disposition (RFC 6266)."""
    header = Message()
    header["Content-Disposition"] = answer.headers.get("Content-Disposition", "")
    return header.get_filename()


async def _beating(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        activity.heartbeat()
        yield piece


async def _beat(period: timedelta, broken: int) -> None:
    """Heartbeat; whoever has looked for a whole period has not failed at once, and is counted from the beginning."""
    while True:
        activity.heartbeat(broken)
        await asyncio.sleep(period.total_seconds())
        broken = 0


def _blind(failure: Exception) -> ApplicationError:
    """Return the end of a supervision that fails as often as it begins; another attempt may have better luck."""
    error = TaskError(
        code="supervision_failed",
        category=Category.INFRASTRUCTURE,
        message=f"The node cannot look after the process: {type(failure).__name__}: {failure}"[:MESSAGE_LIMIT],
        retryable=True,
        guidance="Look at the node's log and its disk.",
    )
    return ApplicationError(error.message, error.model_dump(mode="json"), type=error.code, non_retryable=True)
