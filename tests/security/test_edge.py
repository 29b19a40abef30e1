"""The edge: what every answer says to browsers, what no request may be, how often one may come."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from api.edge import LARGEST_HEAD
from api.rates import BURST, Rates
from api.wire import BoundedProtocol
from domain.names import Scope
from tests.api.harness import Api, serve, settings_for
from workflows.gateway import Gateway

ANSWERS = {
    "page": ("GET", "/docs", 200),
    "document": ("GET", "/openapi.json", 200),
    "probe": ("GET", "/livez", 200),
    "list": ("GET", "/v1/tasks", 200),
    "not found": ("GET", "/v1/tasks/none", 404),
    "no route": ("GET", "/nowhere", 404),
    "no method": ("DELETE", "/v1/nodes", 405),
    "bad path": ("GET", "/v1/tasks/%00", 404),
    "invalid": ("POST", "/v1/tasks", 422),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_every_answer_is_of_no_use_to_another_site(api: Api, answer: str) -> None:
    """No script of anybody runs in it, no frame holds it, nothing guesses its type or keeps it."""
    method, path, status = ANSWERS[answer]
    response = await api.client.request(method, path, json={} if method == "POST" else None)
    assert response.status_code == status
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src" not in policy
    assert {name: response.headers[name] for name in ("x-content-type-options", "x-frame-options")} == {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["cache-control"] == "no-store"


async def test_a_download_is_no_page_of_this_site(api: Api) -> None:
    """What a workspace left as HTML is saved, sandboxed and never sniffed."""
    attempt = await api.live()
    html = attempt.token | {"Content-Type": "text/html"}
    path = f"/v1/workspaces/{attempt.workspace}/artifacts/x.html"
    await api.client.put(path, content=b"<script>alert(1)</script>", headers=html)
    found = await api.client.get(f"/v1/tasks/{attempt.task}/artifacts/x.html")
    assert found.headers["content-security-policy"] == "sandbox"
    assert found.headers["content-disposition"].startswith("attachment")
    assert found.headers["x-content-type-options"] == "nosniff"


async def test_the_reference_page_loads_nothing(api: Api) -> None:
    """No script, no address of another site, every route by name; its one style is the one that its policy allows."""
    page = (await api.client.get("/docs")).text
    assert "<script" not in page
    assert re.findall(r'(?:src|href|action)="(?!/openapi\.json)[^"]*"', page) == []
    assert "@import" not in page
    assert "url(" not in page
    for path in (await api.client.get("/openapi.json")).json()["paths"]:
        assert f"<code>{path}</code>" in page


@pytest.mark.parametrize("part", ["one header", "many headers", "query", "path"])
async def test_a_head_over_its_bound_is_refused(api: Api, part: str) -> None:
    """431, whatever makes it large; just below the bound the request is served."""
    for size, status in ((LARGEST_HEAD + 1, 431), (LARGEST_HEAD - 1000, 200)):
        headers: list[tuple[bytes, bytes]] = []
        path = "/livez"
        if part == "one header":
            headers = [(b"X-Large", b"x" * size)]
        elif part == "many headers":
            headers = [(b"X-%05d" % n, b"x" * 93) for n in range(size // 100 - (5 if status == 200 else 0))]
        elif part == "query":
            path += "?" + "x" * size
        elif status == 431:
            path = "/" + "x" * size
        answer = await api.client.get(path, headers=headers)
        assert answer.status_code == status


@pytest.fixture(scope="module")
async def port(api: Api) -> AsyncIterator[int]:
    """Give the port of a real server of this API, with the protocol that `taskrunner api` uses."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(api.app, http=BoundedProtocol, log_config=None, access_log=False, ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await serving


@pytest.mark.parametrize("endless", ["header", "name", "line", "headers"])
async def test_a_head_that_never_ends_is_cut_off(port: int, endless: str) -> None:
    """The connection is closed with 431 soon after the bound: nothing collects the rest."""
    begin = {
        "header": b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Endless: ",
        "name": b"GET /livez HTTP/1.1\r\nHost: x\r\nX",
        "line": b"GET /",
        "headers": b"GET /livez HTTP/1.1\r\nHost: x\r\n",
    }[endless]
    piece = b"X-More: x\r\n" * 400 if endless == "headers" else b"x" * 4096
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    with suppress(ConnectionError):
        writer.write(begin)
        while sent < 100 * LARGEST_HEAD and not reader.at_eof():
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
            await asyncio.sleep(0)
    with suppress(ConnectionError):
        assert (await reader.read(12)).startswith(b"HTTP/1.1 4")
    writer.close()
    assert sent < 100 * LARGEST_HEAD


async def test_an_ordinary_request_passes_the_bounded_protocol(port: int) -> None:
    """Several on one connection, one of them in two pieces, one with a body larger than a head may be."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b"x" * (3 * LARGEST_HEAD)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTT")
    await writer.drain()
    assert b"200 OK" in await reader.readuntil(b'{"status":"ok"}')
    writer.write(b"P/1.1\r\nHost: x\r\n\r\n")
    assert b"200 OK" in await reader.readuntil(b'{"status":"ok"}')
    writer.write(b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert b"401" in await reader.readline()
    writer.close()


@given(st.integers(1, 50), st.lists(st.floats(0, 3), max_size=200))
def test_no_caller_exceeds_its_rate(rate: int, pauses: list[float]) -> None:
    """In any stretch of time at most its length times the rate, and one burst; one below the rate is never refused."""
    present = 0.0
    rates = Rates(rate, clock=lambda: present)
    admitted: list[float] = []
    for pause in pauses:
        present += pause
        if rates.admit("caller"):
            admitted.append(present)
    for first, begin in enumerate(admitted):
        for last in range(first, len(admitted)):
            assert last - first + 1 <= (admitted[last] - begin) * rate + BURST * rate + 1
    steady = Rates(rate, clock=lambda: present)
    for _ in range(100):
        present += 1 / rate
        assert steady.admit("caller")


def test_no_rate_admits_everything() -> None:
    """0 is no limit."""
    rates = Rates(0)
    assert all(rates.admit("caller") for _ in range(10_000))


async def test_who_asks_too_often_is_told_when_to_come_back(database_url: str, nowhere: Gateway) -> None:
    """429 `too_fast`, retryable, with Retry-After; another key, and another workspace, are not concerned."""
    settings = settings_for(database_url).model_copy(update={"request_rate": 3})
    async for api in serve(database_url, nowhere, settings):
        first, second = await api.live(), await api.live()
        hasty = await api.key(Scope.TASKS_READ)
        answers = [await api.client.get("/v1/tasks", headers=hasty) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200, 429}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert (refused.json()["code"], refused.json()["retryable"]) == ("too_fast", True)
        assert refused.headers["retry-after"] == "1"
        assert (await api.client.get("/v1/tasks", headers=await api.key(Scope.TASKS_READ))).status_code == 200
        beats = [(await first.tell("heartbeat")).status_code for _ in range(20)]
        assert set(beats) == {200, 429}
        assert (await second.tell("heartbeat")).status_code == 200


async def test_no_setting_lets_anybody_in(database_url: str, nowhere: Gateway) -> None:
    """An API that is bound to every address asks for a key as one on loopback does: there is no way to turn it off."""
    settings = settings_for(database_url).model_copy(update={"host": "0.0.0.0"})  # noqa: S104 - the point
    assert not [name for name in type(settings).model_fields if re.search("auth|anonym|insecure|open", name)]
    async for api in serve(database_url, nowhere, settings):
        assert (await api.client.get("/v1/tasks", headers={"Authorization": ""})).status_code == 401
