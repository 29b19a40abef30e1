"""A node's life with the API: it registers, reports in, is heard, drains, and is gone."""

import asyncio
import os
import platform
import re
import socket
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Final

import httpx2
import psutil
import structlog

from activities.node import SERVER_ERRORS, TRANSIENT_STATUSES
from domain.errors import Failure
from domain.failpoints import boundary
from domain.lifecycle import NodeStatus
from domain.messages import WorkspaceRef
from domain.names import NodeId
from domain.reconcile import ListOrder
from workflows.ports import NodeActivities

log = structlog.get_logger()

CALL: Final = timedelta(seconds=5)
# Whoever was not heard asks again this soon: an API that is away for a moment costs no heartbeat.
AGAIN: Final = timedelta(seconds=1)
# How often a node that drains looks whether it has become empty.
LOOK: Final = timedelta(milliseconds=500)
MOST: Final = 10_000  # workspaces that one report tells of
UNAUTHORIZED, NOT_FOUND, CONFLICT = 401, 404, 409
TOKEN: Final = re.compile(r"[!-~]+")  # what a header takes
SCHEMES: Final = frozenset({"http", "https"})
LAST_PORT: Final = 65_535


class Away(Exception):  # noqa: N818 - a fact
    """The API does not answer, or not now."""


class Refused(Exception):  # noqa: N818 - a fact
    """The API will not have this node do that."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status


class NotJoined(RuntimeError):  # noqa: N818 - a fact
    """This machine did not become a node, as a sentence for a person."""


def facts(providers: Iterable[str]) -> dict[str, Any]:
    """Return what is known of this machine: its size, its providers of workspaces, the versions of what runs here."""
    versions = {name: version(name) for name in ("taskrunner", "temporalio")}
    return {
        "host": socket.gethostname(),
        "cpus": os.cpu_count() or 1,
        "memory_mb": psutil.virtual_memory().total // 2**20,
        "providers": sorted(providers),
        "versions": versions | {"python": platform.python_version()},
    }


class Membership:
    """Speaks for one node, with its token. What it tells of itself is told again whenever the API asks who it is."""

    def __init__(self, client: httpx2.AsyncClient, *, url: str, token: str, told: Mapping[str, Any]) -> None:
        self._client = client
        self._address = url
        self._token = token
        self._url = f"{url}/v1/nodes"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._told = dict(told)
        # By which the API tells this machine from another one that has the same token.
        self._home = {"home": told["home"]} if "home" in told else {}
        self._period = AGAIN
        self.node_id = NodeId("")
        self.draining = False
        self.in_service = asyncio.Event()
        self._clearing: asyncio.Task[None] | None = None

    @property
    def heartbeat(self) -> timedelta:
        """How often this node, and each of its workspaces, is to be heard, by the word of the API."""
        return self._period

    async def join(self, *, payload_keys: Container[str]) -> Mapping[str, str]:
        """Register, and return where Temporal is.

        Raises NotJoined when the API refuses it, a key is missing, or the address or the token can be none.
        """
        if not TOKEN.fullmatch(self._token):
            raise NotJoined("this is no node's token; `taskrunner nodes tokens create NODE` makes one")
        if not _reachable(self._address):
            raise NotJoined(f"{self._address!r} is no API's address; it begins with http:// or https:// and a host")
        try:
            temporal: dict[str, str | None] = (await self.register())["temporal"]
        except Refused as refused:
            raise NotJoined(f"the API at {self._address} refused this node: {refused}") from None
        wanted = temporal.pop("payload_key")
        if wanted is not None and wanted not in payload_keys:
            raise NotJoined(
                f"histories are encrypted with the key {wanted}, which TASKRUNNER_PAYLOAD_KEYS has not here"
            )
        return {name: str(value) for name, value in temporal.items()}

    async def register(self) -> dict[str, Any]:
        """Register this node, for as long as the API is away, and return what it is told. Raises Refused."""
        while True:
            try:
                with boundary("api.register"):
                    registered = await self._call("", self._told)
            except (Away, OSError) as away:
                log.warning("node.api_unreachable", error=str(away))
                await asyncio.sleep(AGAIN.total_seconds())
            else:
                self.node_id = NodeId(registered["id"])
                self._period = timedelta(seconds=registered["heartbeat_seconds"])
                return registered

    async def report(self, node: NodeActivities) -> None:
        """Report in with the workspaces that are here, and begin to destroy those that are not this node's own now.

        Raises Away or Refused, and Failure when nobody can say what is here. What cannot be destroyed now is found by
        the reconciler.
        """
        found = await node.list_workspaces(ListOrder(limit=MOST))
        ids = [workspace for each in found for workspace in each.workspace_ids][:MOST]
        with boundary("api.report"):
            answer = await self._call(f"/{self.node_id}/ready", {"workspaces": ids} | self._home)
        not_own = set(answer["not_own"])
        left = [
            WorkspaceRef(workspace_id=workspace, provider=each.provider)
            for each in found
            for workspace in each.workspace_ids
            if workspace in not_own
        ]
        # Beside the heartbeats: it may take longer than a node may be silent.
        self._clearing = asyncio.create_task(self._clear(node, left, self._clearing))

    async def _clear(
        self, node: NodeActivities, left: Sequence[WorkspaceRef], earlier: asyncio.Task[None] | None
    ) -> None:
        if earlier is not None:
            await earlier
        for each in left:
            log.warning("node.destroys", workspace=each.workspace_id)
            try:
                await node.destroy_workspace(each)
            except Exception as failure:  # noqa: BLE001 - the others have their turn
                log.warning("node.not_destroyed", workspace=each.workspace_id, error=str(failure))

    async def keep(self, node: NodeActivities) -> None:
        """Report in, then be heard until this node is gone: as often as it was told, and at once when it was not heard.

        Who was taken for lost, or is not known, says anew who it is and what it has, but not while it drains. Whose
        token is refused goes on with the tasks that it has, and says so in its log; it gets no others. Raises NotJoined
        when another machine has joined in its stead.
        """
        try:
            await self._until_gone(node)
            if self._clearing is not None:
                await self._clearing
        finally:
            if self._clearing is not None:
                self._clearing.cancel()
                await asyncio.gather(self._clearing, return_exceptions=True)

    async def _until_gone(self, node: NodeActivities) -> None:
        known, wanted = True, True
        while True:
            pause, listed = self._period, True
            try:
                if not known:
                    await self.register()
                    known = wanted = True
                if wanted and not self.draining:
                    listed = await self._reported(node)
                    wanted = not listed
                status = await self._beat()
                if status is NodeStatus.GONE:
                    return
                if status in (NodeStatus.LOST, NodeStatus.PROVISIONING) and not self.draining:
                    wanted, pause = True, timedelta(0) if listed else AGAIN
            except (Away, OSError) as away:
                log.warning("node.api_unreachable", error=str(away))
                pause = min(AGAIN, self._period)
            except Refused as refused:
                if refused.status == CONFLICT:
                    raise NotJoined(f"the API at {self._address} refused this node: {refused}") from None
                told = "node.token_refused" if refused.status == UNAUTHORIZED else "node.refused"
                log.warning(told, node=self.node_id, error=str(refused))
                known = refused.status != NOT_FOUND
            await asyncio.sleep(pause.total_seconds())

    async def _reported(self, node: NodeActivities) -> bool:
        """Report in; False when nobody can say what is here, an engine that is away perhaps. Raises Away or Refused."""
        try:
            await self.report(node)
        except Failure as failure:
            log.warning("node.not_listed", node=self.node_id, error=str(failure))
            return False
        self.in_service.set()
        log.info("node.in_service", node=self.node_id)
        return True

    async def drain(self, within: timedelta) -> bool:
        """Ask for no more tasks, and wait for those that are here; returns whether this node is gone by that.

        What runs on is adopted by the next start of this node; the API that is away now is not waited for.
        """
        self.draining = True
        try:
            with boundary("api.drain"):
                status = NodeStatus((await self._call(f"/{self.node_id}/drain", {}))["status"])
            async with asyncio.timeout(within.total_seconds()):
                while status is NodeStatus.DRAINING:
                    await asyncio.sleep(LOOK.total_seconds())
                    status = await self._beat()
        except (Away, Refused, OSError) as error:
            log.info("node.hands_over", node=self.node_id, why=str(error) or "its tasks run on")
            return False
        return status is NodeStatus.GONE

    async def _beat(self) -> NodeStatus:
        measured = {"cpu": psutil.cpu_percent() / 100, "memory": psutil.virtual_memory().percent / 100}
        with boundary("api.beat"):
            answer = await self._call(f"/{self.node_id}/heartbeat", measured | self._home)
        return NodeStatus(answer["status"])

    async def _call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = await self._client.post(
                self._url + path, json=body, headers=self._headers, timeout=CALL.total_seconds()
            )
        except httpx2.TransportError as error:
            raise Away(str(error) or type(error).__name__) from error
        if answer.status_code >= SERVER_ERRORS or answer.status_code in TRANSIENT_STATUSES:
            raise Away(f"status {answer.status_code}")
        told = _object(answer)
        if not answer.is_success:
            raise Refused(answer.status_code, _reason(answer, told))
        if told is None or "id" not in told:
            raise Refused(answer.status_code, "is no answer of a Taskrunner API")
        return told


def _reachable(address: str) -> bool:
    """Say whether this can be the address of an API at all: what cannot is not tried again and again."""
    try:
        url = httpx2.URL(address)
    except httpx2.InvalidURL:
        return False
    return url.scheme in SCHEMES and bool(url.host) and (url.port or 0) <= LAST_PORT


def _object(answer: httpx2.Response) -> dict[str, Any] | None:
    try:
        told = answer.json()
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def _reason(answer: httpx2.Response, told: Mapping[str, Any] | None) -> str:
    """Return what a problem (RFC 9457) says, in one line; of what is none, the status in words."""
    if not told or "title" not in told:
        return answer.reason_phrase
    title, detail = str(told["title"]), str(told.get("detail") or "")
    return f"{title}: {detail}" if detail and detail != title else title
