"""Hooks: what an operator's own code is told of a task's log, and at which moments."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from domain.events import STATUS_OF_EVENT, EventType


class Moment(StrEnum):
    """The methods that a hook may have; it is called at those that it has."""

    BEFORE_STEP = "before_step"
    AFTER_STEP = "after_step"
    ON_PAUSE = "on_pause"
    ON_TERMINAL = "on_terminal"


MOMENT_OF_EVENT: Final[Mapping[str, Moment]] = {
    EventType.STEP_STARTED: Moment.BEFORE_STEP,
    EventType.STEP_FINISHED: Moment.AFTER_STEP,
    EventType.STEP_SKIPPED: Moment.AFTER_STEP,
    EventType.STEP_FAILED: Moment.AFTER_STEP,
    EventType.TASK_PAUSED: Moment.ON_PAUSE,
    **{event: Moment.ON_TERMINAL for event, status in STATUS_OF_EVENT.items() if status.terminal},
}


class Fact(NamedTuple):
    """What a hook sees: ids, numbers and words of ours, never what a task was given or has printed. It cannot change.

    `outcome` is a step's (`done`, `skipped`, `failed`, …) or the task's; `duration` that of the visit or the attempt,
    where the log knows it; `error` the code of the error.
    """

    task_id: str
    project: str
    run_id: str | None
    attempt: int
    seq: int
    ts: datetime
    type: str
    step: str | None = None
    visit: int | None = None
    outcome: str | None = None
    duration: timedelta | None = None
    error: str | None = None
