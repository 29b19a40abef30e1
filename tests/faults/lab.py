"""The race lab: a seeded load with random faults, then quiet, then the checker.

`python -m tests.faults.lab --seed N [--tasks 200] [--seconds 120]` adds its run to the report.
"""

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from pprint import pformat
from random import Random
from typing import Any, Final

from domain.lifecycle import TERMINAL
from tests.faults import report
from tests.faults.caller import Caller
from tests.faults.checker import check
from tests.faults.load import EVERYDAY, OTHERS, finish, of_scene
from tests.faults.points import Action, points
from tests.faults.quiet import look, settled
from tests.faults.scenes import scene_of
from tests.faults.snapshot import Snapshot
from tests.faults.stack import FaultStack, running
from tests.faults.storm import Storm

# Of the time, so that the last tasks meet faults too.
CREATING: Final = 0.85
BUDGET: Final = 240.0


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
        await self._take_over()
        snapshot = await settled(self.stack, self.caller.witness)
        return snapshot, self._result(snapshot, time.monotonic() - began)

    async def _take_over(self) -> None:
        """See external tasks to their end whose controller was scared away: somebody must call back."""
        snapshot = await look(self.stack, self.caller.witness)
        orphans = [
            task
            for task, row in snapshot.tasks.items()
            if row["spec"].get("provider") == "external" and row["status"] not in TERMINAL
        ]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(finish(self.caller, task) for task in orphans)), BUDGET)

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
        hits: dict[str, dict[str, int]] = {}
        for (point, action), count in sorted(self.stack.armoury.hits().items()):
            hits.setdefault(point, {})[Action(action).value] = count
        statuses = Counter(str(row["status"]) for row in snapshot.tasks.values())
        return {
            "tasks": len(snapshot.tasks),
            "seconds": self.seconds,
            "quiet_after_seconds": round(quiet, 1),
            "statuses": dict(statuses),
            "attempts": sum(row["attempt"] for row in snapshot.tasks.values()),
            "events": sum(len(log) for log in snapshot.logs.values()),
            "callbacks": dict(Counter(str(told.status) for told in snapshot.told)),
            "readers": len(snapshot.reads),
            "faults": dict(self.storm.hits),
            "failpoints": hits,
            "complaints": dict(Counter(complaint.partition(":")[0][:60] for complaint in self.complaints)),
            "violations": {name: found for name, found in check(snapshot).items() if found},
        }


async def run(seed: int, *, tasks: int, seconds: float, keep: Path | None = None) -> dict[str, Any]:
    """Run one seed and return its part of the report; with violations its folder is left at `keep`."""
    known = report.struck({name: each for name, each in report.load().items() if name != str(seed)})
    with tempfile.TemporaryDirectory(prefix="taskrunner-lab-", ignore_cleanup_errors=True) as folder:
        async with running(Path(folder), controls=2, nodes=2, apis=2) as stack:
            lab = Lab(seed, stack, tasks=tasks, seconds=seconds, known=known)
            snapshot, result = await lab.run()
            result["unfinished"] = [row["id"] for row in snapshot.tasks.values() if row["status"] not in TERMINAL]
            if keep and any(result["violations"].values()):
                shutil.rmtree(keep, ignore_errors=True)
                shutil.copytree(Path(folder) / "logs", keep / "logs")
                await _histories(stack, snapshot, keep)
    return result


async def _histories(stack: FaultStack, snapshot: Snapshot, keep: Path) -> None:
    """Keep the log and the history of each task that a violation names."""
    rows = {name: getattr(snapshot, name) for name in ("nodes", "ledger", "waiters", "outbox", "inbox", "workspaces")}
    (keep / "rows").write_text(pformat(rows, width=200))
    named = " ".join(text for found in check(snapshot).values() for text in found)
    for task in snapshot.tasks:
        if task in named:
            lines = [event.model_dump_json() for event in snapshot.logs[task]]
            (keep / f"{task}.log").write_text("\n".join(lines))
            for name in snapshot.executions:
                if task in name:
                    history = await stack.client.get_workflow_handle(name).fetch_history()
                    (keep / f"{name}.json").write_text(history.to_json())


def main() -> int:
    """Run the seed that the arguments name and add it to the report; 1 when an invariant was violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "taskrunner-lab-failed")
    chosen = parser.parse_args()
    result = asyncio.run(
        run(chosen.seed, tasks=chosen.tasks, seconds=chosen.seconds, keep=chosen.keep / str(chosen.seed))
    )
    report.write(report.load() | {str(chosen.seed): result})
    sys.stdout.write(_words(chosen.seed, result))
    return 1 if any(result["violations"].values()) else 0


def _words(seed: int, result: dict[str, Any]) -> str:
    strikes = sum(sum(actions.values()) for actions in result["failpoints"].values())
    lines = [
        f"seed {seed}: {result['tasks']} tasks {result['statuses']}, {result['attempts']} attempts",
        (
            f"  {sum(result['faults'].values())} faults, {strikes} hits of {len(result['failpoints'])} failpoints "
            f"of {len(points())}, quiet after {result['quiet_after_seconds']} s"
        ),
    ]
    for name, found in result["violations"].items():
        lines += [f"  VIOLATED {name}: {len(found)}", *(f"    {text}" for text in found[:10])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
