"""What metrics and traces cost: the same load on processes without them, with metrics, and with both, in turns.

`python -m benchmarks.telemetry` prints, for each, tasks per second and the seconds of processor time that API and
control worker spend on a task; the latter says more on a machine that others use too.
"""

import asyncio
import json
import os
import tempfile
import threading
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bench import load, process, servers

VARIANTS: dict[str, dict[str, str]] = {
    "none": {"TASKRUNNER_METRICS_PORT": ""},
    "metrics": {"TASKRUNNER_METRICS_PORT": "0"},
    "both": {"TASKRUNNER_METRICS_PORT": "0", "OTEL_EXPORTER_OTLP_ENDPOINT": ""},
}
PROCESSES = (
    (("-m", "cli.main", "worker", "--role", "control"), "worker.ready"),
    (("-m", "cli.main", "api"), "running on"),
)


class Collector(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    def do_POST(self) -> None:
        """Read it all."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""


def spent() -> float:
    """Return the processor time of this process's children of ours."""
    ours = [child for child in psutil.Process().children() if "cli.main" in " ".join(child.cmdline())]
    return sum(sum(child.cpu_times()[:2]) for child in ours)


async def once(environ: dict[str, str], folder: Path, *, seconds: float) -> tuple[float, float]:
    """Return tasks per second, and processor seconds per task, of one round."""
    os.environ.update(environ)
    try:
        async with AsyncExitStack() as running:
            for argv, ready in PROCESSES:
                await running.enter_async_context(process(*argv, ready=ready, log=folder / f"{argv[-1]}.log"))
            await load("ours", "closed", 20, 2)
            before = spent()
            samples = await load("ours", "closed", 20, seconds)
            return samples.tasks / samples.seconds, (spent() - before) / samples.tasks
    finally:
        for name in environ:
            os.environ.pop(name)


async def main(*, seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """Take turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    VARIANTS["both"]["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector.server_port}"
    with tempfile.TemporaryDirectory(prefix="taskrunner-telemetry-") as folder:
        async with servers(Path(folder)):
            for _ in range(rounds):
                for name, environ in VARIANTS.items():
                    taken[name].append(await once(environ, Path(folder), seconds=seconds))
                    rate, cost = taken[name][-1]
                    print(f"  {name:8} {rate:6.1f} tasks/s  {cost * 1000:6.1f} ms/task", flush=True)
    collector.shutdown()
    return {
        name: {
            "tasks_per_second": round(sum(rate for rate, _ in some) / len(some), 2),
            "processor_ms_per_task": round(sum(cost for _, cost in some) / len(some) * 1000, 2),
        }
        for name, some in taken.items()
    }


if __name__ == "__main__":
    environment = os.environ
    figures = asyncio.run(
        main(seconds=float(environment.get("BENCH_SECONDS", "6")), rounds=int(environment.get("BENCH_ROUNDS", "3")))
    )
    print(json.dumps(figures, indent=2))
