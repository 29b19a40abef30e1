"""The state machine as data: statuses, steps and the only transitions that exist.

The database constraint, the API's validators, the workflow's step loop, the docs and the tests are all made
from the tables below.
"""

from collections.abc import Mapping
from enum import StrEnum
from itertools import pairwise
from typing import Final

from domain.errors import IllegalTransition


class TaskStatus(StrEnum):
    """Where a task is; `paused` is a flag beside it."""

    READY = "ready"
    QUEUED = "queued"
    DELEGATED = "delegated"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the attempt has ended: nothing but a retry leaves this status."""
        return self in TERMINAL


class WorkspaceStatus(StrEnum):
    """Where a workspace is."""

    RESERVED = "reserved"
    DISPATCHED = "dispatched"
    READY = "ready"
    STOPPING = "stopping"
    RETAINED = "retained"
    RELEASED = "released"
    FAILED = "failed"


class NodeStatus(StrEnum):
    """Where a node is."""

    PROVISIONING = "provisioning"
    READY = "ready"
    WARM = "warm"
    DRAINING = "draining"
    LOST = "lost"
    GONE = "gone"


class Step(StrEnum):
    """A stage of the pipeline, in the order of the contract's table."""

    NODE_SELECTION = "node_selection"
    WAITING_FOR_NODE_CAPACITY = "waiting_for_node_capacity"
    NODE_PROVISIONING = "node_provisioning"
    NODE_AGENT_READY = "node_agent_ready"
    WORKSPACE_CREATION = "workspace_creation"
    WORKSPACE_DISPATCH = "workspace_dispatch"
    WORKSPACE_READY = "workspace_ready"
    ATTACHMENT_TRANSFER = "attachment_transfer"
    AGENT_SESSION = "agent_session"
    RUNNING = "running"
    AWAITING_FOLLOWUP = "awaiting_followup"
    CLEANUP = "cleanup"


class StepOutcome(StrEnum):
    """How a visit of a step ended."""

    DONE = "done"
    SKIPPED = "skipped"
    NODE_GONE = "node_gone"
    SLOT_LOST = "slot_lost"
    UNACKNOWLEDGED = "unacknowledged"
    NEXT_TURN = "next_turn"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RunStatus(StrEnum):
    """Where a run is; `paused` is a flag beside it."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the run has ended: nothing but a retry leaves this status."""
        return self in RUN_TERMINAL


class MemberStatus(StrEnum):
    """Where a member of a run is: a task, or a fan-out of one."""

    WAITING = "waiting"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"

    @property
    def ended(self) -> bool:
        """Whether nothing more is to be expected of it, unless the run is retried."""
        return self not in (MemberStatus.WAITING, MemberStatus.IN_PROGRESS)


S, W, N, R, M = TaskStatus, WorkspaceStatus, NodeStatus, RunStatus, MemberStatus

TASK_TRANSITIONS: Final[Mapping[TaskStatus, frozenset[TaskStatus]]] = {
    S.READY: frozenset({S.QUEUED, S.CANCELLED}),
    S.QUEUED: frozenset({S.DELEGATED, S.FAILED, S.CANCELLED}),
    S.DELEGATED: frozenset({S.IN_PROGRESS, S.QUEUED, S.FAILED, S.CANCELLED}),
    S.IN_PROGRESS: frozenset({S.COMPLETED, S.QUEUED, S.FAILED, S.CANCELLED}),
    S.FAILED: frozenset({S.QUEUED}),
    S.CANCELLED: frozenset({S.QUEUED}),
    S.COMPLETED: frozenset(),
}
TERMINAL: Final = frozenset({S.COMPLETED, S.FAILED, S.CANCELLED})

WORKSPACE_TRANSITIONS: Final[Mapping[WorkspaceStatus, frozenset[WorkspaceStatus]]] = {
    W.RESERVED: frozenset({W.DISPATCHED, W.STOPPING, W.RELEASED, W.FAILED}),
    W.DISPATCHED: frozenset({W.READY, W.STOPPING, W.RELEASED, W.FAILED}),
    W.READY: frozenset({W.STOPPING, W.RETAINED, W.RELEASED, W.FAILED}),
    W.FAILED: frozenset({W.STOPPING, W.RETAINED, W.RELEASED}),
    W.STOPPING: frozenset({W.RETAINED, W.RELEASED}),
    W.RETAINED: frozenset({W.READY, W.STOPPING, W.RELEASED}),
    W.RELEASED: frozenset(),
}

NODE_TRANSITIONS: Final[Mapping[NodeStatus, frozenset[NodeStatus]]] = {
    N.PROVISIONING: frozenset({N.READY, N.GONE}),
    N.READY: frozenset({N.WARM, N.DRAINING, N.LOST, N.GONE}),
    N.WARM: frozenset({N.READY, N.DRAINING, N.LOST, N.GONE}),
    N.DRAINING: frozenset({N.READY, N.LOST, N.GONE}),
    N.LOST: frozenset({N.READY, N.DRAINING, N.GONE}),
    N.GONE: frozenset({N.PROVISIONING, N.READY}),
}

RUN_TRANSITIONS: Final[Mapping[RunStatus, frozenset[RunStatus]]] = {
    R.QUEUED: frozenset({R.IN_PROGRESS, R.FAILED, R.CANCELLED}),
    R.IN_PROGRESS: frozenset({R.COMPLETED, R.FAILED, R.CANCELLED}),
    R.FAILED: frozenset({R.QUEUED}),
    R.CANCELLED: frozenset({R.QUEUED}),
    R.COMPLETED: frozenset(),
}
RUN_TERMINAL: Final = frozenset({R.COMPLETED, R.FAILED, R.CANCELLED})

# A retry of the run leads back to `waiting`.
MEMBER_TRANSITIONS: Final[Mapping[MemberStatus, frozenset[MemberStatus]]] = {
    M.WAITING: frozenset({M.IN_PROGRESS, M.COMPLETED, M.FAILED, M.CANCELLED, M.SKIPPED}),
    M.IN_PROGRESS: frozenset({M.COMPLETED, M.FAILED, M.CANCELLED}),
    M.FAILED: frozenset({M.WAITING}),
    M.CANCELLED: frozenset({M.WAITING}),
    M.SKIPPED: frozenset({M.WAITING}),
    M.COMPLETED: frozenset(),
}

STEP_ORDER: Final[tuple[Step, ...]] = tuple(Step)
FIRST_STEP: Final = STEP_ORDER[0]

# The ways that are not "the next step": three steps back, the turns of a conversation, and the way out.
_DETOURS: Final[Mapping[tuple[Step, StepOutcome], Step]] = {
    (Step.NODE_AGENT_READY, StepOutcome.NODE_GONE): Step.NODE_SELECTION,
    (Step.WORKSPACE_CREATION, StepOutcome.SLOT_LOST): Step.NODE_SELECTION,
    (Step.WORKSPACE_READY, StepOutcome.UNACKNOWLEDGED): Step.WORKSPACE_DISPATCH,
    (Step.AWAITING_FOLLOWUP, StepOutcome.NEXT_TURN): Step.AGENT_SESSION,
}
_ONWARD: Final = (StepOutcome.DONE, StepOutcome.SKIPPED)
_OUT: Final = (StepOutcome.FAILED, StepOutcome.CANCELLED)


def _next_steps() -> dict[tuple[Step, StepOutcome], Step | None]:
    following = dict(pairwise(STEP_ORDER))
    table: dict[tuple[Step, StepOutcome], Step | None] = {}
    for step in STEP_ORDER:
        table |= {(step, outcome): following.get(step) for outcome in _ONWARD}
        table |= {(step, outcome): Step.CLEANUP if step is not Step.CLEANUP else None for outcome in _OUT}
    return table | dict(_DETOURS)


NEXT_STEP: Final[Mapping[tuple[Step, StepOutcome], Step | None]] = _next_steps()


def advance(step: Step, outcome: StepOutcome) -> Step | None:
    """Return the step that follows, or None when `cleanup` has ended.

    Raises IllegalTransition for a pair that the table does not hold.
    """
    try:
        return NEXT_STEP[step, outcome]
    except KeyError:
        raise IllegalTransition("step", step, outcome) from None


def check_status(old: TaskStatus, new: TaskStatus) -> TaskStatus:
    """Return `new` if a task may go there from `old` or is there already; raises IllegalTransition."""
    if new is old or new in TASK_TRANSITIONS[old]:
        return new
    raise IllegalTransition("task", old, new)
