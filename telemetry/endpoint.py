"""`/metrics` of one process, on a port of its own: one scrape gives ours and the Temporal SDK's."""

import asyncio
import contextlib
import errno
import hmac
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig

from domain import failpoints
from telemetry.metrics import CONTENT_TYPE, Metrics

LOOPBACK: Final = "127.0.0.1"
PORTS: Final = 100
LARGEST_HEAD: Final = 16 * 1024
PATIENCE: Final = 10.0


def counting_runtime() -> tuple[Runtime, int]:
    """Return a runtime whose core counts, and the port of loopback at which its own server tells."""
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        config = PrometheusConfig(
            bind_address=f"{LOOPBACK}:{port}",
            counters_total_suffix=True,
            unit_suffix=True,
            durations_as_seconds=True,
        )
        try:
            return Runtime(telemetry=TelemetryConfig(metrics=config)), port
        except ValueError as error:  # somebody else has taken the port meanwhile
            if "in use" not in str(error):
                raise


@dataclass(frozen=True, kw_only=True)
class Counting:
    """What a process counts with: pass `runtime` to its client. `address` is empty where nothing is served."""

    metrics: Metrics
    runtime: Runtime
    address: str = ""


@asynccontextmanager
async def counting(*, host: str, port: int | None, token: str) -> AsyncIterator[Counting]:
    """Count this process's calls and the SDK's work, and serve that; without a port neither is done."""
    if port is None:
        yield Counting(metrics=Metrics(), runtime=Runtime.default())
        return
    runtime, core = counting_runtime()
    metrics = Metrics(more=lambda: fetch(core))
    async with serving(metrics, host=host, port=port, token=token) as address:
        failpoints.count(metrics.called)
        try:
            yield Counting(metrics=metrics, runtime=runtime, address=address)
        finally:
            failpoints.count(None)


async def fetch(port: int) -> bytes:
    """Return what the core tells; nothing if it does not answer."""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
                return (await reader.read()).partition(b"\r\n\r\n")[2]
            finally:
                writer.close()
    except (TimeoutError, ConnectionError):
        return b""


@asynccontextmanager
async def serving(metrics: Metrics, *, host: str, port: int, token: str = "") -> AsyncIterator[str]:
    """Serve the metrics at this port, or the next free one; give the address. With a `token`, to whoever has it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                status, body = await _answer(metrics, head, token)
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
                    "Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    for candidate in range(port, port + PORTS):
        try:
            # A socket that listens already: of two processes that bind at once, the loop would tell neither.
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listening = socket.create_server((host, candidate), family=family)
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE or candidate == port + PORTS - 1:
                raise
    async with await asyncio.start_server(answer, sock=listening, limit=LARGEST_HEAD) as server:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}/metrics"


async def _answer(metrics: Metrics, head: bytes, token: str) -> tuple[str, bytes]:
    line, *headers = head.split(b"\r\n")
    if line.split(b" ")[:2] != [b"GET", b"/metrics"]:
        return "404 Not Found", b""
    if token and not any(_opens(header, token) for header in headers):
        return "401 Unauthorized", b""
    return "200 OK", await metrics.exposition()


def _opens(header: bytes, token: str) -> bool:
    name, _, value = header.partition(b":")
    return name.lower() == b"authorization" and hmac.compare_digest(value.strip(), f"Bearer {token}".encode())
