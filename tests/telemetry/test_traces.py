"""Traces: one for a task, whoever starts it and whoever calls back."""

import asyncio
import importlib
import os
import re
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_trace_id
from temporalio.client import Client, WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from activities.dispatch import Dispatcher
from activities.run_dispatch import RunDispatcher
from api.app import create_app
from domain.ids import new_id
from store.engine import Database
from telemetry.traces import ExporterMissingError, Traces, current, tracing, wanted
from tests.api.harness import Api, settings_for
from tests.cli.stacks import CHECKOUT, StackProcess
from tests.workflows.test_replay import GOLDEN, history
from worker import SANDBOX, control_worker
from workflows.gateway import Gateway
from workflows.run_orchestrator import RunOrchestrator
from workflows.task_runner import TaskRunner

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
NOBODY = "127.0.0.1:1"


@asynccontextmanager
async def traced() -> AsyncIterator[tuple[Traces, InMemorySpanExporter]]:
    """Trace into memory."""
    spans = InMemorySpanExporter()
    async with tracing("test", exporter=spans) as traces:
        assert traces is not None
        yield traces, spans


@asynccontextmanager
async def api_of(url: str, gateway: Gateway, traces: Traces) -> AsyncIterator[Api]:
    """Give a traced API in memory."""
    settings, database = settings_for(url), Database(url, pool=5)
    dispatcher = Dispatcher(name=f"traces-{new_id()}", database=database, gateway=gateway, policy=settings.policy)
    runs = RunDispatcher(database=database, gateway=gateway, policy=settings.policy)
    app = create_app(
        settings=settings, database=database, gateway=gateway, courier=dispatcher, runs=runs, traces=traces
    )
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://api.test") as client:
        api = Api(app=app, database=database, dispatcher=dispatcher, runs=runs, settings=settings, client=client)
        client.headers.update(await api.key())
        yield api
    await runs.close()
    await dispatcher.close()
    await database.close()


async def reaches(api: Api, task: str, **wanted: str) -> dict[str, Any]:
    """Wait until the row says so."""
    async with asyncio.timeout(30):
        while True:
            row = dict((await api.client.get(f"/v1/tasks/{task}")).json())
            if all(row[name] == value for name, value in wanted.items()):
                return row
            await asyncio.sleep(0.05)


async def carried_out(api: Api, task: str, client: Client, queue: str, traceparent: str | None) -> None:
    """Let a control worker take the task to its end; its workspace calls back as part of this trace."""
    async with control_worker(client, api.database, api.dispatcher, task_queue=queue, max_cached_workflows=0):
        row = await reaches(api, task, status="delegated")
        token = await api.claim(row["workspace_id"])
        headers = token | ({"traceparent": traceparent} if traceparent else {})
        told = await api.client.post(f"/v1/workspaces/{row['workspace_id']}/finished", headers=headers)
        assert told.status_code == 200
        await reaches(api, task, status="completed")


def of(trace: str, spans: tuple[ReadableSpan, ...]) -> list[str]:
    """Give the names of a trace's spans."""
    return [span.name for span in spans if span.context and format_trace_id(span.context.trace_id) == trace]


PARTS = {
    "POST /v1/tasks",
    "StartWorkflow:TaskRunner",
    "RunWorkflow:TaskRunner",
    "StartActivity:flush",
    "RunActivity:flush",
    "POST /v1/workspaces/{workspace_id}/finished",
    "SignalWorkflow:workspace_finished",
    "HandleSignal:workspace_finished",
    "CompleteWorkflow:TaskRunner",
}


@pytest.mark.parametrize("late", [False, True])
async def test_a_task_has_one_trace(database_url: str, temporal: WorkflowEnvironment, *, late: bool) -> None:
    """Request, workflow, activities and callback are the caller's trace, also if it is started when Temporal is back.

    Nothing is told twice, although every workflow task is a replay.
    """
    queue = f"traces-{new_id()}"
    async with traced() as (traces, spans):
        client = await Client.connect(
            temporal.client.service_client.config.target_host,
            data_converter=pydantic_data_converter,
            interceptors=[traces.interceptor],
        )
        away = await Client.connect(
            NOBODY, lazy=True, data_converter=pydantic_data_converter, interceptors=[traces.interceptor]
        )
        gateway = Gateway(client, queue=queue)
        async with api_of(database_url, Gateway(away) if late else gateway, traces) as api:
            made = await api.client.post(
                "/v1/tasks", json={"command": ["true"], "provider": "external"}, headers={"traceparent": CALLER}
            )
            task = made.json()["id"]
            if late:
                await api.dispatcher.close()
                async with api_of(database_url, gateway, traces) as other:
                    loop = asyncio.create_task(other.dispatcher.run())
                    await carried_out(other, task, client, queue, CALLER)
                    loop.cancel()
            else:
                await carried_out(api, task, client, queue, CALLER)
    names = of(TRACE, spans.get_finished_spans())
    assert set(names) >= PARTS
    assert [names.count(name) for name in ("RunWorkflow:TaskRunner", "CompleteWorkflow:TaskRunner")] == [1, 1]


async def test_a_request_without_a_trace_begins_one(database_url: str, temporal: WorkflowEnvironment) -> None:
    """Two requests are two traces; the probes are none."""
    async with traced() as (traces, spans), api_of(database_url, Gateway(temporal.client), traces) as api:
        for path in ("/v1/tasks", "/v1/tasks/none", "/livez", "/readyz"):
            await api.client.get(path)
    told = {span.name: span for span in spans.get_finished_spans()}
    assert set(told) == {"GET /v1/tasks", "GET /v1/tasks/{task_id}"}
    assert len({span.context.trace_id for span in told.values() if span.context}) == 2
    statuses = {name: (span.attributes or {})["http.response.status_code"] for name, span in told.items()}
    assert statuses == {"GET /v1/tasks": 200, "GET /v1/tasks/{task_id}": 404}


@pytest.mark.parametrize("given", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ü", "x" * 9000])
async def test_a_trace_that_is_none_is_left_aside(database_url: str, temporal: WorkflowEnvironment, given: str) -> None:
    """The request is served, and begins its own."""
    async with traced() as (traces, spans), api_of(database_url, Gateway(temporal.client), traces) as api:
        answer = await api.client.get("/v1/tasks", headers={b"traceparent": given.encode()})
    assert answer.status_code == 200
    assert [span.name for span in spans.get_finished_spans()] == ["GET /v1/tasks"]


@pytest.mark.parametrize("name", GOLDEN)
async def test_a_recorded_history_replays_under_the_interceptor(name: str) -> None:
    """Whether traces are on or off is no part of a history; and a replay tells nothing."""
    async with traced() as (traces, spans):
        replayer = Replayer(
            workflows=[TaskRunner, RunOrchestrator],
            workflow_runner=SANDBOX,
            data_converter=pydantic_data_converter,
            interceptors=[traces.interceptor],
        )
        await replayer.replay_workflow(WorkflowHistory.from_json("golden", history(name)))
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_traces_are_off_unless_they_are_asked_for(environ: dict[str, str], *, expected: bool) -> None:
    """OpenTelemetry's own environment decides."""
    assert wanted(environ) is expected


async def test_without_traces_nothing_is_carried() -> None:
    """No tracer, and no `traceparent` for the row."""
    async with tracing("test") as traces:
        assert (traces, current()) == (None, None)


async def test_an_exporter_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that shall trace and cannot does not start."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")
    with pytest.raises(ExporterMissingError, match=r"taskrunner\[otlp\]"):
        async with tracing("test"):
            pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Give a receiver of OTLP over HTTP, and what it got."""
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Keep it."""
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Stay quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_stack_sends_one_trace_for_a_task(tmp_path: Path, collector: tuple[str, list[bytes]]) -> None:
    """API, control worker and node worker send parts of one trace; the command has it, and its workspace calls back."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otlp is not installed")
    url, got = collector
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    stack = StackProcess(tmp_path / "data", OTEL_EXPORTER_OTLP_ENDPOINT=url, PYTHONPATH=path).up()
    try:
        said = stack.run("start", "--", "sh", "-c", "echo $TRACEPARENT")
    finally:
        assert stack.stop() == 0
    (trace,) = re.findall(r"\b00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\b", said)
    message = importlib.import_module("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    found: dict[str, set[str]] = defaultdict(set)
    for body in got:
        for resource in message.ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
            spans = [span for scope in resource.scope_spans for span in scope.spans]
            found[attributes["service.name"]] |= {span.name for span in spans if span.trace_id.hex() == trace}
    callbacks = {f"POST /v1/workspaces/{{workspace_id}}/{kind}" for kind in ("ready", "finished")}
    assert found["taskrunner-api"] >= callbacks | {"POST /v1/tasks", "StartWorkflow:TaskRunner"}
    assert found["taskrunner-control"] >= {"RunWorkflow:TaskRunner", "RunActivity:flush"}
    assert found["taskrunner-node"] >= {"RunActivity:create_workspace", "RunActivity:start_agent"}
