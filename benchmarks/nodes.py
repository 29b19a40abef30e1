"""What a node costs a task: from a released slot to who waits for it, and from dispatch to a workspace that is ready.

A node with one slot works off short commands, so that everybody waits in the queue. All times are of the log: that of
the event that ends the task, which is written with the release, and those of the steps of who got the slot. Containers
are measured where an engine is named: `python -m tests.containers.engine make bench-nodes` finds or starts one.
"""

import asyncio
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any, Final

import aiohttp
from sqlalchemy import TextClause, text

from benchmarks.bench import process, stack
from domain.spec import Provider
from store.engine import Database

# In the order in which the slot was held: each task's end, and when the one after it went on.
HANDED_ON: Final = text("""
SELECT extract(epoch FROM next_began - ended) * 1000 AS milliseconds
FROM (
  SELECT t.finished_at AS ended,
         lead(s.ts) OVER (ORDER BY s.ts) AS next_began
  FROM tasks t JOIN events s ON s.task_id = t.id AND s.type = 'step.started' AND s.step = 'workspace_creation'
  WHERE coalesce(t.spec->>'provider', 'local') = :provider
) pairs
WHERE next_began IS NOT NULL
""")
MADE_READY: Final = text("""
SELECT extract(epoch FROM r.ts - d.ts) * 1000 AS milliseconds
FROM tasks t
JOIN events d ON d.task_id = t.id AND d.type = 'step.started' AND d.step = 'workspace_dispatch'
JOIN events r ON r.task_id = t.id AND r.type = 'workspace.ready'
WHERE coalesce(t.spec->>'provider', 'local') = :provider
""")


def containers(engine: str) -> dict[str, str]:
    """Return a node's settings for containers on this engine."""
    from tests.containers import images  # noqa: PLC0415 - it needs an engine's client

    return {
        "TASKRUNNER_NODE_PROVIDERS": json.dumps([Provider.LOCAL, Provider.DOCKER]),
        "TASKRUNNER_CONTAINERS__ENGINE": engine,
        "TASKRUNNER_CONTAINERS__IMAGE": images.ensure(engine, images.WORKSPACE),
    }


async def main(*, count: int, engine: str | None) -> dict[str, Any]:
    """Run so many tasks of each provider through one slot."""
    providers = [Provider.LOCAL, *([Provider.DOCKER] if engine else [])]
    with tempfile.TemporaryDirectory(prefix="taskrunner-nodes-") as folder:
        async with stack(Path(folder)):
            headers = {"Authorization": f"Bearer {os.environ['TASKRUNNER_API_KEY']}"}
            database = Database(os.environ["TASKRUNNER_DATABASE_URL"], pool=2)
            async with aiohttp.ClientSession(os.environ["TASKRUNNER_URL"], headers=headers) as http:
                body = {"name": "node", "scopes": ["nodes:write"], "node_id": "local"}
                made = await (await http.post("/v1/keys", json=body)).json()
                os.environ |= {
                    "TASKRUNNER_NODE_TOKEN": made["key"],
                    "TASKRUNNER_NODE_SLOTS": "1",
                    "TASKRUNNER_DATA_DIR": folder,
                    **(containers(engine) if engine else {}),
                }
                node = ("-m", "cli.main", "worker", "--role", "node")
                async with process(*node, ready="worker.ready", log=Path(folder) / "node.log"):
                    results = {provider.value: await _run(http, database, provider, count) for provider in providers}
            await database.close()
    return {"tasks": count, "milliseconds": results}


async def _run(http: aiohttp.ClientSession, database: Database, provider: Provider, count: int) -> dict[str, Any]:
    for _ in range(count):
        (await http.post("/v1/tasks", json={"command": ["true"], "provider": provider})).raise_for_status()
    done = text(
        "SELECT count(*) FROM tasks WHERE status = 'completed' AND coalesce(spec->>'provider', 'local') = :provider"
    )
    while (await _column(database, done, provider))[0] < count:  # noqa: ASYNC110 - SQL has no event
        await asyncio.sleep(0.2)
    handed, ready = await _column(database, HANDED_ON, provider), await _column(database, MADE_READY, provider)
    return {
        "released slot to workspace_creation": _quantiles(handed),
        "workspace_dispatch to workspace.ready": _quantiles(ready),
    }


async def _column(database: Database, query: TextClause, provider: Provider) -> list[float]:
    async with database.read() as connection:
        return [float(value) for (value,) in await connection.execute(query, {"provider": provider})]


def _quantiles(values: list[float]) -> dict[str, float]:
    cut = statistics.quantiles(values, n=20, method="inclusive")
    return {"p50": round(cut[9], 1), "p95": round(cut[18], 1)}


if __name__ == "__main__":
    count, engine = int(os.environ.get("BENCH_NODES", "60")), os.environ.get("TASKRUNNER_TEST_ENGINE")
    print(json.dumps(asyncio.run(main(count=count, engine=engine)), indent=2))
