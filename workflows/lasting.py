"""What lets an attempt last: it is held where somebody asks for it, and continues as new when its history is long."""

from datetime import datetime
from typing import Any, NoReturn

from temporalio import workflow

from domain.errors import Category
from domain.events import EventType
from domain.ids import hold_token
from domain.lifecycle import Step, StepOutcome
from domain.messages import Hold, Side
from domain.runner import RunnerInput, RunnerState
from domain.versions import LAST_BASE
from workflows.mirrored import Mirrored, StepFailed
from workflows.policies import AT_ONCE


class Lasting(Mirrored):
    """An attempt that can be held between two steps and in a wait, and that outlives its history.

    The row says whether it is to be held, and by which token: every answer of the mirror brings that along. Updates and
    signals only make it look; they write nothing. So a hold needs nobody to be there when it is asked for or ended.
    """

    def __init__(self, argument: RunnerInput, state: RunnerState) -> None:
        super().__init__(argument, state)
        self.budgets = argument.policy.budgets.overridden(argument.spec.timeouts)
        self.supervision: workflow.ActivityHandle[Any] | None = None
        self._supervisions: list[workflow.ActivityHandle[Any]] = []
        # Whether a look at the row follows as soon as one is asked for, and how many have been taken like that.
        self.attentive = state.hold is not None
        self.looks = 0

    # --- holds --------------------------------------------------------------------------------------------------

    @property
    def steered(self) -> bool:
        """Whether somebody wants it held, as far as is known, or there is something new to be read in the row."""
        return self.state.pause is not None or self.state.looking

    async def boundary(self, at: Side, step: Step, outcome: StepOutcome | None = None) -> None:
        """Hold before or after a step if a pause is wanted, or a breakpoint is there that this visit has not passed.

        `outcome` is the step's own, and None before it.
        """
        if self.state.looking:
            await self.flush()
        stops = self._stops(at, step, outcome)
        if stops or self.state.pause is not None or self.state.hold is not None:
            await self._hold(at, step, outcome, stops=stops)
            self.state.passed[f"{at}:{step}"] = self._visit_of(at, step)

    async def hold_in_wait(self) -> None:
        """Look at the row, and hold within a wait if a pause is wanted: what arrives meanwhile is kept."""
        if self.state.looking:
            await self.flush()
        await self._hold(Side.WAIT, self.state.step, None, stops=False)
        self.looks += 1

    def _visit_of(self, at: Side, step: Step) -> int:
        """Return which visit of the step a boundary belongs to; before a step it is the one that is to begin."""
        begun = at is Side.AFTER or (self.state.visiting and self.state.step is step)
        return self.state.visits.get(step, 0) + (not begun)

    def _stops(self, at: Side, step: Step, outcome: StepOutcome | None) -> bool:
        """Whether there is a breakpoint; `each_step` is one after every step that had something to do."""
        wanted = self.state.breakpoints
        if wanted is None or self.state.passed.get(f"{at}:{step}", 0) >= self._visit_of(at, step):
            return False
        if at is Side.BEFORE:
            return step in wanted.before
        return step in wanted.after or (wanted.each_step and outcome is not StepOutcome.SKIPPED)

    async def _hold(self, at: Side, step: Step, outcome: StepOutcome | None, *, stops: bool) -> None:
        """Hold until the row asks for no hold any more. It is the row that says so, whatever was signalled.

        A breakpoint's token is derived from its place: a redo names the same hold, and one that was resumed meanwhile
        is not noted again. If a pause is in the row first, that one holds here and the breakpoint is passed with it.
        """
        state = self.state
        own = hold_token(self.argument.task_id, self.argument.attempt, at, step, self._visit_of(at, step))
        first = own if stops and state.hold is None else None
        self.attentive = True
        try:
            while (token := state.pause or first) is not None:
                if state.hold is None or state.hold.token != token:
                    self._begin(Hold(token=token, at=at, step=step, since=workflow.now(), outcome=outcome))
                    first = None
                    await self.flush()
                elif state.looking:
                    await self.flush()
                else:
                    self.looks += 1
                    await self._until_looking(state.hold)
        finally:
            self.attentive = at is Side.WAIT
        self._go_on()

    def _begin(self, hold: Hold) -> None:
        """Note that the attempt is held; one hold that follows another at once goes on counting."""
        state = self.state
        if state.hold is not None:
            hold.since = state.hold.since
        if state.visiting and state.step is not hold.step:
            hold.entered = state.step
        state.hold = hold
        breakpoint_ = state.pause is None
        reason = f"breakpoint {hold.at} {hold.step}" if breakpoint_ else state.pause_reason
        self.emit(
            EventType.TASK_PAUSED,
            mark=hold.token,
            step=hold.step,
            token=hold.token,
            reason=reason,
            at=hold.at,
            until=self._until(hold).isoformat(),
            breakpoint=breakpoint_ or None,
        )

    def _until(self, hold: Hold) -> datetime:
        return hold.since + self.budgets.paused - self.state.paused_for

    async def _until_looking(self, hold: Hold) -> None:
        """Wait until there is something new in the row. Raises StepFailed when the attempt was held for too long."""
        until = self._until(hold)
        self.show(f"**{hold.at} {hold.step}**: held until it is resumed, {until:%Y-%m-%d %H:%M:%S}Z at the latest")
        try:
            await workflow.wait_condition(
                lambda: self.state.looking or self.outgrown,
                timeout=max(until - workflow.now(), AT_ONCE),
                timeout_summary="the longest pause",
            )
        except TimeoutError:
            await self.flush()  # it may be resumed, and the signal be on its way
            if self.state.pause is None:
                return
            seconds = self.budgets.paused.total_seconds()
            message = f"The attempt was held for {seconds:g} s in all, the longest that it may be."
            context = {"cap": "paused"}
            raise StepFailed(self.error("cap_paused", Category.TIMEOUT, message, context=context)) from None
        if not self.state.looking:
            await self.renew(hold.step)

    def _go_on(self) -> None:
        """Count the hold that is over; a wait's deadline comes so much later."""
        state, hold = self.state, self.state.hold
        if hold is None:
            return
        held = workflow.now() - hold.since
        state.paused_for += held
        if state.deadline is not None:
            state.deadline += held
        state.step = hold.entered or state.step
        state.hold = None

    # --- a long life --------------------------------------------------------------------------------------------

    def supervised_by(self, supervision: workflow.ActivityHandle[Any]) -> None:
        """Note who looks after the process of this turn; an earlier turn's may still be about to notice its end."""
        self._supervisions = [open_ for open_ in self._supervisions if not open_.done()] + [supervision]
        self.supervision = supervision

    @property
    def outgrown(self) -> bool:
        """Whether the history has become long, and no activity is open, so that the attempt may continue as new."""
        info = workflow.info()
        long = info.get_current_history_length() >= self.policy.limits.history_events
        return (
            (long or info.is_continue_as_new_suggested())
            and self.state.flush_base < LAST_BASE
            and all(supervision.done() for supervision in self._supervisions)
        )

    async def renew(self, step: Step) -> NoReturn:
        """Continue as new: all that happened is written, and the next run goes on at `step` with all that is known.

        What arrives meanwhile fails this workflow task at the server, and is seen by the task that is done instead.

        Raises what a flush raises.
        """
        self.attentive = False  # who asks for a look gets an answer without it
        while self.unwritten or not workflow.all_handlers_finished():
            if self.unwritten:
                await self.flush()
            await workflow.wait_condition(workflow.all_handlers_finished)
        self.check_cancelled()
        state = self.state.model_copy(deep=True)
        state.step = step
        state.flush_base += 1
        state.finished = {turn: told for turn, told in state.finished.items() if turn >= state.turn}
        workflow.continue_as_new(self.argument.model_copy(update={"state": state}))
