"""The edge: what every request and every response has, as plain ASGI (no wrapped request, no copied body)."""

import re
import secrets
import time
from typing import Any, Final

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger()

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_KEY: Final = "taskrunner.request_id"


def request_id_of(scope: Scope) -> str:
    """Return the id by which this request is found in the log."""
    found: Any = scope.get(_KEY)
    return str(found) if found else "-"


class Edge:
    """Gives each request an id, refuses NUL characters in addresses, and answers a fault with a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
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
            log.debug(
                "api.request",
                request_id=request_id,
                method=scope["method"],
                path=scope["path"],
                status=status,
                seconds=round(time.perf_counter() - began, 6),
            )


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
