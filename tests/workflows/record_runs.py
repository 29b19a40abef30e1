"""Record the golden histories of runs' orchestrators: a part of `make golden`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest
from temporalio.testing import WorkflowEnvironment

from domain.names import run_workflow_id
from domain.policy import Limits, Policy
from store.models import RunIntentKind
from tests.workflows.chain import chain
from tests.workflows.record import keep
from tests.workflows.run_stage import RunningRun, RunStage, run_stage_on
from tests.workflows.test_runs_last import steer

Way = Callable[[RunStage], Awaitable[RunningRun]]
# So long that one of them continues as new, and the others do not.
LENGTH: Final = 80


async def run_eager(stage: RunStage) -> RunningRun:
    """What completes, what fails and is mended, what is skipped; a condition; a fan-out over a result's list."""
    stage.exits = {"bad": 3}
    stage.results = {"list": {"files": ["x", "y"], "size": 2}}
    when = {"from": "list", "to": "big", "when": {"pointer": "/size", "op": "gt", "value": 9}}
    members: dict[str, dict[str, Any]] = {name: {} for name in ("list", "bad", "never", "mend", "big", "sum")}
    members["each"] = {"fan_out": {"items_from": "list#/files", "max_parallel": 1}}
    return await stage.create(members, "bad>never bad>mend:failed each>sum", more_edges=[when])


async def run_fail_fast(stage: RunStage) -> RunningRun:
    """An open task is asked to cancel itself."""
    stage.exits, stage.held = {"a": 1}, {"slow": asyncio.Event()}
    return await stage.create({"a": {}, "slow": {}, "later": {}}, "slow>later", on_failure="fail_fast")


async def run_cancelled(stage: RunStage) -> RunningRun:
    """Somebody cancels it while a task runs."""
    stage.held = {"a": asyncio.Event()}
    run = await stage.create({"a": {}, "b": {}}, "a>b")
    await run.until("EXISTS (SELECT FROM tasks t WHERE t.run_id = r.id AND t.status = 'in_progress')")
    await steer(run, RunIntentKind.CANCEL, "cancel_requested_at = clock_timestamp()")
    return run


async def run_supersteps(stage: RunStage) -> RunningRun:
    """State, reducers, a command in a result; a hold after the first step, a command from outside, and on again."""
    task = {"command": ["true"], "node_labels": {"node": stage.node.id}}
    grown = {"append": {"members": [{"name": "grown", "task": task}]}}
    stage.results = {"a": {"state": {"total": 1}, "commands": grown}, "b": {"state": {"total": 2}}}
    run = await stage.create(
        {"a": {}, "b": {}, "old": {}},
        "a>b b>old",
        mode="superstep",
        state={"total": 0},
        reducers={"total": "sum"},
        breakpoints={"after": ["a"]},
    )
    await run.until("paused")
    await run.command({"append": {"members": [{"name": "told", "task": task}]}, "skip": ["old"]})
    await run.until("NOT EXISTS (SELECT FROM run_intents i WHERE i.run_id = r.id)")
    await steer(run, RunIntentKind.STEER, "pause_token = NULL, paused = false")
    return run


async def run_continued(stage: RunStage) -> RunningRun:
    """Several runs of one orchestrator."""
    return await stage.create({"many": {"fan_out": {"count": 40, "max_parallel": 10}}, "sum": {}}, "many>sum")


PATHS: Final[dict[str, Way]] = {
    path.__name__: path for path in (run_eager, run_fail_fast, run_cancelled, run_supersteps, run_continued)
}


@pytest.fixture
async def stage(temporal: WorkflowEnvironment, database_url: str) -> AsyncIterator[RunStage]:
    """Give a control plane with a node."""
    policy = Policy(limits=Limits(history_events=LENGTH))
    async with run_stage_on(temporal, database_url, policy=policy) as stage:
        yield stage


@pytest.mark.parametrize("name", PATHS)
async def test_record(stage: RunStage, name: str) -> None:
    """Written: the history of this path, as it is today; one file for each run of the orchestrator."""
    run = await PATHS[name](stage)
    await run.end()
    keep(name, await chain(stage.stage.environment.client, run_workflow_id(run.run)))
