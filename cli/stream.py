"""A stream of the API as a command reads it: Server-Sent Events, over as many connections as it takes."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import httpx2

from cli.remote import Remote, RemoteError, problem

# The server says something every 15 s: a connection that is silent for longer is dead, or somebody holds it back.
TIMEOUT: Final = httpx2.Timeout(10, connect=5, read=40)
PAGE: Final = 200
AWAY_LIMIT: Final = timedelta(seconds=60)
FIRST_PAUSE: Final = 0.2  # seconds
LONGEST_PAUSE: Final = 2.0
ENDS: Final = {"task.completed": "completed", "task.failed": "failed", "task.cancelled": "cancelled"}
RUN_ENDS: Final = {"run.completed": "completed", "run.failed": "failed", "run.cancelled": "cancelled"}


@dataclass(frozen=True, slots=True)
class Frame:
    """One event, and its number in this stream."""

    number: int
    event: dict[str, Any]


class Stream:
    """The events after a number, each once and in order, however often the connection breaks.

    After None: those that are written from now on; the first frame has no event, and says where that begins.
    `log` is where the same events come in pages, if there is such a place: something between may hold a stream back.
    `away` is told when the API is away, and with None when it is back.
    """

    def __init__(
        self,
        remote: Remote,
        path: str,
        *,
        after: int | None = 0,
        log: str | None = None,
        away_limit: timedelta | None = AWAY_LIMIT,
        away: Callable[[RemoteError | None], None] = lambda _: None,
    ) -> None:
        self.after = after
        self._away: RemoteError | None = None  # why nothing comes at present
        self._tell = away
        self._remote = remote
        self._path = path
        self._log = log
        self._away_limit = away_limit
        self._over = False

    async def frames(self) -> AsyncGenerator[Frame]:
        """Give what comes, until the server says that there is no more.

        An API that is away is waited for, up to the limit. Raises RemoteError.
        """
        pause, since = 0.0, time.monotonic()
        async with self._remote.asynchronous() as client:
            while not self._over:
                # What ends after it has given something is opened again at once: mostly to hear that this was all.
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE) or FIRST_PAUSE
                try:
                    async with aclosing(self._connection(client)) as connection:
                        async for frame in connection:
                            pause = 0
                            self.after = frame.number
                            yield frame
                except RemoteError as error:
                    since = since if self._away else time.monotonic()
                    too_long = self._away_limit and time.monotonic() - since > self._away_limit.total_seconds()
                    if not error.transient or too_long or self._remote.stopping.is_set():
                        raise
                    self._is_away(error)

    def _is_away(self, error: RemoteError | None) -> None:
        if (error is None) is not (self._away is None):
            self._tell(error)
        self._away = error

    async def _connection(self, client: httpx2.AsyncClient) -> AsyncGenerator[Frame]:
        """Give the frames of one connection; nothing when there is no more, which it notes. Raises RemoteError."""
        try:
            after = None if self.after is None else {"Last-Event-ID": str(self.after)}
            first = {"fromSeq": "next"} if self.after is None else None
            async with client.sse(self._path, params=first, headers=after, timeout=TIMEOUT) as source:
                if source.response.status_code == httpx2.codes.NO_CONTENT:
                    self._over = True
                    return
                if not source.response.is_success:
                    await source.response.aread()
                    raise problem(source.response)
                self._is_away(None)
                async for sent in source:
                    if sent.data or (self.after is None and sent.id):  # a `retry:` alone is no event
                        yield Frame(int(sent.id), json.loads(sent.data or "{}"))
        except (httpx2.ReadTimeout, httpx2.SSEError) as error:
            if self._log is None:
                raise self._remote.unreachable(error) from error
        except httpx2.TransportError as error:
            raise self._remote.unreachable(error) from error
        else:
            return
        async for frame in self._page(client, self._log):
            yield frame

    async def _page(self, client: httpx2.AsyncClient, log: str) -> AsyncGenerator[Frame]:
        """Give a page of the log. Raises RemoteError."""
        try:
            answer = await client.get(log, params={"fromSeq": (self.after or 0) + 1, "limit": PAGE})
        except httpx2.TransportError as error:
            raise self._remote.unreachable(error) from error
        if not answer.is_success:
            raise problem(answer)
        self._is_away(None)
        events = answer.json()["items"]
        for event in events:
            yield Frame(event.get("cursor", event["seq"]), event)
        # Among the events of a run and its tasks, which have a number of their own, only the run's end is one.
        self._over = 0 < len(events) < PAGE and events[-1]["type"] in (RUN_ENDS if "cursor" in events[-1] else ENDS)
