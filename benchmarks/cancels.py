"""`make bench-cancel`: seeded cancels at random moments, until the row has ended and the ledger is empty.

A real stack with a real node: local workspaces whose set-up and command take their time, and external ones. The
results go to `benchmarks/results/cancels.json`.
"""

import asyncio
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from sqlalchemy import text

from benchmarks.bench import process, stack
from domain.errors import CANCEL_FORCED
from store.engine import Database

RESULTS: Final = Path(__file__).parent / "results" / "cancels.json"
AT_ONCE: Final = 6
SLOTS: Final = 4  # fewer than are cancelled at once: some wait for a slot
LATEST: Final = 2.5  # seconds after the creation
BODIES: Final[tuple[dict[str, Any], ...]] = (
    {"command": ["sleep", "60"]},
    {"command": ["sleep", "60"], "setup": [["sleep", "1"]]},
    {"command": ["sh", "-c", "trap '' TERM; sleep 60"]},
    {"command": ["true"], "followup": True},
    {"command": ["false"], "retry": {"max_attempts": 3, "on": ["agent"], "backoff": 1}},
    {"command": ["true"], "provider": "external"},
)
STATE: Final = text("""
SELECT status, step, error ->> 'code' AS code, workspace_id,
       (SELECT count(*) FROM ledger WHERE task_id = tasks.id AND state <> 'released') AS held
FROM tasks WHERE id = :task
""")


@dataclass(frozen=True)
class Cancelled:
    """One cancel: at which step, what became of it, and the seconds until row and ledger had ended."""

    step: str
    result: str
    seconds: float


async def one(http: aiohttp.ClientSession, database: Database, seeded: random.Random) -> Cancelled:
    """Create a task, cancel it some time later, and wait until nothing is left of it."""
    body, moment = seeded.choice(BODIES), seeded.random() * LATEST
    async with http.post("/v1/tasks", json=body) as answer:
        task = (await answer.json(content_type=None))["id"]
    await asyncio.sleep(moment)
    before = await state(database, task)
    began = time.perf_counter()
    async with http.post(f"/v1/tasks/{task}/cancel", json={}) as answer:
        if answer.status == 409:
            return Cancelled(step=before["step"] or before["status"], result="ended before", seconds=0.0)
    while True:
        row = await state(database, task)
        if row["status"] in ("completed", "failed", "cancelled") and row["held"] == 0:
            break
        await asyncio.sleep(0.02)
    seconds = time.perf_counter() - began
    result = "forced" if row["code"] == CANCEL_FORCED else "applied" if row["status"] == "cancelled" else row["status"]
    return Cancelled(step=before["step"] or before["status"], result=result, seconds=seconds)


async def state(database: Database, task: str) -> dict[str, Any]:
    """Return where a task is, and how much it holds."""
    async with database.read() as connection:
        return dict((await connection.execute(STATE, {"task": task})).mappings().one())


def summary(cancels: list[Cancelled], *, seed: int) -> dict[str, Any]:
    """Return the figures: seconds from the request until nothing was left, and what became of the requests."""
    counted = [cancel for cancel in cancels if cancel.result in ("applied", "forced")]
    seconds = [cancel.seconds for cancel in counted]
    cut = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "seed": seed,
        "results": dict(Counter(cancel.result for cancel in cancels)),
        "applied_share": round(sum(cancel.result == "applied" for cancel in counted) / len(counted), 4),
        "seconds": {"p50": round(cut[49], 3), "p99": round(cut[98], 3), "max": round(max(seconds), 3)},
        "steps": dict(Counter(cancel.step for cancel in counted)),
    }


async def main(*, count: int, seed: int) -> dict[str, Any]:
    """Cancel so many tasks, a few at a time."""
    with tempfile.TemporaryDirectory(prefix="taskrunner-cancel-") as folder:
        async with stack(Path(folder)):
            key = os.environ["TASKRUNNER_API_KEY"]
            headers = {"Authorization": f"Bearer {key}"}
            async with aiohttp.ClientSession(os.environ["TASKRUNNER_URL"], headers=headers) as http:
                body = {"name": "node", "scopes": ["nodes:write"], "node_id": "local"}
                made = await (await http.post("/v1/keys", json=body)).json()
            os.environ |= {
                "TASKRUNNER_NODE_TOKEN": made["key"],
                "TASKRUNNER_NODE_SLOTS": str(SLOTS),
                "TASKRUNNER_DATA_DIR": folder,
            }
            node = ("-m", "cli.main", "worker", "--role", "node")
            database = Database(os.environ["TASKRUNNER_DATABASE_URL"], pool=AT_ONCE)
            async with (
                process(*node, ready="worker.ready", log=Path(folder) / "node.log"),
                aiohttp.ClientSession(os.environ["TASKRUNNER_URL"], headers=headers) as http,
            ):
                numbers = iter(range(count))
                cancels: list[Cancelled] = []

                async def lane() -> None:
                    for number in numbers:
                        cancelled = await one(http, database, random.Random(seed + number))  # noqa: S311
                        cancels.append(cancelled)

                await asyncio.gather(*(lane() for _ in range(AT_ONCE)))
            await database.close()
    return summary(cancels, seed=seed)


if __name__ == "__main__":
    figures = asyncio.run(
        main(count=int(os.environ.get("BENCH_CANCELS", "200")), seed=int(os.environ.get("BENCH_SEED", "1")))
    )
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
