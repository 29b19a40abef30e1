"""The callbacks' HTTP client: tries again what may pass, and knows when it was last heard."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from workspaces.inside import trees

TIMEOUT = 10.0  # seconds for one exchange
FIRST_DELAY, LONGEST_DELAY = 0.2, 15.0  # seconds between tries, doubling, with jitter
LONGEST_RETRY_AFTER = 60.0  # seconds: a server that asks for more is asked again after this
FOR_EVER = 24 * 3600.0  # seconds: an attempt's absolute cap; the exit file keeps what was not heard until then
CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine is suspended

UNAUTHORIZED, TIMED_OUT, CONFLICT, GONE, TOO_MANY = 401, 408, 409, 410, 429
SERVER_ERROR = 500


def now() -> float:
    """Return seconds of a clock that nobody sets."""
    return time.clock_gettime(CLOCK)


class Unheard(Exception):  # noqa: N818 - the fact, not a fault
    """No final answer came within the time given, or the token is gone: the workspace is being destroyed."""


class Callbacks:
    """Talks to the API in the name of one workspace. Thread-safe: each exchange has its own connection.

    `gone` is set by the first 410: the attempt ended, the workspace should stop. `closing` ends all waiting.
    """

    def __init__(self, url: str, token: Path, *, traceparent: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.gone = threading.Event()
        self.closing = threading.Event()
        self.last_contact = now()
        self._token = token
        self._trace = {"traceparent": traceparent} if traceparent else {}
        self._stop: Callable[[], None] | None = None

    def on_gone(self, stop: Callable[[], None]) -> None:
        """Call `stop` once the API says that the attempt ended."""
        self._stop = stop

    def post(self, path: str, body: dict[str, Any], *, patience: float = FOR_EVER) -> int:
        """Post JSON; return the status of the final answer."""
        deadline = now() + patience
        return self.send("POST", path, json.dumps(body).encode(), "application/json", until=lambda: deadline)

    def send(self, method: str, path: str, content: bytes | BinaryIO, kind: str, *, until: Callable[[], float]) -> int:
        """Send until an answer is final, or the next try would come after `until()`: then `Unheard`.

        Connection errors, 5xx, 408 and 429 are tried again; any other answer is final. A file is
        streamed from its beginning.

        Without a token nobody listens any more; whoever destroys or stops a workspace takes it away.
        """
        delay = FIRST_DELAY
        while not (self.closing.is_set() or self.gone.is_set()) and self._token.exists():
            status, wait = self._once(method, path, content, kind)
            if status and status < SERVER_ERROR and status not in (TIMED_OUT, TOO_MANY):
                return self._final(status)
            pause = max(wait, random.uniform(delay / 2, delay))  # noqa: S311 - jitter, not a secret
            if now() + pause > until():
                break
            self.closing.wait(pause)
            delay = min(LONGEST_DELAY, delay * 2)
        raise Unheard(path)

    def _final(self, status: int) -> int:
        if status < 300 or status == CONFLICT:  # noqa: PLR2004 - the 2xx
            self.last_contact = now()
        if status == GONE and not self.gone.is_set():
            self.gone.set()
            if self._stop:
                self._stop()
        return status

    def _once(self, method: str, path: str, content: bytes | BinaryIO, kind: str) -> tuple[int, float]:
        """Return the status (0: no answer) and the seconds that the server asks to wait."""
        address = urlsplit(f"{self.url}/{path}")
        secure = address.scheme == "https"
        connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(
            address.hostname or "", address.port, timeout=TIMEOUT
        )
        target = f"{address.path}?{address.query}" if address.query else address.path
        try:
            # Read each time: every turn has a fresh one.
            headers = {"Authorization": f"Bearer {self._token.read_text('ascii').strip()}", "Content-Type": kind}
            headers.update(self._trace)
            if not isinstance(content, bytes):
                content.seek(0)
                headers["Content-Length"] = str(trees.size(content))
            connection.request(method, target, body=content, headers=headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status, _retry_after(answer.headers.get("Retry-After", ""))
        except (OSError, http.client.HTTPException, ValueError):
            return 0, 0.0
        finally:
            connection.close()


def _retry_after(value: str) -> float:
    return min(LONGEST_RETRY_AFTER, float(value)) if value.isascii() and value.isdigit() else 0.0
