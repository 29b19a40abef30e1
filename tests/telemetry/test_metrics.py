"""Metrics: what a real run exports is what dashboards and alerts ask for; who may fetch it."""

import asyncio
import json
import re
import socket
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from domain import failpoints
from domain.errors import Category
from domain.events import EventType, NewEvent
from domain.ids import new_id
from domain.lifecycle import Step, TaskStatus
from domain.messages import Answer, Flush, Verdict
from domain.names import CONTROL_QUEUE, RECONCILE, TaskId, workflow_id
from domain.reconcile import Action, Report, SweepOrder
from settings import Settings
from telemetry.endpoint import counting, serving
from telemetry.metering import MeteringInterceptor
from telemetry.metrics import HealthGauges, Metrics
from tests.cli.stacks import StackProcess
from tests.security.tasks import until
from tests.store.rows import event

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
# What a server's failure makes: a run in which all is well does not have them.
FAULTS = {"taskrunner_call_failures_total"}
WORDS_OF_PROMQL = {"le"}


def expressions() -> list[str]:
    """Give every query of the dashboard and of the alerts."""
    board = json.loads((GRAFANA / "taskrunner.json").read_text())
    alerts = yaml.safe_load((GRAFANA / "alerts.yaml").read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return found + [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]


async def swept(client: Client) -> bool:
    """Sweep, and say whether something was mended."""
    report: Report = await client.execute_workflow(
        RECONCILE, SweepOrder(), id=f"sweep-{new_id()}", task_queue=CONTROL_QUEUE, result_type=Report
    )
    return Action.ENDED in report.counts


@pytest.fixture(scope="module")
async def scraped(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, set[str]]]:
    """Give every sample of the three processes of a stack on which tasks have run, with its labels.

    One completed, one failed, and one was terminated by an operator, so that the reconciler had something to mend.
    """
    stack = StackProcess(tmp_path_factory.mktemp("metrics") / "data").up()
    try:
        stack.run("start", "--", "true")
        stack.run("start", "--", "sh", "-c", "exit 3", code=3)
        address = json.loads((stack.data_dir / "address.json").read_text())
        task = json.loads(stack.run("start", "--detach", "--json", "--", "sleep", "60"))["id"]
        until(lambda: json.loads(stack.run("tasks", "show", task, "--json"))["status"] == "in_progress" or None)
        client = await Client.connect(address["temporal"], data_converter=pydantic_data_converter)
        await client.get_workflow_handle(workflow_id(TaskId(task), 1)).terminate("an operator's word")
        while not await swept(client):  # Temporal's lists are a little late
            pass
        assert httpx2.post(f"{address['api']}/v1/workspaces/none/ready").status_code == 401
        samples: dict[str, set[str]] = defaultdict(set)
        for url in address["metrics"].values():
            for family in text_string_to_metric_families(httpx2.get(url).text):
                for sample in family.samples:
                    samples[sample.name] |= set(sample.labels)
        samples[""] = set(address["metrics"])
        yield dict(samples)
    finally:
        assert stack.stop() == 0


def test_each_process_of_a_stack_is_scraped(scraped: dict[str, set[str]]) -> None:
    """API, control worker and node worker, ours and the SDK's."""
    assert scraped[""] == {"api", "control", "node"}
    assert {name.partition("_")[0] for name in scraped} >= {"taskrunner", "temporal"}


def test_what_dashboard_and_alerts_ask_for_is_exported(scraped: dict[str, set[str]]) -> None:
    """Every metric that is named in a query has samples in a real run, and every label that it is grouped by."""
    queries = expressions()
    assert len(queries) > 30
    for query in queries:
        names = set(re.findall(r"\b(?:taskrunner|temporal)_[a-z_]+", query))
        assert names, query
        assert names - scraped.keys() <= FAULTS, query
        grouped = re.findall(r"by \(([^)]*)\)", query) + re.findall(r"\{(\w+)=", query)
        labels = {label.strip() for group in grouped for label in group.split(",")} - WORDS_OF_PROMQL
        known = set().union(*(scraped.get(name, set()) for name in names))
        assert labels <= known or names <= FAULTS, query


def test_every_metric_of_ours_is_exported(scraped: dict[str, set[str]]) -> None:
    """What the documentation lists has samples in a real run; and nothing of ours is exported that it does not list."""
    metrics, health = Metrics(), CollectorRegistry()
    HealthGauges(health)
    listed = {name for registry in (metrics.registry, health) for name in _sample_names(registry)}
    exported = {name for name in scraped if name.startswith("taskrunner_")}
    assert listed - exported <= FAULTS
    assert exported <= listed


def _sample_names(registry: CollectorRegistry) -> set[str]:
    """Give the names under which a registry's metrics have samples."""
    found = set()
    for family in registry.collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}[family.type]
        found |= {family.name + ending for ending in endings}
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Give a sample."""
    return metrics.registry.get_sample_value(f"taskrunner_{name}", labels)


def told(*events: NewEvent, verdict: Verdict = Verdict.APPLIED, withheld: bool = False) -> tuple[Flush, Answer]:
    """Give a flush and its answer."""
    flush = Flush(task_id=TaskId("t"), attempt=1, version=1, events=list(events))
    return flush, Answer(verdict=verdict, status=TaskStatus.IN_PROGRESS, withheld=withheld)


def test_an_end_counts_once() -> None:
    """A write that was applied counts; its repeat, one that was withheld, and a superseded one are no ends."""
    metrics = Metrics()
    metering = MeteringInterceptor(metrics)
    error = {"category": Category.AGENT}
    end = event(EventType.TASK_FAILED, error=error, duration_seconds=7.0)
    for verdict in Verdict:
        metering.note(*told(end, verdict=verdict))
    metering.note(*told(end, withheld=True))
    assert value(metrics, "tasks_ended_total", outcome="failed") == 1
    assert value(metrics, "attempts_failed_total", category="agent") == 1
    assert value(metrics, "attempt_seconds_sum", outcome="failed") == 7.0
    assert value(metrics, "flushes_total", verdict="applied") == 2


def test_an_attempt_that_another_follows_is_no_end_of_the_task() -> None:
    """It failed, for its reason; the task goes on."""
    metrics = Metrics()
    failed = event(EventType.ATTEMPT_FAILED, error={"category": "timeout"}, duration_seconds=1.0)
    MeteringInterceptor(metrics).note(*told(failed))
    assert value(metrics, "attempts_failed_total", category="timeout") == 1
    assert value(metrics, "tasks_ended_total", outcome="failed") is None


def test_a_steps_time_is_from_its_begin_to_its_end() -> None:
    """Also over two writes; an end whose begin another worker saw is left out."""
    metrics = Metrics()
    metering = MeteringInterceptor(metrics)
    begun = event(EventType.STEP_STARTED, step=Step.RUNNING)
    ended = event(EventType.STEP_FINISHED, step=Step.RUNNING)
    metering.note(*told(begun))
    metering.note(*told(ended, event(EventType.STEP_FINISHED, "other", step=Step.CLEANUP)))
    seconds = (ended.ts - begun.ts).total_seconds()
    assert value(metrics, "step_seconds_sum", step="running") == seconds
    assert value(metrics, "step_seconds_count", step="cleanup") is None


def test_a_sweep_that_changed_nothing_is_not_counted_as_done() -> None:
    """A dry run took its time, and did nothing."""
    metrics = Metrics()
    metering = MeteringInterceptor(metrics)
    for dry_run in (True, False):
        metering.note(None, Report(dry_run=dry_run, counts={Action.ENDED: 2}, seconds=0.5))
    assert value(metrics, "sweep_actions_total", action="ended") == 2
    assert value(metrics, "sweep_seconds_count") == 2


def test_a_boundary_is_timed_and_its_failure_counted() -> None:
    """By its name, and only while somebody counts."""
    metrics = Metrics()
    failpoints.count(metrics.called)
    try:
        with failpoints.boundary("noun.verb"):
            pass
        with pytest.raises(OSError, match="gone"), failpoints.boundary("noun.verb"):
            raise OSError("gone")
    finally:
        failpoints.count(None)
    with failpoints.boundary("noun.verb"):
        pass
    assert value(metrics, "call_seconds_count", call="noun.verb") == 2
    assert value(metrics, "call_failures_total", call="noun.verb") == 1


async def asked(url: str, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    """Fetch."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.get(url.replace("/metrics", path), headers=headers)
    return answer.status_code, answer.text


async def test_metrics_are_served_and_nothing_else_is() -> None:
    """Text for Prometheus at `/metrics`; 404 elsewhere."""
    async with serving(Metrics(), host="127.0.0.1", port=0) as url:
        status, text = await asked(url)
        assert (status, "taskrunner_sweep_seconds_count 0.0" in text) == (200, True)
        assert (await asked(url, "/other"))[0] == 404


@pytest.mark.parametrize(("sent", "status"), [("Bearer right", 200), ("Bearer wrong", 401), ("", 401)])
async def test_a_token_is_asked_for(sent: str, status: int) -> None:
    """Where one is set, nobody fetches without it."""
    async with serving(Metrics(), host="127.0.0.1", port=0, token="right") as url:
        assert (await asked(url, Authorization=sent))[0] == status


async def test_a_port_that_is_taken_gives_way_to_the_next() -> None:
    """Several processes of one machine may have the same setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with serving(Metrics(), host="127.0.0.1", port=port) as url:
            assert int(re.findall(r":(\d+)/", url)[0]) > port
            assert (await asked(url))[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\n", b"\x00" * 40_000, b"x\r\n\r\n"])
async def test_nonsense_does_no_harm(sent: bytes) -> None:
    """Half a request, a head without an end, bytes: the next one is answered all the same."""
    async with serving(Metrics(), host="127.0.0.1", port=0) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(re.findall(r":(\d+)/", url)[0]))
        writer.write(sent)
        writer.write_eof()
        assert (await reader.read()).partition(b"\r\n")[0] in {b"", b"HTTP/1.1 404 Not Found"}
        writer.close()
        assert (await asked(url))[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "metrics.example"])  # noqa: S104
def test_without_a_token_metrics_are_loopbacks(host: str) -> None:
    """Another address refuses to start, and names both settings."""
    with pytest.raises(ValidationError, match=r"METRICS_HOST .* needs TASKRUNNER_METRICS_TOKEN"):
        Settings(metrics_host=host)
    allowed: dict[str, Any] = {"metrics_host": host, "metrics_token": "t"}
    assert Settings(**allowed).metrics_host == host


async def test_without_a_port_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty setting: no port is opened, and no call is timed."""
    monkeypatch.setenv("TASKRUNNER_METRICS_PORT", "")
    settings = Settings()
    async with counting(host=settings.metrics_host, port=settings.metrics_port, token="") as nothing:
        with failpoints.boundary("noun.verb"):
            pass
    assert nothing.address == ""
    assert value(nothing.metrics, "call_seconds_count", call="noun.verb") is None
