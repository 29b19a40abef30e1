"""Who hears nodes says which of them are lost: every API process, once a second, while it serves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from store import nodes
from store.engine import Database

log = structlog.get_logger()

EVERY: Final = timedelta(seconds=1)
# No API process was there for longer than this: then silence proves nothing. Less than a node's third heartbeat takes.
GAP: Final = timedelta(seconds=5)


@asynccontextmanager
async def hearing(database: Database, *, lost_after: timedelta) -> AsyncIterator[None]:
    """Note meanwhile that somebody is there to hear nodes, and give up those that were silent for `lost_after`."""
    listening = asyncio.create_task(_listen(database, lost_after))
    try:
        yield
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def _listen(database: Database, lost_after: timedelta) -> None:
    while True:
        try:
            async with database.begin("nodes.hear") as connection:
                lost = await nodes.hear(connection, lost_after=lost_after, gap=GAP)
        except (SQLAlchemyError, OSError) as error:
            log.warning("nodes.not_heard", error=str(error).splitlines()[0])
        except Exception:
            # Whatever it was: without this loop no node would ever be lost.
            log.exception("nodes.round_failed")
        else:
            for node in lost:
                log.warning("node.lost", node=node, silent_for=lost_after.total_seconds())
        await asyncio.sleep(EVERY.total_seconds())
