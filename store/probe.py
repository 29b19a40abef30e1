"""Whether the database answers."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


async def answer(connection: AsyncConnection) -> None:
    """Return once the database has answered; raises SQLAlchemyError if it does not."""
    await connection.execute(text("SELECT 1"))
