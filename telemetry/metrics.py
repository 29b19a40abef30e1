"""What one process counts. Every metric of ours stands here, and `docs/metrics.md` is made from it."""

from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from domain.health import LIVE_NODES, HealthReport, Level, NodeNumbers
from domain.lifecycle import NodeStatus, TaskStatus

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# From a local statement to the longest call's limit.
CALL_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# From a command that does nothing to one that runs into its absolute cap.
TASK_BUCKETS: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 8 * 3600, 24 * 3600)

# Text of other metrics that belong to the same scrape.
More = Callable[[], Awaitable[bytes]]


class Metrics:
    """The registry of a process, and what happens in it; what does not happen in a process stays empty there."""

    def __init__(self, *, more: More | None = None) -> None:
        # A series more for each one, and nobody asks when it began.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # theirs has no types
        self.registry = registry = CollectorRegistry()
        # What brings gauges up to date before a scrape.
        self.refresh: Callable[[], Awaitable[None]] | None = None
        self._more = more
        self.call_seconds = Histogram(
            "taskrunner_call_seconds",
            "Transactions, calls to Temporal and to providers, by their names.",
            ["call"],
            registry=registry,
            buckets=CALL_BUCKETS,
        )
        self.call_failures = Counter(
            "taskrunner_call_failures", "Those of them that raised.", ["call"], registry=registry
        )
        self.requests = Counter(
            "taskrunner_http_requests",
            "Requests that were answered, by the route's template.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "taskrunner_http_request_seconds",
            "How long they took; a stream takes as long as it is read.",
            ["method", "route"],
            registry=registry,
            buckets=CALL_BUCKETS,
        )
        self.rejected_tokens = Counter(
            "taskrunner_callback_tokens_rejected",
            "Callbacks with a bad, foreign or expired token.",
            registry=registry,
        )
        self.flushes = Counter(
            "taskrunner_flushes", "Writes of the mirror, by what the row said to them.", ["verdict"], registry=registry
        )
        self.tasks_ended = Counter(
            "taskrunner_tasks_ended", "Tasks that ended, by outcome.", ["outcome"], registry=registry
        )
        self.attempts_failed = Counter(
            "taskrunner_attempts_failed", "Attempts that failed, by category.", ["category"], registry=registry
        )
        self.attempt_seconds = Histogram(
            "taskrunner_attempt_seconds",
            "From an attempt's begin to its end, by outcome.",
            ["outcome"],
            registry=registry,
            buckets=TASK_BUCKETS,
        )
        self.step_seconds = Histogram(
            "taskrunner_step_seconds",
            "Visits of steps that ended, by step.",
            ["step"],
            registry=registry,
            buckets=TASK_BUCKETS,
        )
        self.sweep_actions = Counter(
            "taskrunner_sweep_actions", "What the reconciler did; near zero is well.", ["action"], registry=registry
        )
        self.sweep_seconds = Histogram(
            "taskrunner_sweep_seconds", "How long its sweeps took.", registry=registry, buckets=CALL_BUCKETS
        )

    def called(self, call: str, seconds: float, failed: bool) -> None:  # noqa: FBT001 - the hook's signature
        """Note that a boundary was passed."""
        self.call_seconds.labels(call).observe(seconds)
        if failed:
            self.call_failures.labels(call).inc()

    def requested(self, method: str, route: str, status: int, seconds: float) -> None:
        """Note that a request was answered."""
        self.requests.labels(method, route, str(status)).inc()
        self.request_seconds.labels(method, route).observe(seconds)

    async def exposition(self) -> bytes:
        """Return all as text for Prometheus."""
        if self.refresh is not None:
            await self.refresh()
        ours = generate_latest(self.registry)
        return ours + await self._more() if self._more is not None else ours


class HealthGauges:
    """The numbers of the health report, of all projects; each API process has the same."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"taskrunner_{name}", text, labels, registry=registry)

        self._level = gauge("health", "The health report's level: 0 HEALTHY, 1 WARNING, 2 CRITICAL.")
        self._up = gauge("up", "Whether a server answers.", "server")
        self._tasks = gauge("tasks", "Tasks that have not ended, by status.", "status")
        self._stuck = gauge("tasks_stuck", "Tasks past their budget that have not moved for a while.")
        self._lag = gauge("mirror_lag_seconds", "From what happens in a workflow to its row: 95 % are faster.")
        self._unsent = gauge("unsent", "What is due and unsent: of the outbox, and of the inbox.", "box")
        self._unsent_age = gauge("unsent_age_seconds", "How long the oldest of it waits.", "box")
        self._sweep_age = gauge("sweep_age_seconds", "Since the reconciler's last sweep.")
        self._nodes = gauge("nodes", "Nodes, by status.", "status")
        self._silent = gauge("nodes_silent", "Nodes in service whose worker does not poll.")
        self._slots = gauge("slots", "Slots of the nodes in service: the used ones, and all.", "which")
        self._problems = gauge("reported_problems", "Running workflows that Temporal reports as unable to go on.")

    def show(self, report: HealthReport, *, silent: Callable[[NodeNumbers], bool]) -> None:
        """Let the gauges be what the report says; what it does not know is left as it was."""
        self._level.set(list(Level).index(report.level))
        self._up.labels("postgresql").set(report.database)
        self._up.labels("temporal").set(report.temporal)
        if tasks := report.tasks:
            for status in TaskStatus:
                if not status.terminal:
                    self._tasks.labels(status).set(tasks.open.get(status, 0))
            self._stuck.set(tasks.stuck)
            self._lag.set(tasks.mirror_lag_seconds or 0)
        if system := report.system:
            self._unsent.labels("outbox").set(system.outbox_waiting)
            self._unsent.labels("inbox").set(system.callbacks_waiting)
            self._unsent_age.labels("outbox").set(system.outbox_age_seconds)
            self._unsent_age.labels("inbox").set(system.callbacks_age_seconds)
            self._sweep_age.set(system.sweep_age_seconds or 0)
            for each in NodeStatus:
                self._nodes.labels(each).set(sum(node.status is each for node in system.nodes))
            live = [node for node in system.nodes if node.status in LIVE_NODES]
            self._silent.set(sum(silent(node) for node in live))
            self._slots.labels("used").set(sum(node.used for node in live))
            self._slots.labels("all").set(sum(node.slots for node in live))
            self._problems.set(system.reported_problems or 0)
