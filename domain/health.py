"""The health of the whole: numbers in, a level with its reasons out. Pure; `store.health` counts, this judges."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Generic, TypeVar

from pydantic import BaseModel, Field

from domain.errors import Category
from domain.lifecycle import NodeStatus, TaskStatus
from domain.names import NodeId, ProjectId, TaskId
from domain.reconcile import Action
from domain.thresholds import Thresholds

Numbers = TypeVar("Numbers")

SETTING: Final = "TASKRUNNER_HEALTH__"


class Level(StrEnum):
    """How it is; the worst reason decides."""

    HEALTHY = "HEALTHY"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"


class TaskNumbers(BaseModel):
    """Tasks of one project, or of all: those that are there, and those that ended within the window."""

    open: dict[TaskStatus, int] = Field(default_factory=dict, description="Tasks that have not ended, by status.")
    ended: dict[TaskStatus, int] = Field(default_factory=dict, description="Tasks that ended in the window, by status.")
    tries: int = Field(default=0, description="Attempts of those that ended.")
    exhausted: int = Field(default=0, description="Of those that ended: failed because no try was left.")
    retries: dict[Category, int] = Field(
        default_factory=dict, description="Failed attempts in the window that another one followed, by cause."
    )
    stuck: int = Field(default=0, description="Past their budget, and without progress for a while.")
    stuck_tasks: list[TaskId] = Field(default_factory=list, description="The first of them.")
    mirror_lag_seconds: float | None = Field(
        default=None, description="From what happened in a workflow to its row, of the latest writes: 95 % were faster."
    )

    @property
    def success_rate(self) -> float | None:
        """Completed among completed and failed; what was cancelled says nothing of it."""
        completed, failed = (self.ended.get(status, 0) for status in (TaskStatus.COMPLETED, TaskStatus.FAILED))
        return completed / (completed + failed) if completed + failed else None

    @property
    def average_tries(self) -> float | None:
        """Attempts per task that ended."""
        ended = sum(self.ended.values())
        return self.tries / ended if ended else None


class NodeNumbers(BaseModel):
    """A node, and when its worker last asked Temporal for work; None if Temporal knows of no such worker."""

    id: NodeId
    status: NodeStatus
    slots: int
    used: int
    polled_seconds_ago: float | None = None


class SystemNumbers(BaseModel):
    """What belongs to no project."""

    outbox_waiting: int = Field(default=0, description="Intents that are due and unsent.")
    outbox_age_seconds: float = Field(default=0.0, description="How long the oldest of them is due.")
    callbacks_waiting: int = Field(default=0, description="Callbacks whose signal was not acknowledged.")
    callbacks_age_seconds: float = Field(default=0.0, description="How long ago the oldest of them came.")
    sweep_age_seconds: float | None = Field(
        default=None, description="Since the reconciler's last sweep; no longer than the API has been there to see one."
    )
    sweeps: dict[Action, int] = Field(default_factory=dict, description="What its sweeps did in the window.")
    nodes: list[NodeNumbers] = Field(default_factory=list)
    control_polled_seconds_ago: float | None = Field(
        default=None, description="Since a control worker last asked Temporal for work."
    )
    reported_problems: int | None = Field(
        default=None, description="Running workflows that Temporal reports as unable to go on."
    )


class Cause(BaseModel):
    """Why it is not healthy: a sentence with the number and the threshold, and the setting of the latter."""

    code: str
    level: Level
    text: str
    value: float | None = None
    threshold: float | None = None
    setting: str | None = None


class HealthReport(BaseModel):
    """The level, its reasons, and the numbers that it was made from."""

    level: Level
    reasons: list[Cause]
    at: datetime
    window_seconds: float
    project: ProjectId | None = Field(description="Whose tasks are counted; null: those of all projects.")
    database: bool = Field(description="Whether it answers.")
    temporal: bool = Field(description="Whether it answers.")
    success_rate: float | None = Field(default=None, description="Completed among completed and failed.")
    average_tries: float | None = Field(default=None, description="Attempts per task that ended.")
    tasks: TaskNumbers | None = Field(default=None, description="Null while the database is away.")
    system: SystemNumbers | None = Field(default=None, description="For operators only.")


# What a sweep does about rows that disagree with their workflows, and about what nobody owns.
REPAIRS: Final = frozenset({Action.STARTED_AGAIN, Action.ENDED, Action.TERMINATED, Action.SLOTS_COUNTED})
REAPED: Final = frozenset({Action.CLEANED_UP, Action.WAITER_REMOVED, Action.ORPHAN_DESTROYED})
LIVE_NODES: Final = frozenset({NodeStatus.READY, NodeStatus.WARM, NodeStatus.DRAINING})


def judge(
    *,
    at: datetime,
    project: ProjectId | None,
    thresholds: Thresholds,
    temporal: bool,
    tasks: TaskNumbers | None,
    system: SystemNumbers | None,
) -> HealthReport:
    """Return the report; without `tasks` the database did not answer, without `system` it is a project's own."""
    causes = []
    if tasks is None:
        causes.append(_plain("database_unreachable", "The database does not answer: nothing can be accepted."))
    if not temporal:
        causes.append(_plain("temporal_unreachable", "Temporal does not answer: tasks are accepted, and none goes on."))
    if tasks is not None:
        causes += _judged(_OF_TASKS, tasks, thresholds)
    if system is not None:
        causes += _judged(_OF_SYSTEM, system, thresholds)
        causes += _liveness(system, thresholds) if temporal else []
    return HealthReport(
        level=max((cause.level for cause in causes), key=list(Level).index, default=Level.HEALTHY),
        reasons=sorted(causes, key=lambda cause: list(Level).index(cause.level), reverse=True),
        at=at,
        window_seconds=thresholds.window.total_seconds(),
        project=project,
        database=tasks is not None,
        temporal=temporal,
        success_rate=tasks.success_rate if tasks else None,
        average_tries=tasks.average_tries if tasks else None,
        tasks=tasks,
        system=system,
    )


def _plain(code: str, text: str) -> Cause:
    return Cause(code=code, level=Level.CRITICAL, text=text)


@dataclass(frozen=True, kw_only=True)
class _Rule(Generic[Numbers]):
    """A number with its thresholds by the names `{name}_warning` and `{name}_critical`, as far as there are such."""

    name: str
    number: Callable[[Numbers, Thresholds], float | None]
    says: str
    shown: Callable[[float], str] = lambda value: f"{value:g}"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"  # noqa: PLR2004 - a digit more for what is short


def _share(value: float) -> str:
    return f"{value:.0%}"


def _failed(tasks: TaskNumbers, thresholds: Thresholds) -> float | None:
    rate = tasks.success_rate
    enough = sum(tasks.ended.get(status, 0) for status in (TaskStatus.COMPLETED, TaskStatus.FAILED))
    return 1 - rate if rate is not None and enough >= thresholds.ended_at_least else None


def _tries(tasks: TaskNumbers, thresholds: Thresholds) -> float | None:
    return tasks.average_tries if sum(tasks.ended.values()) >= thresholds.ended_at_least else None


def _done(actions: frozenset[Action]) -> Callable[[SystemNumbers, Thresholds], float]:
    return lambda system, _: sum(count for action, count in system.sweeps.items() if action in actions)


_OF_TASKS: Final[tuple[_Rule[TaskNumbers], ...]] = (
    _Rule(
        name="stuck",
        number=lambda tasks, _: tasks.stuck,
        says="tasks past their budget that have not moved for a while: {}",
    ),
    _Rule(name="failed", number=_failed, says="of the tasks that ended {} failed", shown=_share),
    _Rule(name="tries", number=_tries, says="tries that a task needed on average: {}"),
    _Rule(
        name="exhausted", number=lambda tasks, _: tasks.exhausted, says="tasks that failed because no try was left: {}"
    ),
    _Rule(
        name="mirror_lag",
        number=lambda tasks, _: tasks.mirror_lag_seconds,
        says="writes reach the mirror {} after they happened (95 % are faster)",
        shown=_seconds,
    ),
)
_OF_SYSTEM: Final[tuple[_Rule[SystemNumbers], ...]] = (
    _Rule(
        name="outbox_age",
        number=lambda system, _: max(system.outbox_age_seconds, system.callbacks_age_seconds),
        says="the oldest intent or callback has been due for {} and is not sent",
        shown=_seconds,
    ),
    _Rule(name="repairs", number=_done(REPAIRS), says="rows that the reconciler mended: {}"),
    _Rule(name="reaped", number=_done(REAPED), says="resources without an owner that were released: {}"),
    _Rule(
        name="sweep_age",
        number=lambda system, _: system.sweep_age_seconds,
        says="the reconciler's last sweep was {} ago",
        shown=_seconds,
    ),
    _Rule(
        name="lost_nodes",
        number=lambda system, _: sum(node.status is NodeStatus.LOST for node in system.nodes),
        says="nodes that nobody hears any more: {}",
    ),
    _Rule(
        name="problems",
        number=lambda system, _: system.reported_problems,
        says="workflows that cannot go on, as Temporal reports: {}",
    ),
)
_LIMITS: Final[Mapping[str, tuple[Level, str]]] = {
    "critical": (Level.CRITICAL, "critical"),
    "warning": (Level.WARNING, "a warning"),
}


def _judged(rules: tuple[_Rule[Numbers], ...], numbers: Numbers, thresholds: Thresholds) -> list[Cause]:
    """Return a cause for each number above a threshold of its own, the worse one of two."""
    causes = []
    for rule in rules:
        value = rule.number(numbers, thresholds)
        for word, (level, judgement) in _LIMITS.items():
            limit = getattr(thresholds, f"{rule.name}_{word}", None)
            threshold = limit.total_seconds() if isinstance(limit, timedelta) else limit
            if value is None or threshold is None or value <= threshold:
                continue
            told = rule.says.format(rule.shown(value))
            text = f"{told[0].upper()}{told[1:]}; more than {rule.shown(threshold)} is {judgement}."
            setting = f"{SETTING}{rule.name.upper()}_{word.upper()}"
            causes.append(
                Cause(code=rule.name, level=level, text=text, value=value, threshold=threshold, setting=setting)
            )
            break
    return causes


def silent(polled_seconds_ago: float | None, limit: float) -> bool:
    """Return whether a worker has not polled for longer than this, or is not known at all."""
    return polled_seconds_ago is None or polled_seconds_ago > limit


def _liveness(system: SystemNumbers, thresholds: Thresholds) -> list[Cause]:
    """Judge who polls: without a control worker nothing goes on, without any node no command runs."""
    limit = thresholds.silence_warning.total_seconds()

    def cause(code: str, level: Level, text: str, value: float | None) -> Cause:
        told = f"{text}: no poll at Temporal for more than {_seconds(limit)}."
        setting = f"{SETTING}SILENCE_WARNING"
        return Cause(code=code, level=level, text=told, value=value, threshold=limit, setting=setting)

    causes = []
    if silent(system.control_polled_seconds_ago, limit):
        text = "No control worker is there, and no task goes on"
        causes.append(cause("no_control_worker", Level.CRITICAL, text, system.control_polled_seconds_ago))
    lost = any(node.status is NodeStatus.LOST for node in system.nodes)
    live = [node for node in system.nodes if node.status in LIVE_NODES]
    quiet = [node for node in live if silent(node.polled_seconds_ago, limit)]
    if (quiet or lost) and len(quiet) == len(live):
        text = "None of the nodes is there, and no command runs"
        causes.append(cause("no_node", Level.CRITICAL, text, len(quiet)))
    elif quiet:
        text = f"{len(quiet)} of {len(live)} nodes are silent ({', '.join(node.id for node in quiet[:5])})"
        causes.append(cause("silent_nodes", Level.WARNING, text, len(quiet)))
    return causes
