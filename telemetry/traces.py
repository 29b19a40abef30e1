"""Traces: one for each task, from the request that made it through workflow and activities to the callbacks.

Off unless OpenTelemetry's own environment names a receiver (`OTEL_EXPORTER_OTLP_ENDPOINT`); then that environment
decides the rest: sampling, service name, headers.
"""

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Tracer, format_trace_id, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from temporalio.client import OutboundInterceptor, SignalWorkflowInput, StartWorkflowInput, WorkflowHandle
from temporalio.contrib.opentelemetry import TracingInterceptor

HEADER: Final = "traceparent"
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
EXPORTERS: Final = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class ExporterMissingError(RuntimeError):
    """The environment asks for traces that nobody here can send."""


def wanted(environ: Mapping[str, str]) -> bool:
    """Return whether the environment asks for traces."""
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(environ.get(name) for name in ENDPOINTS)


def current() -> str | None:
    """Return the current span as a `traceparent`; None where there is none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(HEADER)


@contextmanager
def continued(traceparent: str | None) -> Iterator[None]:
    """Go on with a trace that began elsewhere."""
    carrier = {HEADER: traceparent} if traceparent else {}
    token = contexts.attach(_PROPAGATOR.extract(carrier))
    try:
        yield
    finally:
        contexts.detach(token)


class Traces:
    """The tracer of a process, and the interceptor by which Temporal's headers carry its traces."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.interceptor = _Within(tracer)

    @contextmanager
    def request(self, method: str, traceparent: str | None) -> Iterator["Request"]:
        """Trace a request, as part of its caller's trace if it has one."""
        with continued(traceparent), self.tracer.start_as_current_span(method, kind=SpanKind.SERVER) as span:
            served = Request()
            try:
                yield served
            finally:
                span.update_name(f"{method} {served.route}")
                span.set_attributes({"http.route": served.route, "http.response.status_code": served.status})


class Request:
    """What is known of a request once it was answered."""

    route: str = "(none)"
    status: int = 0


class _Within(TracingInterceptor):
    """Traces what belongs to a task: calls without a trace, such as a sweep's, begin none."""

    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002 - the SDK's own name
        """Wrap a client's calls."""
        return _Continued(super().intercept_client(next), next)


class _Continued(OutboundInterceptor):
    def __init__(self, traced: OutboundInterceptor, plain: OutboundInterceptor) -> None:
        super().__init__(traced)
        self._plain = plain

    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:  # noqa: A002
        # A task has one trace: that of the request that made it. Who starts an attempt of it later is another request,
        # or the dispatcher, which has none.
        own = getattr(input.args[0], HEADER, None) if input.args else None
        if own is None:
            return await self._plain.start_workflow(input)
        if format_trace_id(get_current_span().get_span_context().trace_id) in own:
            return await super().start_workflow(input)
        with continued(own):
            return await super().start_workflow(input)

    async def signal_workflow(self, input: SignalWorkflowInput) -> None:  # noqa: A002
        traced = get_current_span().get_span_context().is_valid
        await (super().signal_workflow(input) if traced else self._plain.signal_workflow(input))


@asynccontextmanager
async def tracing(service: str, *, exporter: SpanExporter | None = None) -> AsyncIterator[Traces | None]:
    """Trace, if the environment asks for it; what is left is sent at the end. Raises ExporterMissingError."""
    if exporter is None and not wanted(os.environ):
        yield None
        return
    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter or _exporter(os.environ)))
    try:
        yield Traces(provider.get_tracer("taskrunner"))
    finally:
        await asyncio.to_thread(provider.shutdown)


def _exporter(environ: Mapping[str, str]) -> SpanExporter:
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    try:
        module = importlib.import_module(EXPORTERS[protocol or "http/protobuf"])
    except (ImportError, KeyError) as error:
        text = f"traces cannot be sent ({error}): install taskrunner[otlp], with a protocol of {', '.join(EXPORTERS)}"
        raise ExporterMissingError(text) from None
    made: SpanExporter = module.OTLPSpanExporter()
    return made
