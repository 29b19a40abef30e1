"""The provider `docker`: each workspace a container of its own, that reaches the API and nothing else.

Sessions are the same program as everywhere, started within the container; their files lie on a disk of the workspace's
own, which the node sees as well. So the engine is asked for nothing but the container.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import aiodocker

from domain.containers import Containers
from domain.errors import Category, Failure
from domain.messages import Acknowledgement, AgentExit, AgentOrder, WorkspaceOrder
from domain.names import WorkspaceId
from workspaces import container, processes
from workspaces.engine import Engine, no_image
from workspaces.gate import Address, address, open_gate
from workspaces.hosted import HostedProvider, whole
from workspaces.launcher import Launcher
from workspaces.layout import Layout
from workspaces.presets import Invocation
from workspaces.provider import Grant
from workspaces.secrets import Secrets
from workspaces.volume import Volume

GATE_LOOK: Final = 2.0  # seconds; a workspace's lease is a minute and more


class DockerProvider(HostedProvider):
    """Workspaces as containers of this machine's engine. The node must be root: it mounts their disks."""

    def __init__(
        self,
        root: Path,
        *,
        client: aiodocker.Docker,
        node: str,
        rules: Containers,
        environment: Mapping[str, str] | None = None,
        secrets: Secrets | None = None,
        presets: Mapping[str, Sequence[str]] | None = None,
        heartbeat: timedelta = timedelta(seconds=15),
        grace: timedelta = timedelta(seconds=2),
        certificates: Mapping[str, str] | None = None,
    ) -> None:
        launcher = Launcher(
            environment={"LANG": "C.UTF-8", **(environment or {})},
            secrets=secrets or Secrets(),
            allow_file_urls=False,  # the node's files are not in there
            heartbeat=heartbeat,
        )
        super().__init__(root, launcher=launcher, presets=presets, grace=grace)
        self._engine = Engine(client, rules)
        self._node = node
        self._rules = rules
        self._certificates = dict(certificates or {})

    def check(self, order: WorkspaceOrder) -> None:
        """Refuse also an image that is not allowed, more than a task may have, an API that no container can reach."""
        super().check(order)
        if excess := self._rules.excess(order.spec.resources):
            raise Failure(
                "resources_not_allowed",
                f"The task asks for more than this node gives: {', '.join(excess)}.",
                category=Category.INPUT,
                guidance="Ask for less, or let another node do it.",
            )
        address(order.callback_url)
        image = self._image(order)
        if not image:
            raise no_image("not_allowed", "The task names no image, and this node has none.", "Name an `image`.")
        if not self._rules.allows(image):
            allowed = ", ".join([*([self._rules.image] if self._rules.image else []), *self._rules.images]) or "none"
            message = f"This node does not allow the image {image}."
            raise no_image("not_allowed", message, f"Use one that it allows: {allowed}.")

    async def _open(self, layout: Layout, order: WorkspaceOrder, grant: Grant) -> dict[str, Any]:
        image = await self._engine.image(self._image(order))
        limits = self._rules.limits(order.spec.resources)
        size = int(limits.disk_mb or 0)
        await asyncio.to_thread(_volume(layout).make_disk, size, usual=size == self._rules.disk_mb)
        await self._reopen(layout, order, grant)
        return {"image": image.id}

    async def _reopen(self, layout: Layout, order: WorkspaceOrder, grant: Grant) -> None:
        """Let the container and its way out stand, whatever of them was there before."""
        volume, way, image = _volume(layout), address(grant.callback_url), self._image(order)

        async def made() -> dict[str, Any]:
            return container.configuration(
                volume,
                order,
                await self._engine.image(image),
                way,
                node=self._node,
                rules=self._rules,
                certificates=self._certificates,
            )

        both = await asyncio.gather(
            asyncio.to_thread(open_gate, volume, way.target),
            self._engine.stand(layout.workspace_id, image, made),
            return_exceptions=True,  # neither is left behind while it works
        )
        for failure in both:
            if isinstance(failure, BaseException):
                raise failure

    async def _launch(
        self,
        layout: Layout,
        mode: str,
        name: str,
        order: WorkspaceOrder,
        grant: Grant,
        *,
        called: Invocation | None = None,
        turn: int = 1,
    ) -> tuple[int, bool]:
        secrets = self._launcher.write(
            layout,
            name,
            order,
            address(grant.callback_url).url,
            called=called,
            turn=turn,
            environment=await self._engine.environment(layout.workspace_id),
            # The engine sees to the others, for the whole workspace.
            limits=order.spec.resources.model_dump(include={"cpu_seconds"}, exclude_none=True),
            confined=True,
        )
        trusted = {name: f"{container.CERTIFICATES}/{name}" for name in self._certificates}
        holder = await self._engine.execute(
            layout.workspace_id,
            container.program(mode, str(layout.seen.control), name),
            environment={"LANG": "C.UTF-8", **trusted},
            stdin=secrets,
            lock=layout.session(name, "lock"),
        )
        return holder, False

    async def wait_agent(self, agent: AgentOrder) -> AgentExit:
        """Watch as everywhere, and see to it that the way out stays open meanwhile.

        A turn that had ended before the machine was started anew has left its exit file on a disk that is not mounted.
        """
        layout, way = self._layout(agent.order.workspace_id), address(agent.order.callback_url)
        with suppress(Failure):  # a disk that cannot be mounted says nothing: the turn is lost
            await asyncio.to_thread(layout.mount)
        guarding = asyncio.create_task(_kept_open(layout, way))
        try:
            return await super().wait_agent(agent)
        finally:
            guarding.cancel()
            await asyncio.gather(guarding, return_exceptions=True)

    async def destroy(self, workspace_id: WorkspaceId, *, keep: bool = False) -> Acknowledgement:
        """Destroy as everywhere; to keep files of before the machine's last start, they are mounted."""
        if keep:
            await asyncio.to_thread(self._layout(workspace_id).mount)
        return await super().destroy(workspace_id, keep=keep)

    async def _end(self, layout: Layout, *, grace: float) -> tuple[int, int]:
        stopped = await self._engine.stop(layout.workspace_id, grace=grace)
        ended, left = await asyncio.to_thread(processes.end_all, layout.workspace_id, grace=0)
        return ended + stopped, left

    async def _remove(self, layout: Layout) -> None:
        await self._engine.remove(layout.workspace_id)
        await asyncio.to_thread(layout.remove)

    async def _released(self, lock: Path, *, within: float) -> None:
        await processes.released(lock, within=within)

    async def list(self) -> list[WorkspaceId]:
        """Return the names of the directories, and of this node's containers that have none."""
        return sorted({*await super().list(), *await self._engine.of_node(self._node)})

    def _image(self, order: WorkspaceOrder) -> str:
        return order.spec.image or self._rules.image

    def _layout(self, workspace_id: WorkspaceId) -> Volume:
        return Volume(self._root, workspace_id, self._rules.user)

    def _existing(self, workspace_id: WorkspaceId) -> Layout:
        self._layout(workspace_id).mount()
        return super()._existing(workspace_id)


def _volume(layout: Layout) -> Volume:
    if not isinstance(layout, Volume):  # this provider makes no other
        raise TypeError(layout)
    return layout


async def _kept_open(layout: Volume, way: Address) -> None:
    """Open the gate again whenever it was shut, by the kernel for want of memory perhaps."""
    while True:
        with suppress(Failure):  # the next look tries again
            await whole(asyncio.to_thread(open_gate, layout, way.target))
        if layout.tombstone.exists():
            await asyncio.to_thread(processes.end_all, layout.workspace_id, grace=0)
            return
        await asyncio.sleep(GATE_LOOK)
