"""What a TaskRunner is started with, what it knows, and what it comes to.

A field that is added later has a default: histories written before it must still replay.
"""

from datetime import datetime, timedelta

from pydantic import BaseModel, Field, JsonValue

from domain.errors import TaskError
from domain.lifecycle import Step, TaskStatus
from domain.messages import CallbackSignal, Hold, NodeLost
from domain.names import NodeId, ProjectId, RunId, TaskId, WorkspaceId
from domain.policy import Policy
from domain.spec import Breakpoints, TaskSpec


class RunnerState(BaseModel):
    """All that a TaskRunner knows; serialisable, so that it can be carried through continue-as-new."""

    # While the current visit of `step` has not ended; if it has, or `step` comes next, a new visit begins.
    step: Step = Step.NODE_SELECTION
    visiting: bool = False
    visits: dict[Step, int] = Field(default_factory=dict)
    status: TaskStatus = TaskStatus.QUEUED
    # How often the attempt has continued as new: the highest part of a flush's version.
    flush_base: int = 0
    trace: int = 0
    began_at: datetime | None = None
    visit_since: datetime | None = None
    # When the wait that is under way is over.
    deadline: datetime | None = None

    node_id: NodeId | None = None
    node_reported_in: bool = True
    node_made: bool = False
    slot_granted: NodeId | None = None
    nodes_ready: set[NodeId] = Field(default_factory=set)
    nodes_gone: set[NodeId] = Field(default_factory=set)
    workspace_id: WorkspaceId | None = None

    claimed: bool = False
    ready: CallbackSignal | None = None
    failed: CallbackSignal | None = None
    # Told that a workspace's node is not there any more.
    node_lost: NodeLost | None = None
    finished: dict[int, CallbackSignal] = Field(default_factory=dict)
    # How long the visits of `running` that have ended took, for the absolute cap; whether this one was warned.
    ran: timedelta = timedelta(0)
    warned: bool = False
    # What the idle cap counts from, once it has been looked at.
    active_at: datetime | None = None

    # What the row asks for, as the last answer had it; `looking` while there is something new in it.
    pause: str | None = None
    pause_reason: str | None = None
    breakpoints: Breakpoints | None = None
    looking: bool = False
    # The hold in effect, how long all earlier ones took, and the last visit that has passed each side of each step.
    hold: Hold | None = None
    paused_for: timedelta = timedelta(0)
    passed: dict[str, int] = Field(default_factory=dict)

    turn: int = 1
    message: str | None = None
    followups: list[str] = Field(default_factory=list)
    # The turns of the latest messages by the ids of their updates: a repeat is told its turn, in a later run too.
    said: dict[str, int] = Field(default_factory=dict)
    ended_by: str | None = None

    result: JsonValue = None
    error: TaskError | None = None
    outcome: TaskStatus | None = None
    superseded: bool = False
    cleanup_pending: bool = False
    kept: bool = False


class KeptWorkspace(BaseModel):
    """The workspace of an earlier attempt, which this one owns now."""

    workspace_id: WorkspaceId
    node_id: NodeId


class RunnerInput(BaseModel):
    """The argument of a TaskRunner: what to run, and by which numbers."""

    task_id: TaskId
    attempt: int
    project: ProjectId
    spec: TaskSpec
    name: str = "task"
    run_id: RunId | None = None
    policy: Policy = Policy()
    # Set for an attempt that goes on in a workspace that was kept: it begins at `agent_session`.
    resume: KeptWorkspace | None = None
    # What the row asked for when the start was made.
    pause: str | None = None
    pause_reason: str | None = None
    breakpoints: Breakpoints | None = None
    # The trace of the request that made the task, by W3C's Trace Context.
    traceparent: str | None = None
    # What the run before this one knew, when the attempt has continued as new.
    state: RunnerState | None = None


class RunnerResult(BaseModel):
    """How an attempt ended; a failed one raises instead."""

    status: TaskStatus
    result: JsonValue = None
