"""Golden histories of every path: today's workflow must be able to go on with what yesterday's began."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from tests.workflows import record_runs
from tests.workflows.record import HISTORIES, PATHS, SCRUBBED
from worker import SANDBOX
from workflows.run_orchestrator import RunOrchestrator
from workflows.task_runner import TaskRunner

GOLDEN = sorted(path.stem for path in HISTORIES.glob("*.json"))


def history(name: str) -> dict[str, Any]:
    """Return a recorded history."""
    found: dict[str, Any] = json.loads((HISTORIES / f"{name}.json").read_text())
    return found


async def replayed(history: WorkflowHistory) -> None:
    """Replay as the worker would."""
    replayer = Replayer(
        workflows=[TaskRunner, RunOrchestrator], workflow_runner=SANDBOX, data_converter=pydantic_data_converter
    )
    await replayer.replay_workflow(history)


async def replay(recorded: dict[str, Any]) -> None:
    """Replay what is recorded."""
    await replayed(WorkflowHistory.from_json("golden", recorded))


def test_every_path_is_recorded() -> None:
    """The files are those that `make golden` writes, small and with nothing of the machine that wrote them."""
    assert {name.partition("-")[0] for name in GOLDEN} == {*PATHS, *record_runs.PATHS}
    assert {"continued-2", "run_continued-2"} <= set(GOLDEN)
    told = "".join((HISTORIES / f"{name}.json").read_text() for name in GOLDEN)
    assert len(told) < 1_000_000
    assert not [key for key, value in SCRUBBED.items() if f'"{key}":"' in told and f'"{key}":"{value}"' not in told]


@pytest.mark.parametrize("name", GOLDEN)
async def test_a_recorded_history_replays(name: str) -> None:
    """No workflow task fails."""
    await replay(history(name))


def another_activity(events: list[dict[str, Any]]) -> None:
    """Let the node have been asked for something else."""
    scheduled = next(event for event in events if "activityTaskScheduledEventAttributes" in event)
    scheduled["activityTaskScheduledEventAttributes"]["activityType"]["name"] = "another"


def one_write_less(events: list[dict[str, Any]]) -> None:
    """Let the first write of the mirror never have been."""
    marker = next(event for event in events if "markerRecordedEventAttributes" in event)
    marker["markerRecordedEventAttributes"]["markerName"] = "Version"


@pytest.mark.parametrize(
    ("name", "change"),
    [("completed_local", another_activity), ("completed_local", one_write_less), ("run_eager", one_write_less)],
)
async def test_a_history_of_another_workflow_does_not(
    name: str, change: Callable[[list[dict[str, Any]]], None]
) -> None:
    """Refused: the gate is shut to a change that running tasks could not follow."""
    recorded = history(name)
    change(recorded["events"])
    with pytest.raises(NondeterminismError):
        await replay(recorded)
