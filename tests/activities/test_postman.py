"""The postman, on a real database, with real receivers over TLS."""

import asyncio
import base64
import hashlib
import hmac
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from activities.post import GuardedNetwork, Post
from activities.postman import CLOSING, Postman
from domain import failpoints
from domain.events import EventType
from domain.ids import new_id
from domain.names import DEFAULT_PROJECT
from domain.signatures import SigningKeys, shown
from domain.webhooks import Webhooks
from settings import Settings
from store import webhooks
from store.engine import Database
from tests.activities.receiver import Got, Receiver, answering, hanging, receiving
from tests.store.rows import batch, create_task, event, flush, scalar
from worker import webhooks_delivered

KEYS = SigningKeys({"k1": b"k" * 32})
NETWORKS = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
STATE = "SELECT state FROM deliveries WHERE webhook_id = :webhook"


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give the database of this module."""
    database = Database(database_url, pool=8)
    yield database
    await database.close()


@pytest.fixture
async def receiver(tmp_path: Path, database: Database) -> AsyncIterator[Receiver]:
    """Give a receiver; afterwards nothing is left to be delivered."""
    async with receiving(tmp_path) as receiver:
        yield receiver
    async with database.begin("test") as connection:
        await connection.execute(text("DELETE FROM webhooks"))


def settings_for(receiver: Receiver) -> Webhooks:
    """Give settings by which the receiver may be called."""
    return Webhooks(allowed_networks=NETWORKS, ports=(receiver.port,), ca_file=receiver.ca)


def postman_for(receiver: Receiver, database: Database, *, keys: SigningKeys = KEYS) -> Postman:
    """Give a postman who knows the receiver's authority."""
    limit = timedelta(seconds=2)
    post = Post(GuardedNetwork(NETWORKS), authorities=receiver.authorities(), limit=limit)
    return Postman(database, post, keys, settings_for(receiver))


@asynccontextmanager
async def delivering(receiver: Receiver, database: Database) -> AsyncIterator[Postman]:
    """Let a postman go his rounds."""
    postman = postman_for(receiver, database)
    rounds = asyncio.create_task(postman.run())
    try:
        yield postman
    finally:
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)
        await postman.close()


async def webhook(database: Database, receiver: Receiver) -> str:
    """Make a webhook that leads to the receiver."""
    async with database.begin("test") as connection:
        row = await webhooks.create(
            connection,
            DEFAULT_PROJECT,
            webhook=new_id(),
            url=receiver.url,
            events=[EventType.DEBUG_TRACE],
            description="",
            key_id="k1",
            most=1000,
        )
    assert row is not None
    return str(row["id"])


async def traced(database: Database, times: int = 1) -> str:
    """Write a task that leaves so many traces."""
    task = await create_task(database)
    await flush(database, batch(task, 1, *(event(EventType.DEBUG_TRACE, f"p{n}", reason="x") for n in range(times))))
    return task


async def becomes(database: Database, hook: str, state: str) -> None:
    """Wait until all deliveries of a webhook are so."""
    query = "SELECT count(*) FROM deliveries WHERE webhook_id = :w AND state <> :state"
    async with asyncio.timeout(20):
        while True:
            if not await scalar(database, query, w=hook, state=state):
                return
            await asyncio.sleep(0.02)


async def due(database: Database) -> None:
    """Let what waits for its next try be due, and what somebody held when he died."""
    async with database.begin("test") as connection:
        await connection.execute(text("UPDATE deliveries SET due_at = clock_timestamp() WHERE state = 'pending'"))


def verified(got: Got, secret: bytes) -> bool:
    """Verify as a receiver does."""
    content = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.".encode() + got.body
    expected = "v1," + base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode()
    return expected in got.headers["webhook-signature"].split(" ")


def secret_of(hook: str, generation: int = 1) -> bytes:
    """Give the secret of a webhook."""
    secret = KEYS.secret("k1", hook, generation)
    assert secret is not None
    return secret


async def test_an_event_arrives_signed(database: Database, receiver: Receiver) -> None:
    """`{type, timestamp, data}` with the event's envelope, a signature that verifies, and it is delivered."""
    hook = await webhook(database, receiver)
    task = await traced(database)
    async with delivering(receiver, database):
        (got,) = await receiver.count(1)
        await becomes(database, hook, "delivered")
    assert verified(got, secret_of(hook))
    assert not verified(got, secret_of(hook, 2))
    assert got.path == "/hook?x=1"
    message = got.message
    assert set(message) == {"type", "timestamp", "data"}
    assert (message["type"], message["timestamp"]) == ("debug.trace", message["data"]["ts"])
    assert (message["data"]["task_id"], message["data"]["seq"], message["data"]["data"]) == (task, 3, {"reason": "x"})
    assert shown(secret_of(hook)).encode() not in got.body
    assert await scalar(database, "SELECT last_status FROM deliveries WHERE webhook_id = :w", w=hook) == 200


@pytest.mark.parametrize("status", [500, 302, 404, 429])
async def test_what_fails_is_tried_again_under_the_same_id(database: Database, receiver: Receiver, status: int) -> None:
    """The same id and body, a new signature; then it is delivered, with its tries counted."""
    receiver.then = [answering(status, "location: https://localhost/"), answering(204)]
    hook = await webhook(database, receiver)
    await traced(database)
    async with delivering(receiver, database) as postman:
        await receiver.count(1)
        await settled(postman)
        row = "SELECT state || ' ' || last_status || ' ' || last_error FROM deliveries WHERE webhook_id = :w"
        assert await scalar(database, row, w=hook) == f"pending {status} the receiver answered {status}"
        await due(database)
        first, second = await receiver.count(2)
        await becomes(database, hook, "delivered")
    assert (first.headers["webhook-id"], first.body) == (second.headers["webhook-id"], second.body)
    assert verified(second, secret_of(hook))
    assert await scalar(database, "SELECT tries FROM deliveries WHERE webhook_id = :w", w=hook) == 2


async def settled(postman: Postman) -> None:
    """Wait until nothing is under way."""
    async with asyncio.timeout(10):
        while postman._tasks:
            await asyncio.gather(*postman._tasks, return_exceptions=True)


async def test_a_wish_to_wait_is_obeyed(database: Database, receiver: Receiver) -> None:
    """Not due before the time that Retry-After asks for."""
    receiver.then = [answering(503, "retry-after: 3600")]
    hook = await webhook(database, receiver)
    await traced(database)
    async with delivering(receiver, database) as postman:
        await receiver.count(1)
        await settled(postman)
    waits = "SELECT due_at - clock_timestamp() > interval '59 minutes' FROM deliveries WHERE webhook_id = :w"
    assert await scalar(database, waits, w=hook) is True


async def test_a_receiver_that_has_gone_is_asked_no_more(database: Database, receiver: Receiver) -> None:
    """410 disables the webhook; all that was pending is given up."""
    receiver.always = answering(410)
    hook = await webhook(database, receiver)
    await traced(database, 20)
    async with delivering(receiver, database):
        await becomes(database, hook, "exhausted")
    asked = len(receiver.got)
    assert asked < 20
    assert await scalar(database, "SELECT disabled_reason FROM webhooks WHERE id = :w", w=hook) == (
        "the receiver answered 410 Gone"
    )


async def test_who_dies_between_sending_and_noting_leaves_it_to_the_next(
    database: Database, receiver: Receiver
) -> None:
    """The receiver gets it twice, with one id."""
    hook = await webhook(database, receiver)
    await traced(database)

    def dies(point: str) -> None:
        if point == "webhooks.delivered:before":
            raise asyncio.CancelledError

    failpoints.arm(dies)
    try:
        async with delivering(receiver, database) as postman:
            await receiver.count(1)
            await settled(postman)
    finally:
        failpoints.arm(None)
    assert await scalar(database, STATE, webhook=hook) == "pending"
    await due(database)
    async with delivering(receiver, database):
        first, second = await receiver.count(2)
        await becomes(database, hook, "delivered")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]


async def test_a_receiver_that_hangs_delays_no_other(database: Database, receiver: Receiver, tmp_path: Path) -> None:
    """With a hundred messages for one that hangs, another gets all of its own meanwhile; nor does it delay the end."""
    receiver.always = hanging
    stuck = await webhook(database, receiver)
    (tmp_path / "other").mkdir()
    async with receiving(tmp_path / "other") as other:
        await traced(database, 100)
        free = await webhook(database, other)
        await traced(database, 30)
        postman = Postman(
            database,
            Post(GuardedNetwork(NETWORKS), authorities=both(receiver, other), limit=timedelta(seconds=60)),
            KEYS,
            Webhooks(allowed_networks=NETWORKS, ports=(receiver.port, other.port)),
        )
        rounds = asyncio.create_task(postman.run())
        await other.count(30)
        await becomes(database, free, "delivered")
        assert 0 < len(receiver.got) <= 8
        rounds.cancel()
        await asyncio.gather(rounds, return_exceptions=True)
        began = time.monotonic()
        await postman.close()
        assert time.monotonic() - began < CLOSING + 2
    assert await scalar(database, "SELECT count(*) FROM deliveries WHERE webhook_id = :w", w=stuck) == 130


def both(*receivers: Receiver) -> ssl.SSLContext:
    """Trust the authorities of all of them."""
    context = receivers[0].authorities()
    for receiver in receivers[1:]:
        context.load_verify_locations(receiver.ca)
    return context


async def test_while_a_secret_is_rotated_either_verifies(database: Database, receiver: Receiver) -> None:
    """Two signatures, one by the new secret and one by the one before; after the overlap only the new."""
    hook = await webhook(database, receiver)
    for overlap in (timedelta(hours=1), timedelta(0)):
        async with database.begin("test") as connection:
            await webhooks.rotate(connection, DEFAULT_PROJECT, hook, key_id="k1", overlap=overlap)
        await traced(database)
        async with delivering(receiver, database):
            await becomes(database, hook, "delivered")
    first, second = receiver.got
    assert verified(first, secret_of(hook, 2))
    assert verified(first, secret_of(hook, 1))
    assert verified(second, secret_of(hook, 3))
    assert not verified(second, secret_of(hook, 2))


async def test_without_its_key_a_webhook_waits(database: Database, receiver: Receiver) -> None:
    """Nothing is sent unsigned; the delivery says why, and goes out once the key is there."""
    hook = await webhook(database, receiver)
    await traced(database)
    postman = postman_for(receiver, database, keys=SigningKeys({"k2": b"x" * 32}))
    await postman.sweep()
    await settled(postman)
    await postman.close()
    assert receiver.got == []
    error = "SELECT last_error FROM deliveries WHERE webhook_id = :w"
    assert await scalar(database, error, w=hook) == "webhook key 'k1' is not configured here"
    await due(database)
    async with delivering(receiver, database):
        await becomes(database, hook, "delivered")


async def test_an_address_that_is_not_allowed_any_more_gets_nothing(database: Database, receiver: Receiver) -> None:
    """Settings that have become stricter hold for webhooks that are there."""
    hook = await webhook(database, receiver)
    await traced(database)
    post = Post(GuardedNetwork(NETWORKS), authorities=receiver.authorities())
    postman = Postman(database, post, KEYS, Webhooks(allowed_networks=NETWORKS))
    await postman.sweep()
    await settled(postman)
    await postman.close()
    assert receiver.got == []
    assert "must use a port" in await scalar(
        database, "SELECT last_error FROM deliveries WHERE webhook_id = :w", w=hook
    )


async def test_the_rounds_go_on_after_the_database_was_away(database: Database, receiver: Receiver) -> None:
    """A look that fails is followed by the next."""
    hook = await webhook(database, receiver)
    await traced(database)
    failed = asyncio.Event()

    def away(point: str) -> None:
        if point == "webhooks.lease:before" and not failed.is_set():
            failed.set()
            raise OSError("the database is away")

    failpoints.arm(away)
    try:
        async with delivering(receiver, database):
            await asyncio.wait_for(failed.wait(), 10)
            await becomes(database, hook, "delivered")
    finally:
        failpoints.arm(None)


async def test_a_deleted_webhook_or_task_is_noted_nowhere(database: Database, receiver: Receiver) -> None:
    """A delivery that is under way while it is deleted goes out, and leaves nothing."""
    receiver.then = [hanging]
    hook = await webhook(database, receiver)
    await traced(database)
    async with delivering(receiver, database):
        await receiver.count(1)
        async with database.begin("test") as connection:
            assert await webhooks.delete(connection, DEFAULT_PROJECT, hook)
    assert await scalar(database, "SELECT count(*) FROM deliveries WHERE webhook_id = :w", w=hook) == 0


async def test_authorities_that_are_no_file_are_told_at_the_start(database: Database, tmp_path: Path) -> None:
    """The worker does not start without what the operator named, and then delivers nothing."""
    missing = Webhooks(ca_file=tmp_path / "none.pem")
    settings = Settings(webhook_keys=SecretStr(f"k1:{'ab' * 32}"), webhooks=missing)
    with pytest.raises(FileNotFoundError):
        async with webhooks_delivered(settings, database):
            pass


async def test_a_round_that_fails_is_not_the_last(database: Database, receiver: Receiver) -> None:
    """Another one follows, whatever went wrong."""
    again = asyncio.Event()
    broken = ["once"]

    def reached(point: str) -> None:
        if point == "webhooks.lease:before" and broken:
            raise RuntimeError(broken.pop())
        if point == "webhooks.lease:after":
            again.set()

    failpoints.arm(reached)
    try:
        async with delivering(receiver, database):
            await asyncio.wait_for(again.wait(), 10)
    finally:
        failpoints.arm(None)
    assert not broken
