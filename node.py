"""A node's process: it joins, gets its providers of workspaces, does a node's work, and drains."""

import asyncio
import contextlib
import importlib.util
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import httpx2
import structlog
from temporalio.client import Client
from temporalio.worker import Worker

from activities.failures import FailureInterceptor
from activities.membership import Membership, NotJoined, facts
from activities.node import NodeWork
from activities.pulse import PulseInterceptor
from domain.names import NodeId, node_queue, supervise_queue
from domain.rotation import payload_keys
from domain.spec import Provider
from settings import Settings
from telemetry.lines import LinesInterceptor
from telemetry.traces import tracing
from worker import GRACE, connect, counted, until_told
from workflows.ports import NodeActivities
from workspaces.home import HomeTakenError, held
from workspaces.local import LocalProvider, base_environment
from workspaces.provider import WorkspaceProvider
from workspaces.secrets import Secrets

log = structlog.get_logger()

# Where TLS finds its authorities: for the program's callbacks, not for commands.
CERTIFICATES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
API_LIMIT: Final = 30.0


def node_workers(client: Client, node: NodeActivities, node_id: NodeId, *, slots: int) -> list[Worker]:
    """Return a node's two workers: short work, and one long activity per running agent."""
    short = Worker(
        client,
        task_queue=node_queue(node_id),
        activities=[
            node.create_workspace,
            node.inspect_workspace,
            node.transfer_attachment,
            node.start_agent,
            node.destroy_workspace,
            node.list_workspaces,
        ],
        interceptors=[LinesInterceptor(), FailureInterceptor(), PulseInterceptor()],
        max_concurrent_activities=max(2 * slots, 10),
        graceful_shutdown_timeout=GRACE,
    )
    # Twice the slots: what is about to be destroyed must not keep a new agent from being looked after.
    long = Worker(
        client,
        task_queue=supervise_queue(node_id),
        activities=[node.supervise_agent],
        interceptors=[LinesInterceptor(), FailureInterceptor()],
        max_concurrent_activities=2 * slots,
        graceful_shutdown_timeout=timedelta(seconds=1),
    )
    return [short, long]


async def run_node(settings: Settings) -> None:
    """Join: register with the API, which says where Temporal is, then do a node's work until SIGTERM, or until gone.

    The node needs Temporal and the API, no open port and no database. Raises NotJoined when the API refuses it, or it
    cannot have its folder to itself.
    """
    async with (
        _housed(settings) as home,
        counted(settings) as counting,
        tracing("taskrunner-node") as traces,
        httpx2.AsyncClient(timeout=API_LIMIT) as http,
    ):
        token = settings.node_token.get_secret_value()
        membership = Membership(http, url=settings.public_url, token=token, told=_of_node(settings, home))
        known = payload_keys(settings.payload_keys.get_secret_value())
        told, joining = asyncio.create_task(until_told()), asyncio.create_task(membership.join(payload_keys=known))
        await asyncio.wait([told, joining], return_when=asyncio.FIRST_COMPLETED)
        if not joining.done():
            joining.cancel()
            return
        temporal = joining.result()
        client = await connect(
            payload_keys=settings.payload_keys,
            runtime=counting.runtime,
            traces=traces,
            address=temporal["address"],
            namespace=temporal["namespace"],
        )
        node_id = membership.node_id
        async with contextlib.AsyncExitStack() as stack:
            providers = await stack.enter_async_context(
                node_providers(settings, node_id, heartbeat=membership.heartbeat)
            )
            node = NodeWork(providers, client=http, token=token)
            for worker in node_workers(client, node, node_id, slots=settings.node_slots):
                await stack.enter_async_context(worker)
            heard = asyncio.create_task(membership.keep(node))
            reported = asyncio.create_task(membership.in_service.wait())
            await asyncio.wait([told, heard, reported], return_when=asyncio.FIRST_COMPLETED)
            if reported.done():
                log.info("worker.ready", role="node", node=node_id, slots=settings.node_slots, metrics=counting.address)
            reported.cancel()
            await asyncio.wait([told, heard], return_when=asyncio.FIRST_COMPLETED)
            if heard.done():
                heard.result()
            else:
                log.info("worker.draining", role="node", node=node_id)
                heard.cancel()  # what it was about to say would take this back
                await membership.drain(settings.node_drain)
                await asyncio.gather(heard, return_exceptions=True)
            log.info("worker.stopping", role="node", node=node_id)


@asynccontextmanager
async def _housed(settings: Settings) -> AsyncIterator[str]:
    """Hold the node's folder, and give its id. Raises NotJoined."""
    with contextlib.ExitStack() as stack:
        try:
            home = stack.enter_context(held(settings.data_dir))
        except HomeTakenError as taken:
            raise NotJoined(str(taken)) from None
        except OSError as error:
            raise NotJoined(f"this node cannot write into {settings.data_dir}: {error.strerror}") from None
        yield home


def _of_node(settings: Settings, home: str) -> dict[str, Any]:
    """Return what a node tells of itself; without an id it is the one whose token it has."""
    named = {"id": settings.node_id} if settings.node_id else {}
    return named | {
        "home": home,
        "slots": settings.node_slots,
        "labels": settings.node_labels,
        "facts": facts(settings.node_providers),
    }


@asynccontextmanager
async def node_providers(
    settings: Settings, node_id: NodeId, *, heartbeat: timedelta
) -> AsyncIterator[dict[str, WorkspaceProvider]]:
    """Give the providers of a node by name. Raises NotJoined for one that cannot work here.

    `heartbeat` is the API's, as the lease is that a workspace has to keep by it.
    """
    providers: dict[str, WorkspaceProvider] = {}
    async with contextlib.AsyncExitStack() as stack:
        if Provider.LOCAL in settings.node_providers:
            providers[Provider.LOCAL] = local_provider(settings, heartbeat=heartbeat)
        if Provider.DOCKER in settings.node_providers:
            docker = docker_provider(settings, node_id, heartbeat=heartbeat)
            providers[Provider.DOCKER] = await stack.enter_async_context(docker)
        yield providers


def local_provider(settings: Settings, *, heartbeat: timedelta) -> LocalProvider:
    """Return the provider of workspaces that are directories and processes of this machine."""
    return LocalProvider(
        settings.data_dir / "workspaces",
        environment=base_environment(os.environ, allowed=settings.node_pass_env),
        secrets=Secrets(file=settings.node_secrets_file, environment=os.environ),
        presets=settings.node_presets,
        allow_file_urls=settings.node_allow_file_urls,
        heartbeat=heartbeat,
        certificates={name: os.environ[name] for name in CERTIFICATES if name in os.environ},
    )


@asynccontextmanager
async def docker_provider(
    settings: Settings, node_id: NodeId, *, heartbeat: timedelta
) -> AsyncIterator[WorkspaceProvider]:
    """Give the provider of workspaces that are containers of this machine's engine."""
    if os.geteuid():
        raise NotJoined("a node with containers must be root: it mounts their disks")
    if importlib.util.find_spec("aiodocker") is None:
        raise NotJoined("install the extra `docker` for containers: pip install 'taskrunner[docker]'")
    from workspaces import docker, engine  # noqa: PLC0415 - aiohttp is no part of other nodes

    async with engine.connected(settings.containers) as client:
        yield docker.DockerProvider(
            settings.data_dir / "containers",
            client=client,
            node=node_id,
            rules=settings.containers,
            environment={name: os.environ[name] for name in settings.node_pass_env if name in os.environ},
            secrets=Secrets(file=settings.node_secrets_file, environment=os.environ),
            presets=settings.node_presets,
            heartbeat=heartbeat,
            certificates={name: os.environ[name] for name in CERTIFICATES if name in os.environ},
        )
