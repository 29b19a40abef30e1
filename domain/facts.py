"""The facts by which a task is explained and reconciled: what its row says, and what is stored beside it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from domain.lifecycle import Step, TaskStatus
from domain.names import NodeId, TaskId
from domain.policy import Budgets
from domain.spec import Retry


@dataclass(frozen=True, slots=True, kw_only=True)
class StartIntent:
    """The start of the current attempt that is still in the outbox."""

    due_at: datetime
    tries: int = 0
    last_error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a row says, and what is stored beside it. `budgets` are the task's own, over those of the settings.

    `read_at` is the database's time: by it the row is judged, whatever the clock of the process says that judges.
    """

    task_id: TaskId
    status: TaskStatus
    attempt: int
    changed_at: datetime
    read_at: datetime
    step: Step | None = None
    step_started_at: datetime | None = None
    # How long earlier visits of `running` took, and when the command was last heard: for `running` only.
    ran: timedelta = timedelta(0)
    active_at: datetime | None = None
    version: int = 0
    cancel_requested_at: datetime | None = None
    force_due_at: datetime | None = None
    paused: bool = False
    pause_reason: str | None = None
    paused_at: datetime | None = None
    paused_until: datetime | None = None
    # How long the current visit of the step was held, in holds that are over.
    paused_for: timedelta = timedelta(0)
    node_id: NodeId | None = None
    external: bool = False
    attachments: int = 0
    followup: bool = False
    budgets: Budgets = field(default_factory=Budgets)
    retry: Retry = field(default_factory=Retry)
    start: StartIntent | None = None
    queue_position: int | None = None
    # What it asks a node for, where no node that takes tasks has all of it.
    unserved: tuple[str, ...] = ()

    @property
    def since(self) -> datetime:
        """When the step began, or the row last changed where there is none."""
        return self.step_started_at or self.changed_at
