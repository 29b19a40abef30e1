"""A PostgreSQL in a container, for the suites that otherwise run on the embedded one."""

import asyncio
from pathlib import Path
from typing import Final

from sqlalchemy import URL
from testcontainers.community.postgres import PostgresContainer

from cli.embedded.postgres import Postgres
from tests.containers import images

PORT: Final = 5432


class ContainedPostgres(Postgres):
    """A server of this image; one that is ours is made here, any other is the registry's."""

    def __init__(self, root: Path, *, engine: str, image: str) -> None:
        super().__init__(root)
        if image in images.MADE:
            images.ensure(engine, image)
        self._container = PostgresContainer(image, username="taskrunner", password="taskrunner", dbname="taskrunner")

    async def start(self) -> None:
        """Start it, and return once it accepts connections."""
        await asyncio.to_thread(self._container.start)

    async def stop(self) -> None:
        """Remove it with all that it holds."""
        await asyncio.to_thread(self._container.stop)

    def _address(self, database: str) -> URL:
        return URL.create(
            "postgresql+psycopg",
            username=self._container.username,
            password=self._container.password,
            host=self._container.get_container_host_ip(),
            port=int(self._container.get_exposed_port(PORT)),
            database=database,
        )
