"""The edge: what every request and every response has, as plain ASGI (no wrapped request, no copied body)."""

import re
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

log = structlog.get_logger()

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_KEY: Final = "taskrunner.request_id"
# Request line and headers together; keys, tokens and cookies of ours need less than 1 KiB.
LARGEST_HEAD: Final = 32 * 1024
# For answers that say nothing else: none is a page, none is to be kept, shown in a frame or read by another site.
_UNLESS_SAID: Final = (
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
_ALWAYS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
# Who hung up before there was an answer.
_HUNG_UP: Final = 499
_NOWHERE: Final = "(none)"

# Method, template of the route, status, seconds.
Answered = Callable[[str, str, int, float], None]


def request_id_of(scope: Scope) -> str:
    """Return the id by which this request is found in the log."""
    found: Any = scope.get(_KEY)
    return str(found) if found else "-"


class Edge:
    """Gives each request an id, refuses NUL characters in addresses, and answers a fault with a problem."""

    def __init__(self, app: ASGIApp, answered: Answered | None = None) -> None:
        self._app = app
        self._answered = answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given(scope) or secrets.token_hex(8)
        scope[_KEY] = request_id
        began = time.perf_counter()
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = list(message.get("headers", ()))
                said = {name.lower() for name, _ in headers}
                headers += [header for header in _UNLESS_SAID if header[0] not in said]
                headers += [*_ALWAYS, (b"x-request-id", request_id.encode())]
            await send(message)

        bind_contextvars(request_id=request_id)  # a request's lines are those of its own asyncio task
        try:
            if _head(scope) > LARGEST_HEAD:
                title = f"Request line and headers are larger than {LARGEST_HEAD} bytes"
                await _fault(431, "head_too_large", title, request_id)(scope, receive, send_marked)
                return
            if "\x00" in scope["path"]:
                await _fault(404, "not_found", "There is no such thing", request_id)(scope, receive, send_marked)
                return
            if b"%00" in scope["query_string"]:
                title = "A query must not contain a NUL character"
                await _fault(422, "invalid", title, request_id)(scope, receive, send_marked)
                return
            await self._app(scope, receive, send_marked)
        except ClientDisconnect:
            log.debug("api.disconnected", request_id=request_id)
        except Exception:
            log.exception("api.fault", request_id=request_id, method=scope["method"], path=scope["path"])
            if status:
                raise
            await _fault(500, "internal", "A fault of the server", request_id)(scope, receive, send_marked)
        finally:
            self._note(scope, request_id, status, time.perf_counter() - began)

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        if self._answered is not None:
            # The template, not the path: ids are no labels.
            route = getattr(scope.get("route"), "path", _NOWHERE)
            self._answered(scope["method"], route, status or _HUNG_UP, seconds)
        log.debug(
            "api.request",
            request_id=request_id,
            method=scope["method"],
            path=scope["path"],
            status=status,
            seconds=round(seconds, 6),
        )


def _head(scope: Scope) -> int:
    """Return how large the request's line and headers are, in bytes."""
    line = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    return line + sum(len(name) + len(value) for name, value in scope["headers"])


def _given(scope: Scope) -> str | None:
    """Return the caller's own request id, if it is one that a log line can hold."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value).decode("ascii")
    return None


def _fault(status: int, code: str, title: str, request_id: str) -> JSONResponse:
    content = {
        "type": f"urn:taskrunner:problem:{code}",
        "title": title,
        "status": status,
        "detail": title,
        "code": code,
        "retryable": False,
        "request_id": request_id,
    }
    return JSONResponse(content, status, media_type="application/problem+json")
