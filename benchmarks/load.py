"""The load generator: one process, one side, one loop; prints its samples as JSON.

`python -m benchmarks.load {ours|floor} {closed|open} CONCURRENCY_OR_RATE SECONDS`
"""

import asyncio
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import aiohttp
from sqlalchemy import insert
from temporalio.client import Client

from benchmarks.floor import QUEUE, Floor, FloorInput
from benchmarks.watch import Watch
from domain.ids import new_id
from domain.names import TaskId
from store.engine import Database
from store.models import Task
from worker import connect

TERMINAL = ("completed", "failed", "cancelled")


@dataclass
class Samples:
    """What one loop measured; times in milliseconds."""

    tasks: int = 0
    seconds: float = 0.0
    failed: int = 0
    task_latency_ms: list[float] = field(default_factory=list)
    ready_to_next_step_ms: list[float] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)


class Side(ABC):
    """How a task is made and moved on; the loops are the same for both sides."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    @abstractmethod
    async def create(self) -> str:
        """Ask for a task; returns its id."""

    @abstractmethod
    async def ready(self, task: str, workspace: str) -> None:
        """Say that the workspace is ready."""

    @abstractmethod
    async def finish(self, task: str, workspace: str) -> None:
        """Say that the command ended."""

    @abstractmethod
    async def claim(self, task: str, workspace: str) -> None:
        """Fetch what the workspace needs in order to call back, if anything."""

    async def one(self, samples: Samples) -> None:
        """Take one task from its creation to its end."""
        began = time.perf_counter()
        task = await self.create()
        row = await self.watch.until(task, lambda row: row.status == "delegated")
        await self.claim(task, row.workspace_id)
        said = time.perf_counter()
        await self.ready(task, row.workspace_id)
        await self.watch.until(task, lambda row: row.step == "running")
        samples.ready_to_next_step_ms.append((time.perf_counter() - said) * 1000)
        await self.finish(task, row.workspace_id)
        row = await self.watch.until(task, lambda row: row.status in TERMINAL)
        samples.task_latency_ms.append((time.perf_counter() - began) * 1000)
        samples.tasks += 1
        samples.failed += row.status != "completed"
        samples.ids.append(task)


class Ours(Side):
    """Whole tasks through the HTTP API, with an external workspace."""

    def __init__(self, watch: Watch, http: aiohttp.ClientSession) -> None:
        super().__init__(watch)
        self._http = http
        self._tokens: dict[str, str] = {}

    async def create(self) -> str:
        """POST /v1/tasks."""
        body: dict[str, object] = {"command": ["true"], "provider": "external", "retry": {"max_attempts": 1}}
        return str((await self._post("/v1/tasks", body))["id"])

    async def claim(self, task: str, workspace: str) -> None:
        """POST …/callback-token."""
        answer = await self._post(f"/v1/workspaces/{workspace}/callback-token", {})
        self._tokens[task] = answer["token"]

    async def ready(self, task: str, workspace: str) -> None:
        """POST …/ready."""
        await self._post(f"/v1/workspaces/{workspace}/ready", {"status": "running"}, token=self._tokens[task])

    async def finish(self, task: str, workspace: str) -> None:
        """POST …/finished."""
        await self._post(f"/v1/workspaces/{workspace}/finished", {"exit_code": 0}, token=self._tokens.pop(task))

    async def _post(self, path: str, body: dict[str, object], *, token: str | None = None) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {token}"} if token else None
        async with self._http.post(path, json=body, headers=headers) as response:
            answer: dict[str, str] = await response.json(content_type=None)
            if response.status >= 300:
                raise RuntimeError(f"{path}: {response.status} {answer}")
            return answer


class Bare(Side):
    """The floor's workflow, straight through the Temporal client. Its rows were made before the clock started."""

    def __init__(self, watch: Watch, client: Client, rows: list[str]) -> None:
        super().__init__(watch)
        self._client = client
        self._rows = rows

    async def create(self) -> str:
        """Start the workflow."""
        task = self._rows.pop()
        await self._client.start_workflow(Floor.run, FloorInput(task_id=TaskId(task)), id=task, task_queue=QUEUE)
        return task

    async def claim(self, task: str, workspace: str) -> None:
        """Nothing: a bare signal needs no token."""

    async def ready(self, task: str, workspace: str) -> None:  # noqa: ARG002 - the port's signature
        """Send the first signal."""
        await self._client.get_workflow_handle(task).signal(Floor.advance)

    async def finish(self, task: str, workspace: str) -> None:  # noqa: ARG002 - the port's signature
        """Send the second signal."""
        await self._client.get_workflow_handle(task).signal(Floor.advance)


async def closed(side: Side, concurrency: int, seconds: float) -> Samples:
    """Keep a number of tasks in flight: as one ends, another begins."""
    samples, until = Samples(), time.perf_counter() + seconds
    began = time.perf_counter()

    async def lane() -> None:
        while time.perf_counter() < until:
            await side.one(samples)

    await asyncio.gather(*(lane() for _ in range(concurrency)))
    samples.seconds = time.perf_counter() - began
    return samples


async def opened(side: Side, rate: float, seconds: float) -> Samples:
    """Begin tasks at a fixed rate, however long they take."""
    samples, began, tasks = Samples(), time.perf_counter(), []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(side.one(samples)))
    await asyncio.gather(*tasks)
    samples.seconds = time.perf_counter() - began
    return samples


async def rows(database: Database, count: int) -> list[str]:
    """Make rows for the floor to mirror into."""
    ids = [new_id() for _ in range(count)]
    now = datetime.now(UTC)
    row = {"project": "floor", "name": "floor", "status": "queued", "spec": {}, "created_at": now, "updated_at": now}
    async with database.begin("bench.load") as connection:
        await connection.execute(insert(Task), [{"id": identity, **row} for identity in ids])
    return ids


async def main(name: str, loop: str, amount: float, seconds: float) -> Samples:
    """Run one loop against one side."""
    database = Database(os.environ["TASKRUNNER_DATABASE_URL"], pool=2)
    watch = Watch(database, every=0.002 if amount <= 5 else 0.01)  # an idle machine can look often
    async with AsyncExitStack() as stack:
        side: Side
        if name == "ours":
            key = os.environ["TASKRUNNER_API_KEY"]
            session = aiohttp.ClientSession(os.environ["TASKRUNNER_URL"], headers={"Authorization": f"Bearer {key}"})
            side = Ours(watch, await stack.enter_async_context(session))
        else:
            side = Bare(watch, await connect(), await rows(database, int(150 * seconds)))
        looking = asyncio.create_task(watch.run())
        run = closed(side, int(amount), seconds) if loop == "closed" else opened(side, amount, seconds)
        samples = await run
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    await database.close()
    return samples


if __name__ == "__main__":
    side_name, loop_name, amount_text, seconds_text = sys.argv[1:]
    print(json.dumps(asdict(asyncio.run(main(side_name, loop_name, float(amount_text), float(seconds_text))))))
