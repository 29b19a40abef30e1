"""Hooks: a package with several of them, really installed, watches real tasks."""

import importlib
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType

import pytest
from structlog.testing import capture_logs

from activities import hooks
from activities.dispatch import Dispatcher
from activities.force import force
from activities.hooks import MOST_HANGING, MOST_WAITING, Hook
from activities.mirror import Mirror
from domain.events import EventType
from domain.hooks import MOMENT_OF_EVENT, Fact, Moment
from domain.messages import Verdict
from domain.names import SignalName
from tests.store.rows import batch, create_task, event
from tests.workflows import observers, steering
from tests.workflows.stage import Stage

LIMIT = timedelta(seconds=0.05)


@pytest.fixture(scope="module")
def observing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Give the module of the package while it is installed."""
    folder = observers.installed(tmp_path_factory.mktemp("observers"))
    sys.path.insert(0, str(folder))
    module = importlib.import_module("observers")
    yield module
    module.let_go.set()
    sys.path.remove(str(folder))


@pytest.fixture
async def watched(stage: Stage, observing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Give the stage with the hooks that are installed."""
    observing.seen.clear()
    observing.hung.clear()
    found = hooks.installed(stage.database, limit=LIMIT)
    assert found is not None
    monkeypatch.setattr(stage.dispatcher, "_hooks", found)
    return stage


async def told(stage: Stage) -> None:
    """Wait until the hooks were told all."""
    assert stage.dispatcher._hooks is not None
    await stage.dispatcher._hooks.close()


async def test_hooks_are_told_each_fact_once_and_change_nothing(watched: Stage, observing: ModuleType) -> None:
    """One raises, one hangs, one meddles: the task completes, and each moment of its log was told once, in order.

    The worker caches no workflow, so every workflow task replays the whole history.
    """
    with capture_logs() as logs:
        task = await watched.start(provider="external")
        await task.until("workspace_dispatch")
        await task.signal(SignalName.WORKSPACE_CLAIMED)
        await task.until("workspace_ready")
        await task.signal(SignalName.WORKSPACE_READY)
        await task.until("running", status="in_progress")
        await task.signal(SignalName.WORKSPACE_FINISHED, exit_code=0, result={"printed": "a secret"})
        row = await task.end()
        await told(watched)
    log = [e for e in await task.events() if e.type in MOMENT_OF_EVENT]
    assert row["status"] == "completed"
    assert [(moment, fact.seq) for moment, fact in observing.seen] == [(MOMENT_OF_EVENT[e.type], e.seq) for e in log]
    assert "a secret" not in str(observing.seen)
    assert len(observing.tried) == 2  # neither way to change a fact is one
    failed = {(line["hook"], line["moment"]) for line in logs if line["event"] == "hook.failed"}
    assert failed == {("raises", "before_step"), ("raises", "on_terminal")}
    assert len(observing.hung) == MOST_HANGING
    assert {line["hook"] for line in logs if line["event"] == "hook.timed_out"} == {"hangs"}
    assert {line["hook"] for line in logs if line["event"] == "hook.dropped"} == {"hangs"}


async def test_a_fact_says_which_visit_how_it_went_and_how_long(watched: Stage, observing: ModuleType) -> None:
    """A step that waited has its visit, outcome and duration; the end has the task's."""
    task = await watched.start(provider="external")
    await task.until("workspace_dispatch")
    await task.signal(SignalName.WORKSPACE_CLAIMED)
    await task.until("workspace_ready")
    await task.signal(SignalName.WORKSPACE_FAILED, error={"code": "broken", "message": "no disk"})
    await task.end()
    await told(watched)
    facts = {(moment, fact.step): fact for moment, fact in observing.seen if fact.task_id == task.task}
    began, ended = facts["before_step", "workspace_dispatch"], facts["after_step", "workspace_dispatch"]
    assert (began.visit, began.outcome, began.duration) == (1, None, None)
    assert (ended.visit, ended.outcome, ended.duration) == (1, "done", ended.ts - began.ts)
    skipped = next(fact for (moment, _), fact in facts.items() if fact.type == "step.skipped")
    assert (skipped.visit, skipped.outcome, skipped.duration) == (1, "skipped", None)
    (end,) = (fact for (moment, _), fact in facts.items() if moment == "on_terminal")
    assert (end.type, end.outcome, end.error, end.project) == ("task.failed", "failed", "broken", "default")
    assert end.duration is not None
    assert end.duration > timedelta(0)


async def test_a_pause_is_told(watched: Stage, observing: ModuleType) -> None:
    """Once, with the step that it holds in."""
    task = await watched.start(provider="external")
    await task.until("workspace_dispatch")
    await steering.pause(task)
    await task.signal(SignalName.WORKSPACE_CLAIMED)
    await steering.resume(task)
    await task.until("workspace_ready")
    await task.signal(SignalName.WORKSPACE_FAILED, error={"code": "broken", "message": "no disk"})
    await task.end()
    await told(watched)
    held = [e for e in await task.events() if e.type is EventType.TASK_PAUSED]
    facts = [fact for moment, fact in observing.seen if moment == "on_pause" and fact.task_id == task.task]
    assert [(fact.seq, fact.step) for fact in facts] == [(e.seq, e.step) for e in held]
    assert len(facts) == 1


async def test_hooks_that_cannot_be_loaded_are_left_out(stage: Stage, observing: ModuleType) -> None:
    """One raises when it is made, one does not exist: both are logged, the others are there."""
    del observing
    with capture_logs() as logs:
        assert hooks.installed(stage.database) is not None
    assert {line["hook"] for line in logs if line["event"] == "hook.not_loaded"} == {"broken", "missing"}
    assert {line["hook"] for line in logs if line["event"] == "hook.loaded"} == {"notes", "raises", "hangs", "meddles"}


async def test_a_repeated_flush_tells_nothing(watched: Stage, observing: ModuleType) -> None:
    """The same flush again, and a redo that brings the same event with a new one: the old one is told once."""
    database = watched.database
    dispatcher = Dispatcher(
        name="hooks", database=database, gateway=watched.gateway, policy=watched.policy, hooks=watched.dispatcher._hooks
    )
    mirror, task = Mirror(database, dispatcher), await create_task(database)
    first = event(EventType.TASK_PAUSED, breakpoint="before", token="t")
    verdicts = [(await mirror.flush(batch(task, 1, first))).verdict for _ in range(2)]
    second = event(EventType.TASK_CANCELLED)
    await mirror.flush(batch(task, 2, first, second))
    await dispatcher.close()
    assert verdicts == [Verdict.APPLIED, Verdict.REPEAT]
    assert [moment for moment, fact in observing.seen if fact.task_id == task] == ["on_pause", "on_terminal"]


async def test_a_forced_end_is_told(watched: Stage, observing: ModuleType) -> None:
    """An end that the worker writes in the place of a workflow is a terminal moment too."""
    task = await create_task(watched.database)
    await force(watched.database, watched.gateway, watched.policy, task, 1, grown=watched.dispatcher.grown)
    await told(watched)
    assert [(moment, fact.outcome) for moment, fact in observing.seen if fact.task_id == task] == [
        ("on_terminal", "cancelled")
    ]


def test_without_hooks_there_is_nobody_to_tell(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, so that a write costs what it did."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "observers" not in path])
    assert hooks.installed(stage.database) is None


def test_what_a_slow_hook_cannot_take_is_dropped() -> None:
    """A thousand facts wait for a hook that hangs, and no more."""
    release = threading.Event()

    class Slow:
        def before_step(self, fact: Fact) -> None:
            del fact
            release.wait()

    hook = Hook("slow", Slow(), limit=timedelta(minutes=1))
    fact = Fact("t", "default", None, 1, 1, datetime.now(UTC), "step.started")
    with capture_logs() as logs:
        for number in range(MOST_WAITING + 10):
            hook.tell(Moment.BEFORE_STEP, fact._replace(seq=number))
    release.set()
    assert len([line for line in logs if line["event"] == "hook.dropped"]) in {9, 10}
