"""Hints that a log has grown: NOTIFY, after the commit that made it grow, many tasks in one message.

A hint is never the truth: who listens looks at everything again every second or so, and so a lost one costs that long.
It is not sent by the writing transaction, because NOTIFY holds a lock of the whole database until its commit.
"""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from domain.names import TaskId
from store.engine import Database

log = structlog.get_logger()

CHANNEL: Final = "taskrunner_logs"
# After a message this much is collected for the next: seconds. The first of a burst goes at once.
COALESCE: Final = 0.01
# A message holds less than 8000 bytes (PostgreSQL, NOTIFY); an id has 36.
IN_ONE_MESSAGE: Final = 200
LISTEN_AGAIN: Final = 1.0
_NOTIFY: Final = text("SELECT pg_notify(:channel, :payload)")


class Notifier:
    """Tells those who listen, in the background."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._grown: set[TaskId] = set()
        self._sending: asyncio.Task[None] | None = None

    def hint(self, task: TaskId) -> None:
        """Note that this task's log has grown, which is committed."""
        self._grown.add(task)
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send())

    async def close(self) -> None:
        """Send what was noted."""
        if self._sending is not None:
            await self._sending

    async def _send(self) -> None:
        try:
            while self._grown:
                tasks = [self._grown.pop() for _ in range(min(len(self._grown), IN_ONE_MESSAGE))]
                async with self._database.commit("hints.notify") as connection:
                    await connection.execute(_NOTIFY, {"channel": CHANNEL, "payload": " ".join(tasks)})
                await asyncio.sleep(COALESCE)
        except (SQLAlchemyError, OSError) as error:
            log.debug("hints.lost", error=str(error).splitlines()[0])
        finally:
            self._sending = None


async def listen(database: Database, *, look_again: timedelta) -> AsyncGenerator[set[TaskId] | None]:
    """Give the tasks whose logs have grown; None says that any may have: at first, from time to time, after a loss."""
    while True:
        try:
            async with database.listening(CHANNEL) as messages:
                yield None
                while True:
                    async for payload in messages(look_again):
                        yield {TaskId(task) for task in payload.split()}
                    yield None
        except (SQLAlchemyError, OSError) as error:
            log.warning("hints.unreachable", error=str(error).splitlines()[0])
            await asyncio.sleep(LISTEN_AGAIN)
