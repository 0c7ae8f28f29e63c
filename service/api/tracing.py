"""Traces: a span for a request and one for each of its stages, sent to an OpenTelemetry collector.

Spans are made once the answer is on its way, of times that were noted anyway, and only for requests that are sampled:
those whose caller says so in `traceparent`, and a share of those who say nothing. They carry counts and names, nothing
of what was sent. What OTEL_ variables say of the resource, of headers and of batches is followed by the library.
"""

import os
import random
import threading
import time
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from service import __version__
from service.api.course import Course
from service.api.exchange import CLIENT_CLOSED, UNMATCHED, Exchange
from service.instruments import STAGE_NAMES

# Where a collector takes traces, by the protocol.
TRACES_PATH = "/v1/traces"
# How the transport labels calls of gRPC, whose statuses are not HTTP's.
GRPC = "grpc:"
# The convention's word for a method that is none of HTTP's, which would be the caller's to choose.
OTHER_METHOD = "_OTHER"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
# How long the end waits for a collector: less than what a worker is given beyond its drain timeout.
FLUSH_S = 2.0

_NO_PARENT = Context()
_propagator = TraceContextTextMapPropagator()


def traces_url(endpoint: str) -> str:
    """Give the address that spans are sent to; one that has a path is taken as it is."""
    scheme, _, rest = endpoint.partition("://")
    place, _, path = rest.partition("/")
    return endpoint if path else f"{scheme}://{place}{TRACES_PATH}"


class _Exporter(SpanExporter):
    """One that can be told to end while it sends, and again; OpenTelemetry's own complains of every later call."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._ended = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE if self._ended else self._inner.export(spans)

    def shutdown(self) -> None:
        if not self._ended:
            self._ended = True
            self._inner.shutdown()


class Tracing:
    """`ratio` is the share that is traced of requests whose callers leave it to us.

    What sends spans is a thread, so it is made in the process that answers, by `start`.
    """

    def __init__(self, endpoint: str, ratio: float) -> None:
        self._url = traces_url(endpoint)
        self._ratio = ratio
        self._provider: TracerProvider | None = None
        self._tracer: Tracer = trace.NoOpTracer()

    def start(self) -> None:
        # Who is sampled has been decided before a span is made.
        self._provider = TracerProvider(ALWAYS_ON, _resource(), shutdown_on_exit=False)
        self._exporter = _Exporter(OTLPSpanExporter(self._url))
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("logitserve", __version__)

    def close(self) -> None:
        """Send what is left, but wait for no collector that is down or hangs."""
        if self._provider is not None:
            sending = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
            sending.start()
            sending.join(FLUSH_S)
            self._exporter.shutdown()  # who has not taken it by now gets no more attempts

    def observe(self, exchange: Exchange, ended_s: float) -> None:
        context = self._sampled(exchange)
        if context is not None:
            self._trace(exchange, context, ended_s)

    def _sampled(self, exchange: Exchange) -> Context | None:
        """Give what the trace goes on from, or None where the request is not to be traced."""
        traceparent = exchange.header(b"traceparent")
        if traceparent is not None:
            carrier = {"traceparent": traceparent, "tracestate": exchange.header(b"tracestate") or ""}
            context = _propagator.extract(carrier, _NO_PARENT)
            parent = trace.get_current_span(context).get_span_context()
            if parent.is_valid:
                return context if parent.trace_flags.sampled else None
        return _NO_PARENT if random.random() < self._ratio else None

    def _trace(self, exchange: Exchange, context: Context, ended_s: float) -> None:
        # One offset for all times of a trace, so that what nests on one clock nests on the other.
        ahead_ns = time.time_ns() - time.monotonic_ns()
        course = exchange.course
        span = self._tracer.start_span(
            _name_of(exchange),
            context,
            SpanKind.SERVER,
            _attributes_of(exchange),
            start_time=ahead_ns + _ns(exchange.started_s),
        )
        failure = exchange.failure
        if failure is not None and failure.status >= 500:
            span.set_status(Status(StatusCode.ERROR, failure.code))
        if course is not None:
            span.set_attributes(_scored_of(course))
            inside = trace.set_span_in_context(span, context)
            for stage, begun_s, done_s in zip(
                STAGE_NAMES[: len(course.times_s) - 1], course.times_s, course.times_s[1:], strict=False
            ):
                child = self._tracer.start_span(stage, inside, start_time=ahead_ns + _ns(begun_s))
                child.end(ahead_ns + _ns(done_s))
        span.end(ahead_ns + _ns(ended_s))


def _resource() -> Resource:
    """Say who sends, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES do."""
    found = Resource.create()
    own: dict[str, AttributeValue] = {"service.version": __version__, "process.pid": os.getpid()}
    if str(found.attributes.get("service.name", "")).startswith("unknown_service"):
        own["service.name"] = "logitserve"
    return found.merge(Resource(own))


def _ns(seconds: float) -> int:
    return int(1e9 * seconds)


def _name_of(exchange: Exchange) -> str:
    route = exchange.target.path
    if route.startswith(GRPC):
        return route.removeprefix(GRPC)
    method = exchange.method if exchange.method in METHODS else "HTTP"
    return method if route is UNMATCHED else f"{method} {route}"


def _attributes_of(exchange: Exchange) -> dict[str, AttributeValue]:
    """Say what was asked for and how it ended, in the words of OpenTelemetry's conventions."""
    route = exchange.target.path
    told: dict[str, AttributeValue] = {"logitserve.request_id": exchange.request_id}
    if route.startswith(GRPC):
        told |= {
            "rpc.system": "grpc",
            "rpc.method": route.removeprefix(GRPC),
            "rpc.grpc.status_code": int(exchange.status),
        }
    else:
        told["http.request.method"] = exchange.method if exchange.method in METHODS else OTHER_METHOD
        if route is not UNMATCHED:
            told["http.route"] = route
        if exchange.status != CLIENT_CLOSED:
            told["http.response.status_code"] = exchange.status
    if exchange.failure is not None:
        told["error.type"] = exchange.failure.code
    elif exchange.status == CLIENT_CLOSED:
        told["error.type"] = "client_closed"
    return told


def _scored_of(course: Course) -> dict[str, AttributeValue]:
    told: dict[str, AttributeValue] = {
        "logitserve.model": course.model,
        "logitserve.version": course.version,
    }
    if course.results:
        told |= {"logitserve.rows": course.rows, "logitserve.batch_rows": course.batch_rows}
    return told
