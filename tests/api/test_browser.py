"""A real EventSource, in Chromium, by session: what it gets is the log, whatever happens to the connection."""

import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from api.deps import SESSION_COOKIE
from domain.events import EventType
from domain.lifecycle import TaskStatus
from tests.api.harness import Api, Attempt
from tests.api.sse import PATIENCE, listening
from tests.api.test_sessions import begin

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

# Listens to every type, as a page that shows all of them would; keeps what came and how often it was opened.
WATCH = """
(url) => {
  window.got = []; window.opened = 0;
  window.source = new EventSource(url);
  window.source.onopen = () => { window.opened += 1; };
  for (const type of TYPES)
    window.source.addEventListener(type, (event) => window.got.push([Number(event.lastEventId), type, event.data]));
}
""".replace("TYPES", json.dumps([kind.value for kind in EventType]))
CLOSED = 2


class Server:
    """The API on one port, stopped and started again at will."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.address = ""
        self._running: Any = None

    async def start(self) -> None:
        port = int(self.address.rsplit(":", 1)[1]) if self.address else 0
        self._running = listening(self.api.app, port=port)
        self.address = await self._running.__aenter__()

    async def stop(self) -> None:
        await self._running.__aexit__(None, None, None)


@pytest.fixture
async def server(api: Api) -> AsyncIterator[Server]:
    """Give the API on a real socket."""
    running = Server(api)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def page(api: Api, server: Server) -> AsyncIterator[Page]:
    """Give a page of the API's own origin, with a session."""
    _, session = await begin(api, await api.key())
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-background-networking"]
        )
        context = await browser.new_context()
        await context.add_cookies(
            [{"name": SESSION_COOKIE, "value": session, "url": server.address, "httpOnly": True, "sameSite": "Strict"}]
        )
        found = await context.new_page()
        # A page of the same origin that allows its own requests, as a dashboard's would.
        await found.route("**/page", lambda route: route.fulfill(body="<title>page</title>", content_type="text/html"))
        await found.goto(f"{server.address}/page")
        yield found
        await browser.close()


async def trace(attempt: Attempt, count: int) -> None:
    """Write so many events."""
    for _ in range(count):
        await attempt.flush(attempt.event(EventType.DEBUG_TRACE))
    attempt.api.dispatcher.grown(attempt.task)


async def until(page: Page, expression: str) -> None:
    """Wait until the page says so."""
    await page.wait_for_function(expression, timeout=PATIENCE * 1000)


async def ids(page: Page) -> list[int]:
    """Give the numbers that came, in order."""
    return [number for number, _, _ in await page.evaluate("window.got")]


async def test_an_event_source_gets_the_log_through_a_restart(api: Api, server: Server, page: Page) -> None:
    """1, 2, … to the terminal event, once each: before a server restart, written while it is away, and after."""
    attempt = await api.live()
    await page.evaluate(WATCH, f"/v1/tasks/{attempt.task}/stream")
    await trace(attempt, 5)
    await until(page, "window.got.length >= 8")
    await server.stop()
    await trace(attempt, 5)
    await server.start()
    await until(page, "window.opened >= 2")
    await trace(attempt, 5)
    await attempt.end()
    await until(page, "window.got.length && window.got.at(-1)[1] === 'task.completed'")
    # The server has closed; the EventSource comes once more, is told 204, and stops.
    await until(page, f"window.source.readyState === {CLOSED}")
    last = (await api.client.get(f"/v1/tasks/{attempt.task}")).json()["last_seq"]
    assert await ids(page) == list(range(1, last + 1))
    got = [json.loads(data) for _, _, data in await page.evaluate("window.got")]
    assert got == await api.events(attempt.task)


async def test_an_event_source_goes_on_after_a_dropped_connection(api: Api, page: Page) -> None:
    """The browser goes offline for a while, events are written meanwhile: each is there once."""
    attempt = await api.live()
    await page.evaluate(WATCH, f"/v1/tasks/{attempt.task}/stream")
    await until(page, "window.got.length >= 3")
    await page.context.set_offline(True)
    await trace(attempt, 10)
    await page.context.set_offline(False)
    await trace(attempt, 5)
    await attempt.end()
    await until(page, "window.got.length && window.got.at(-1)[1] === 'task.completed'")
    numbers = await ids(page)
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_retry_opens_a_finished_log_again(api: Api, page: Page) -> None:
    """The stream ends with `task.failed`; after a retry an EventSource from there gets the next attempt's events."""
    attempt = await api.live()
    await attempt.end(TaskStatus.FAILED)
    await page.evaluate(WATCH, f"/v1/tasks/{attempt.task}/stream")
    await until(page, f"window.source.readyState === {CLOSED}")
    before = await ids(page)
    assert (await api.client.post(f"/v1/tasks/{attempt.task}/retry")).status_code == 200
    await page.evaluate(WATCH, f"/v1/tasks/{attempt.task}/stream?fromSeq={before[-1] + 1}")
    await until(page, "window.got.length >= 1")
    [[number, kind, _]] = await page.evaluate("window.got")
    assert (number, kind) == (before[-1] + 1, "task.queued")
