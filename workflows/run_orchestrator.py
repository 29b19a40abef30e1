"""The RunOrchestrator: one run of a graph of tasks, as a durable state machine of its own.

Its tasks are no child workflows: they are rows with start intents like any other, and the transaction that ends one
stores the intent by which this workflow hears of it. So a run outlives its history, and a retried task is the same one.
"""

import asyncio
from collections.abc import Awaitable
from typing import Final

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from domain.errors import Category
    from domain.lifecycle import RunStatus
    from domain.names import RUN_ORCHESTRATOR, SignalName
    from domain.run import Endings, RunInput, RunResult
    from workflows.course import Course
    from workflows.run_journal import RunFenced

# The type of the failure with which a run ends that may not write any more.
SUPERSEDED: Final = "superseded"


@workflow.defn(name=RUN_ORCHESTRATOR)
class RunOrchestrator:
    """Starts what is ready, takes in what has ended, and aggregates when every part has."""

    @workflow.init
    def __init__(self, argument: RunInput) -> None:
        self.state = argument.state
        self.course = Course(argument)

    @workflow.run
    async def run(self, argument: RunInput) -> RunResult:  # noqa: ARG002 - `__init__` has it
        """Return what a completed run has come to.

        Raises ApplicationError, typed by its category, for a failed one, CancelledError for a cancelled one, and
        ContinueAsNewError for one whose history has become long.
        """
        self.course.begin()
        try:
            await self._shielded(self._walk())
        except RunFenced:
            if not self.state.status.terminal:
                raise ApplicationError("A later attempt has taken over.", type=SUPERSEDED, non_retryable=True) from None
        await workflow.wait_condition(workflow.all_handlers_finished)
        return self._result()

    async def _walk(self) -> None:
        """Take turns until the run is over: what was told, what is asked for, what is to be done, or a wait."""
        course = self.course
        while not course.over:
            course.take_endings()
            if course.outgrown:
                await course.renew()
            elif self.state.looking:
                await course.look()
            elif course.cancels:
                await course.cancel()
            elif course.holds:
                await course.hold()
            elif not (await course.move() or await course.barrier()):
                await course.wait()
        await course.conclude()

    async def _shielded(self, walk: Awaitable[None]) -> None:
        """Finish the walk whatever arrives: a cancel from outside is one of the things that it obeys."""
        task = asyncio.ensure_future(walk)
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                self.state.cancel_wanted = True
        task.result()

    def _result(self) -> RunResult:
        state = self.state
        if state.status is RunStatus.COMPLETED:
            return RunResult(status=state.status, counts=self.course.progress.counts)
        if state.status is RunStatus.CANCELLED and workflow.cancellation_reason() is not None:
            raise asyncio.CancelledError
        error = state.error
        category = error.category if error else Category.CANCELLED
        message = error.message if error else "The run was ended from outside."
        details = [error.model_dump(mode="json")] if error else []
        raise ApplicationError(message, *details, type=str(category), non_retryable=True)

    @workflow.signal(name=SignalName.TASK_ENDED)
    def task_ended(self, told: Endings | None = None) -> None:
        """Tasks of the run have ended, with no try left."""
        if told is not None:
            self.state.endings += told.endings
            self.course.told = True

    @workflow.signal(name=SignalName.RUN_STEERED)
    def run_steered(self) -> None:
        """There is something new in the row."""
        self.state.looking = True
