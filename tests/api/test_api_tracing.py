"""Traces, as a real collector gets them over a real socket."""

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import grpc.aio
import httpx
import numpy as np
import pytest
from collector import Collector, Received, collecting, hanging, nobody
from conftest import MODELS, ROOT, Serve, connected, running_service
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tritonclient.grpc import InferInput, service_pb2
from tritonclient.grpc.aio import InferenceServerClient

from service import __version__
from service.api.native import NativeDialect
from service.api.tracing import FLUSH_S, traces_url
from service.api.v2_grpc import SERVICE
from service.app import create_app
from service.instruments import STAGE_NAMES
from service.settings import Settings

pytestmark = pytest.mark.anyio

FEATURES = (np.arange(128).reshape(2, 64) % 17 + 0.8125).tolist()
TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-01", f"00-{TRACE_ID}-{PARENT_ID}-00"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def start_ns(one: Received) -> int:
    return int(one.span.start_time_unix_nano)


def end_ns(one: Received) -> int:
    return int(one.span.end_time_unix_nano)


def senders() -> list[threading.Thread]:
    names = "OtelBatch", "last traces"
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]


# What a trace tells


async def test_a_request_is_a_span_with_one_for_each_stage(serve: Serve, collector: Collector) -> None:
    before_ns = time.time_ns()
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        answer = await client.post(
            "/predict", json={"features": FEATURES}, headers={"X-Request-Id": "request-7"}
        )
        assert answer.status_code == 200
    (server,) = collector.servers
    assert server.span.name == "POST /predict"
    assert not server.span.parent_span_id
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "logitserve.request_id": "request-7",
        "logitserve.model": "digits",
        "logitserve.version": "1",
        "logitserve.rows": 2,
        "logitserve.batch_rows": 2,
    }
    assert server.span.status.code == Status.STATUS_CODE_UNSET
    children = collector.children(server)
    assert [child.span.name for child in children] == list(STAGE_NAMES)
    assert len(collector.spans) == 1 + len(children)
    assert {child.span.trace_id for child in children} == {server.span.trace_id}
    assert {child.span.kind for child in children} == {Span.SPAN_KIND_INTERNAL}
    # They follow each other without a gap, inside the request, which was now.
    assert before_ns - 1e6 <= start_ns(server) <= start_ns(children[0])
    for one, other in itertools.pairwise(children):
        assert start_ns(one) <= end_ns(one) == start_ns(other) <= end_ns(other)
    assert end_ns(children[-1]) <= end_ns(server) <= time.time_ns() + 1e6


async def test_the_stages_take_what_server_timing_says(serve: Serve, collector: Collector) -> None:
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        answer = await client.post("/predict", json={"features": FEATURES})
    told = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    for child in collector.children(*collector.servers):
        took_ms = (end_ns(child) - start_ns(child)) / 1e6
        assert took_ms == pytest.approx(float(told[child.span.name]), abs=0.002)


async def test_who_sends_is_said(serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        await client.get("/health/live")
    resource = collector.spans[0].resource
    assert resource["service.name"] == "logitserve"
    assert resource["service.version"] == __version__
    # And those who deploy may say it, as with anything that is traced by OpenTelemetry.
    monkeypatch.setenv("OTEL_SERVICE_NAME", "spam-filter")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20me")
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        await client.get("/health/live")
    resource = collector.spans[1].resource
    assert resource["service.name"] == "spam-filter"
    assert resource["deployment.environment.name"] == "staging"
    assert collector.headers[1]["authorization"] == "Bearer me"


async def test_bare_logits_have_an_operation_and_no_version(serve: Serve, collector: Collector) -> None:
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        await client.post("/softmax", json={"logits": [[1.0, 2.0]] * 3})
    (server,) = collector.servers
    assert server.attributes["logitserve.model"] == "softmax"
    assert server.attributes["logitserve.version"] == ""
    assert server.attributes["logitserve.rows"] == 3


@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/v1/models/digits:predict", "/invocations"])
async def test_every_dialect_is_traced_by_its_template(serve: Serve, collector: Collector, path: str) -> None:
    v2 = {
        "inputs": [
            {"name": "features", "shape": [2, 64], "datatype": "FP32", "data": np.ravel(FEATURES).tolist()}
        ]
    }
    body = v2 if path.startswith("/v2") else {"instances": FEATURES}
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        assert (await client.post(path, json=body)).status_code == 200
    (server,) = collector.servers
    assert server.attributes["http.route"] == path.replace("digits", "{model}")
    assert server.attributes["logitserve.model"] == "digits"
    assert [child.span.name for child in collector.children(server)] == list(STAGE_NAMES)


async def test_several_heads_are_named_together(serve: Serve, collector: Collector) -> None:
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        answer = await client.post("/predict", json={"features": FEATURES, "models": ["digits"]})
        assert answer.status_code == 200
    assert collector.servers[0].attributes["logitserve.model"] == "digits"
    assert collector.servers[0].attributes["logitserve.rows"] == 2


async def test_nothing_of_what_is_sent_or_answered_is_in_a_trace(serve: Serve, collector: Collector) -> None:
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        body = {"features": FEATURES, "labels": ["four", "nine"], "outputs": ["predicted_names", "losses"]}
        answer = await client.post("/predict", json=body, headers={"X-Api-Key": "secret-key"})
        assert answer.status_code == 200
        await client.post("/predict?secret=query", json={"features": [["secret-word"]], "secret-field": 1})
        await client.get("/secret-path/of/somebody")
    assert len(collector.servers) == 3
    for body_sent in collector.bodies:
        for secret in (b"secret", b"0.8125", b"four", b"nine", b"losses"):
            assert secret not in body_sent


# Who is traced


async def test_the_callers_trace_goes_on(serve: Serve, collector: Collector) -> None:
    headers = {"traceparent": SAMPLED, "tracestate": "vendor=opaque"}
    async with serve(trace_endpoint=collector.url, trace_ratio=0) as client:
        await client.post("/softmax", json={"logits": [1, 2]}, headers=headers)
    (server,) = collector.servers
    assert server.span.trace_id.hex() == TRACE_ID
    assert server.span.parent_span_id.hex() == PARENT_ID
    assert server.span.trace_state == "vendor=opaque"
    for child in collector.children(server):
        assert child.span.trace_id.hex() == TRACE_ID


async def test_a_caller_who_is_not_sampled_is_not_traced(serve: Serve, collector: Collector) -> None:
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        await client.post("/softmax", json={"logits": [1, 2]}, headers={"traceparent": UNSAMPLED})
    assert collector.spans == []


@pytest.mark.parametrize(
    "broken", ["", "00-0-0-01", f"00-{'0' * 32}-{PARENT_ID}-01", "\xff" * 55, f"ff{SAMPLED[2:]}"]
)
async def test_a_broken_traceparent_counts_as_none(serve: Serve, collector: Collector, broken: str) -> None:
    headers = {b"traceparent": broken.encode("latin-1")}
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        assert (await client.post("/softmax", json={"logits": [1, 2]}, headers=headers)).status_code == 200
    (server,) = collector.servers
    assert server.span.trace_id.hex() != TRACE_ID
    assert not server.span.parent_span_id


async def test_the_ratio_is_a_share_of_the_requests(serve: Serve, collector: Collector) -> None:
    async with serve(trace_endpoint=collector.url, trace_ratio=0.5) as client:
        for _ in range(200):
            await client.get("/health/live")
    # Six standard deviations of a fair coin: it fails by chance once in 500 million runs.
    assert 58 < len(collector.servers) < 142


def test_nothing_is_noted_or_imported_where_nobody_asks() -> None:
    app = create_app(Settings(models=MODELS))
    assert app.edge.observe is None
    code = "import sys; from service.app import create_app; from service.settings import Settings\n"
    code += "create_app(Settings()); print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# How it ended


async def test_a_mistake_of_the_caller_is_told_and_is_no_error_of_ours(
    serve: Serve, collector: Collector
) -> None:
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        await client.post("/softmax", json={"logits": []})
        await client.get("/nowhere")
        await client.request("BREW", "/predict")
    mistake, nowhere, brewed = collector.servers
    assert mistake.attributes["http.response.status_code"] == 422
    assert mistake.attributes["error.type"] == "no_classes"
    assert mistake.span.status.code == Status.STATUS_CODE_UNSET
    assert nowhere.span.name == "GET"
    assert "http.route" not in nowhere.attributes
    assert nowhere.attributes["error.type"] == "unknown_route"
    assert brewed.attributes["http.request.method"] == "_OTHER"
    assert brewed.attributes["http.response.status_code"] == 405


async def test_a_fault_of_ours_is_an_error(
    serve: Serve, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(NativeDialect, "_decode", broken)
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        assert (await client.post("/softmax", json={"logits": [1]})).status_code == 500
    (server,) = collector.servers
    assert server.span.status.code == Status.STATUS_CODE_ERROR
    assert server.attributes["error.type"] == server.span.status.message == "internal"


async def test_what_fails_after_decoding_has_that_stage(serve: Serve, collector: Collector) -> None:
    body = {"logits": [["-Infinity", 0]], "labels": [0]}
    async with serve(trace_endpoint=collector.url, trace_ratio=1) as client:
        answer = await client.post("/loss", json=body)
        assert answer.json()["code"] == "infinite_loss"
    (server,) = collector.servers
    assert [child.span.name for child in collector.children(server)] == ["decode"]
    assert server.attributes["logitserve.model"] == "loss"
    assert "logitserve.rows" not in server.attributes


async def test_calls_of_grpc_are_traced_with_their_own_words(collector: Collector) -> None:
    settings = Settings(models=MODELS, grpc_port=0, trace_endpoint=collector.url, trace_ratio=0)
    app = create_app(settings)
    tensor = InferInput("features", [2, 64], "FP32")
    tensor.set_data_from_numpy(np.array(FEATURES, np.float32))
    async with app.router.lifespan_context(app):
        assert app.grpc is not None
        async with InferenceServerClient(app.grpc.address) as triton:
            await triton.infer("digits", [tensor], headers={"traceparent": SAMPLED})
        async with grpc.aio.insecure_channel(app.grpc.address) as channel:
            call: Any = channel.unary_unary(SERVICE + "ModelMetadata")
            asked = service_pb2.ModelMetadataRequest(name="nobody").SerializeToString()
            with pytest.raises(grpc.aio.AioRpcError):
                await call(asked, metadata=[("traceparent", SAMPLED)])
    infer, metadata = collector.servers
    assert infer.span.name == infer.attributes["rpc.method"] == "ModelInfer"
    assert infer.attributes["rpc.grpc.status_code"] == 0
    assert infer.span.parent_span_id.hex() == PARENT_ID
    assert [child.span.name for child in collector.children(infer)] == list(STAGE_NAMES)
    assert metadata.attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert metadata.attributes["error.type"] == "unknown_model"
    assert not any(name.startswith("http.") for name in metadata.attributes)


# Where spans go, and that nobody waits for them


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("http://collector:4318/v1/traces", "http://collector:4318/v1/traces"),
        ("https://host/otlp/traces", "https://host/otlp/traces"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ],
)
def test_an_endpoint_without_a_path_gets_that_of_the_protocol(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


@pytest.mark.parametrize("unavailable", [nobody, hanging])
async def test_a_collector_that_is_down_or_hangs_harms_nobody(
    serve: Serve, unavailable: Callable[[], AbstractContextManager[str]], caplog: pytest.LogCaptureFixture
) -> None:
    with unavailable() as url:
        async with serve(trace_endpoint=url, trace_ratio=1) as client:
            for _ in range(600):  # more than a batch, so that one is under way
                answer = await client.post("/softmax", json={"logits": [1, 2]})
                assert answer.status_code == 200
            ending_s = time.monotonic()
        assert time.monotonic() - ending_s < FLUSH_S + 1
    # What was sending gives up as well, and says no more.
    for thread in senders():
        thread.join(5)
    assert not senders()
    assert "was answered, but" not in caplog.text


async def test_what_cannot_be_noted_is_logged_and_harms_nobody(
    collector: Collector, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(Settings(models=MODELS, trace_endpoint=collector.url, trace_ratio=1))

    def broken(*_: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("service.api.tracing._attributes_of", broken)
    async with app.router.lifespan_context(app), connected(app) as client:
        answer = await client.get("/health/live", headers={"X-Request-Id": "request-8"})
        assert answer.status_code == 200
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "request request-8 was answered, but not all has been noted of it"


def test_without_the_extra_the_start_ends_in_one_line() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; from service.cli import main; sys.exit(main())"
    )
    flags = ["serve", f"--models={MODELS}", "--port=0", "--trace-endpoint=http://127.0.0.1:4318"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("logitserve: trace_endpoint needs opentelemetry.sdk")
    assert "pip install logitserve[cpu,otel]" in line


def test_every_worker_of_the_real_service_sends_its_spans_before_it_ends(collector: Collector) -> None:
    flags = "--workers=2", f"--trace-endpoint={collector.url}", "--trace-ratio=1", "--drain-delay-s=0"
    with (
        running_service(*flags) as service,
        httpx.Client(base_url=service.url) as one,  # held open, so that each worker gets its share of them
        httpx.Client(base_url=service.url) as other,
    ):
        for client in (one, other) * 3:
            # The hot way: whole requests that take no conversation.
            assert client.post("/predict", json={"features": FEATURES}).status_code == 200
    assert {server.attributes["http.route"] for server in collector.servers} == {"/predict"}
    assert len(collector.servers) == 6
    assert len(collector.spans) == 30
    assert len({server.resource["process.pid"] for server in collector.servers}) == 2
    assert set(collector.paths) == {"/v1/traces"}


def test_a_hanging_collector_does_not_delay_the_end_of_the_real_service() -> None:
    with hanging() as url:
        flags = f"--trace-endpoint={url}", "--trace-ratio=1", "--drain-delay-s=0"
        with running_service(*flags) as service:
            assert httpx.post(f"{service.url}/softmax", json={"logits": [1, 2]}).status_code == 200
            ending_s = time.monotonic()
            service.process.terminate()
            assert service.process.wait(20) == 0
            assert time.monotonic() - ending_s < FLUSH_S + 3
