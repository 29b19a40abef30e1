"""The mirror's adapter: each call is one statement, and that statement one transaction."""

from temporalio import activity

from activities.dispatch import Dispatcher
from activities.run_dispatch import RunDispatcher
from domain.messages import Activity, ActivityQuery, Answer, Conclusion, Flush
from store import callbacks, mirror
from store.engine import Database
from workflows.ports import MirrorActivities


class Mirror(MirrorActivities):
    """Writes events and rows in PostgreSQL."""

    def __init__(self, database: Database, dispatcher: Dispatcher, runs: RunDispatcher | None = None) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._runs = runs

    @activity.defn
    async def flush(self, flush: Flush) -> Answer:
        """Append events and bring the row up to date."""
        async with self._database.commit("mirror.flush") as connection:
            answer = await mirror.flush(connection, flush)
        self._dispatcher.grown(flush.task_id, answer.get("appended"))
        return Answer.model_validate(answer)

    @activity.defn
    async def read_activity(self, query: ActivityQuery) -> Activity:
        """Read what the workspace's callbacks have left on its row."""
        async with self._database.read() as connection:
            return await callbacks.activity(connection, query.workspace_id)

    @activity.defn
    async def conclude(self, conclusion: Conclusion) -> Answer:
        """Write the end; those who were granted a slot by it, and the Cleanup, hear so at once."""
        async with self._database.commit("mirror.conclude") as connection:
            answer = await mirror.conclude(
                connection,
                conclusion,
                destroyed=conclusion.destroyed,
                next_attempt_at=conclusion.next_attempt_at,
                lease=conclusion.lease,
                node_lost=conclusion.node_lost,
                kept=conclusion.kept,
                keep_for=conclusion.keep_for,
            )
        self._dispatcher.grown(conclusion.task_id, answer.get("appended"))
        if answer["granted"] or not conclusion.destroyed:
            self._dispatcher.poke()
        if self._runs is not None and answer.get("in_run"):
            self._runs.poke()
        return Answer.model_validate(answer)
