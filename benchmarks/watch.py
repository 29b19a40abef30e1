"""Watch the mirror for all tasks in flight with one query a round: what every reader of the product reads."""

import asyncio
from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from store.engine import Database

Row = Any
_LOOK = text("SELECT id, status, step, workspace_id FROM tasks WHERE id = ANY(:ids)")


class Watch:
    """Tell waiters when a task's row says what they wait for."""

    def __init__(self, database: Database, *, every: float) -> None:
        self._database = database
        self._every = every
        self._waiting: dict[str, tuple[Callable[[Row], bool], asyncio.Future[Row]]] = {}

    async def until(self, task: str, says: Callable[[Row], bool]) -> Row:
        """Return the first row seen that says so."""
        future: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._waiting[task] = (says, future)
        return await asyncio.wait_for(future, 60)

    async def run(self) -> None:
        """Look, until cancelled."""
        async with self._database.read() as connection:
            while True:
                if self._waiting:
                    for row in (await connection.execute(_LOOK, {"ids": list(self._waiting)})).all():
                        says, future = self._waiting.get(row.id, (None, None))
                        if says is not None and future is not None and says(row):
                            del self._waiting[row.id]
                            if not future.done():
                                future.set_result(row)
                await asyncio.sleep(self._every)
