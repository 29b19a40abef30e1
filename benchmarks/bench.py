"""`make bench`: whole tasks through the HTTP API beside the floor, in one run on one machine.

Both sides share the PostgreSQL and the Temporal server; each has its own worker and load generator process. The
sides take turns in short rounds, so that a machine whose speed drifts is unfair to neither. The results go to
`benchmarks/results/latest.json`.
"""

import asyncio
import json
import os
import secrets
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from temporalio.api.enums.v1 import EventType as HistoryEvent
from temporalio.client import Client

from benchmarks.load import Samples
from cli.embedded.postgres import Postgres
from cli.embedded.temporal import TemporalDevServer, free_port
from domain.names import DEFAULT_PROJECT, Scope, TaskId, workflow_id
from store import keys
from store.engine import Database
from store.migrate import upgrade
from worker import connect

RESULTS = Path(__file__).parent / "results" / "latest.json"
LOOPS: dict[str, tuple[str, float]] = {
    "concurrency_1": ("closed", 1),
    "closed_50": ("closed", 50),
    "open_5_per_s": ("open", 5),
}
SIDES = ("ours", "floor")
SAMPLE = 20


@asynccontextmanager
async def process(*argv: str, ready: str, log: Path) -> AsyncIterator[None]:
    """Run one of the bench's processes; it is ready when its log says so."""
    with log.open("wb") as out:
        child = await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=out, stderr=out)
    try:
        async with asyncio.timeout(30):
            while ready not in log.read_text(errors="replace"):
                if child.returncode is not None:
                    raise RuntimeError(f"{argv}: {log.read_text(errors='replace')[-2000:]}")
                await asyncio.sleep(0.05)
        yield
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


async def load(side: str, loop: str, amount: float, seconds: float) -> Samples:
    """Run the load generator once."""
    argv = ("-m", "benchmarks.load", side, loop, str(amount), str(seconds))
    child = await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    if child.returncode:
        raise RuntimeError(f"the load generator failed: {side} {loop}")
    return Samples(**json.loads(out))


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50 and p99."""
    if len(values) < 2:
        return {"p50": round(sum(values), 2), "p99": round(sum(values), 2)}
    cut = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cut[49], 2), "p99": round(cut[98], 2)}


def summary(rounds: dict[str, list[Samples]]) -> dict[str, Any]:
    """Return one loop's figures, ours beside the floor's."""
    rate = {side: sum(s.tasks for s in some) / sum(s.seconds for s in some) for side, some in rounds.items()}
    figures: dict[str, Any] = {
        "tasks_per_second": {
            "ours": round(rate["ours"], 2),
            "floor": round(rate["floor"], 2),
            "ratio": round(rate["ours"] / rate["floor"], 3),
        },
        "tasks": {side: sum(s.tasks for s in some) for side, some in rounds.items()},
        "failed": {side: sum(s.failed for s in some) for side, some in rounds.items()},
    }
    for name in ("task_latency_ms", "ready_to_next_step_ms"):
        values = {side: quantiles([v for s in some for v in getattr(s, name)]) for side, some in rounds.items()}
        ratio = round(values["ours"]["p50"] / max(values["floor"]["p50"], 0.001), 3)
        figures[name] = {**values["ours"], "floor": values["floor"], "ratio": ratio}
    return figures


async def cost(client: Client, ids: Sequence[str]) -> dict[str, float]:
    """Return what a task of ours costs the engine, from the histories of some."""
    events, tasks, flushes = 0, 0, 0
    for identity in ids[:SAMPLE]:
        history = await client.get_workflow_handle(workflow_id(TaskId(identity), 1)).fetch_history()
        kinds = Counter(event.event_type for event in history.events)
        events += len(history.events)
        tasks += kinds[HistoryEvent.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]
        flushes += kinds[HistoryEvent.EVENT_TYPE_MARKER_RECORDED]
    count = min(len(ids), SAMPLE)
    return {
        "history_events_per_task": round(events / count, 2),
        "workflow_tasks_per_task": round(tasks / count, 2),
        "flushes_per_task": round(flushes / count, 2),
    }


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[None]:
    """Start PostgreSQL and Temporal; the environment tells everybody where they are, and with which keys."""
    async with AsyncExitStack() as running:
        postgres = Postgres(folder / "postgres")
        temporal = TemporalDevServer(
            folder / "temporal.db", log=folder / "temporal.log", port=free_port(7433), ui_port=free_port(8433)
        )
        for server in (postgres, temporal):
            await server.start()
            running.push_async_callback(server.stop)
        await asyncio.to_thread(upgrade, postgres.url())
        port, key = free_port(8180), "tr_" + secrets.token_urlsafe(32)
        os.environ.update(
            {
                "TASKRUNNER_DATABASE_URL": postgres.url(),
                "TASKRUNNER_PORT": str(port),
                "TASKRUNNER_URL": f"http://127.0.0.1:{port}",
                "TASKRUNNER_API_KEY": key,
                "TASKRUNNER_CALLBACK_KEYS": f"bench:{secrets.token_hex(32)}",
                "TEMPORAL_ADDRESS": temporal.address,
            }
        )
        database = Database(postgres.url(), pool=1)
        async with database.begin("bench.keys") as connection:
            sha256 = keys.sha256_of(key)
            await keys.ensure(connection, sha256=sha256, project=DEFAULT_PROJECT, name="bench", scopes=[Scope.ADMIN])
        await database.close()
        yield


@asynccontextmanager
async def stack(folder: Path) -> AsyncIterator[None]:
    """Start the servers and both sides' processes."""
    async with servers(folder), AsyncExitStack() as running:
        for argv, ready in (
            (("-m", "benchmarks.floor"), "ready"),
            (("-m", "cli.main", "worker", "--role", "control"), "worker.ready"),
            (("-m", "cli.main", "api"), "running on"),
        ):
            log = folder / f"{argv[-1]}.log"
            await running.enter_async_context(process(*argv, ready=ready, log=log))
        yield


async def main(*, seconds: float, rounds: int) -> dict[str, Any]:
    """Run every loop on both sides, in turns."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="taskrunner-bench-") as folder:
        async with stack(Path(folder)):
            for side in SIDES:
                await load(side, "closed", 20, 3)  # warm-up: imports, pools, prepared statements
            ids: list[str] = []
            for name, (loop, amount) in LOOPS.items():
                taken: dict[str, list[Samples]] = {side: [] for side in SIDES}
                for _ in range(rounds):
                    for side in SIDES:
                        taken[side].append(await load(side, loop, amount, seconds))
                        print(f"  {name:14} {side:6} {taken[side][-1].tasks} tasks", flush=True)
                results[name] = summary(taken)
                ids += taken["ours"][0].ids
            results |= await cost(await connect(), ids)
    return results


def table(results: dict[str, Any]) -> str:
    """Return the figures as a person reads them."""
    lines = [f"{'loop':14} {'tasks/s':>8} {'floor':>8} {'ratio':>6}   latency p50/p99   ready→next p50/p99 (ms)"]
    for name in LOOPS:
        loop = results[name]
        rate, latency, step = loop["tasks_per_second"], loop["task_latency_ms"], loop["ready_to_next_step_ms"]
        lines.append(
            f"{name:14} {rate['ours']:8} {rate['floor']:8} {rate['ratio']:6}   "
            f"{latency['p50']:7}/{latency['p99']:<7}   {step['p50']:7}/{step['p99']:<7}"
            f" (floor {step['floor']['p50']}/{step['floor']['p99']})"
        )
    lines += [f"{name}: {results[name]}" for name in results if name not in LOOPS]
    return "\n".join(lines)


if __name__ == "__main__":
    figures = asyncio.run(
        main(seconds=float(os.environ.get("BENCH_SECONDS", "10")), rounds=int(os.environ.get("BENCH_ROUNDS", "3")))
    )
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(table(figures))
    print(f"written to {RESULTS.relative_to(Path.cwd())}")
