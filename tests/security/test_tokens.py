"""Callback tokens: every way to change one, and what the real one opens, at the door of the API."""

import base64
import hmac
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from api.deps import Context
from domain.ids import new_id
from domain.names import TaskId, WorkspaceId
from domain.tokens import Claims, TokenKeys
from tests.api.harness import Api, Attempt

KEY = f"k1:{'ab' * 32}"  # the harness's
OTHER = f"k1:{'cd' * 32}"  # another installation's key of the same id
ANSWER = {
    "type": "urn:taskrunner:problem:unauthorized",
    "title": "The key or token is not valid here",
    "status": 401,
    "detail": "The key or token is not valid here",
    "code": "unauthorized",
    "retryable": False,
}


def claims(attempt: Attempt, **changes: Any) -> Claims:
    """Give the claims of an attempt's token."""
    own: dict[str, Any] = {
        "task_id": attempt.task,
        "workspace_id": attempt.workspace,
        "attempt": attempt.number,
        "turn": 1,
        "expires_at": datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1),
    }
    return Claims(**own | changes)


def signed(claim: Claims, key: str = KEY) -> str:
    """Sign claims with one key."""
    return TokenKeys.parse(key).sign(claim)


def flipped(token: str, part: int, bit: int) -> str:
    """Flip one bit of the bytes of one part."""
    parts = token.split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=" * (-len(parts[part]) % 4)))
    raw[bit // 8] ^= 1 << bit % 8
    parts[part] = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return ".".join(parts)


def part(token: str, number: int, change: Callable[[str], str]) -> str:
    """Change one part as text."""
    parts = token.split(".")
    parts[number] = change(parts[number])
    return ".".join(parts)


def rebuilt(token: str, *, field: int, value: Any) -> str:
    """Change one field of the record and keep the MAC."""
    _, body, _ = token.split(".")
    layout = ">16s16sIIQ"
    record = list(struct.unpack(layout, base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))
    record[field] = value
    new = base64.urlsafe_b64encode(struct.pack(layout, *record)).rstrip(b"=").decode()
    return part(token, 1, lambda _: new)


def last_spare_bit(text: str) -> str:
    """Give other text for the same bytes: base64 whose unused last bits are not zero."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) ^ 1]


MUTATIONS: Mapping[str, Callable[[str], str]] = {
    "first bit of the record": lambda token: flipped(token, 1, 0),
    "last bit of the record": lambda token: flipped(token, 1, 48 * 8 - 1),
    "first bit of the MAC": lambda token: flipped(token, 2, 0),
    "last bit of the MAC": lambda token: flipped(token, 2, 255),
    "another key's id": lambda token: part(token, 0, lambda _: "k2"),
    "no key's id": lambda token: part(token, 0, lambda _: ""),
    "the id in capitals": lambda token: part(token, 0, str.upper),
    "record and MAC exchanged": lambda token: ".".join([token.split(".")[n] for n in (0, 2, 1)]),
    "one character less": lambda token: token[:-1],
    "one part less": lambda token: token.rpartition(".")[0],
    "one character more": lambda token: token + "A",
    "one part more": lambda token: token + ".AAAA",
    "twice": lambda token: token + token,
    "another task": lambda token: rebuilt(token, field=0, value=b"\0" * 16),
    "another workspace": lambda token: rebuilt(token, field=1, value=b"\0" * 16),
    "another attempt": lambda token: rebuilt(token, field=2, value=2),
    "another turn": lambda token: rebuilt(token, field=3, value=2),
    "a longer life": lambda token: rebuilt(token, field=4, value=2**40),
    "an endless life": lambda token: rebuilt(token, field=4, value=2**64 - 1),
    "spare bits of the MAC": lambda token: part(token, 2, last_spare_bit),
    "padding": lambda token: token + "=",
    "standard base64": lambda token: token.replace("-", "+").replace("_", "/") + "+",
    "white space inside": lambda token: part(token, 1, lambda text: text[:8] + " " + text[8:]),
    "a line's end": lambda token: part(token, 1, lambda text: text[:8] + "\n" + text[8:]),
    "unicode digits": lambda token: token[:-1] + "\u0663",
    "a zero byte": lambda token: token + "\x00",
    "empty": lambda _: "",
    "dots": lambda _: "..",
    "an algorithm of none": lambda token: f"none.{token.split('.')[1]}.",
    "a megabyte": lambda token: token + "A" * 1_000_000,
}


async def heartbeat(api: Api, attempt: Attempt, token: str) -> httpx2.Response:
    """Post a heartbeat with a token."""
    header = (b"Authorization", b"Bearer " + token.encode("utf-8", "surrogateescape"))
    return await api.client.post(f"/v1/workspaces/{attempt.workspace}/heartbeat", headers=[header])


def refused(response: httpx2.Response) -> bool:
    """Tell whether it was answered as every other is."""
    content = response.json()
    return response.status_code == 401 and {name: content[name] for name in ANSWER} == ANSWER and len(content) == 7


@pytest.fixture(scope="module")
async def attempt(api: Api) -> Attempt:
    """Give an attempt whose real token is good."""
    made = await api.live()
    assert (await heartbeat(api, made, signed(claims(made)))).status_code == 200
    return made


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_no_changed_token_opens_anything(api: Api, attempt: Attempt, mutation: str) -> None:
    """The same 401 for all, on every callback route; only one that no server takes in is refused before (431)."""
    real = signed(claims(attempt))
    changed = MUTATIONS[mutation](real)
    assert changed != real

    def rejected() -> float | None:
        context: Context = api.app.state.context
        return context.metrics.registry.get_sample_value("taskrunner_callback_tokens_rejected_total")

    before = rejected()
    answer = await heartbeat(api, attempt, changed)
    if mutation == "a megabyte":
        assert answer.status_code == 431
        answer = await heartbeat(api, attempt, real + "A" * 30_000)
    assert refused(answer), answer.text
    assert before is not None
    assert rejected() == before + 1
    verify = api.app.state.context.tokens.verify
    assert verify(changed, workspace=attempt.workspace, now=datetime.now(UTC)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"workspace_id": WorkspaceId(new_id())},
        {"expires_at": datetime.now(UTC) - timedelta(seconds=1)},
        {"expires_at": datetime.fromtimestamp(0, UTC)},
    ],
    ids=["another workspace", "expired", "epoch"],
)
async def test_a_genuine_token_that_is_not_for_this_is_the_same_401(
    api: Api, attempt: Attempt, change: dict[str, Any]
) -> None:
    """Signed by our own key, and of no use here."""
    assert refused(await heartbeat(api, attempt, signed(claims(attempt, **change))))


async def test_another_keys_signature_is_refused(api: Api, attempt: Attempt) -> None:
    """The same key id with other bytes, as another installation has it."""
    assert refused(await heartbeat(api, attempt, signed(claims(attempt), OTHER)))


async def test_a_token_opens_its_own_workspace_and_attempt_only(api: Api) -> None:
    """Another workspace is 401, of its own task too; once the next attempt works, the old one is 410."""
    first = await api.live()
    stranger = await api.live()
    token = first.token["Authorization"].removeprefix("Bearer ")
    assert refused(await heartbeat(api, stranger, token))
    second = await first.next()
    assert refused(await heartbeat(api, second, token))
    late = await first.tell("ready")
    assert (late.status_code, late.json()["code"]) == (410, "stale_attempt")
    forged = signed(claims(second, workspace_id=first.workspace))  # the next attempt's number for the old workspace
    answer = await api.client.post(
        f"/v1/workspaces/{first.workspace}/ready", headers={"Authorization": f"Bearer {forged}"}
    )
    assert answer.status_code == 410
    assert await api.events(second.task, "workspace.ready") == []


async def test_a_token_for_a_task_that_is_gone_opens_nothing(api: Api, attempt: Attempt) -> None:
    """410: the workspace should stop."""
    gone = claims(attempt, task_id=TaskId(new_id()))
    answer = await heartbeat(api, attempt, signed(gone))
    assert (answer.status_code, answer.json()["code"]) == (410, "attempt_ended")


async def test_tokens_live_as_long_as_their_key_is_listed(api: Api, attempt: Attempt) -> None:
    """After a rotation old ones are good and new ones have the new id; with the old key out they are 401 at once."""
    context = api.app.state.context
    keys, old = context.tokens, signed(claims(attempt))
    try:
        context.tokens = TokenKeys.parse(f"k2:{'cd' * 32},{KEY}")
        new = (await api.claim(attempt.workspace))["Authorization"].removeprefix("Bearer ")
        assert new.startswith("k2.")
        assert [(await heartbeat(api, attempt, token)).status_code for token in (old, new)] == [200, 200]
        context.tokens = TokenKeys.parse(f"k2:{'cd' * 32}")
        assert refused(await heartbeat(api, attempt, old))
        assert (await heartbeat(api, attempt, new)).status_code == 200
    finally:
        context.tokens = keys


async def test_every_refusal_costs_the_same_work(api: Api, attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    """One MAC and one constant-time comparison of its full length for any text: nothing is learned from the time."""
    work: list[str] = []
    digest, compare = hmac.digest, hmac.compare_digest

    def counted_digest(*arguments: Any) -> bytes:
        work.append("mac")
        return digest(*arguments)

    def counted_compare(first: bytes, second: bytes) -> bool:
        work.append(f"compare {len(first)}")
        return compare(first, second)

    monkeypatch.setattr(hmac, "digest", counted_digest)
    monkeypatch.setattr(hmac, "compare_digest", counted_compare)
    real = signed(claims(attempt))
    work.clear()
    verify = api.app.state.context.tokens.verify
    texts = [real, *(change(real) for change in MUTATIONS.values()), signed(claims(attempt), OTHER)]
    work.clear()
    for text in texts:
        verify(text, workspace=attempt.workspace, now=datetime.now(UTC))
    assert work == ["mac", "compare 43"] * len(texts)
