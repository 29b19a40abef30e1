"""The engine: one pool per process, transactions explicit, commits real."""

from contextlib import AbstractAsyncContextManager

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine


class Database:
    """A pool of connections. `begin()` is a transaction; `autocommit()` is for one statement that is one already."""

    def __init__(self, url: str, *, pool: int = 20) -> None:
        self._engine: AsyncEngine = create_async_engine(
            url,
            pool_size=pool,
            max_overflow=0,
            pool_timeout=5,
            pool_pre_ping=False,
            hide_parameters=True,  # errors end in logs, parameters hold bodies
            connect_args={
                "connect_timeout": 3,
                "options": "-c timezone=UTC -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s",
                "prepare_threshold": 3,
                "tcp_user_timeout": 10_000,
            },
        )
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")

    def begin(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Return a transaction: committed when the block ends, rolled back when it raises."""
        return self._engine.begin()

    def autocommit(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Return a connection on which each statement is a transaction of its own."""
        return self._autocommit.connect()

    async def close(self) -> None:
        """Close every connection of the pool."""
        await self._engine.dispose()
