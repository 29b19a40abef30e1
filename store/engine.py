"""The engine: one pool per process, transactions explicit, commits real."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Final

import psycopg
from psycopg import sql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from domain.failpoints import boundary

CONNECT_TIMEOUT: Final = 3  # seconds
TCP_USER_TIMEOUT: Final = 10_000  # milliseconds


class Database:
    """A pool of connections, and three ways to use one.

    `read()` changes nothing, `commit(…)` is for one statement that is a transaction by itself, `begin(…)` is a
    transaction of several. The latter two are named, `noun.verb`, each call site by its own: a name is a failpoint.
    """

    def __init__(self, url: str, *, pool: int = 20) -> None:
        self._engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool,
            max_overflow=0,
            pool_timeout=5,
            pool_pre_ping=False,
            hide_parameters=True,  # errors end in logs, parameters hold bodies
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT,
                "options": "-c timezone=UTC -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s",
                "prepare_threshold": 3,
                "tcp_user_timeout": TCP_USER_TIMEOUT,
            },
        )
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def read(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Return a connection for statements that change nothing; each sees what is committed."""
        return self._autocommit.connect()

    @asynccontextmanager
    async def commit(self, name: str) -> AsyncIterator[AsyncConnection]:
        """Give a connection for one statement that is a transaction by itself."""
        with boundary(name):
            async with self._autocommit.connect() as connection:
                yield connection

    @asynccontextmanager
    async def begin(self, name: str) -> AsyncIterator[AsyncConnection]:
        """Give a transaction: committed when the block ends, rolled back when it raises."""
        with boundary(name):
            async with self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncIterator[Callable[[timedelta], AsyncIterator[str]]]:
        """Listen to a channel on a connection of its own; give what yields its messages for so long, then ends.

        Raises OSError when the connection is lost.
        """
        url = self._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        try:
            async with await psycopg.AsyncConnection.connect(
                url, autocommit=True, connect_timeout=CONNECT_TIMEOUT, tcp_user_timeout=TCP_USER_TIMEOUT
            ) as connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))

                async def messages(within: timedelta) -> AsyncIterator[str]:
                    async for message in connection.notifies(timeout=within.total_seconds()):
                        yield message.payload

                yield messages
        except psycopg.Error as error:
            raise OSError(str(error)) from error

    async def close(self) -> None:
        """Close every connection of the pool."""
        await self._engine.dispose()
