"""The wire models of a run: what its RunOrchestrator begins with and knows, and what it asks and is answered.

A run may have 10,000 members and its plan is carried through histories: names stand once, edges are pairs of places.
A field that is added later has a default: histories written before it must still replay.
"""

from typing import Any

from pydantic import BaseModel, Field

from domain.errors import TaskError
from domain.events import NewEvent
from domain.lifecycle import MemberStatus, RunStatus, TaskStatus
from domain.messages import Verdict
from domain.names import ProjectId, RunId
from domain.run_spec import OnFailure, RunBreakpoints, RunCommand, RunMode


class FanPlan(BaseModel):
    """A fan-out: how many children it has (None: its upstream's result will tell), and how many of them at once."""

    size: int | None = None
    max_parallel: int | None = None


class EdgePlan(BaseModel):
    """An edge by the places of its ends; `when` is an outcome, `?` for a condition, `~` for a preferred order."""

    source: int
    target: int
    when: str = ""


class Plan(BaseModel):
    """The graph as the orchestrator needs it; a member's place is that of its name, an edge's that in the list."""

    names: list[str] = Field(default_factory=list)
    edges: list[EdgePlan] = Field(default_factory=list)
    fans: dict[int, FanPlan] = Field(default_factory=dict)


class Ending(BaseModel):
    """A task of a run has ended, with no try left."""

    member: str
    item: int | None = None
    outcome: TaskStatus
    attempt: int = 1


class Endings(BaseModel):
    """What a RunOrchestrator is told: many at once, because many end at once."""

    endings: list[Ending] = Field(default_factory=list)


class RunHold(BaseModel):
    """A hold that is in effect."""

    token: str
    reason: str | None = None


class RunState(BaseModel):
    """All that a RunOrchestrator knows, carried through continue-as-new."""

    # One letter for each member, and for each child of a fan-out that was begun: see `domain.progress`.
    members: str = ""
    children: dict[int, str] = Field(default_factory=dict)
    # Edges whose condition was judged: whether it holds.
    judged: dict[int, bool] = Field(default_factory=dict)
    # The attempts of tasks that are not at their first, by `member` or `member#item`; endings of earlier ones are void.
    attempts: dict[str, int] = Field(default_factory=dict)
    # What was told before it was asked for.
    endings: list[Ending] = Field(default_factory=list)

    began: bool = False
    flush_base: int = 0
    status: RunStatus = RunStatus.QUEUED
    superstep: int = 0
    frontier: list[int] = Field(default_factory=list)
    # Members that were skipped since the last barrier.
    skipped: list[str] = Field(default_factory=list)
    state_versions: dict[str, int] = Field(default_factory=dict)
    failing: bool = False
    cancelling: bool = False
    # Somebody wants the run cancelled; and whether the open tasks were asked to cancel themselves, for either reason.
    cancel_wanted: bool = False
    cancel_told: bool = False
    failing_told: bool = False
    error: TaskError | None = None
    # Of supersteps: which member failed first, and where the run was at that moment.
    failure: dict[str, Any] | None = None

    pause: str | None = None
    pause_reason: str | None = None
    breakpoints: RunBreakpoints | None = None
    hold: RunHold | None = None
    # Breakpoints that were reached, and those that were passed: `before:name`, `after:name`, `step:number`.
    stops: list[str] = Field(default_factory=list)
    passed: list[str] = Field(default_factory=list)
    commands_seen: int = 0
    # What a command wants as the next frontier.
    replace: list[int] | None = None
    # Whether the frontier is what a command has made of it.
    replaced: bool = False
    looking: bool = False


class RunInput(BaseModel):
    """The argument of a RunOrchestrator."""

    run_id: RunId
    project: ProjectId
    attempt: int = 1
    name: str = "run"
    mode: RunMode = RunMode.EAGER
    on_failure: OnFailure = OnFailure.SKIP_DEPENDENTS
    max_parallel: int | None = None
    priority: int = 3
    plan: Plan = Plan()
    state: RunState = RunState()
    # Its history, signals among it; a longer one continues as new.
    history_events: int = 2_000
    traceparent: str | None = None


class RunResult(BaseModel):
    """How a run ended; a failed one raises instead."""

    status: RunStatus
    counts: dict[MemberStatus, int] = Field(default_factory=dict)


# --- the mirror -----------------------------------------------------------------------------------------------------


class RunFlush(BaseModel):
    """A batch of a run's events, fenced by `(attempt, version)`; `seen` is the last command that was obeyed."""

    run_id: RunId
    attempt: int
    version: int
    events: list[NewEvent] = Field(default_factory=list)
    seen: int = 0


class NumberedCommand(BaseModel):
    """A command, which was checked and is part of the graph; `plan` is what it added, `append` is left out."""

    n: int
    command: RunCommand
    plan: Plan = Plan()


class RunAnswer(BaseModel):
    """What the orchestrator obeys."""

    verdict: Verdict
    status: RunStatus
    cancel: bool = False
    pause: str | None = None
    pause_reason: str | None = None
    breakpoints: RunBreakpoints | None = None
    commands: list[NumberedCommand] = Field(default_factory=list)
    # There are other commands: one answer carries no more.
    more: bool = False

    @property
    def live(self) -> bool:
        """Whether this attempt of the run may still act."""
        return self.verdict in (Verdict.APPLIED, Verdict.REPEAT)


class Start(BaseModel):
    """A task that is to be there: of a member, or of one child of its fan-out."""

    member: str
    item: int | None = None


class Starts(BaseModel):
    """Make these tasks, and write what has happened, in one transaction."""

    flush: RunFlush
    starts: list[Start]


class StartsAnswer(BaseModel):
    """The attempts of the tasks that are not at their first."""

    answer: RunAnswer
    attempts: dict[str, int] = Field(default_factory=dict)


class Questions(BaseModel):
    """What only results can tell: of edges whether their condition holds, of fan-outs how many children they have."""

    run_id: RunId
    edges: list[int] = Field(default_factory=list)
    sizes: list[str] = Field(default_factory=list)


class Findings(BaseModel):
    """The answers; a fan-out without a list to go by has its error instead."""

    edges: dict[int, bool] = Field(default_factory=dict)
    sizes: dict[str, int] = Field(default_factory=dict)
    errors: dict[str, TaskError] = Field(default_factory=dict)


class Barrier(BaseModel):
    """Merge what these members have come to into the run's state, and check and store their commands."""

    flush: RunFlush
    superstep: int
    ran: list[str] = Field(default_factory=list)


class BarrierAnswer(BaseModel):
    """The versions of the state's keys; or what is wrong with what one of the members has come to."""

    answer: RunAnswer
    state_versions: dict[str, int] = Field(default_factory=dict)
    error: TaskError | None = None


class Cancels(BaseModel):
    """Ask the open tasks of a run to cancel themselves, and write what has happened."""

    flush: RunFlush


class CancelsAnswer(BaseModel):
    """How many are still to be asked."""

    answer: RunAnswer
    left: int = 0


def task_key(member: str, item: int | None) -> str:
    """Return how a task of a run is named: `member`, or `member#item`."""
    return member if item is None else f"{member}#{item}"
