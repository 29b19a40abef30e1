"""A run's adapter: each call is one transaction under the run's lock, and what it committed is sent at once."""

from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio import activity

from activities.dispatch import LEASE, Dispatcher
from domain.names import TaskId
from domain.policy import Policy
from domain.run import (
    Barrier,
    BarrierAnswer,
    Cancels,
    CancelsAnswer,
    Findings,
    Questions,
    RunAnswer,
    RunFlush,
    Starts,
    StartsAnswer,
)
from store import clock, run_barrier, run_log, run_results, run_tasks
from store.engine import Database
from store.run_tasks import Sender, Started
from workflows.policies import STARTS_AT_ONCE
from workflows.ports import RunActivities


class Runs(RunActivities):
    """Writes runs in PostgreSQL, and has their tasks started and cancelled."""

    def __init__(self, database: Database, dispatcher: Dispatcher, policy: Policy) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._policy = policy

    async def _sender(self, connection: AsyncConnection) -> Sender:
        """Return who makes tasks, at the database's time."""
        return Sender(
            name=self._dispatcher.name,
            lease=LEASE,
            agent_lease=self._policy.supervision.lease,
            now=await clock.now(connection),
        )

    def _grown(self, flush: RunFlush) -> None:
        if flush.events:
            self._dispatcher.grown(TaskId(flush.run_id))

    @activity.defn
    async def flush_run(self, flush: RunFlush) -> RunAnswer:
        """Append events and bring the row up to date."""
        async with self._database.commit("runs.flush") as connection:
            answer = await run_log.flush(connection, flush)
        self._grown(flush)
        return answer

    @activity.defn
    async def start_members(self, starts: Starts) -> StartsAnswer:
        """Make the tasks, and start them once they are committed."""
        started = Started()
        async with self._database.begin("runs.start_members") as connection:
            answer = await run_log.flush(connection, starts.flush)
            if answer.live:
                started = await run_tasks.start(connection, starts.flush, starts.starts, await self._sender(connection))
        self._grown(starts.flush)
        for intent in started.intents:
            self._dispatcher.send(intent)
        return StartsAnswer(answer=answer, attempts=started.attempts)

    @activity.defn
    async def find_out(self, questions: Questions) -> Findings:
        """Read results."""
        async with self._database.read() as connection:
            return await run_results.find_out(connection, questions)

    @activity.defn
    async def barrier(self, barrier: Barrier) -> BarrierAnswer:
        """Merge results and commands; the answer has the commands."""
        async with self._database.begin("runs.barrier") as connection:
            answer = await run_log.flush(connection, barrier.flush)
            if not answer.live:
                return BarrierAnswer(answer=answer)
            versions, error = await run_barrier.merge(connection, barrier, await clock.now(connection))
            answer = await run_log.unseen(connection, barrier.flush.run_id, answer, seen=barrier.flush.seen)
        self._grown(barrier.flush)
        return BarrierAnswer(answer=answer, state_versions=versions, error=error)

    @activity.defn
    async def cancel_tasks(self, cancels: Cancels) -> CancelsAnswer:
        """Ask tasks to cancel themselves, and tell them once it is committed."""
        async with self._database.begin("runs.cancel_tasks") as connection:
            answer = await run_log.flush(connection, cancels.flush)
            if not answer.live:
                return CancelsAnswer(answer=answer)
            intents, left = await run_tasks.cancel(
                connection, cancels.flush.run_id, await self._sender(connection), limit=STARTS_AT_ONCE
            )
        self._grown(cancels.flush)
        for intent in intents:
            self._dispatcher.send(intent)
        return CancelsAnswer(answer=answer, left=left)
