"""The wire models between workflow, activities, signals and gateway: one in, one out.

A field that is added later has a default: histories written before it must still replay.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field, JsonValue, field_validator

from domain.errors import Category, TaskError
from domain.events import NewEvent
from domain.lifecycle import NodeStatus, Step, StepOutcome, TaskStatus
from domain.names import CallbackKind, NodeId, ProjectId, TaskId, WorkspaceId
from domain.policy import Policy
from domain.spec import Breakpoints, Provider, TaskSpec


class CallbackSignal(BaseModel):
    """What a workspace told. Every field is optional: an operator may send the bare signal by hand."""

    kind: CallbackKind | None = None
    workspace_id: WorkspaceId | None = None
    turn: int = 1
    status: str = "running"
    details: dict[str, JsonValue] = Field(default_factory=dict)
    error: TaskError | None = None
    exit_code: int | None = None
    result: JsonValue = None

    @field_validator("error", mode="before")
    @classmethod
    def _own_fault(cls, error: Any) -> Any:
        """Read an error of code and message only, as the callback's body has it: the workspace's own fault."""
        return {"category": Category.WORKSPACE, "retryable": True, **error} if isinstance(error, dict) else error


class SlotGranted(BaseModel):
    """A slot that another attempt released now belongs to this one."""

    node_id: NodeId | None = None


class NodeReady(BaseModel):
    """A node reported in."""

    node_id: NodeId | None = None


class NodeLost(BaseModel):
    """The node of a workspace is not there any more: `lost`, since nobody hears it, or `gone` for good.

    Without a workspace it is one that was waited for, and does not come up.
    """

    node_id: NodeId | None = None
    workspace_id: WorkspaceId | None = None
    status: NodeStatus = NodeStatus.LOST


class Look(BaseModel):
    """There is something new in the row: a pause, its end, or breakpoints."""


class Side(StrEnum):
    """Where in a step an attempt is held."""

    BEFORE = "before"
    AFTER = "after"
    WAIT = "wait"


class Hold(BaseModel):
    """A hold that is in effect: by which token, where, and since when."""

    token: str
    at: Side
    step: Step
    since: datetime
    # How the step ended after which it is held, and the step that had begun in the same write as that end.
    outcome: StepOutcome | None = None
    entered: Step | None = None


class PauseAnswer(BaseModel):
    """The hold that is in effect; None when a step must end first, or when no hold is wanted."""

    hold: Hold | None = None


class Followup(BaseModel):
    """The next message of a conversation."""

    message: str = ""


# --- the mirror -----------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """What the mirror says to a flush."""

    APPLIED = "applied"
    REPEAT = "repeat"
    SUPERSEDED = "superseded"
    ENDED = "ended"


class Flush(BaseModel):
    """A batch of events, fenced by `(attempt, version)`."""

    task_id: TaskId
    attempt: int
    version: int
    events: list[NewEvent] = Field(default_factory=list)


class Answer(BaseModel):
    """What the workflow obeys: the verdict, the row's status and the open intents."""

    verdict: Verdict
    status: TaskStatus
    cancel: bool = False
    # The token of the pause that is wanted, or in effect.
    pause: str | None = None
    pause_reason: str | None = None
    breakpoints: Breakpoints | None = None
    inbox: list[CallbackSignal] = Field(default_factory=list)
    # How the row ended, when the verdict is `ended`.
    result: JsonValue = None
    error: TaskError | None = None

    # The end that was to be followed by another attempt was not written: a cancel came before it.
    withheld: bool = False

    @property
    def live(self) -> bool:
        """Whether this attempt may still act."""
        return self.verdict in (Verdict.APPLIED, Verdict.REPEAT)


class Conclusion(Flush):
    """The last flush of an attempt: what it held is released in the transaction that ends it.

    `next_attempt_at` is set when a try is left: the task goes back to `queued` with a new start intent. `lease` is set
    when the workspace may live on: its agent stops by itself when the lease has run out, and no other starts before.
    It runs from the last word of the workspace if its node was lost, since nobody is heard there, else from this write.
    """

    destroyed: bool = True
    next_attempt_at: datetime | None = None
    lease: timedelta | None = None
    node_lost: bool = False
    # The workspace whose files the node has kept, and for how long.
    kept: WorkspaceId | None = None
    keep_for: timedelta | None = None


class ActivityQuery(BaseModel):
    """Whose activity is asked for."""

    workspace_id: WorkspaceId


class Activity(BaseModel):
    """How long ago a workspace had output or progress, and how long ago it was heard at all; None is never."""

    silent_for: timedelta | None = None
    unheard_for: timedelta | None = None


# --- placement ------------------------------------------------------------------------------------------------


class NodeQuery(BaseModel):
    """Which node an attempt may run on; `pinned` is the only one that it can, because its workspace is there."""

    task_id: TaskId
    attempt: int
    project: ProjectId
    labels: dict[str, str] = Field(default_factory=dict)
    preferred: NodeId | None = None
    priority: int = 3
    pinned: NodeId | None = None
    provider: Provider = Provider.LOCAL


class NodeChoice(BaseModel):
    """The chosen node, or None when no node has a free slot. `reported_in` is False for one that is still coming up."""

    node_id: NodeId | None = None
    reported_in: bool = True
    reason: str = ""
    # It is to be made, by who was told so.
    made: bool = False


class MakeNode(BaseModel):
    """Ask the node provider for the node of this row."""

    node_id: NodeId


class NodeMade(BaseModel):
    """The node is coming up; `made` is False when it was made before."""

    node_id: NodeId
    made: bool = True


class SlotWait(BaseModel):
    """Enter the queue of those who wait for a slot, or look whether one was granted."""

    flush: Flush
    query: NodeQuery


class SlotWaitAnswer(BaseModel):
    """`granted` is the node whose slot this attempt now holds."""

    answer: Answer
    granted: NodeId | None = None


class NodeWait(BaseModel):
    """Enter the wait for a node to report in, or for a slot elsewhere, by the same `query` as a SlotWait."""

    flush: Flush
    node_id: NodeId
    query: NodeQuery | None = None


class NodeWaitAnswer(BaseModel):
    """Whether the node has reported in already, or never will; `granted` is the node whose slot this attempt holds."""

    answer: Answer
    reported_in: bool = False
    gone: bool = False
    granted: NodeId | None = None


class Reservation(BaseModel):
    """Reserve a workspace (and its slot), write its ledger intent, delegate the task: one transaction."""

    flush: Flush
    workspace_id: WorkspaceId
    visit: int
    provider: str
    node_id: NodeId | None = None


class ReservationAnswer(BaseModel):
    """The workspace of this visit, and the node that it was reserved on; None when the slot was lost to another.

    A redo gets what the first try reserved, which may be on another node than the redo asked for.
    """

    answer: Answer
    workspace_id: WorkspaceId | None = None
    node_id: NodeId | None = None


# --- nodes ----------------------------------------------------------------------------------------------------


class WorkspaceOrder(BaseModel):
    """All that a node needs to make a workspace. Secrets are names; the node has their values."""

    task_id: TaskId
    attempt: int
    workspace_id: WorkspaceId
    name: str
    spec: TaskSpec
    callback_url: str
    lease_seconds: float = 120.0
    log_limit: int = 10_000_000
    result_limit: int = 64_000
    traceparent: str | None = None


class Acknowledgement(BaseModel):
    """A node has (again) this workspace; `details` are facts for the log, such as the program's pid."""

    workspace_id: WorkspaceId
    details: dict[str, JsonValue] = Field(default_factory=dict)


class AttachmentOrder(BaseModel):
    """Put one attachment into a workspace."""

    workspace_id: WorkspaceId
    attachment_id: str
    callback_url: str


class AgentOrder(BaseModel):
    """Start the command or agent of one turn. `prompt` replaces the spec's own on a follow-up."""

    order: WorkspaceOrder
    turn: int = 1
    prompt: str | None = None


class AgentStarted(BaseModel):
    """The agent runs; `adopted` when an earlier try had started it."""

    turn: int
    pid: int | None = None
    adopted: bool = False


class AgentExit(BaseModel):
    """How a turn ended, from the exit file; `lost` when the process is gone and left none."""

    turn: int
    exit_code: int | None = None
    result: JsonValue = None
    error: TaskError | None = None
    lost: bool = False


class WorkspaceRef(BaseModel):
    """Name a workspace, to inspect, stop or destroy it. `keep` stops the processes and leaves the files."""

    workspace_id: WorkspaceId
    provider: str = "local"
    keep: bool = False


class WorkspaceFacts(BaseModel):
    """What a node knows of a workspace."""

    workspace_id: WorkspaceId
    exists: bool
    details: dict[str, JsonValue] = Field(default_factory=dict)


# --- the ledger -----------------------------------------------------------------------------------------------


class AttemptRef(BaseModel):
    """Name an attempt, as the owner of what the ledger says is held."""

    task_id: TaskId
    attempt: int


class HeldWorkspace(BaseModel):
    """A workspace that is to be destroyed, and where it is."""

    workspace_id: WorkspaceId
    provider: str
    node_id: NodeId


class Held(BaseModel):
    """What an attempt holds on nodes; nothing is told of one that is `live`."""

    live: bool = False
    workspaces: list[HeldWorkspace] = Field(default_factory=list)


class Released(BaseModel):
    """Whether an attempt's entries were released: not of one that is `live`. `granted` waiters got its slots."""

    live: bool = False
    granted: int = 0


class CleanupOrder(AttemptRef):
    """The argument of a Cleanup."""

    policy: Policy = Policy()


class CleanupResult(BaseModel):
    """What a Cleanup destroyed; nothing when the attempt is `live`."""

    live: bool = False
    destroyed: list[WorkspaceId] = Field(default_factory=list)
    granted: int = 0
