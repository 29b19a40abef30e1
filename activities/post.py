"""One POST to a receiver that nobody of us knows: over TLS, to a public address, without following it anywhere.

The address is checked where it is connected to: a name is looked up once, and what is connected to is one of the
addresses that were checked. What the name leads to before or after is of no account.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Final

import httpcore2

from domain.addresses import Address, Network, may_be_called
from domain.failpoints import boundary
from domain.webhooks import TRY_LIMIT, Target

_LONGEST_ERROR: Final = 300
RETRY_AFTER: Final = b"retry-after"
# Seconds for one address of several, so that there is time for the next.
EXTENSIONS: Final = {"timeout": {"connect": 5.0}}

# Gives the addresses of a host; raises OSError for one that has none.
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
SocketOption = tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of it: a status, or why there was none; `retry_after` when the receiver asked for time."""

    status: int | None = None
    error: str | None = None
    retry_after: timedelta | None = None


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Return the addresses of a host, as the system knows them."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, proto=socket.IPPROTO_TCP)
    except UnicodeError:
        raise OSError("the host is no name that can be looked up") from None
    return [ip_address(address[0]) for *_, address in found]


class NotPublicError(OSError):
    """The host has no address that may be called."""


class GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses, and to those of the networks that are allowed."""

    def __init__(self, allowed: Iterable[Network], *, resolve: Resolve = resolve) -> None:
        self._allowed = tuple(allowed)
        self._resolve = resolve
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first address that may be called and answers. Raises NotPublicError, OSError, ConnectError."""
        addresses = [each for each in await self._resolve(host, port) if may_be_called(each, self._allowed)]
        if not addresses:
            raise NotPublicError("the host has no public address")
        failed: list[Exception] = []
        for address in addresses:
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address=local_address, socket_options=socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed.append(error)
        raise failed[-1]


class Post:
    """Posts messages, each on a connection of its own, which nobody keeps."""

    def __init__(self, network: GuardedNetwork, *, authorities: ssl.SSLContext, limit: timedelta = TRY_LIMIT) -> None:
        self._limit = limit.total_seconds()
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=authorities, network_backend=network, max_connections=None, max_keepalive_connections=0
        )

    async def send(self, target: Target, headers: dict[str, str], body: bytes) -> Answer:
        """Return what came of it; of the answer nothing but its head is read, and a redirect leads nowhere."""
        own = {
            "Host": target.authority,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "User-Agent": "taskrunner",
        }
        sent: list[tuple[bytes | str, bytes | str]] = [*own.items(), *headers.items()]
        address = httpcore2.URL(scheme="https", host=target.host, port=target.port, target=target.target)
        try:
            async with asyncio.timeout(self._limit):
                with boundary("webhooks.send"):
                    async with self._pool.stream(
                        "POST", address, headers=sent, content=body, extensions=EXTENSIONS
                    ) as answer:
                        head = {name.lower(): value for name, value in answer.headers}
                        return Answer(status=answer.status, retry_after=_asked(head.get(RETRY_AFTER)))
        except TimeoutError:
            return Answer(error=f"no answer within {self._limit:g} s")
        except (OSError, httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
            return Answer(error=(str(error) or type(error).__name__)[:_LONGEST_ERROR])

    async def close(self) -> None:
        """Close what is open."""
        await self._pool.aclose()


def _asked(header: bytes | None) -> timedelta | None:
    """Return how long a Retry-After asks to wait: seconds, or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    text = header.decode("latin-1").strip()
    if text.isascii() and text.isdigit():
        return timedelta(seconds=min(int(text[:9]), 10**9))
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(aware - datetime.now(UTC), timedelta(0))
