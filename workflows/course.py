"""The course of a run: the turns that its orchestrator takes. Each public method is one kind of turn."""

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from opentelemetry.trace import get_current_span
from temporalio import workflow
from temporalio.contrib.opentelemetry import workflow as spans

from domain.errors import TaskError
from domain.events import EventType
from domain.ids import member_task_id, run_hold_token
from domain.lifecycle import MemberStatus, RunStatus
from domain.progress import Finished, Part, Progress
from domain.run import (
    Barrier,
    Cancels,
    Ending,
    NumberedCommand,
    Questions,
    RunAnswer,
    RunHold,
    RunInput,
    Start,
    Starts,
    task_key,
)
from domain.run_end import error_of, listed
from domain.run_events import EVENT_OF_RUN_OUTCOME
from domain.run_spec import RunMode
from domain.versions import LAST_BASE
from workflows.policies import AT_ONCE, STARTS_AT_ONCE
from workflows.ports import RunActivities
from workflows.run_journal import RunJournal


class Course(RunJournal):
    """A journal with the graph's progress, and all that moves it on."""

    def __init__(self, argument: RunInput) -> None:
        super().__init__(argument)
        self.progress = Progress(
            argument.plan,
            self.state,
            mode=argument.mode,
            on_failure=argument.on_failure,
            max_parallel=argument.max_parallel,
        )
        self.names = argument.plan.names
        # Whether there are endings that were not looked at.
        self.told = False
        self._supersteps = argument.mode is RunMode.SUPERSTEP

    def begin(self) -> None:
        """Note that the run begins, unless an earlier run of the workflow has."""
        if self.state.began:
            return
        self.state.began = True
        self.emit(EventType.RUN_STARTED)
        if self._supersteps and not self.state.frontier:
            self._next_frontier()

    @property
    def over(self) -> bool:
        """Whether every member has ended, and the last superstep was reported."""
        given_up = self.progress.cancelling or self.state.error is not None
        return self.progress.done and (given_up or not self.state.frontier)

    # --- what was told ------------------------------------------------------------------------------------------

    def take_endings(self) -> None:
        """Take in the tasks that have ended. What was not started yet, as far as is known, is looked at again."""
        told, self.state.endings, self.told = self.state.endings, [], False
        for ending in told:
            place = self.progress.places.get(ending.member)
            if place is None or ending.attempt < self.state.attempts.get(task_key(ending.member, ending.item), 1):
                continue  # not ours, or of before a retry of the run
            part = Part(place, ending.item)
            if self.progress.is_open(part):
                self._ended(part, ending)
            elif not self.progress.has_ended(part):
                self.state.endings.append(ending)

    def _ended(self, part: Part, ending: Ending) -> None:
        end = self.progress.ended(part, ending.outcome)
        if part.item is not None:
            self._emit_end(ending.member, MemberStatus(ending.outcome), item=part.item)
        if end is not None:
            self._finished([end])

    def _finished(self, ends: Iterable[Finished], *, error: TaskError | None = None) -> None:
        """Note the ends of members; before that of a fan-out, what its children have come to."""
        for end in ends:
            name = self.names[end.member]
            if end.member in self.progress.children:
                counts = self.progress.counts_of(end.member)
                self.emit(EventType.RUN_AGGREGATED, name, member=name, outcome=end.outcome, counts=counts)
            self._emit_end(name, end.outcome, reason=end.reason, error=error)
            if self._supersteps and end.outcome is MemberStatus.SKIPPED:
                self.state.skipped.append(name)
            if self._supersteps and end.outcome is MemberStatus.FAILED:
                self.state.failure = self.state.failure or self._where(name)
            self._stop(f"after:{name}", wanted=self._breaks_after(name))

    def _emit_end(
        self,
        name: str,
        outcome: MemberStatus,
        *,
        item: int | None = None,
        reason: str | None = None,
        error: TaskError | None = None,
    ) -> None:
        self.emit(
            EventType.RUN_MEMBER_FINISHED,
            task_key(name, item),
            member=name,
            item=item,
            outcome=outcome,
            reason=reason,
            error=error.model_dump(mode="json") if error else None,
        )

    # --- what is asked for --------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Read the row: what is asked for, and the commands that are new."""
        self._heed(await self.flush())

    def _heed(self, answer: RunAnswer) -> None:
        """Obey an answer of the mirror, and its commands. Raises RunFenced."""
        if self.state.pause is None:
            self.state.hold = None
        for numbered in answer.commands:
            if numbered.n > self.state.commands_seen:
                self._command(numbered)
        self.state.looking = self.state.looking or answer.more

    def _command(self, numbered: NumberedCommand) -> None:
        state, progress = self.state, self.progress
        state.commands_seen = numbered.n
        progress.grow(numbered.plan)
        state.frontier = [member for member in state.frontier if member in progress.frontier]
        self._finished(progress.skip([progress.places[name] for name in numbered.command.skip]))
        if numbered.command.replace is not None:
            state.replace = [progress.places[name] for name in numbered.command.replace]
        if self._supersteps and not progress.frontier_begun:
            if state.replace is None and state.replaced:
                state.replace = state.frontier  # an earlier command has the last word
            self._next_frontier()

    @property
    def cancels(self) -> bool:
        """Whether open tasks are to be asked to cancel themselves."""
        state = self.state
        return (state.cancel_wanted and not state.cancel_told) or (self.progress.failing and not state.failing_told)

    async def cancel(self) -> None:
        """Give up what has not begun, and ask what is open to cancel itself: a run ends when its tasks have."""
        state = self.state
        if state.cancel_wanted:
            self._finished(self.progress.cancel())
        left = 1
        while left:
            reply = await self.ask(RunActivities.cancel_tasks, Cancels(flush=self.batch()))
            self._heed(self.obey(reply.answer))
            left = reply.left
        state.cancel_told = state.cancel_told or self.progress.cancelling
        state.failing_told = state.failing_told or self.progress.failing

    # --- holds --------------------------------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Whether nothing new may begin: somebody wants it so, or a breakpoint was reached."""
        return self.state.pause is not None or bool(self.state.stops)

    async def hold(self) -> None:
        """Note the hold, then wait for its end; what ends meanwhile is written. The row says when it is over.

        A breakpoint's token is derived from its place: a redo names the same hold, and one that was resumed meanwhile
        is not noted again.
        """
        state = self.state
        stop = state.stops[0] if state.stops else None
        own = run_hold_token(self.argument.run_id, self.argument.attempt, "hold", stop) if stop else None
        token = state.pause or own
        if token is None or (state.hold is not None and state.hold.token == token):
            await self.wait()
            return
        reason = state.pause_reason if state.pause else f"breakpoint {stop}".replace(":", " ")
        state.hold = RunHold(token=token, reason=reason)
        at, _, what = (stop or "").partition(":")
        breakpoint_ = {"breakpoint": True, "at": at, "step" if at == "step" else "member": what} if stop else {}
        state.passed, state.stops = [*state.passed, *state.stops], []
        self.emit(EventType.RUN_PAUSED, token, token=token, reason=reason, **(breakpoint_ if not state.pause else {}))
        await self.look()

    def _stop(self, place: str, *, wanted: bool) -> bool:
        """Stop at a breakpoint, if there is one that was not passed; returns whether that is so."""
        stops = wanted and place not in self.state.passed and place not in self.state.stops
        if stops:
            self.state.stops.append(place)
        return stops

    def _breaks_after(self, name: str) -> bool:
        wanted = self.state.breakpoints
        return wanted is not None and (name in wanted.after or (wanted.each_step and not self._supersteps))

    def _stop_before(self) -> bool:
        wanted = self.state.breakpoints
        before = set(wanted.before) if wanted else ()
        startable = self.progress.startable if before else ()
        stops = [self._stop(f"before:{self.names[m]}", wanted=self.names[m] in before) for m in startable]
        return any(stops)

    # --- what is to be done -------------------------------------------------------------------------------------

    async def move(self) -> bool:
        """Find out what has to be known, then do what is to be done now; returns whether there was anything."""
        edges = list(self.progress.questions())
        if edges:
            found = await self.ask(RunActivities.find_out, Questions(run_id=self.argument.run_id, edges=edges))
            for number in edges:
                self.progress.judge(number, holds=found.edges[number])
        if self._stop_before():
            return True
        moves = self.progress.moves()
        self._finished(moves.finished)
        if moves.fans:
            await self._fan_out(moves.fans)
        if moves.starts:
            self._phase("schedule", frontier=len(self.state.frontier), starts=len(moves.starts))
            await self._start(moves.starts)
        return bool(moves)

    async def _fan_out(self, fans: Sequence[int]) -> None:
        """Begin fan-outs: their children are among the next moves. Some ask an upstream's result how many there are."""
        plans = self.argument.plan.fans
        sizes = {place: size for place in fans if (size := plans[place].size) is not None}
        names = [self.names[place] for place in fans if place not in sizes]
        errors: dict[str, TaskError] = {}
        if names:
            found = await self.ask(RunActivities.find_out, Questions(run_id=self.argument.run_id, sizes=names))
            sizes |= {self.progress.places[name]: size for name, size in found.sizes.items()}
            errors = found.errors
        for place in fans:
            name = self.names[place]
            if name in errors:
                self._finished([self.progress.refused(place)], error=errors[name])
                continue
            plans[place].size = sizes[place]
            self.emit(EventType.RUN_FANNED_OUT, name, member=name, size=sizes[place])
            end = self.progress.fanned(place, sizes[place])
            self._finished([end] if end else [])

    async def _start(self, parts: Sequence[Part]) -> None:
        """Have tasks made, some in each transaction."""
        run = self.argument.run_id
        for first in range(0, len(parts), STARTS_AT_ONCE):
            if first:
                # Many transactions in one workflow task would be a long one.
                await workflow.sleep(AT_ONCE, summary=f"{len(parts) - first} more to start")
            some = [Start(member=self.names[p.member], item=p.item) for p in parts[first : first + STARTS_AT_ONCE]]
            for start in some:
                task, key = member_task_id(run, start.member, start.item), task_key(start.member, start.item)
                self.emit(EventType.RUN_MEMBER_READY, key, member=start.member, item=start.item, task_id=task)
            reply = await self.ask(RunActivities.start_members, Starts(flush=self.batch(), starts=some))
            self.state.attempts |= reply.attempts
            self._heed(self.obey(reply.answer))

    async def barrier(self) -> bool:
        """End a superstep when all of its frontier has: merge, obey, report. Returns whether it had ended."""
        state, progress = self.state, self.progress
        if not self._supersteps or not progress.at_barrier:
            return False
        if not state.frontier:  # what a command has added had to be judged, or skipped, first
            self._next_frontier()
            return bool(state.frontier)
        ended = {self.names[member]: progress.status[member] for member in state.frontier}
        ran = [name for name, status in ended.items() if status is not MemberStatus.SKIPPED]
        number = state.superstep + 1
        reply = await self.ask(RunActivities.barrier, Barrier(flush=self.batch(), superstep=number, ran=ran))
        state.superstep, state.state_versions = number, reply.state_versions
        commands = len(reply.answer.commands)
        self._heed(self.obey(reply.answer))
        self._phase("barrier", ran=len(ran), skipped=len(state.skipped), state_keys=len(state.state_versions))
        if reply.error is not None:
            self._fail(reply.error)
        self._next_frontier()
        self._phase("frontier", commands=commands, next=len(state.frontier))
        self.emit(
            EventType.RUN_SUPERSTEP,
            str(number),
            superstep=number,
            ran=ran,
            skipped=state.skipped,
            outcomes=ended,
            next_frontier=[self.names[member] for member in state.frontier],
            state_versions=state.state_versions,
        )
        state.skipped = []
        wanted = state.breakpoints is not None and state.breakpoints.each_step and bool(state.frontier)
        self._stop(f"step:{number}", wanted=wanted)
        events = len(self.pending)
        await self.look()
        self._phase("checkpoint", events=events)
        return True

    def _phase(self, name: str, **counts: int) -> None:
        """Note a phase of a superstep in the run's trace, where there is one, with what it counted."""
        if self._supersteps and get_current_span().get_span_context().is_valid:
            spans.completed_span(name, attributes={"superstep": self.state.superstep, **counts})

    def _next_frontier(self) -> None:
        state = self.state
        state.frontier = self.progress.next_frontier(state.replace)
        state.replaced, state.replace = state.replace is not None, None

    def _fail(self, error: TaskError) -> None:
        """End the run because it cannot go on as a whole."""
        self.state.error = error.model_copy(update={"context": self._where(None) | error.context})
        self._finished(self.progress.give_up())

    # --- waits and ends -----------------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Write what is unwritten, then wait until there is something to be done."""
        if self.over:
            return  # what is unwritten is written with the end
        if self.pending:
            self._heed(await self.flush())
            return
        self._show()
        state = self.state
        await workflow.wait_condition(lambda: self.told or state.looking or self.cancels)

    def _show(self) -> None:
        progress = self.progress
        ended = sum(status.ended for status in progress.status)
        working = [self.names[m] for m, status in enumerate(progress.status) if status is MemberStatus.IN_PROGRESS]
        hold = self.state.hold
        waits = f"held: {hold.reason or 'paused'}" if hold else f"works on {listed(working)}"
        workflow.set_current_details(f"**{ended} of {len(self.names)}** members have ended; {waits}")

    @property
    def outgrown(self) -> bool:
        """Whether the history is long enough that the run goes on in a new one."""
        info = workflow.info()
        long = info.get_current_history_length() > self.argument.history_events or info.is_continue_as_new_suggested()
        return long and self.state.flush_base < LAST_BASE

    async def renew(self) -> NoReturn:
        """Go on as a new run of the workflow. Raises ContinueAsNewError."""
        while self.pending:  # a command that comes with the answer may end members
            self._heed(await self.flush())
        await workflow.wait_condition(workflow.all_handlers_finished)
        self.progress.carried(self.state)
        self.state.flush_base += 1
        workflow.continue_as_new(self.argument.model_copy(update={"state": self.state}))

    async def conclude(self) -> None:
        """Aggregate, and write the run's end."""
        progress, state = self.progress, self.state
        outcome = RunStatus.FAILED if state.error else progress.outcome
        state.error = state.error or self._error(outcome)
        error = state.error.model_dump(mode="json") if state.error else None
        self.emit(EventType.RUN_AGGREGATED, outcome=outcome, counts=progress.counts)
        self.emit(EVENT_OF_RUN_OUTCOME[outcome], error=error)
        await self.flush()
        workflow.set_current_details(f"**{outcome}**")

    def _error(self, outcome: RunStatus) -> TaskError | None:
        """Return why a run has failed, or that it was cancelled."""
        if outcome is RunStatus.COMPLETED:
            return None
        ended = MemberStatus(outcome)
        names = [self.names[m] for m, status in enumerate(self.progress.status) if status is ended]
        failure = self.state.failure if outcome is RunStatus.FAILED else None
        context = failure or self._where(names[0] if names else None)
        return error_of(outcome, names, of=len(self.names), context=context)

    def _where(self, member: str | None) -> dict[str, Any]:
        """Return the context of an error: who it is about, and of supersteps the frontier and the state by now."""
        if not self._supersteps:
            return {"member": member}
        frontier = [self.names[place] for place in self.state.frontier]
        return {"member": member, "frontier": frontier, "state_versions": self.state.state_versions}
