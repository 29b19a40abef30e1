"""One POST: what a receiver may do to us, and where we do not go."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from activities.post import Answer, GuardedNetwork, Post, resolve
from domain.addresses import Address
from domain.webhooks import Target
from tests.activities.receiver import Receiver, answering, certify, dripping, hanging, receiving, slamming
from tests.domain.test_addresses import CASES

LOOPBACKS = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
LIMIT = timedelta(seconds=5)
SHORT = timedelta(seconds=0.3)


@pytest.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    """Give a receiver on loopback."""
    async with receiving(tmp_path) as receiver:
        yield receiver


async def post(
    receiver: Receiver,
    *,
    network: GuardedNetwork | None = None,
    authorities: ssl.SSLContext | None = None,
    limit: timedelta = LIMIT,
    host: str = "localhost",
    port: int | None = None,
) -> Answer:
    """Post to the receiver, whose network is allowed."""
    sender = Post(network or GuardedNetwork(LOOPBACKS), authorities=authorities or receiver.authorities(), limit=limit)
    answer = await sender.send(Target(host=host, port=port or receiver.port, target="/hook"), {"x-test": "1"}, b"{}")
    await sender.close()
    return answer


async def test_a_message_arrives(receiver: Receiver) -> None:
    """Its body and headers, under the name that was called; the answer is its status."""
    assert await post(receiver) == Answer(status=200)
    (got,) = receiver.got
    assert (got.path, got.body, got.headers["x-test"]) == ("/hook", b"{}", "1")
    assert got.headers["host"] == f"localhost:{receiver.port}"
    assert got.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("kind", "address"), CASES)
async def test_nothing_is_connected_to_an_address_of_this_class(receiver: Receiver, kind: str, address: str) -> None:
    """Whatever a name leads to: no connection, and an answer that says why."""
    asked: list[str] = []

    async def leading_inside(host: str, _: int) -> Sequence[Address]:
        asked.append(host)
        return [ip_address(address)]

    answer = await post(receiver, network=GuardedNetwork([], resolve=leading_inside), host="evil.example")
    assert (answer, asked, receiver.got) == (Answer(error="the host has no public address"), ["evil.example"], []), kind


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "::1", "0"]
)
async def test_no_way_to_write_loopback_leads_there(receiver: Receiver, host: str) -> None:
    """The address that a name comes to is what is checked, by the system's own reading of it."""
    answer = await post(receiver, network=GuardedNetwork([]), host=host)
    assert answer.status is None
    assert receiver.got == []


async def test_a_name_that_changes_its_mind_gets_nothing(receiver: Receiver) -> None:
    """DNS rebinding: a name is looked up once for a connection, and what was checked is what is connected to."""
    leads_to = [[ip_address("203.0.113.7")], [ip_address("127.0.0.1")]]
    allowed = [ip_network("203.0.113.0/24")]
    times = 0

    async def rebinding(_: str, __: int) -> Sequence[Address]:
        nonlocal times
        times += 1
        return leads_to[min(times, 2) - 1]

    first = await post(receiver, network=GuardedNetwork(allowed, resolve=rebinding), limit=SHORT)
    assert (first.status, times, receiver.got) == (None, 1, [])
    second = await post(receiver, network=GuardedNetwork(allowed, resolve=rebinding), limit=SHORT)
    assert (second.error, times, receiver.got) == ("the host has no public address", 2, [])


async def test_an_inner_address_among_public_ones_is_left_out(receiver: Receiver) -> None:
    """Of several addresses only those that may be called are tried."""

    async def both(_: str, __: int) -> Sequence[Address]:
        return [ip_address("10.0.0.1"), ip_address("127.0.0.1")]

    network = GuardedNetwork([ip_network("127.0.0.0/8")], resolve=both)
    assert (await post(receiver, network=network)).status == 200


async def test_the_environment_names_no_proxy(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy the environment names, the receiver is called itself."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await post(receiver)).status == 200


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    """302 is the answer, and nothing else is asked."""
    receiver.then = [answering(302, f"location: https://localhost:{receiver.port}/inner")]
    assert (await post(receiver)).status == 302
    assert len(receiver.got) == 1


async def test_an_authority_that_is_not_known_is_refused(receiver: Receiver) -> None:
    """Nothing is sent to who cannot prove its name."""
    answer = await post(receiver, authorities=ssl.create_default_context())
    assert answer.status is None
    assert "CERTIFICATE_VERIFY_FAILED" in (answer.error or "")
    assert receiver.got == []


async def test_a_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    """The name that was called is the one that is proven."""
    async with receiving(tmp_path, "elsewhere.example") as receiver:
        answer = await post(receiver)
        assert "CERTIFICATE_VERIFY_FAILED" in (answer.error or "")
        assert receiver.got == []


async def test_a_receiver_that_speaks_no_tls_gets_nothing(tmp_path: Path) -> None:
    """A failed handshake is a failed try."""
    heard = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    receiver = Receiver(tmp_path, port=server.sockets[0].getsockname()[1])
    certify(tmp_path, ("localhost",))
    answer = await post(receiver)
    server.close()
    assert answer.status is None
    assert b"{}" not in b"".join(heard)


@pytest.mark.parametrize("behaviour", [hanging, dripping])
async def test_a_receiver_has_its_time_and_no_more(receiver: Receiver, behaviour: object) -> None:
    """One that hangs and one that drips are left when the time is over."""
    receiver.then = [behaviour]  # type: ignore[list-item]
    assert await post(receiver, limit=SHORT) == Answer(error="no answer within 0.3 s")


async def test_a_huge_answer_is_not_read(receiver: Receiver) -> None:
    """Its head is the answer; of a gigabyte that follows hardly anything is taken."""
    written = 0

    async def huge(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    receiver.then = [huge]
    assert await post(receiver) == Answer(status=200)
    assert written < 50_000_000  # what the kernel's buffers hold


async def test_a_head_without_end_is_cut_off(receiver: Receiver) -> None:
    """A head of megabytes is a failed try, not memory."""

    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"x: " + b"y" * 60_000 + b"\r\n")
            await writer.drain()

    receiver.then = [flood]
    answer = await post(receiver)
    assert answer.status is None
    assert answer.error


async def test_a_connection_that_is_closed_is_a_failed_try(receiver: Receiver) -> None:
    """Also one that nobody takes."""
    receiver.then = [slamming]
    assert (await post(receiver)).error
    await receiver.stop()
    assert (await post(receiver)).error


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("120", 120, 120),
        ("0", 0, 0),
        (timedelta(hours=2), 7000, 7200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("99999999999999999999", 999999999, 10**9),
    ],
)
async def test_a_wish_to_wait_is_read(receiver: Receiver, header: str | timedelta, low: float, high: float) -> None:
    """Seconds or a date; what is past is now."""
    wish = header if isinstance(header, str) else format_datetime(datetime.now(UTC) + header)
    receiver.then = [answering(503, f"retry-after: {wish}")]
    answer = await post(receiver)
    assert answer.retry_after is not None
    assert low <= answer.retry_after.total_seconds() <= high


async def test_a_wish_that_nobody_understands_is_none(receiver: Receiver) -> None:
    """It is as if it were not there."""
    receiver.then = [answering(503, "retry-after: soon")]
    assert await post(receiver) == Answer(status=503)


async def test_a_name_that_is_none_is_a_failed_try() -> None:
    """A label longer than a name can have is an OSError, as a name that is not known."""
    with pytest.raises(OSError, match="no name"):
        await resolve("x" * 64 + ".example", 443)
