"""A reader of Server-Sent Events over a real socket, and a server for it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI

PATIENCE = 30


async def eventually(fact: Callable[[], bool]) -> None:
    """Return once it is a fact; it is looked at every few milliseconds."""
    async with asyncio.timeout(PATIENCE):
        while not fact():  # noqa: ASYNC110 - what is looked at is on the other side of a socket
            await asyncio.sleep(0.002)


@asynccontextmanager
async def listening(app: FastAPI, *, port: int = 0) -> AsyncIterator[str]:
    """Serve an application on this port of the loopback, or on a free one; give its address."""
    config = uvicorn.Config(
        app, port=port, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    bound = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{bound}"
    server.should_exit = True
    await running


@dataclass
class Received:
    """One frame."""

    id: int
    type: str
    envelope: dict[str, Any]


@dataclass
class Reading:
    """What one connection got."""

    status: int = 0
    frames: list[Received] = field(default_factory=list)
    comments: int = 0

    @property
    def ids(self) -> list[int]:
        """The numbers, in the order of their arrival."""
        return [frame.id for frame in self.frames]

    def has(self, number: int) -> bool:
        """Whether this event has come."""
        return number in self.ids


async def read(
    url: str, headers: dict[str, str], *, until: int | None = None, reading: Reading | None = None
) -> Reading:
    """Read until the server closes, or until this number has come."""
    reading = reading or Reading()
    async with (
        asyncio.timeout(PATIENCE),
        httpx2.AsyncClient(timeout=None) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        reading.status = response.status_code
        if response.status_code != 200:
            await response.aread()
            return reading
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if line.startswith(":"):
                reading.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif fields:
                frame = Received(int(fields["id"]), fields["event"], json.loads(fields["data"]))
                reading.frames.append(frame)
                fields = {}
                if frame.id == until:
                    return reading
    return reading
