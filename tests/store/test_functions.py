"""The functions in the database are the files of this version."""

from pathlib import Path

import pytest
from sqlalchemy import text

from store.engine import Database
from store.migrate import FUNCTIONS, HERE


def body_of(path: Path) -> str:
    """Give what stands between the dollar quotes."""
    return path.read_text().split("$$")[1]


@pytest.mark.parametrize("name", FUNCTIONS)
async def test_a_function_is_installed_as_its_file_says(database_url: str, name: str) -> None:
    """Character by character: a driver that reads `%s` as a parameter would change it."""
    database = Database(database_url, pool=1)
    async with database.begin("test") as connection:
        statement = text("SELECT prosrc FROM pg_proc WHERE proname = :name")
        installed = (await connection.execute(statement, {"name": name})).scalar_one()
    await database.close()
    assert installed == body_of(HERE / "functions" / f"{name}.sql")


def test_every_file_is_installed() -> None:
    """No function is forgotten."""
    assert sorted(FUNCTIONS) == sorted(path.stem for path in (HERE / "functions").glob("*.sql"))
