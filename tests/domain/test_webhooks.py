"""Webhooks: addresses, backoff, signatures."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest

from domain.signatures import SigningKeys, shown, signed
from domain.webhooks import Webhooks, next_try, target_of

SETTINGS = Webhooks()


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "authority"),
    [
        ("https://example.com", "example.com", 443, "/", "example.com"),
        ("https://EXAMPLE.com:8443/a/b?c=d", "example.com", 8443, "/a/b?c=d", "example.com:8443"),
        ("https://[2606:4700::1]/x", "2606:4700::1", 443, "/x", "[2606:4700::1]"),
        ("https://xn--bcher-kva.example/?", "xn--bcher-kva.example", 443, "/", "xn--bcher-kva.example"),
    ],
)
def test_an_address_is_taken_apart_once(url: str, host: str, port: int, target: str, authority: str) -> None:
    """Host, port, target and Host header."""
    found = target_of(url, SETTINGS)
    assert (found.host, found.port, found.target, found.authority) == (host, port, target, authority)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "http://example.com",
        "ftp://example.com",
        "//example.com",
        "https:example.com",
        "https://",
        "https://user@example.com",
        "https://user:secret@example.com",
        "https://@example.com",
        "https://example.com#x",
        "https://example.com/#",
        "https://example.com:80",
        "https://example.com:22",
        "https://example.com:5432",
        "https://example.com:0",
        "https://example.com:99999",
        "https://example.com:x",
        "https://exa mple.com",
        "https://example.com/\n",
        "https://example.com\\@evil.example",
        "https://bücher.example",
        "https://[::1%25lo]/",
        "https://[::1",
        "https://exam%70le.com",
        "https://example.com/" + "x" * 2000,
    ],
)
def test_an_address_is_refused(url: str) -> None:
    """ValueError with a sentence of what it must be, which does not repeat it."""
    with pytest.raises(ValueError, match=r"^must ") as caught:
        target_of(url, SETTINGS)
    assert "secret" not in str(caught.value)


def test_ports_are_a_setting() -> None:
    """What may be called is what the operator says."""
    assert target_of("https://example.com:9000", Webhooks(ports=(9000,))).port == 9000
    with pytest.raises(ValueError, match="9000"):
        target_of("https://example.com", Webhooks(ports=(9000,)))


def test_tries_come_more_and_more_slowly() -> None:
    """5 s, four times as long each, at most 4 h; a quarter more or less."""
    middle = [next_try(tries, dice=0.5) for tries in range(1, 9)]
    assert [int(delay.total_seconds()) for delay in middle] == [5, 20, 80, 320, 1280, 5120, 14400, 14400]
    assert (next_try(1, dice=0), next_try(1, dice=1)) == (timedelta(seconds=3.75), timedelta(seconds=6.25))
    assert next_try(10_000, dice=0.5) == timedelta(hours=4)


def test_a_receiver_that_asks_for_time_gets_it() -> None:
    """Retry-After is waited for at least; a year is cut to a day."""
    assert next_try(1, dice=0.5, asked=timedelta(minutes=7)) == timedelta(minutes=7)
    assert next_try(6, dice=0.5, asked=timedelta(seconds=1)) == timedelta(seconds=5120)
    assert next_try(1, dice=0.5, asked=timedelta(days=365)) == timedelta(days=1)


def test_a_signature_is_the_specifications() -> None:
    """HMAC-SHA256 over `id.timestamp.body`, as its own example has it; two secrets give two, with a space between."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed(
        [secret, b"other"],
        message="msg_p5jXN8AQM9LWM0D4loKWxJek",
        at=datetime.fromtimestamp(1614265330.9, UTC),
        body=b'{"test": 2432232314}',
    )
    first, second = headers["webhook-signature"].split(" ")
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")
    assert first == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert second.startswith("v1,")
    assert second != first


def test_secrets_are_derived() -> None:
    """The same for the same key, webhook and generation, and for nothing else; nothing for a key that is gone."""
    keys = SigningKeys.parse(f"k2:{'cd' * 32}, k1:{'ab' * 32}")
    assert keys is not None
    secret = keys.secret("k1", "w", 1)
    expected = hmac.digest(bytes.fromhex("ab" * 32), b"webhook secret.w.1", hashlib.sha256)
    others = {
        keys.secret("k2", "w", 1),
        keys.secret("k1", "v", 1),
        keys.secret("k1", "w", 2),
        keys.secret("gone", "w", 1),
    }
    assert (keys.first, secret) == ("k2", expected)
    assert secret not in others
    assert None in others
    assert shown(expected) == "whsec_" + base64.b64encode(expected).decode()
    assert SigningKeys.parse("") is None
    with pytest.raises(ValueError, match="k1"):
        SigningKeys.parse("k1:abcd")
