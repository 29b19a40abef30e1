"""The ledger's adapter: what an attempt that has ended still holds, and its release."""

from temporalio import activity

from activities.dispatch import Dispatcher
from domain.messages import AttemptRef, Held, Released
from store import ledger
from store.engine import Database
from workflows.ports import LedgerActivities


class LedgerKeeper(LedgerActivities):
    """Reads and releases ledger entries in PostgreSQL."""

    def __init__(self, database: Database, dispatcher: Dispatcher) -> None:
        self._database = database
        self._dispatcher = dispatcher

    @activity.defn
    async def held(self, attempt: AttemptRef) -> Held:
        """Say which workspaces are to be destroyed."""
        async with self._database.begin("ledger.held") as connection:
            workspaces = await ledger.held(connection, attempt.task_id, attempt.attempt)
        return Held(live=workspaces is None, workspaces=list(workspaces or ()))

    @activity.defn
    async def release(self, attempt: AttemptRef) -> Released:
        """Release entries and slots; those who were granted one hear so at once."""
        async with self._database.begin("ledger.release") as connection:
            granted = await ledger.release(connection, attempt.task_id, attempt.attempt)
        if granted:
            self._dispatcher.poke()
        return Released(live=granted is None, granted=granted or 0)
