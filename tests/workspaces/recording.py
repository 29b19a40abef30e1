"""A stand-in for the API: a real HTTP server that records what workspaces and nodes say to it."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, dict[str, str], bytes]


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float = field(default_factory=time.monotonic)

    @property
    def kind(self) -> str:
        """What follows the workspace's id."""
        return self.path.partition("/v1/workspaces/")[2].partition("/")[2]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RecordingApi:
    """Answers 200 to everything, unless `rule` gives another answer; can be shut and opened again on its port."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.rule: Callable[[Request], Answer | int | None] = lambda _: None
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                size = int(self.headers.get("Content-Length", "0"))
                address = urlsplit(self.path)
                request = Request(
                    method=self.command,
                    path=unquote(address.path),
                    query={key: values[0] for key, values in parse_qs(address.query).items()},
                    headers=dict(self.headers),
                    body=self.rfile.read(size),
                )
                given = api.rule(request)
                status, headers, body = (
                    (given, {}, b"") if isinstance(given, int) else given or (200, {}, b'{"result":"applied"}')
                )
                api.requests.append(request)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - the base class's names

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def shut(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def of(self, kind: str) -> list[Request]:
        return [request for request in list(self.requests) if request.kind == kind]

    async def one(self, *kinds: str, within: float = 15.0) -> Request:
        """Give the first request of one of these kinds."""
        await until(lambda: any(self.of(kind) for kind in kinds), within=within, what=f"a request: {kinds}")
        return next(request for request in list(self.requests) if request.kind in kinds)

    @property
    def log(self) -> bytes:
        """The attempt's log as a reader of the API would have it; every byte at its offset."""
        content = b""
        for request in self.of("logs"):
            offset = int(request.query["offset"])
            assert offset <= len(content), "a gap in the log"
            content = content[:offset] + request.body
        return content

    @property
    def artifacts(self) -> dict[str, bytes]:
        return {
            request.kind.removeprefix("artifacts/"): request.body
            for request in list(self.requests)
            if request.method == "PUT"
        }


async def until(fact: Callable[[], bool], *, within: float = 15.0, what: str = "") -> None:
    """Wait for a fact; fail when it does not come in time."""
    deadline = time.monotonic() + within
    while not fact():
        assert time.monotonic() < deadline, f"did not come within {within} s: {what}"
        await asyncio.sleep(0.005)
