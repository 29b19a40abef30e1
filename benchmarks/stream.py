"""`make bench-stream`: how soon a committed event is read by those who watch, and what it costs to let them.

One API process, one PostgreSQL with its commits on disk; writer and readers share this process, and with it a clock.
A latency is the time from the flush's answer, so from the commit, until the frame was read from the socket.
"""

import asyncio
import json
import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.bench import process, quantiles
from cli.embedded.postgres import Postgres
from cli.embedded.temporal import free_port
from domain.events import EventType, NewEvent
from domain.ids import new_id
from domain.messages import Flush
from domain.names import DEFAULT_PROJECT, Scope, TaskId
from domain.spec import TaskSpec
from store import keys, mirror, tasks
from store.engine import Database
from store.hints import Notifier
from store.migrate import upgrade

RESULTS: Final = Path(__file__).parent / "results" / "stream.json"
READERS: Final = 500
FIRST: Final = 100
TASKS: Final = 50
PER_SECOND: Final = 200
BACKLOG: Final = 100_000
LOG: Final = "api.log"


@dataclass
class Writer:
    """Writes events as a workflow's flushes do, with their hints, and notes when each was committed."""

    database: Database
    notifier: Notifier
    committed: dict[tuple[str, int], float] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    async def task(self) -> TaskId:
        """Make a task that nobody starts."""
        task = TaskId(new_id())
        async with self.database.begin("bench.task") as connection:
            await tasks.create(
                connection,
                task=task,
                project=DEFAULT_PROJECT,
                spec=TaskSpec.model_validate({"command": ["true"], "provider": "external"}),
                start=False,
                now=datetime.now(UTC),
                lease_to="bench",
                lease=timedelta(seconds=1),
            )
        self.last[task] = 1
        return task

    async def write(self, task: TaskId, count: int = 1) -> None:
        """Write so many events in one flush."""
        first = self.last[task] + 1
        now = datetime.now(UTC)
        events = [
            NewEvent(key=f"bench:{seq}", type=EventType.DEBUG_TRACE, ts=now, attempt=1, data={"fn": "bench", "n": seq})
            for seq in range(first, first + count)
        ]
        async with self.database.commit("bench.flush") as connection:
            await mirror.flush(connection, Flush(task_id=task, attempt=1, version=first, events=events))
        moment = time.monotonic()
        self.committed |= {(task, seq): moment for seq in range(first, first + count)}
        self.last[task] += count
        self.notifier.hint(task)


async def frames(port: int, key: str, task: str, first: int) -> AsyncIterator[tuple[int, float]]:
    """Give the number of each frame of a stream and the time at which it was read, over a bare socket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    lines = (f"GET /v1/tasks/{task}/stream?fromSeq={first} HTTP/1.1", "Host: bench", f"Authorization: Bearer {key}")
    writer.write("\r\n".join((*lines, "", "")).encode())
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{status!r} for {task}")
        while line := await reader.readline():
            if line.startswith(b"id: "):
                yield int(line[4:]), time.monotonic()
    finally:
        writer.close()


async def latencies(writer: Writer, port: int, key: str, api: psutil.Process, *, seconds: float) -> dict[str, Any]:
    """Let many watch while events are written at a steady rate."""
    watched = [await writer.task() for _ in range(TASKS)]
    got: list[float] = []

    async def watch(task: TaskId) -> None:
        async for seq, moment in frames(port, key, task, 2):
            if (task, seq) in writer.committed:
                got.append((moment - writer.committed[task, seq]) * 1000)

    # What the first ones cost is the process's own: code that is loaded, pools that are filled.
    readers = [asyncio.create_task(watch(watched[number % TASKS])) for number in range(FIRST)]
    await asyncio.sleep(5)
    before = api.memory_info().rss
    readers += [asyncio.create_task(watch(watched[number % TASKS])) for number in range(FIRST, READERS)]
    await asyncio.sleep(5)
    idle = (api.memory_info().rss - before) / (READERS - FIRST)
    began, written = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < seconds:
        due = int(elapsed * PER_SECOND) - written
        await asyncio.gather(*(writer.write(watched[(written + n) % TASKS]) for n in range(min(due, TASKS))))
        written += min(due, TASKS)
        await asyncio.sleep(0.002)
    await asyncio.sleep(2)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    return {
        "readers": READERS,
        "events_per_second": round(written / seconds, 1),
        "frames": len(got),
        "frames_expected": written * READERS // TASKS,
        "commit_to_frame_ms": quantiles(got),
        "bytes_per_idle_reader": round(idle),
    }


async def backlog(writer: Writer, port: int, key: str) -> dict[str, Any]:
    """Read a long log from its beginning."""
    task = await writer.task()
    for _ in range(BACKLOG // 1000):
        await writer.write(task, 1000)
    began, expected = time.monotonic(), 1
    async for seq, _ in frames(port, key, task, 1):
        if seq != expected:
            raise RuntimeError(f"{seq} came in the place of {expected}")
        expected += 1
        if seq == BACKLOG:
            break
    seconds = time.monotonic() - began
    return {"events": BACKLOG, "seconds": round(seconds, 2), "events_per_second": round(BACKLOG / seconds)}


@asynccontextmanager
async def stack(folder: Path) -> AsyncIterator[tuple[Writer, int, str, psutil.Process]]:
    """Start PostgreSQL and an API without an engine."""
    async with AsyncExitStack() as running:
        postgres = Postgres(folder / "postgres")
        await postgres.start()
        running.push_async_callback(postgres.stop)
        await asyncio.to_thread(upgrade, postgres.url())
        port, key = free_port(8190), "tr_" + secrets.token_urlsafe(32)
        os.environ |= {
            "TASKRUNNER_DATABASE_URL": postgres.url(),
            "TASKRUNNER_PORT": str(port),
            "TASKRUNNER_CALLBACK_KEYS": f"bench:{secrets.token_hex(32)}",
            "TEMPORAL_ADDRESS": "127.0.0.1:1",
        }
        database = Database(postgres.url())
        running.push_async_callback(database.close)
        async with database.begin("bench.keys") as connection:
            sha256 = keys.sha256_of(key)
            await keys.ensure(connection, sha256=sha256, project=DEFAULT_PROJECT, name="bench", scopes=[Scope.ADMIN])
        await running.enter_async_context(process("-m", "cli.main", "api", ready="running on", log=folder / LOG))
        api = next(child for child in psutil.Process().children() if child.cmdline()[-1:] == ["api"])
        notifier = Notifier(database)
        running.push_async_callback(notifier.close)
        yield Writer(database, notifier), port, key, api


async def main(*, seconds: float) -> dict[str, Any]:
    """Measure both, one after the other."""
    with tempfile.TemporaryDirectory(prefix="taskrunner-bench-") as folder:
        async with stack(Path(folder)) as (writer, port, key, api):
            return {
                "live": await latencies(writer, port, key, api, seconds=seconds),
                "backlog": await backlog(writer, port, key),
            }


if __name__ == "__main__":
    figures = asyncio.run(main(seconds=float(os.environ.get("BENCH_SECONDS", "20"))))
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
