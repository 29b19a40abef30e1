"""The relay: bytes go through as they came, many ways at once, and nobody who stops reading holds another one up."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.workspaces.recording import RecordingApi, until
from workspaces import processes
from workspaces.gate import Address, address
from workspaces.inside import relay
from workspaces.launcher import FLAGS, PROGRAM

LARGE = os.urandom(3_000_000)


@contextlib.asynccontextmanager
async def relaying(tmp_path: Path, target: str) -> AsyncIterator[Path]:
    """Run a relay to this address; give its socket."""
    path, lock = tmp_path / "gate.sock", tmp_path / "gate.lock"
    child = subprocess.Popen([sys.executable, *FLAGS, PROGRAM, "relay", f"unix:{path}", f"tcp:{target}", lock])
    try:
        await until(lambda: processes.held(lock) and processes.holder(lock) == child.pid)
        yield path
    finally:
        child.terminate()
        assert child.wait(10) == 0


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back, then end."""
    while piece := await reader.read(100_000):
        writer.write(piece)
        await writer.drain()
    writer.close()


async def through(path: Path, content: bytes) -> bytes:
    """Send something through and return what comes back."""
    reader, writer = await asyncio.open_unix_connection(path)

    async def send() -> None:
        writer.write(content)
        await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    answer = await reader.read(-1)
    await sending
    writer.close()
    return answer


async def test_bytes_go_through_both_ways(tmp_path: Path) -> None:
    """Three megabytes out and back, ten times at once, beside as many connections as it takes that never speak."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with relaying(tmp_path, f"127.0.0.1:{port}") as path:
        silent = [await asyncio.open_unix_connection(path) for _ in range(relay.MOST - 10)]
        answers = await asyncio.gather(*(through(path, LARGE) for _ in range(10)))
        assert [answer == LARGE for answer in answers] == [True] * 10
        for _, writer in silent:
            writer.close()
    server.close()


async def test_more_connections_than_it_takes_wait(tmp_path: Path) -> None:
    """They are served as soon as others have ended."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with relaying(tmp_path, f"127.0.0.1:{port}") as path:
        silent = [await asyncio.open_unix_connection(path) for _ in range(relay.MOST)]
        waiting = asyncio.create_task(through(path, b"late"))
        await asyncio.wait({waiting}, timeout=0.3)
        assert not waiting.done()
        for _, writer in silent[:1]:
            writer.close()
        assert await asyncio.wait_for(waiting, 15) == b"late"
        for _, writer in silent:
            writer.close()
    server.close()


async def test_a_target_that_is_away_ends_the_call(tmp_path: Path) -> None:
    """The caller is told at once, and the next call comes through when the target is back."""
    api = RecordingApi()
    port = api.url.rpartition(":")[2]
    api.shut()
    async with relaying(tmp_path, f"127.0.0.1:{port}") as path:
        with contextlib.suppress(ConnectionError):
            assert await through(path, b"GET / HTTP/1.0\r\n\r\n") == b""
        api.open()
        assert (await through(path, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200")
    api.shut()


async def test_one_relay_listens(tmp_path: Path) -> None:
    """A second one with the same lock ends at once; after a kill -9 the next one takes the socket's place."""
    path, lock = tmp_path / "s", tmp_path / "lock"
    argv = [sys.executable, *FLAGS, str(PROGRAM), "relay", f"unix:{path}", "tcp:127.0.0.1:9", str(lock)]
    first = subprocess.Popen(argv)
    await until(lambda: processes.holder(lock) == first.pid)
    assert subprocess.run(argv, check=False).returncode == 0
    assert processes.holder(lock) == first.pid
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert path.exists()
    second = subprocess.Popen(argv)
    await until(lambda: processes.holder(lock) == second.pid)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    second.terminate()
    assert second.wait(10) == 0


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8080/x", Address("http://127.0.0.1:8080/x", "127.0.0.1", 8080, None)),
        ("http://localhost:8080", Address("http://localhost:8080", "localhost", 8080, None)),
        ("http://10.1.2.3:80/v1", Address("http://127.0.0.1:80/v1", "10.1.2.3", 80, None)),
        ("http://[fd00::1]:8080", Address("http://127.0.0.1:8080", "fd00::1", 8080, None)),
        ("https://api.example", Address("https://api.example", "api.example", 443, "api.example")),
        ("http://api.example:81/p", Address("http://api.example:81/p", "api.example", 81, "api.example")),
    ],
)
def test_an_address_of_the_api_is_reached_by_loopback(url: str, expected: Address) -> None:
    """A name stays, for TLS and for proxies; an address becomes loopback's."""
    assert address(url) == expected
