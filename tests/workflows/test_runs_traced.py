"""The phases of supersteps are spans of the trace of the request that made the run."""

from types import SimpleNamespace
from typing import Any, cast

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_trace_id
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

from telemetry.traces import tracing
from tests.workflows.run_stage import run_stage_on

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_the_phases_of_a_superstep_are_spans(temporal: WorkflowEnvironment, database_url: str) -> None:
    """Two of each, in the run's trace: what was scheduled, merged, found ready, and written."""
    spans = InMemorySpanExporter()
    async with tracing("test", exporter=spans) as traces:
        assert traces is not None
        client = await Client.connect(
            temporal.client.service_client.config.target_host,
            data_converter=pydantic_data_converter,
            interceptors=[traces.interceptor],
        )
        environment = cast("WorkflowEnvironment", SimpleNamespace(client=client))
        async with run_stage_on(environment, database_url) as stage:
            run = await stage.create(
                {"a": {}, "b": {}}, "a>b", mode="superstep", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01"
            )
            assert (await run.end())["status"] == "completed"
    told: dict[str, list[Any]] = {}
    for span in spans.get_finished_spans():
        if span.context and format_trace_id(span.context.trace_id) == TRACE:
            told.setdefault(span.name, []).append(dict(span.attributes or {}))
    numbers = {name: [each["superstep"] for each in told[name]] for name in ("schedule", "barrier", "checkpoint")}
    assert numbers == {"schedule": [0, 1], "barrier": [1, 2], "checkpoint": [1, 2]}
    assert [each["next"] for each in told["frontier"]] == [1, 0]
