"""A receiver of webhooks on loopback, over TLS, with an authority of its own; it does what the test tells it."""

import asyncio
import contextlib
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

LOOPBACK = "127.0.0.1"
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Got:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answering(status: int, *headers: str) -> Behaviour:
    """Answer with this status and these headers."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = "\r\n".join([f"HTTP/1.1 {status} X", "content-length: 2", *headers])
        writer.write(f"{head}\r\n\r\nok".encode())
        await writer.drain()

    return answer


async def hanging(_: asyncio.StreamWriter) -> None:
    """Say nothing, for ever."""
    await asyncio.Event().wait()


async def dripping(writer: asyncio.StreamWriter) -> None:
    """Give a head that never ends, a byte at a time."""
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def slamming(writer: asyncio.StreamWriter) -> None:
    """Close the connection without a word."""
    writer.transport.abort()


def by_path(receiver: "Receiver", got: Got) -> Behaviour | None:
    """`/gone` has gone; `/busy` has time for a message when it comes again."""
    known = [each.headers["webhook-id"] for each in receiver.got].count(got.headers["webhook-id"])
    return answering(410) if got.path == "/gone" else answering(503) if got.path == "/busy" and known == 1 else None


@dataclass
class Receiver:
    """What was received; `then` says how the next requests are answered, 200 if it says nothing."""

    folder: Path
    names: tuple[str, ...] = ("localhost",)
    got: list[Got] = field(default_factory=list)
    then: list[Behaviour] = field(default_factory=list)
    always: Behaviour = field(default_factory=lambda: answering(200))
    choose: Callable[["Receiver", Got], Behaviour | None] = lambda _, __: None
    came: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _server: asyncio.Server | None = None
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    @property
    def ca(self) -> Path:
        """The certificate of its authority."""
        return self.folder / "ca.pem"

    @property
    def origin(self) -> str:
        """Where it listens."""
        return f"https://localhost:{self.port}"

    @property
    def url(self) -> str:
        """Its address."""
        return f"{self.origin}/hook?x=1"

    def authorities(self) -> ssl.SSLContext:
        """A client's context that trusts it."""
        return ssl.create_default_context(cafile=str(self.ca))

    async def start(self) -> None:
        certify(self.folder, self.names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem")
        self._server = await asyncio.start_server(self._serve, LOOPBACK, self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def count(self, number: int, *, within: float = 20) -> list[Got]:
        """Wait until so many requests have come."""
        async with asyncio.timeout(within):
            while len(self.got) < number:
                self.came.clear()
                await self.came.wait()
        return self.got

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._one(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.got.append(Got(first.split(" ")[1], headers, body))
        self.came.set()
        behaviour = self.choose(self, self.got[-1]) or (self.then.pop(0) if self.then else self.always)
        await behaviour(writer)
        writer.close()
        await writer.wait_closed()


def certify(folder: Path, names: tuple[str, ...]) -> None:
    """Write `ca.pem` and, signed by it, `server.pem` with its key; an authority that is there already signs again."""
    now = datetime.now(UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    subjects = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("a test's CA", names[0])]
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names if not name[0].isdigit()]
    alternatives += [x509.IPAddress(ipaddress.ip_address(name)) for name in names if name[0].isdigit()]
    extensions: list[list[tuple[x509.ExtensionType, bool]]] = [
        [
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (x509.SubjectKeyIdentifier.from_public_key(keys[0].public_key()), False),
            (x509.KeyUsage(False, False, False, False, False, True, True, False, False), True),
        ],
        [
            (x509.SubjectAlternativeName(alternatives), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key()), False),
        ],
    ]
    pems = []
    for key, subject, more in zip(keys, subjects, extensions, strict=True):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subjects[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )
        for extension, critical in more:
            builder = builder.add_extension(extension, critical=critical)
        pems.append(builder.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "ca.pem").write_bytes(pems[0])
    (folder / "server.pem").write_bytes(private + pems[1])


@asynccontextmanager
async def receiving(folder: Path, *names: str) -> AsyncIterator[Receiver]:
    """Give a receiver that runs."""
    receiver = Receiver(folder, names or ("localhost",))
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()
