"""The container engine of a node: what workspaces ask of it, and what its answers mean."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import aiodocker
from aiodocker.containers import DockerContainer
from aiodocker.exceptions import DockerError
from aiodocker.stream import Stream
from aiohttp import ClientError, ClientTimeout

from domain.containers import Containers
from domain.errors import Category, Failure
from domain.names import WorkspaceId
from workspaces import container, processes
from workspaces.launcher import STARTED_WITHIN, gone, not_started

NOT_MODIFIED, BAD_REQUEST, NOT_FOUND, CONFLICT, SERVER_ERROR = 304, 400, 404, 409, 500
# A registry's words, which some engines pass on as an error of their own.
NO_SUCH_IMAGE: Final = ("manifest unknown", "name unknown")
ANSWER: Final = ClientTimeout(total=120)  # the engine stops and removes what may be large
WAITED: Final = 20.0  # seconds for what another call to the engine is about to finish


@asynccontextmanager
async def connected(rules: Containers) -> AsyncIterator[aiodocker.Docker]:
    """Give a client of the node's engine; it connects when it is used."""
    client = aiodocker.Docker(url=rules.engine, timeout=ANSWER)
    try:
        yield client
    finally:
        await client.close()


class Engine:
    """One container for each workspace, by its id as name. Every call may come twice, and at the same time.

    All raise Failure `engine_failed` or `engine_unreachable`, which are transient.
    """

    def __init__(self, client: aiodocker.Docker, rules: Containers) -> None:
        self._client = client
        self._rules = rules

    async def image(self, name: str) -> container.Image:
        """Return an image, pulled if it may be. Raises Failure `image_missing`."""
        with _asked():
            try:
                return container.Image.of(await self._client.images.inspect(name))
            except DockerError as error:
                if error.status != NOT_FOUND:
                    raise
            if self._rules.pull == "never":
                message = f"The image {name} is not on this node."
                raise no_image("missing", message, "Load it there, or let the node pull images.")
            try:
                await self._client.images.pull(name)
            except DockerError as error:
                if error.status < SERVER_ERROR or any(words in error.message for words in NO_SUCH_IMAGE):
                    text = f"The image {name} cannot be pulled: {error.message}"
                    raise no_image("missing", text[:500], "Look at its name.") from None
                raise
            return container.Image.of(await self._client.images.inspect(name))

    async def stand(self, workspace_id: WorkspaceId, image: str, made: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        """Let the workspace's container run; `made` gives its configuration where there is none yet.

        Raises Failure `image_unusable`.
        """
        with _asked():
            found = await self._find(workspace_id)
            if found is None:
                found = await self._create(await made(), workspace_id)
            if not _running(found):
                await _start(found, image)

    async def execute(
        self, workspace_id: WorkspaceId, argv: list[str], *, environment: Mapping[str, str], stdin: bytes, lock: Path
    ) -> int:
        """Start a program in the container; return who holds its lock, as soon as somebody does.

        Raises Failure `program_not_started`.
        """
        with _asked():
            place = self._client.containers.container(workspace_id)
            started = await place.exec(argv, stdin=True, environment=environment)
            async with started.start() as stream:
                await stream.write_in(stdin)
                return await _holder(lock, stream)

    async def environment(self, workspace_id: WorkspaceId) -> dict[str, str]:
        """Return the environment that the image gives to the container. Raises Failure `workspace_gone`."""
        with _asked():
            found = await self._find(workspace_id)
        if found is None:
            raise gone(workspace_id)
        return container.environment(found["Config"])

    async def stop(self, workspace_id: WorkspaceId, *, grace: float) -> bool:
        """End all processes of the container, after `grace` seconds by force; return whether there were any."""
        with _asked():
            found = await self._find(workspace_id)
            if found is None or not _running(found):
                return False
            await _gone_is_fine(found.stop(t=int(grace)))
            return True

    async def remove(self, workspace_id: WorkspaceId) -> None:
        """Remove the container, running or not."""
        with _asked():
            deadline = time.monotonic() + WAITED
            while (found := await self._find(workspace_id)) is not None and time.monotonic() < deadline:
                await _gone_is_fine(found.delete(force=True, v=True))

    async def of_node(self, node: str) -> list[WorkspaceId]:
        """Return the workspaces of this node that have a container."""
        with _asked():
            mine = json.dumps({"label": [f"{container.NODE}={node}"]})
            found = await self._client.containers.list(all=True, filters=mine)
        return [WorkspaceId(each["Labels"][container.WORKSPACE]) for each in found]

    async def _create(self, config: dict[str, Any], name: str) -> DockerContainer:
        """Create a container, or adopt the one that another call makes under this name."""
        deadline = time.monotonic() + WAITED
        while True:
            try:
                return await self._client.containers.create(config, name=name)
            except DockerError as error:
                if error.status != CONFLICT or time.monotonic() > deadline:
                    raise
            # The name is taken at once, and the container can be found a moment later.
            if found := await self._find(name):
                return found
            await asyncio.sleep(processes.POLL)

    async def _find(self, name: str) -> DockerContainer | None:
        try:
            return await self._client.containers.get(name)
        except DockerError as error:
            if error.status != NOT_FOUND:
                raise
            return None


def _running(found: DockerContainer) -> bool:
    return bool(dict(found._container).get("State", {}).get("Running"))  # noqa: SLF001 - one just made has no state


async def _start(found: DockerContainer, image: str) -> None:
    try:
        await found.start()
    except DockerError as error:
        if error.status == NOT_MODIFIED:
            return
        if error.status == BAD_REQUEST or "executable file not found" in error.message:
            text = f"The image {image} has no {container.PYTHON}, which a workspace needs."
            raise no_image("unusable", text, "Use an image with Python 3.9 or later.") from None
        raise


async def _holder(lock: Path, stream: Stream) -> int:
    """Return who holds the lock, as soon as somebody does; what the program says instead is the failure."""
    said = bytearray()

    async def listen() -> None:
        while message := await stream.read_out():
            said.extend(message.data)

    listening = asyncio.ensure_future(listen())
    deadline = time.monotonic() + STARTED_WITHIN
    try:
        while True:
            over = listening.done()
            if (pid := processes.holder(lock)) is not None:
                return pid
            if over:
                raise not_started(said.decode("utf-8", "replace").strip()[-500:] or "it ended at once")
            if time.monotonic() > deadline:
                raise not_started("it did not begin in time")
            await asyncio.wait({listening}, timeout=processes.POLL / 5)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def _gone_is_fine(call: Any) -> None:
    """Wait for an end that somebody else may have brought about."""
    try:
        await call
    except DockerError as error:
        if error.status not in (NOT_MODIFIED, NOT_FOUND, CONFLICT):
            raise


@contextmanager
def _asked() -> Iterator[None]:
    """Name what the engine does not do."""
    try:
        yield
    except DockerError as error:
        raise Failure(
            "engine_failed",
            f"The container engine answered {error.status}: {error.message}"[:1000],
            category=Category.INFRASTRUCTURE,
            transient=True,
            guidance="Look at the engine's log on the node.",
        ) from error
    except (ClientError, TimeoutError, ConnectionError) as error:
        raise Failure(
            "engine_unreachable",
            f"The node does not reach its container engine: {type(error).__name__}.",
            category=Category.INFRASTRUCTURE,
            transient=True,
            guidance="Start the engine, or correct TASKRUNNER_CONTAINERS__ENGINE.",
        ) from error


def no_image(why: str, message: str, guidance: str) -> Failure:
    """Return the failure of a task whose image cannot be had."""
    return Failure(f"image_{why}", message, category=Category.INPUT, guidance=guidance)
