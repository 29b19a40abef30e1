"""The proxy fails as it is told to, and otherwise is not there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from tests.faults.proxy import LOOPBACK, Proxy


class Echo:
    """A server that answers each line with the same line, and remembers it."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(line)
                await writer.drain()
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    """Give a server."""
    echo = Echo()
    server = await asyncio.start_server(echo.serve, LOOPBACK, 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    """Give a proxy whose first target is dead."""
    proxy = Proxy("echo", lambda: [(LOOPBACK, 1), (LOOPBACK, echo.port)])
    await proxy.start()
    yield proxy
    await proxy.stop()


async def ask(proxy: Proxy, line: bytes, *, within: float = 5) -> bytes:
    """Send a line on a new connection and return the answer: nothing for a connection that was closed."""
    reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
    try:
        writer.write(line)
        return await asyncio.wait_for(reader.readline(), within)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_it_passes_on_to_the_target_that_answers(proxy: Proxy) -> None:
    """The same line, and no hit."""
    assert await ask(proxy, b"hello\n") == b"hello\n"
    assert not proxy.hits


async def test_a_delay_holds_back_both_ways(proxy: Proxy) -> None:
    """Two chunks of 0.1 s each."""
    proxy.slow(0.1)
    began = asyncio.get_running_loop().time()
    assert await ask(proxy, b"hello\n") == b"hello\n"
    assert asyncio.get_running_loop().time() - began >= 0.2
    assert proxy.hits == {"delay": 2}


async def test_dropped_connections_are_closed_and_new_ones_work(proxy: Proxy) -> None:
    """Nothing more on the old one; a new one answers."""
    reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
    writer.write(b"one\n")
    assert await reader.readline() == b"one\n"
    assert proxy.drop() == 1
    with suppress(ConnectionError):
        assert await reader.readline() == b""
    writer.close()
    assert await ask(proxy, b"two\n") == b"two\n"


async def test_a_refusal_closes_at_once_until_healed(proxy: Proxy) -> None:
    """No answer, then one."""
    proxy.refuse()
    assert await ask(proxy, b"hello\n") == b""
    proxy.heal()
    assert await ask(proxy, b"hello\n") == b"hello\n"
    assert proxy.hits["refuse"] == 1


async def test_a_black_hole_says_nothing_and_gives_all_back_when_healed(proxy: Proxy, echo: Echo) -> None:
    """The server has not heard it meanwhile; the answer comes afterwards."""
    proxy.swallow()
    asked = asyncio.create_task(ask(proxy, b"hello\n"))
    done, _ = await asyncio.wait([asked], timeout=0.3)
    assert not done
    assert not echo.heard
    proxy.heal()
    assert await asked == b"hello\n"


async def test_a_cut_reply_is_lost_and_its_request_is_not(proxy: Proxy, echo: Echo) -> None:
    """The server heard it, the client got nothing; the next request is answered."""
    struck = proxy.cut_reply(b"pay")
    assert await ask(proxy, b"other\n") == b"other\n"
    assert await ask(proxy, b"pay\n") == b""
    await asyncio.wait_for(struck.wait(), 5)
    assert echo.heard == [b"other\n", b"pay\n"]
    assert await ask(proxy, b"pay\n") == b"pay\n"
