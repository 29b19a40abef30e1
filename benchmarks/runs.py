"""`make bench-runs`: what a run costs beside its tasks alone, how soon an eager member begins, and a run of 2,000.

The tasks' workspaces are external and end at once, so that what is measured is the control plane. Both sides take
turns on one stack, with the same number of tasks open at a time. The results go to `benchmarks/results/runs.json`.
"""

import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
from sqlalchemy import text
from temporalio.api.enums.v1 import EventType as HistoryEvent
from temporalio.client import Client

from benchmarks.bench import quantiles, stack
from benchmarks.load import TERMINAL, Ours, Samples
from benchmarks.watch import Watch
from domain.names import RunId, run_workflow_id
from store.engine import Database
from worker import connect

RESULTS: Final = Path(__file__).parent / "results" / "runs.json"
TASK: Final = {"command": ["true"], "provider": "external", "retry": {"max_attempts": 1}}
AT_ONCE: Final = 50
CHAIN: Final = 30
LAYERS: Final = 40
_TASKS: Final = text("SELECT id FROM tasks WHERE run_id = :run AND status NOT IN ('completed', 'failed', 'cancelled')")
_STATUS: Final = text("SELECT status FROM runs WHERE id = :run")
# From the terminal event of a member's last dependency to the first event of its own task.
_EAGER: Final = text("""
SELECT extract(epoch FROM made.ts - ended.ts) * 1000
FROM tasks t
JOIN events made ON made.task_id = t.id AND made.seq = 1
JOIN LATERAL (
  SELECT max(e.ts) AS ts FROM tasks up JOIN events e ON e.task_id = up.id AND e.seq = up.last_seq
  WHERE up.run_id = t.run_id AND up.member = :prefix || (substr(t.member, 2)::int - 1)
) ended ON ended.ts IS NOT NULL
WHERE t.run_id = :run
""")


class OfRun(Ours):
    """Drives the tasks of runs to their ends, as the controller of their workspaces."""

    async def post_run(self, body: dict[str, Any]) -> str:
        """POST /v1/runs."""
        return str((await self._post("/v1/runs", body))["id"])

    async def drive(self, task: str, samples: Samples) -> None:
        """Take one task from its reservation to its end."""
        row = await self.watch.until(task, lambda row: row.status == "delegated")
        await self.claim(task, row.workspace_id)
        await self.ready(task, row.workspace_id)
        await self.watch.until(task, lambda row: row.step == "running")
        await self.finish(task, row.workspace_id)
        row = await self.watch.until(task, lambda row: row.status in TERMINAL)
        samples.tasks += 1
        samples.failed += row.status != "completed"

    async def through(self, database: Database, body: dict[str, Any]) -> tuple[str, Samples]:
        """Create a run and take it to its end; returns its id and what was measured."""
        samples, began, driven = Samples(), time.perf_counter(), dict[str, asyncio.Task[None]]()
        run = await self.post_run(body)
        async with database.read() as connection:
            while (await connection.execute(_STATUS, {"run": run})).scalar_one() not in TERMINAL:
                for task in (await connection.execute(_TASKS, {"run": run})).scalars():
                    if task not in driven:
                        driven[task] = asyncio.create_task(self.drive(task, samples))
                await asyncio.sleep(0.01)
        samples.seconds = time.perf_counter() - began
        await asyncio.gather(*driven.values())
        return run, samples


async def alone(side: Ours, count: int) -> Samples:
    """So many tasks by themselves, as many at a time as a run has open."""
    samples, began, left = Samples(), time.perf_counter(), iter(range(count))

    async def lane() -> None:
        for _ in left:
            await side.one(samples)

    await asyncio.gather(*(lane() for _ in range(AT_ONCE)))
    samples.seconds = time.perf_counter() - began
    return samples


async def longest_task(client: Client, run: str) -> dict[str, float]:
    """Return how long the slowest workflow task of a run took, in ms, and how many events its histories have."""
    slowest, events, run_id = 0.0, 0, None
    while True:
        handle = client.get_workflow_handle(run_workflow_id(RunId(run)), run_id=run_id)
        history = await handle.fetch_history()
        started: dict[int, Any] = {}
        for event in history.events:
            if event.event_type == HistoryEvent.EVENT_TYPE_WORKFLOW_TASK_STARTED:
                started[event.event_id] = event.event_time
            if event.event_type == HistoryEvent.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
                began = started[event.workflow_task_completed_event_attributes.started_event_id]
                took = (event.event_time.ToNanoseconds() - began.ToNanoseconds()) / 1e6
                slowest = max(slowest, took)
        events += len(history.events)
        run_id = history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id
        if not run_id:
            return {"slowest_workflow_task_ms": round(slowest, 1), "history_events": events}


def wide(members: int) -> dict[str, Any]:
    """Return a run of so many members in layers, each after two of the layer before."""
    in_layer = members // LAYERS
    names = [f"m{number}" for number in range(in_layer * LAYERS)]
    columns = [(place, place - place % in_layer - in_layer) for place in range(in_layer, len(names))]
    edges = [
        {"from": names[above + column], "to": names[place]}
        for place, above in columns
        for column in {place % in_layer, (place + 1) % in_layer}
    ]
    return {"members": [{"name": name, "task": TASK} for name in names], "edges": edges, "max_parallel": AT_ONCE}


async def measure(*, fan_out: int, rounds: int, members: int) -> dict[str, Any]:
    """Run all of it on one stack."""
    database = Database(os.environ["TASKRUNNER_DATABASE_URL"], pool=3)
    watch = Watch(database, every=0.005)
    headers = {"Authorization": f"Bearer {os.environ['TASKRUNNER_API_KEY']}"}
    rates: dict[str, list[float]] = {"alone": [], "run": []}
    async with aiohttp.ClientSession(os.environ["TASKRUNNER_URL"], headers=headers) as http:
        side, looking = OfRun(watch, http), asyncio.create_task(watch.run())
        await alone(side, AT_ONCE)  # warm-up
        chain = [{"name": f"c{number}", "task": TASK} for number in range(CHAIN)]
        edges = [{"from": f"c{number}", "to": f"c{number + 1}"} for number in range(CHAIN - 1)]
        eager, _ = await side.through(database, {"members": chain, "edges": edges})
        fan = {"members": [{"name": "many", "task": TASK, "fan_out": {"count": fan_out, "max_parallel": AT_ONCE}}]}
        for _ in range(rounds):
            for name, taken in rates.items():
                samples = await alone(side, fan_out) if name == "alone" else (await side.through(database, fan))[1]
                taken.append(samples.tasks / samples.seconds)
                print(f"  {name:6} {taken[-1]:.2f} tasks/s, {samples.failed} failed", flush=True)
        large, samples = await side.through(database, wide(members))
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    async with database.read() as connection:
        waits = [float(ms) for ms in (await connection.execute(_EAGER, {"run": eager, "prefix": "c"})).scalars()]
    await database.close()
    mean = {name: statistics.mean(some) for name, some in rates.items()}
    return {
        "fan_out": {
            "tasks": fan_out,
            "tasks_per_second": {name: round(rate, 2) for name, rate in mean.items()},
            "cost": round(1 - mean["run"] / mean["alone"], 3),
        },
        "eager_ms": quantiles(waits),
        "large": {
            "members": len(wide(members)["members"]),
            "seconds": round(samples.seconds, 1),
            **await longest_task(await connect(), large),
        },
    }


async def main() -> dict[str, Any]:
    """Start a stack, and measure on it."""
    with tempfile.TemporaryDirectory(prefix="taskrunner-bench-") as folder:
        async with stack(Path(folder)):
            return await measure(
                fan_out=int(os.environ.get("BENCH_FAN_OUT", "500")),
                rounds=int(os.environ.get("BENCH_ROUNDS", "3")),
                members=int(os.environ.get("BENCH_MEMBERS", "2000")),
            )


if __name__ == "__main__":
    figures = asyncio.run(main())
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
