"""The store on a real PostgreSQL, migrated; nothing else runs."""

from collections.abc import AsyncIterator

import pytest

from store.engine import Database


@pytest.fixture(scope="module")
async def database(database_url: str) -> AsyncIterator[Database]:
    """Give a pool of 25 connections to the module's database."""
    database = Database(database_url, pool=25)
    yield database
    await database.close()
