"""A machine that cannot become a node says why, in one line and at once: what cannot succeed is not tried again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest

from activities.membership import Membership, NotJoined

TOKEN = "tr_" + "x" * 43
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


def server(status: int, content_type: str, body: bytes) -> Asgi:
    """Return a server that has this one answer."""

    async def answer(_scope: Any, _receive: Any, send: Any) -> None:
        head = [(b"content-type", content_type.encode())]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": body})

    return answer


async def refusal(url: str, token: str, app: Asgi) -> str:
    """Return why this machine does not join; fails when it goes on trying."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app)) as client:
        member = Membership(client, url=url, token=token, told={"slots": 1})
        with pytest.raises(NotJoined) as refused:
            async with asyncio.timeout(10):
                await member.join(payload_keys=())
    return str(refused.value)


@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://tasks.example.com", "http://", "http://host:99999", "tasks.com:80", ""]
)
async def test_what_is_no_address_is_refused(url: str) -> None:
    """The sentence quotes it and says how one begins."""
    said = await refusal(url, TOKEN, server(500, "text/plain", b""))
    assert repr(url) in said
    assert "http://" in said


@pytest.mark.parametrize("token", ["tr_x\n[rc=0]", "tr_x y", "tr_é", "tr_\x00"])
async def test_what_no_header_can_hold_is_no_token(token: str) -> None:
    """The sentence says where tokens come from, and nothing of what was given."""
    said = await refusal("http://api.test", token, server(500, "text/plain", b""))
    assert "nodes tokens create" in said
    assert token not in said
    assert "rc=0" not in said


PROBLEM = b'{"title": "A field is not valid", "detail": "slots: too many", "code": "invalid", "request_id": "a"}'


@pytest.mark.parametrize(
    ("app", "says"),
    [
        (server(422, "application/problem+json", PROBLEM), "422 A field is not valid: slots: too many"),
        (server(404, "text/html", b"<html>" + b"x" * 9000), "404 Not Found"),
        (server(301, "text/html", b""), "301 Moved Permanently"),
        (server(200, "text/html", b"<html>"), "200 is no answer of a Taskrunner API"),
        (server(200, "application/json", b"[]"), "200 is no answer of a Taskrunner API"),
        (server(200, "application/json", b"{}"), "200 is no answer of a Taskrunner API"),
    ],
)
async def test_a_refusal_is_one_line(app: Asgi, says: str) -> None:
    """Status and words, whoever answers at that address; no document, no page."""
    assert await refusal("http://api.test", TOKEN, app) == f"the API at http://api.test refused this node: {says}"
