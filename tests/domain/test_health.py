"""The health report's rules: numbers in, a level with its reasons out."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from domain.health import SETTING, HealthReport, Level, NodeNumbers, SystemNumbers, TaskNumbers, judge
from domain.lifecycle import NodeStatus, TaskStatus
from domain.names import NodeId, ProjectId
from domain.reconcile import Action
from domain.thresholds import Thresholds
from settings import PREFIX

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODE = NodeNumbers(id=NodeId("n1"), status=NodeStatus.READY, slots=4, used=1, polled_seconds_ago=10.0)
ALL_WELL = {"control_polled_seconds_ago": 10.0, "sweep_age_seconds": 20.0, "nodes": [NODE], "reported_problems": 0}


def judged(tasks: dict[str, Any] | None = None, system: dict[str, Any] | None = None) -> HealthReport:
    """Judge these numbers by the default thresholds; all others are well."""
    return judge(
        at=NOW,
        project=None,
        thresholds=Thresholds(),
        temporal=True,
        tasks=TaskNumbers.model_validate(tasks or {}),
        system=SystemNumbers.model_validate(ALL_WELL | (system or {})),
    )


def silent(name: str, **changes: Any) -> NodeNumbers:
    """Give a node that nobody has heard of for three minutes."""
    return NODE.model_copy(update={"id": NodeId(name), "polled_seconds_ago": 180.0} | changes)


def test_nothing_to_complain_of_is_healthy() -> None:
    """HEALTHY, without a reason."""
    report = judged({"ended": {TaskStatus.COMPLETED: 9, TaskStatus.FAILED: 1}, "tries": 11})
    assert (report.level, report.reasons) == (Level.HEALTHY, [])
    assert (report.success_rate, report.average_tries) == (0.9, 1.1)


@pytest.mark.parametrize(
    ("code", "level", "tasks", "system"),
    [
        ("stuck", Level.WARNING, {"stuck": 1}, {}),
        ("stuck", Level.CRITICAL, {"stuck": 21}, {}),
        ("failed", Level.WARNING, {"ended": {TaskStatus.COMPLETED: 8, TaskStatus.FAILED: 2}}, {}),
        ("failed", Level.CRITICAL, {"ended": {TaskStatus.COMPLETED: 4, TaskStatus.FAILED: 6}}, {}),
        ("tries", Level.WARNING, {"ended": {TaskStatus.COMPLETED: 10}, "tries": 16}, {}),
        ("exhausted", Level.WARNING, {"exhausted": 1}, {}),
        ("mirror_lag", Level.WARNING, {"mirror_lag_seconds": 2.5}, {}),
        ("mirror_lag", Level.CRITICAL, {"mirror_lag_seconds": 31}, {}),
        ("outbox_age", Level.WARNING, {}, {"outbox_age_seconds": 11}),
        ("outbox_age", Level.WARNING, {}, {"callbacks_age_seconds": 11}),
        ("outbox_age", Level.CRITICAL, {}, {"outbox_age_seconds": 121}),
        ("repairs", Level.WARNING, {}, {"sweeps": {Action.ENDED: 4, Action.STARTED_AGAIN: 2}}),
        ("repairs", Level.CRITICAL, {}, {"sweeps": {Action.ENDED: 101}}),
        ("reaped", Level.WARNING, {}, {"sweeps": {Action.CLEANED_UP: 21}}),
        ("sweep_age", Level.WARNING, {}, {"sweep_age_seconds": 121}),
        ("sweep_age", Level.CRITICAL, {}, {"sweep_age_seconds": 601}),
        ("problems", Level.WARNING, {}, {"reported_problems": 1}),
        ("problems", Level.CRITICAL, {}, {"reported_problems": 11}),
        ("no_control_worker", Level.CRITICAL, {}, {"control_polled_seconds_ago": None}),
        ("no_control_worker", Level.CRITICAL, {}, {"control_polled_seconds_ago": 121}),
        ("silent_nodes", Level.WARNING, {}, {"nodes": [NODE, silent("n2")]}),
        ("no_node", Level.CRITICAL, {}, {"nodes": [silent("n1"), silent("n2", polled_seconds_ago=None)]}),
        ("lost_nodes", Level.WARNING, {}, {"nodes": [NODE, silent("n2", status=NodeStatus.LOST)]}),
    ],
)
def test_a_number_above_its_threshold_is_the_one_reason(
    code: str, level: Level, tasks: dict[str, Any], system: dict[str, Any]
) -> None:
    """Each rule by itself: its code, the level that the threshold stands for, and a sentence."""
    report = judged(tasks, system)
    assert [(cause.code, cause.level) for cause in report.reasons] == [(code, level)]
    assert report.level is level
    assert report.reasons[0].text.endswith(".")


@pytest.mark.parametrize(
    "tasks",
    [
        {"ended": {TaskStatus.COMPLETED: 4, TaskStatus.FAILED: 5}, "tries": 30},  # fewer than tell anything
        {"ended": {TaskStatus.COMPLETED: 9, TaskStatus.FAILED: 1, TaskStatus.CANCELLED: 50}, "tries": 60},
        {"mirror_lag_seconds": 2.0},  # at the threshold, not above
    ],
)
def test_what_is_not_above_its_threshold_is_no_reason(tasks: dict[str, Any]) -> None:
    """HEALTHY: few ends say nothing, cancels count for nobody, and the threshold itself is still well."""
    assert judged(tasks).level is Level.HEALTHY


def test_a_reason_names_number_threshold_and_setting() -> None:
    """A person can act on the sentence, and a program on the fields; the setting is one that exists."""
    (cause,) = judged(system={"outbox_age_seconds": 11.04}).reasons
    assert cause.text == (
        "The oldest intent or callback has been due for 11 s and is not sent; more than 10 s is a warning."
    )
    assert (cause.value, cause.threshold) == (11.04, 10.0)
    assert cause.setting == "TASKRUNNER_HEALTH__OUTBOX_AGE_WARNING"
    assert f"{PREFIX}HEALTH__" == SETTING


def test_every_threshold_is_used() -> None:
    """A threshold that is lowered to nothing makes a reason of its own: no setting is without effect."""
    every = {
        "tasks": {
            "stuck": 1,
            "ended": {TaskStatus.COMPLETED: 1, TaskStatus.FAILED: 1},
            "tries": 3,
            "exhausted": 1,
            "mirror_lag_seconds": 1,
        },
        "system": {
            "outbox_age_seconds": 1,
            "sweeps": {Action.ENDED: 1, Action.CLEANED_UP: 1},
            "sweep_age_seconds": 1,
            "reported_problems": 1,
            "nodes": [silent("n1", status=NodeStatus.LOST)],
            "control_polled_seconds_ago": 1,
        },
    }
    other = {"window", "quiet", "ended_at_least"}  # what is counted, not how it is judged
    for word in ("warning", "critical"):
        names = {name for name in Thresholds.model_fields if name.endswith(word)}
        kinds = {name: Thresholds.model_fields[name].annotation for name in names}
        lowest = {name: 0.5 if kind is timedelta else int(name.startswith("tries")) for name, kind in kinds.items()}
        report = judge(
            at=NOW,
            project=None,
            thresholds=Thresholds.model_validate(lowest | {"ended_at_least": 1}),
            temporal=True,
            tasks=TaskNumbers.model_validate(every["tasks"]),
            system=SystemNumbers.model_validate(every["system"]),
        )
        assert {cause.setting for cause in report.reasons} >= {f"{SETTING}{name.upper()}" for name in names}
        other |= names
    assert other == set(Thresholds.model_fields)


def test_the_worst_reason_decides_and_comes_first() -> None:
    """CRITICAL, though there are more warnings."""
    report = judged({"stuck": 1, "exhausted": 1}, {"reported_problems": 11})
    assert report.level is Level.CRITICAL
    assert [cause.code for cause in report.reasons] == ["problems", "stuck", "exhausted"]


def test_servers_that_do_not_answer_are_critical() -> None:
    """Both are told, nothing is judged that nobody could count, and silence of workers is not told as well."""
    away = judge(at=NOW, project=None, thresholds=Thresholds(), temporal=False, tasks=None, system=None)
    assert [cause.code for cause in away.reasons] == ["database_unreachable", "temporal_unreachable"]
    assert (away.level, away.database, away.temporal) == (Level.CRITICAL, False, False)
    system = SystemNumbers.model_validate(ALL_WELL | {"control_polled_seconds_ago": None})
    blind = judge(at=NOW, project=None, thresholds=Thresholds(), temporal=False, tasks=TaskNumbers(), system=system)
    assert [cause.code for cause in blind.reasons] == ["temporal_unreachable"]


def test_a_projects_report_judges_its_own_tasks_only() -> None:
    """Without the system's numbers nothing of the system is a reason."""
    own = judge(
        at=NOW, project=ProjectId("p"), thresholds=Thresholds(), temporal=True, tasks=TaskNumbers(), system=None
    )
    assert (own.level, own.project, own.system) == (Level.HEALTHY, "p", None)


def test_nodes_that_are_not_in_service_are_not_missed() -> None:
    """A node that is coming up or gone polls nothing, and need not."""
    nodes = [silent(status, status=status) for status in (NodeStatus.PROVISIONING, NodeStatus.GONE)]
    assert judged(system={"nodes": [NODE, *nodes]}).level is Level.HEALTHY


def test_the_window_is_told() -> None:
    """Whoever reads the counts knows over how long."""
    assert judged().window_seconds == timedelta(hours=1).total_seconds()
