"""How soon a slot that was released is used: from the end of one task to the next one's `workspace_creation`.

A node with few slots works off short commands, so that everybody waits in the queue. Both times are of the log: that of
the event that ends the task, which is written with the release, and that of the next step's start of who got the slot.
"""

import asyncio
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import text

from benchmarks.bench import process, stack
from store.engine import Database

SLOTS = 1
# In the order in which the slot was held: each task's end, and when the one after it went on.
HANDED_ON = text("""
SELECT extract(epoch FROM next_began - ended) * 1000 AS milliseconds
FROM (
  SELECT t.finished_at AS ended,
         lead(s.ts) OVER (ORDER BY s.ts) AS next_began
  FROM tasks t JOIN events s ON s.task_id = t.id AND s.type = 'step.started' AND s.step = 'workspace_creation'
) pairs
WHERE next_began IS NOT NULL
""")


async def main(*, count: int) -> dict[str, Any]:
    """Run so many tasks through the slots."""
    with tempfile.TemporaryDirectory(prefix="taskrunner-slots-") as folder:
        async with stack(Path(folder)):
            headers = {"Authorization": f"Bearer {os.environ['TASKRUNNER_API_KEY']}"}
            database = Database(os.environ["TASKRUNNER_DATABASE_URL"], pool=2)
            async with aiohttp.ClientSession(os.environ["TASKRUNNER_URL"], headers=headers) as http:
                body = {"name": "node", "scopes": ["nodes:write"], "node_id": "local"}
                made = await (await http.post("/v1/keys", json=body)).json()
                os.environ |= {
                    "TASKRUNNER_NODE_TOKEN": made["key"],
                    "TASKRUNNER_NODE_SLOTS": str(SLOTS),
                    "TASKRUNNER_DATA_DIR": folder,
                }
                node = ("-m", "cli.main", "worker", "--role", "node")
                async with process(*node, ready="worker.ready", log=Path(folder) / "node.log"):
                    for _ in range(count):
                        (await http.post("/v1/tasks", json={"command": ["true"]})).raise_for_status()
                    waited = await _handed_on(database, count)
            await database.close()
    cut = statistics.quantiles(waited, n=20, method="inclusive")
    return {"slots": SLOTS, "tasks": count, "milliseconds": {"p50": round(cut[9], 1), "p95": round(cut[18], 1)}}


async def _handed_on(database: Database, count: int) -> list[float]:
    while True:
        async with database.read() as connection:
            done = await connection.execute(text("SELECT count(*) FROM tasks WHERE status = 'completed'"))
            if done.scalar_one() == count:
                return [float(row.milliseconds) for row in await connection.execute(HANDED_ON)]
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(count=int(os.environ.get("BENCH_SLOTS", "60")))), indent=2))
