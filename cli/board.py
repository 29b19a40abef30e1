"""The running tasks of a project, kept up to date by its stream: what `watch` shows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from domain.events import Event, EventType, changes
from domain.lifecycle import TERMINAL, TaskStatus

RUNNING: Final = (TaskStatus.IN_PROGRESS, TaskStatus.DELEGATED, TaskStatus.QUEUED)
# What has ended is shown a while longer, so that an eye can see how.
LINGER: Final = timedelta(seconds=10)


@dataclass(slots=True)
class Row:
    """A task, as far as it is watched."""

    id: str
    name: str
    status: str
    step: str | None
    step_started_at: datetime | None
    node_id: str | None
    attempt: int
    paused: bool
    last_seq: int
    workspace_id: str | None = None
    progress: Mapping[str, Any] | None = None
    ended_at: datetime | None = None

    @property
    def running(self) -> bool:
        """Whether it is to be shown as one that runs."""
        return self.status in RUNNING

    def facts(self) -> dict[str, Any]:
        """Return what is told of it, as JSON values: two that are equal look the same."""
        return {
            "id": self.id,
            "name": self.name,
            "status": self.status,
            "step": self.step,
            "step_started_at": self.step_started_at.isoformat() if self.step_started_at else None,
            "node_id": self.node_id,
            "attempt": self.attempt,
            "paused": self.paused,
            "progress": self.progress,
        }


class Board:
    """Rows by the task's id. An event is applied once, by its `seq`; it comes after the list or is in it."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.known = False  # whether what ran at the beginning has been looked up

    def put(self, task: Mapping[str, Any]) -> Row:
        """Take in a task as the API represents it."""
        started = task["step_started_at"]
        row = Row(
            id=task["id"],
            name=task["name"],
            status=task["status"],
            step=task["step"],
            step_started_at=datetime.fromisoformat(started) if started else None,
            node_id=task["node_id"],
            attempt=task["attempt"],
            paused=task["paused"],
            last_seq=task["last_seq"],
            workspace_id=task["workspace_id"],
        )
        self.rows[row.id] = row
        return row

    def progress(self, workspaces: Iterable[Mapping[str, Any]]) -> None:
        """Take in what workspaces have said last of their progress."""
        known = {workspace["id"]: workspace["progress"] for workspace in workspaces}
        for row in self.rows.values():
            row.progress = known.get(row.workspace_id) or row.progress

    def apply(self, envelope: Mapping[str, Any]) -> Row | None:
        """Apply an event and return its row; None where it is of a task that is not on the board.

        A type that this version does not know changes nothing that it could show.
        """
        row = self.rows.get(envelope["task_id"])
        if row is None and envelope["type"] == EventType.TASK_CREATED:
            row = self._created(envelope)
        if row is None or envelope["seq"] <= row.last_seq:
            return row
        row.last_seq = envelope["seq"]
        try:
            event = Event.model_validate(envelope)
        except ValidationError:
            return row
        for name, value in changes(event).items():
            if name in Row.__slots__:
                setattr(row, name, value)
        if event.type is EventType.AGENT_PROGRESS:
            row.progress = event.data
        elif event.type is EventType.STEP_STARTED or row.status in TERMINAL:
            row.progress = None
        row.ended_at = (row.ended_at or datetime.now(UTC)) if row.status in TERMINAL else None
        return row

    def _created(self, envelope: Mapping[str, Any]) -> Row:
        row = Row(
            id=envelope["task_id"],
            name=str(envelope["data"].get("name", "")),
            status=TaskStatus.READY,
            step=None,
            step_started_at=None,
            node_id=None,
            attempt=envelope["attempt"],
            paused=False,
            last_seq=0,
        )
        self.rows[row.id] = row
        return row

    def shown(self, *, now: datetime) -> list[Row]:
        """Return what runs, what is longest in its step first, and below it what has just ended; forget the rest."""
        long_ago = now - LINGER
        over = [row.id for row in self.rows.values() if row.status in TERMINAL and (row.ended_at or now) <= long_ago]
        for task in over:
            del self.rows[task]
        never = datetime.max.replace(tzinfo=UTC)
        found = [row for row in self.rows.values() if row.running or row.ended_at]
        order = {status: place for place, status in enumerate((*RUNNING, *TERMINAL))}
        return sorted(found, key=lambda row: (order[TaskStatus(row.status)], row.step_started_at or never, row.id))
