"""The clock of one process is an hour off: leases and deadlines are the database's, and nobody notices."""

import ast
import json
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from domain.names import CONTROL_QUEUE, RECONCILE
from domain.reconcile import Action, Report, SweepOrder
from tests.faults.caller import Caller, noting
from tests.faults.checker import check
from tests.faults.points import trees
from tests.faults.quiet import settled
from tests.faults.scenes import cancelled, crowd, external, local, play, retried
from tests.faults.stack import FaultStack, running
from tests.faults.sweep_scenes import terminated
from tests.faults.sweeps import Scene

LIBRARY: Final = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
OFF: Final = {"an hour ahead": "+3600", "an hour behind": "-3600"}
PROCESSES: Final = ("control-0", "n0", "api-0")
MINUTES: Final = 300
SCENES: Final[tuple[Scene, ...]] = (local, external, crowd, cancelled, retried, terminated)
# Who asks the clock of its own process, and why nothing is compared with another's.
OWN_CLOCK: Final = {
    "activities/post.py": "how long a receiver wants to be left alone, which says so as a date of its own clock",
    "activities/postman.py": "the date of a signature, which a receiver compares with its own clock",
    "api/deps.py": "when a task was created or commanded, as its caller was told; tokens live for days",
    "api/health.py": "when the report was made, if the database does not answer",
    "workspaces/hosted.py": "the age of files that the same machine wrote",
}


def asks_the_time(call: ast.Call) -> bool:
    """Whether this is `datetime.now(…)` or `time.time()`."""
    return ast.unparse(call.func) in ("datetime.now", "datetime.utcnow", "time.time")


def test_who_reads_the_clock_of_its_process() -> None:
    """These, each for its reason, and what a person's screen shows; what is due or late goes by the database's time."""
    found = {
        file
        for file, tree in trees()
        for node in ast.walk(tree)
        if not file.startswith("cli/") and isinstance(node, ast.Call) and asks_the_time(node)
    }
    assert found == set(OWN_CLOCK)


@pytest.fixture(scope="module", params=[(each, off) for each in PROCESSES for off in OFF], ids="-".join)
async def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FaultStack]:
    """Give a stack of one each, of which one has another time."""
    if LIBRARY is None:
        pytest.skip("libfaketime is not installed")
    process, off = request.param
    wrong = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": OFF[off], "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    async with running(tmp_path_factory.mktemp("clocks"), more={process: wrong}) as stack:
        yield stack


@pytest.mark.campaign
async def test_an_hour_changes_nothing(stack: FaultStack) -> None:
    """Each scene ends as ever, no cancel is forced, nothing is called late, and the nine invariants hold."""
    caller = Caller(stack.http)
    for scene in SCENES:
        await play(scene, stack, caller)
    task = await caller.create(**noting(stack.effects, "sleep 3"))
    row = await caller.reaches(task, step="running")
    stack.nodes[row["node_id"]].send(signal.SIGKILL)
    waits = await caller.create(command=["true"], provider="external", retry={"max_attempts": 1})
    await caller.reaches(waits, step="workspace_dispatch")
    report: Report = await stack.client.execute_workflow(
        RECONCILE,
        SweepOrder(),
        id="sweep-by-another-clock",
        task_queue=CONTROL_QUEUE,
        result_type=Report,
        execution_timeout=timedelta(minutes=1),
    )
    assert not set(report.counts) & {Action.FLAGGED_OVERDUE, Action.ENDED, Action.STARTED_AGAIN}
    health = (await caller.send("GET", "/v1/health/report")).json()
    assert health["tasks"]["stuck"] == 0, json.dumps(health)
    assert health["system"]["control_polled_seconds_ago"] < MINUTES, json.dumps(health)
    assert (await caller.ends(task))["attempt"] == 1
    await caller.cancel(waits)
    assert (await caller.ends(waits))["error"]["code"] == "cancelled"
    snapshot = await settled(stack, caller.witness)
    assert {name: found for name, found in check(snapshot).items() if found} == {}
