"""The race lab: a seeded load with random faults, then quiet, then the checker.

`python -m tests.faults.lab --seed N [--tasks 200] [--seconds 120]` adds its run to the report. `--drill` strikes what
all runs so far have struck too seldom, in rounds, until nothing lacks.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from pprint import pformat
from random import Random
from typing import Any, Final

from domain.names import RunId, run_workflow_id
from tests.faults import report
from tests.faults.caller import Caller
from tests.faults.checker import check
from tests.faults.drill import Drill
from tests.faults.load import EVERYDAY, OTHERS, of_scene, take_over
from tests.faults.points import points
from tests.faults.quiet import settled
from tests.faults.scenes import scene_of
from tests.faults.snapshot import Snapshot
from tests.faults.stack import FaultStack, running
from tests.faults.storm import Storm

# Of the time, so that the last tasks meet faults too.
CREATING: Final = 0.85
BUDGET: Final = 120.0
ROUNDS: Final = 40


class Lab:
    """One run by one seed."""

    def __init__(self, seed: int, stack: FaultStack, *, tasks: int, seconds: float, known: Counter[str]) -> None:
        self.seed = seed
        self.stack = stack
        self.tasks = tasks
        self.seconds = seconds
        self.caller = Caller(stack.http)
        self.storm = Storm(stack, Random(f"{seed} storm"), known)
        self.complaints: list[str] = []

    async def run(self) -> tuple[Snapshot, dict[str, Any]]:
        """Load and storm, then quiet; returns what there is then, and the run's part of the report."""
        storming = asyncio.create_task(self.storm.rage(self.seconds))
        items = await self._load()
        await storming
        began = time.monotonic()
        for keeper in self.stack.ours:
            await keeper.ready()
        await asyncio.wait(items, timeout=BUDGET)
        for item in items:
            item.cancel()
        for ended in await asyncio.gather(*items, return_exceptions=True):
            if isinstance(ended, Exception):
                self.complaints.append(repr(ended)[:200])
        await take_over(self.stack, self.caller)
        snapshot = await settled(self.stack, self.caller.witness)
        return snapshot, self._result(snapshot, time.monotonic() - began)

    async def _load(self) -> list[asyncio.Task[None]]:
        dice, items = Random(f"{self.seed} load"), []
        began = time.monotonic()
        number = 0
        # A scene may make several tasks: what counts is how many there are.
        while len(self.caller.witness.created) < self.tasks:
            items.append(asyncio.create_task(self._one(number)))
            number += 1
            pause = self.seconds * CREATING / self.tasks
            await asyncio.sleep(dice.uniform(0.5, 1.5) * pause)
            if time.monotonic() - began > 3 * self.seconds:
                break  # as many as this machine can make; the checker says what is missing
        return items

    async def _one(self, number: int) -> None:
        dice = Random(f"{self.seed} item {number}")
        if number % 3 == 0:
            item = of_scene(scene_of(self.storm.rarest(3)[number % 9 // 3]))
        else:
            item = dice.choice(EVERYDAY if number % 3 == 1 else OTHERS)
        try:
            await item(self.stack, self.caller, dice)
        except AssertionError as complaint:
            # Somebody else may have ended the task, or faults its attempts: whether that was right is checked.
            self.complaints.append(str(complaint)[:200])

    def _result(self, snapshot: Snapshot, quiet: float) -> dict[str, Any]:
        own = {"seconds": self.seconds, "quiet_after_seconds": round(quiet, 1), "faults": dict(self.storm.hits)}
        return own | report.run_of(snapshot, self.stack.armoury.hits(), self.complaints)


async def run(seed: int, *, tasks: int, seconds: float, keep: Path) -> dict[str, Any]:
    """Run one seed and return its part of the report; with violations its folder is left at `keep`."""
    known = report.struck({name: each for name, each in report.load().items() if name != str(seed)})
    with tempfile.TemporaryDirectory(prefix="taskrunner-lab-", ignore_cleanup_errors=True) as folder:
        async with running(Path(folder), controls=2, nodes=2, apis=2, slots=8) as stack:
            lab = Lab(seed, stack, tasks=tasks, seconds=seconds, known=known)
            snapshot, result = await lab.run()
            await _keep(stack, snapshot, Path(folder), keep)
    return result


async def drill(number: int, *, seconds: float, keep: Path) -> dict[str, Any]:
    """Run one round of the drill and return its part of the report."""
    known = report.struck({name: each for name, each in report.load().items() if name != _round(number)})
    with tempfile.TemporaryDirectory(prefix="taskrunner-lab-", ignore_cleanup_errors=True) as folder:
        async with running(Path(folder), controls=2, nodes=2, slots=3) as stack:
            snapshot, result = await Drill(stack, Random(_round(number)), known).run(seconds)
            await _keep(stack, snapshot, Path(folder), keep)
    return result


def _round(number: int) -> str:
    return f"{report.DRILL} {number}"


async def _keep(stack: FaultStack, snapshot: Snapshot, folder: Path, keep: Path) -> None:
    """Leave what a violation is found out from: logs of processes, and the log and history of each task it names."""
    violations = check(snapshot)
    if not any(violations.values()):
        return
    shutil.rmtree(keep, ignore_errors=True)
    shutil.copytree(folder / "logs", keep / "logs")
    rows = {name: getattr(snapshot, name) for name in ("nodes", "ledger", "waiters", "outbox", "inbox", "workspaces")}
    (keep / "rows").write_text(pformat(rows, width=200))
    named = " ".join(text for found in violations.values() for text in found)
    for run, seen in snapshot.runs.items():
        if run in named:
            (keep / f"run-{run}.log").write_text(pformat(seen, width=200))
            if (name := run_workflow_id(RunId(run))) in snapshot.orchestrators:
                await _keep_history(stack, name, keep)
    for task in snapshot.tasks:
        if task in named:
            lines = [event.model_dump_json() for event in snapshot.logs[task]]
            (keep / f"{task}.log").write_text("\n".join(lines))
            for name in snapshot.executions:
                if task in name:
                    await _keep_history(stack, name, keep)


async def _keep_history(stack: FaultStack, name: str, keep: Path) -> None:
    history = await stack.client.get_workflow_handle(name).fetch_history()
    (keep / f"{name}.json").write_text(history.to_json())


def main() -> int:
    """Run what the arguments name and add it to the report; 1 when an invariant was violated or a point lacks hits."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int)
    what.add_argument("--drill", action="store_true")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "taskrunner-lab-failed")
    chosen = parser.parse_args()
    if chosen.seed is None:
        return _drill(chosen.seconds, chosen.keep)
    result = asyncio.run(
        run(chosen.seed, tasks=chosen.tasks, seconds=chosen.seconds, keep=chosen.keep / str(chosen.seed))
    )
    return _told(str(chosen.seed), result)


def _drill(seconds: float, keep: Path) -> int:
    """Run round after round until every failpoint has its hits."""
    for number in range(1, ROUNDS + 1):
        name = _round(number)
        if name not in report.load():
            result = asyncio.run(drill(number, seconds=seconds, keep=keep / name))
            if failed := _told(name, result):
                return failed
        if not (lacking := report.lacking(report.load())):
            return 0
    sys.stdout.write(f"still too seldom: {' '.join(lacking)}\n")
    return 1


def _told(name: str, result: dict[str, Any]) -> int:
    report.write(report.load() | {name: result})
    strikes = sum(sum(actions.values()) for actions in result["failpoints"].values())
    faults = sum(result["faults"].values())
    lines = [
        f"seed {name}: {result['tasks']} tasks {result['statuses']}, {result['attempts']} attempts",
        f"  {faults} faults, {strikes} hits of {len(result['failpoints'])} failpoints of {len(points())}",
    ]
    for invariant, found in result["violations"].items():
        lines += [f"  VIOLATED {invariant}: {len(found)}", *(f"    {text}" for text in found[:10])]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if any(result["violations"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
