"""The database's clock: the one by which rows of several processes are compared."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection


async def now(connection: AsyncConnection) -> datetime:
    """Return the database's time."""
    found: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return found
