"""A TCP proxy between our processes and a server, which fails as networks fail when the test says so."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
CHUNK: Final = 65_536
# How long a server has to do what it was asked before the connection that asked is cut.
DONE_WITHIN: Final = 0.3

Target = tuple[str, int] | Path
Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Mode(StrEnum):
    """What happens to bytes."""

    PASS = "pass"
    DELAY = "delay"
    BLACK_HOLE = "black_hole"
    REFUSE = "refuse"


@dataclass
class Cut:
    """The reply to the next request that holds these bytes, and is so long, is lost: the request goes through."""

    holding: bytes
    at_least: int
    struck: asyncio.Event

    def means(self, request: bytes) -> bool:
        """Whether this is the request."""
        return self.holding in request and len(request) >= self.at_least


class Proxy:
    """Listens on loopback and passes connections on to the first of its targets that answers.

    `targets` is asked for each connection, so that a server may move. `hits` counts how often each fault struck a
    connection or a chunk: a fault that struck nobody proves nothing.
    """

    def __init__(self, name: str, targets: Callable[[], Sequence[Target]]) -> None:
        self.name = name
        self.port = 0
        self.hits: Counter[str] = Counter()
        self.mode = Mode.PASS
        self.delay = 0.0
        self._targets = targets
        self._turn = 0
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut: Cut | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        self._sever()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- faults -------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Pass everything on again, also what a black hole held back."""
        self._change(Mode.PASS, 0.0)

    def slow(self, seconds: float) -> None:
        """Hold back each chunk, both ways, for so long."""
        self._change(Mode.DELAY, seconds)

    def swallow(self) -> None:
        """Take connections and bytes, and pass nothing on until healed: nobody hears that anything is wrong."""
        self._change(Mode.BLACK_HOLE, 0.0)

    def refuse(self) -> None:
        """Close every connection, and each new one at once, until healed."""
        self._change(Mode.REFUSE, 0.0)
        self.drop()

    def drop(self) -> int:
        """Close every open connection, once; return how many."""
        count = self._sever()
        self.hits["drop"] += count
        return count

    def cut_reply(self, holding: bytes = b"", *, at_least: int = 0) -> asyncio.Event:
        """Lose the reply to the next request that holds these bytes; the event is set when it is lost.

        Where requests are compressed they hold nothing that can be recognised: `at_least` tells a call from a ping.
        """
        self._cut = Cut(holding, at_least, asyncio.Event())
        return self._cut.struck

    def _change(self, mode: Mode, delay: float) -> None:
        self.mode, self.delay = mode, delay
        if mode is Mode.BLACK_HOLE:
            self._flowing.clear()
        else:
            self._flowing.set()

    def _sever(self) -> int:
        pairs = list(self._open.items())
        for pair in pairs:
            for writer in pair:
                writer.transport.abort()
        return len(pairs)

    # --- connections --------------------------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode is Mode.REFUSE:
            self.hits[Mode.REFUSE] += 1
            writer.transport.abort()
            return
        opened = await self._connect()
        if opened is None:
            writer.transport.abort()
            return
        server_reader, server_writer = opened
        self._open[writer] = server_writer
        ways = (
            asyncio.ensure_future(self._pump(reader, server_writer, request=(writer, server_writer))),
            asyncio.ensure_future(self._pump(server_reader, writer)),
        )
        try:
            await asyncio.wait(ways)
        finally:
            for way in ways:
                way.cancel()
            self._open.pop(writer, None)
            for each in (writer, server_writer):
                each.transport.abort()

    async def _connect(self) -> Opened | None:
        targets = list(self._targets())
        self._turn += 1
        for number in range(len(targets)):
            target = targets[(self._turn + number) % len(targets)]
            with contextlib.suppress(OSError):
                if isinstance(target, Path):
                    return await asyncio.open_unix_connection(str(target))
                return await asyncio.open_connection(*target)
        return None

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        *,
        request: tuple[asyncio.StreamWriter, asyncio.StreamWriter] | None = None,
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                if self.mode is not Mode.PASS:
                    self.hits[self.mode] += 1
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flowing.wait()
                cut = self._cut
                if request and cut and cut.means(data):
                    self._cut = None
                    await self._lose(data, request, cut)
                    return
                sink.write(data)
                await sink.drain()
            if sink.can_write_eof():
                sink.write_eof()

    async def _lose(self, data: bytes, pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter], cut: Cut) -> None:
        client, server = pair
        # The way back ends here; what the server says from now on reaches nobody.
        client.transport.abort()
        server.write(data)
        with contextlib.suppress(OSError):
            await server.drain()
        await asyncio.sleep(DONE_WITHIN)
        server.transport.abort()
        self.hits["cut_reply"] += 1
        cut.struck.set()
