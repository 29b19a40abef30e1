"""Requests as spans: each goes on with its caller's trace, or begins one."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telemetry.traces import HEADER, Traces

# Asked for every few seconds, by nobody who looks at traces.
_QUIET: Final = ("/livez", "/readyz", "/metrics")


class Traced:
    """Wraps every request but the probes'."""

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        given = (value.decode("ascii", "replace") for name, value in scope["headers"] if name == HEADER.encode())
        with self._traces.request(scope["method"], next(given, None)) as served:

            async def send_noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    served.status = message["status"]
                await send(message)

            try:
                await self._app(scope, receive, send_noted)
            finally:
                served.route = getattr(scope.get("route"), "path", served.route)
