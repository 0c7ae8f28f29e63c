"""The V2 protocol over gRPC, asked by Triton's own client on a real port."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest
import tritonclient.grpc
from conftest import MODELS, ROOT, connected
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput, service_pb2
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from service.api.v2_grpc import HEALTH, SERVICE, STREAM
from service.app import create_app
from service.application import Application
from service.errors import StartError
from service.keys import Grant, Key, digest_of, line_of
from service.settings import Settings
from service.wire.v2_models import EXTENSIONS

pytestmark = pytest.mark.anyio

FEATURES = np.arange(128, dtype=np.float32).reshape(2, 64) % 17
LOGITS = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]])
NAMES = ["probabilities", "classes", "log_probabilities", "logits"]
INFER = SERVICE + "ModelInfer"


class Service(NamedTuple):
    app: Application
    triton: Any
    channel: Any
    http: httpx.AsyncClient

    async def counts(self, name: str) -> dict[tuple[str, ...], float]:
        return dict(self.app.metrics.values[name])


Serving = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def serving() -> Serving:
    @asynccontextmanager
    async def serving(**settings: Any) -> AsyncIterator[Service]:
        app = create_app(Settings(**{"models": MODELS, "grpc_port": 0, "drain_timeout_s": 2, **settings}))
        async with app.router.lifespan_context(app), connected(app) as http:
            assert app.grpc is not None
            address = app.grpc.address
            async with (
                InferenceServerClient(address) as triton,
                grpc.aio.insecure_channel(address) as channel,
            ):
                yield Service(app, triton, channel, http)

    return serving


@pytest.fixture
async def service(serving: Serving) -> AsyncIterator[Service]:
    async with serving() as service:
        yield service


def tensor(name: str, array: NDArray[Any], datatype: str = "FP32") -> Any:
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def asking(features: NDArray[Any] = FEATURES, model: str = "digits") -> bytes:
    message = service_pb2.ModelInferRequest(model_name=model)
    message.inputs.add(name="features", datatype="FP32", shape=features.shape)
    message.raw_input_contents.append(features.tobytes())
    return bytes(message.SerializeToString())


async def refused(answer: Any) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        await answer
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


# Answers


async def test_a_head_gives_the_bits_of_the_native_route(service: Service) -> None:
    body = {"features": FEATURES.tolist(), "outputs": NAMES}
    native = (await service.http.post("/models/digits/predict", json=body)).json()
    for outputs in (None, [InferRequestedOutput(name) for name in NAMES]):
        for version in ("", "1"):
            read = await service.triton.infer(
                "digits",
                [tensor("features", FEATURES)],
                outputs=outputs,
                model_version=version,
                request_id="7",
            )
            for name in NAMES:
                kind = np.int64 if name == "classes" else np.float32
                np.testing.assert_array_equal(
                    read.as_numpy(name), np.asarray(native[name], kind), strict=True
                )
            response = read.get_response()
            assert (response.model_name, response.model_version, response.id) == ("digits", "1", "7")
            assert [output.name for output in response.outputs] == NAMES


async def test_labels_add_losses_and_the_operations_are_models(service: Service) -> None:
    labels = np.array([3, 7])
    inputs = [tensor("features", FEATURES), tensor("labels", labels, "INT64")]
    read = await service.triton.infer("digits", inputs)
    body = {"features": FEATURES.tolist(), "labels": [3, 7], "outputs": ["losses"]}
    native = (await service.http.post("/models/digits/predict", json=body)).json()
    np.testing.assert_array_equal(read.as_numpy("losses"), np.asarray(native["losses"], np.float32))
    inputs = [tensor("logits", LOGITS, "FP64"), tensor("labels", np.array([1, 2]), "INT64")]
    said = {"reduction": "sum", "label_smoothing": 0.25}
    read = await service.triton.infer("loss", inputs, parameters=said)
    body = {"logits": LOGITS.tolist(), "labels": [1, 2], **said}
    native = (await service.http.post("/loss", json=body)).json()
    assert read.as_numpy("loss").tolist() == [native["loss"]]
    assert read.as_numpy("losses").tolist() == native["losses"]
    read = await service.triton.infer("softmax", inputs[:1], parameters={"class_names": "a,b,c"})
    native = (await service.http.post("/softmax", json={"logits": LOGITS.tolist()})).json()
    assert read.as_numpy("probabilities").tolist() == native["probabilities"]


async def test_a_trial_in_metadata_is_one_too(service: Service) -> None:
    inputs = [tensor("features", FEATURES), tensor("labels", np.array([7, 4], np.int64), "INT64")]
    for headers, rows in (({"x-trial": "1"}, 0), ({}, 2)):
        await service.triton.infer("digits", inputs, headers=headers)
        (version,) = (await service.http.get("/models/digits/quality")).json()["versions"]
        assert version["since_start"]["labelled"]["rows"] == rows


async def test_best_classes_are_text(service: Service) -> None:
    outputs = [InferRequestedOutput("probabilities", class_count=2)]
    read = await service.triton.infer("digits", [tensor("features", FEATURES)], outputs=outputs)
    texts = read.as_numpy("probabilities")
    assert texts.shape == (2, 2)
    value, index, *_ = texts[0, 0].decode().split(":")
    plain = await service.triton.infer("digits", [tensor("features", FEATURES)])
    assert f"{plain.as_numpy('probabilities')[0].max():f}" == value
    assert int(index) == plain.as_numpy("classes")[0]


async def test_large_requests_are_answered_like_small_ones(service: Service) -> None:
    rows = np.tile(FEATURES, (2000, 1))  # 1 MB: decoded and encoded beside the event loop
    read = await service.triton.infer("digits", [tensor("features", rows)])
    few = await service.triton.infer("digits", [tensor("features", FEATURES)])
    np.testing.assert_allclose(
        read.as_numpy("probabilities"), np.tile(few.as_numpy("probabilities"), (2000, 1)), rtol=1e-6
    )


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_compressed_messages_are_read(service: Service, algorithm: str) -> None:
    inputs = [tensor("features", FEATURES)]
    read = await service.triton.infer("digits", inputs, compression_algorithm=algorithm)
    plain = await service.triton.infer("digits", inputs)
    np.testing.assert_array_equal(read.as_numpy("logits"), plain.as_numpy("logits"), strict=True)


async def test_callers_at_once_are_answered_each_on_its_own(service: Service) -> None:
    inputs = [np.roll(FEATURES, turn, axis=1) for turn in range(20)]
    answers = await asyncio.gather(
        *(service.triton.infer("digits", [tensor("features", rows)]) for rows in inputs)
    )
    for rows, read in zip(inputs, answers, strict=True):
        alone = await service.triton.infer("digits", [tensor("features", rows)])
        np.testing.assert_allclose(read.as_numpy("logits"), alone.as_numpy("logits"), rtol=1e-5, atol=1e-5)


async def test_an_answer_carries_what_http_says_in_headers(service: Service) -> None:
    call = service.channel.unary_unary(INFER)(asking(), metadata=[("x-request-id", "seven")])
    await call
    told = {str(name): str(value) for name, value in await call.trailing_metadata()}
    assert told["x-request-id"] == "seven"
    assert told["x-batch-rows"] == "2"
    assert (told["x-model"], told["x-model-version"]) == ("digits", "1")
    assert len(told["x-model-digest"]) == 64
    assert {part.split(";")[0].strip() for part in told["server-timing"].split(",")} == {
        "decode",
        "queue",
        "infer",
        "encode",
    }
    assert told.keys().isdisjoint({"content-length", "content-type"})


async def test_calls_are_counted_by_method_and_code(service: Service) -> None:
    inputs = [tensor("features", FEATURES)]
    await service.triton.infer("digits", inputs)
    await refused(service.triton.infer("cats", inputs))
    text = (await service.http.get("/metrics")).text
    label = 'method="gRPC",route="grpc:ModelInfer"'
    assert f'logitserve_requests_total{{{label},status="OK"}} 1.0' in text
    assert f'logitserve_requests_total{{{label},status="NOT_FOUND"}} 1.0' in text
    assert 'logitserve_errors_total{code="unknown_model",route="grpc:ModelInfer"} 1.0' in text
    assert 'logitserve_request_duration_seconds_count{route="grpc:ModelInfer"} 2.0' in text
    assert 'logitserve_rows_total{model="digits",version="1"} 2.0' in text
    assert "logitserve_inflight_requests 1.0" in text, "which is this one, over HTTP"


# What is told of the server and its models


async def test_health_and_readiness(service: Service) -> None:
    triton = service.triton
    assert await triton.is_server_live()
    assert await triton.is_server_ready()
    assert await triton.is_model_ready("digits")
    assert await triton.is_model_ready("digits", "1")
    assert await triton.is_model_ready("softmax")
    assert await refused(triton.is_model_ready("cats")) == (
        "NOT_FOUND",
        "model: expected one of 'digits', got 'cats'",
    )
    assert (await refused(triton.is_model_ready("digits", "2")))[0] == "NOT_FOUND"
    check = service.channel.unary_unary(HEALTH)
    assert await check(b"") == b"\x08\x01"
    assert await check(b"\x0a\x1e" + b"inference.GRPCInferenceService") == b"\x08\x01"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await check(b"\x0a\x04cats")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    service.app.drain()
    assert await triton.is_server_live()
    assert not await triton.is_server_ready()
    assert not await triton.is_model_ready("digits")
    assert await check(b"") == b"\x08\x02"
    await triton.infer("digits", [tensor("features", FEATURES)])  # what comes is still answered


async def test_metadata_configuration_and_statistics_are_those_of_http(service: Service) -> None:
    triton, http = service.triton, service.http
    server = await triton.get_server_metadata(as_json=True)
    assert server == (await http.get("/v2")).json()
    assert server["extensions"] == list(EXTENSIONS)
    for name in ("digits", "softmax", "loss"):
        told = await triton.get_model_metadata(name, as_json=True)
        over_http = (await http.get(f"/v2/models/{name}")).json()
        for side in ("inputs", "outputs"):
            for one, other in zip(told.pop(side), over_http.pop(side), strict=True):
                assert {**one, "shape": [int(axis) for axis in one["shape"]]} == other
        assert told == over_http
        config = (await triton.get_model_config(name)).config
        over_http = (await http.get(f"/v2/models/{name}/config")).json()
        assert (config.name, config.max_batch_size) == (name, over_http["max_batch_size"])
        assert [list(tensor.dims) for tensor in config.output] == [
            tensor["dims"] for tensor in over_http["output"]
        ]
    for call in (triton.get_model_metadata, triton.get_model_config, triton.get_inference_statistics):
        assert (await refused(call("cats")))[0] == "NOT_FOUND"
    await triton.infer("digits", [tensor("features", FEATURES)])
    (told,) = (await triton.get_inference_statistics("digits")).model_stats
    (over_http,) = (await http.get("/v2/models/digits/stats")).json()["model_stats"]
    assert told.inference_count == over_http["inference_count"] == 2
    assert told.inference_stats.success.ns == over_http["inference_stats"]["success"]["ns"] > 0
    assert len((await triton.get_inference_statistics()).model_stats) == 3


KEY = {"authorization": "Bearer change-me"}


async def test_models_are_listed_unloaded_and_loaded_by_whoever_has_the_key(serving: Serving) -> None:
    async with serving(admin_key="change-me") as service:
        triton = service.triton

        async def states(*, ready: bool = False) -> list[tuple[str, str, str]]:
            request = service_pb2.RepositoryIndexRequest(ready=ready).SerializeToString()
            call = service.channel.unary_unary(SERVICE + "RepositoryIndex")
            answer = await call(request, metadata=tuple(KEY.items()))
            models = service_pb2.RepositoryIndexResponse.FromString(answer).models
            return [(model.name, model.version, model.state) for model in models]

        assert await states() == [("digits", "1", "READY")]
        await triton.unload_model("digits", headers=KEY)
        assert await states() == [("digits", "1", "UNAVAILABLE")]
        assert await states(ready=True) == []
        assert (await refused(triton.infer("digits", [tensor("features", FEATURES)])))[0] == "UNAVAILABLE"
        await triton.load_model("digits", headers=KEY)
        assert await states(ready=True) == [("digits", "1", "READY")]
        assert await triton.is_model_ready("digits")
        code, message = await refused(triton.load_model("cats", headers=KEY))
        assert (code, "'cats'" in message) == ("NOT_FOUND", True)
        code, message = await refused(triton.load_model("digits", config="{}", headers=KEY))
        assert (code, "expected no parameter, got 'config'" in message) == ("INVALID_ARGUMENT", True)


async def test_nobody_loads_or_lists_models_without_the_key(serving: Serving) -> None:
    async with serving(admin_key="change-me") as service:
        for headers in (None, {"authorization": "Bearer wrong"}):
            for call in (service.triton.load_model, service.triton.unload_model):
                assert (await refused(call("digits", headers=headers)))[0] == "UNAUTHENTICATED"
            index = service.triton.get_model_repository_index(headers=headers)
            assert (await refused(index))[0] == "UNAUTHENTICATED"
        assert await service.triton.is_model_ready("digits")
    async with serving() as service:
        code, message = await refused(service.triton.unload_model("digits", headers=KEY))
        assert (code, "LOGITSERVE_ADMIN_KEY" in message) == ("PERMISSION_DENIED", True)


async def test_a_method_that_is_not_served_is_said_to_be_so(service: Service) -> None:
    for call in (
        service.triton.get_system_shared_memory_status(),
        service.triton.get_trace_settings(),
    ):
        code, message = await refused(call)
        assert (code, message) == (
            "UNIMPLEMENTED",
            "this method is not served here; docs/protocols.md lists those that are",
        )
    counts = await service.counts("logitserve_requests")
    assert counts["unmatched", "gRPC", "UNIMPLEMENTED"] == 2


# Mistakes and limits


async def test_mistakes_have_their_codes(service: Service) -> None:
    features = tensor("features", FEATURES)
    code, message = await refused(service.triton.infer("digits", [tensor("features", FEATURES[:, :3])]))
    assert (code, message) == ("INVALID_ARGUMENT", "features: expected shape [..., 64], got [2, 3]")
    code, message = await refused(service.triton.infer("digits", [features], parameters={"top_k": 0}))
    assert (code, message[:5]) == ("INVALID_ARGUMENT", "top_k")
    assert (await refused(service.triton.infer("cats", [features])))[0] == "NOT_FOUND"
    assert (await refused(service.triton.infer("digits", [features], model_version="9")))[0] == "NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.channel.unary_unary(INFER)(b"\xff\xff")
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "x-request-id" in {name for name, _ in caught.value.trailing_metadata()}
    assert (await service.counts("logitserve_errors"))["grpc:ModelInfer", "malformed_protobuf"] == 1


async def test_limits_have_theirs(serving: Serving) -> None:
    async with serving(body_limit_bytes=10_000, rows_limit=5) as service:
        code, message = await refused(
            service.triton.infer("digits", [tensor("features", FEATURES.repeat(3, 0))])
        )
        assert code == "RESOURCE_EXHAUSTED"
        assert "LOGITSERVE_ROWS_LIMIT" in message
        large = [tensor("features", np.zeros((100, 64), np.float32))]
        code, message = await refused(service.triton.infer("digits", large))
        assert code == "RESOURCE_EXHAUSTED"
        assert "larger than max" in message
        # Also where so much comes out of a few bytes.
        code, message = await refused(service.triton.infer("digits", large, compression_algorithm="gzip"))
        assert code == "RESOURCE_EXHAUSTED"
        await service.triton.infer("digits", [tensor("features", FEATURES)])


async def test_a_full_queue_is_said_to_be_so(serving: Serving) -> None:
    async with serving(queue_rows_limit=2, batch_delay_s=0.3) as service:
        answers = await asyncio.gather(
            *(service.triton.infer("digits", [tensor("features", FEATURES)]) for _ in range(4)),
            return_exceptions=True,
        )
        codes = [answer.status() for answer in answers if isinstance(answer, InferenceServerException)]
        assert codes
        assert {*codes} == {"StatusCode.RESOURCE_EXHAUSTED"}
        assert len(codes) < 4
        assert (await service.counts("logitserve_rejected"))["queue_full",] == len(codes)


async def test_a_fault_of_ours_is_one_fixed_sentence(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("service.wire.v2_grpc.encode", fail)
    call = service.channel.unary_unary(INFER)(asking(), metadata=[("x-request-id", "seven")])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.value.details() or "")
    assert "request seven failed" in caplog.text
    assert "a secret" in caplog.text


# Deadlines and callers who leave


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to that")


async def test_work_past_its_deadline_is_dropped_before_it_is_computed(serving: Serving) -> None:
    async with serving(batch_delay_s=0.5) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.channel.unary_unary(INFER)(asking(), timeout=0.1)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.sleep(0.7)
        counts = await service.counts("logitserve_requests")
        assert sum(counts.values()) == 1
        assert ("grpc:ModelInfer", "gRPC", "OK") not in counts
        assert not await service.counts("logitserve_batch_rows")
        assert service.app.scorer.queue_rows == 0


async def test_a_deadline_in_metadata_is_one_too(serving: Serving) -> None:
    async with serving(batch_delay_s=0.5) as service:
        call = service.channel.unary_unary(INFER)
        for milliseconds, code in (("100", "DEADLINE_EXCEEDED"), ("soon", "INVALID_ARGUMENT")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(asking(), metadata=[("x-request-timeout-ms", milliseconds)])
            assert caught.value.code().name == code
        assert (await service.counts("logitserve_rejected")) == {("deadline",): 1}


async def test_the_work_of_a_caller_who_left_is_not_done(serving: Serving) -> None:
    async with serving(batch_delay_s=0.5) as service:
        call = service.channel.unary_unary(INFER)(asking())
        await until(lambda: service.app.scorer.queue_rows == 2)
        call.cancel()
        await asyncio.sleep(0.7)
        counts = await service.counts("logitserve_requests")
        assert counts == {("grpc:ModelInfer", "gRPC", "CANCELLED"): 1}
        assert not await service.counts("logitserve_batch_rows")
        assert (await service.counts("logitserve_inflight_requests"))[()] == 0
        assert await service.channel.unary_unary(INFER)(asking()), "and others are answered"


# Streams


async def test_a_stream_answers_in_order_and_goes_on_after_an_error(service: Service) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for turn in range(5):
            rows = FEATURES if turn != 2 else FEATURES[:, 1:]
            yield {
                "model_name": "digits",
                "inputs": [tensor("features", rows)],
                "request_id": str(turn),
                "enable_empty_final_response": turn == 0,
            }

    told = [(read, error) async for read, error in service.triton.stream_infer(requests())]
    assert [error is None for _, error in told] == [True, True, False, True, True]
    assert "features: expected shape" in told[2][1].message()
    assert [read.get_response().id for read, error in told if error is None] == ["0", "1", "3", "4"]
    plain = await service.triton.infer("digits", [tensor("features", FEATURES)])
    np.testing.assert_array_equal(told[0][0].as_numpy("logits"), plain.as_numpy("logits"), strict=True)
    counts = await service.counts("logitserve_requests")
    assert counts["grpc:ModelStreamInfer", "gRPC", "OK"] == 4
    assert counts["grpc:ModelStreamInfer", "gRPC", "INVALID_ARGUMENT"] == 1


async def test_an_idle_stream_does_not_keep_the_service_from_ending(serving: Serving) -> None:
    async with serving(drain_timeout_s=30) as service:
        stream = service.channel.stream_stream(STREAM)()
        await stream.write(asking())
        assert service_pb2.ModelStreamInferResponse.FromString(await stream.read()).HasField("infer_response")
        begun_s = time.monotonic()
        assert service.app.grpc is not None
        await service.app.grpc.stop()
        assert time.monotonic() - begun_s < 5
        assert await stream.code() == grpc.StatusCode.UNAVAILABLE


# The port


def test_nothing_of_grpc_is_imported_unless_it_is_asked_for() -> None:
    script = (
        "import sys\nfrom service.app import create_app\nfrom service.settings import Settings\n"
        f"app = create_app(Settings(models={str(MODELS)!r}))\n"
        "assert 'grpc' not in sys.modules and 'service.api.v2_grpc' not in sys.modules\n"
        "assert app.grpc is None and 'grpc' not in app.served()\n"
        "sys.modules['grpc'] = None\n"
        f"create_app(Settings(models={str(MODELS)!r}, grpc_port=0))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert told.stderr.splitlines()[-1] == (
        "service.errors.StartError: grpc_port needs grpc, which is not there;"
        " install it by `pip install logitserve[cpu,grpc]`"
    )


async def test_a_taken_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = create_app(Settings(models=MODELS, grpc_port=port))
        with pytest.raises(StartError, match=rf"cannot listen on 127.0.0.1:{port}.*--grpc-port"):
            async with app.router.lifespan_context(app):
                pass


class Process(NamedTuple):
    process: subprocess.Popen[str]
    address: str


@pytest.fixture
def started() -> Iterator[Callable[..., Process]]:
    """The real command, which says where it answers; it must not outlive the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> Process:
        command = [sys.executable, "-m", "service", "serve", f"--models={MODELS}", "--port=0", *flags]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        rows = [process.stdout.readline().split() for _ in range(8)]
        return Process(process, next(row[1] for row in rows if row[:1] == ["grpc"]))

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_is_in_flight_is_answered_when_the_service_ends(
    started: Callable[..., Process], workers: int
) -> None:
    process, address = started(
        "--grpc-port=0", f"--workers={workers}", "--threads=1", "--batch-delay-s=1", "--drain-delay-s=0.2"
    )
    answers: list[Any] = []

    def ask() -> None:
        client = tritonclient.grpc.InferenceServerClient(address)
        answers.append(client.infer("digits", [tensor("features", FEATURES)]).as_numpy("classes"))
        client.close()

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    await asyncio.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(10)
    _, stderr = process.communicate(timeout=10)
    assert (process.returncode, stderr) == (0, "")
    assert len(answers) == 6
    assert len({tuple(classes) for classes in answers}) == 1


async def test_what_is_not_done_in_time_is_cut_off_and_said(started: Callable[..., Process]) -> None:
    process, address = started(
        "--grpc-port=0", "--batch-delay-s=30", "--drain-delay-s=0.1", "--drain-timeout-s=0.5"
    )
    channel: Any
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(INFER)(asking())
        await asyncio.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 3
    assert "the drain timeout of 0.5 s passed" in stderr


def test_a_port_that_another_service_has_is_one_line(started: Callable[..., Process]) -> None:
    """Also though the workers of that one share it among themselves."""
    _, address = started("--grpc-port=0", "--workers=2", "--threads=1")
    port = address.rpartition(":")[2]
    command = [
        sys.executable,
        "-m",
        "service",
        "serve",
        f"--models={MODELS}",
        "--port=0",
        f"--grpc-port={port}",
    ]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert told.returncode == 1
    assert told.stderr == (
        f"logitserve: port {port} of 127.0.0.1 is in use; stop what listens there, or choose another port by"
        " --grpc-port\n"
    )


async def test_every_worker_has_its_share_of_the_calls(started: Callable[..., Process]) -> None:
    process, address = started("--grpc-port=0", "--workers=2", "--threads=1")
    channel: Any
    ids = set()
    for _ in range(40):  # each on a connection of its own
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            call = channel.unary_unary(SERVICE + "ServerLive")(b"")
            assert await call == b"\x08\x01"
            told = {str(name): str(value) for name, value in await call.trailing_metadata()}
            ids.add(told["x-request-id"].split("-")[0])
    assert len(ids) == 2
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 0


async def test_each_method_asks_for_its_scope(serving: Serving) -> None:
    granted: dict[str, Grant] = {"app": "infer", "scraper": "metrics", "boss": "admin"}
    keys = [Key(name, digest_of(name.encode()), frozenset({scope})) for name, scope in granted.items()]
    async with serving(keys="\n".join(map(line_of, keys))) as service:
        triton = service.triton
        calls: dict[str, tuple[Callable[..., Any], set[str | None]]] = {
            "live": (triton.is_server_live, {None, "other", *granted}),
            "ready": (triton.is_server_ready, {None, "other", *granted}),
            "model ready": (partial(triton.is_model_ready, "digits"), {None, "other", *granted}),
            "server": (triton.get_server_metadata, {"app", "boss"}),
            "model": (partial(triton.get_model_metadata, "digits"), {"app", "boss"}),
            "config": (partial(triton.get_model_config, "digits"), {"app", "boss"}),
            "infer": (partial(triton.infer, "digits", [tensor("features", FEATURES)]), {"app", "boss"}),
            "statistics": (triton.get_inference_statistics, {"scraper", "boss"}),
            "index": (triton.get_model_repository_index, {"boss"}),
            "load": (partial(triton.load_model, "digits"), {"boss"}),
        }
        for called, (call, allowed) in calls.items():
            for name in (None, "other", *granted):
                headers = None if name is None else {"authorization": f"Bearer {name}"}
                if name in allowed:
                    await call(headers=headers)
                else:
                    code, _ = await refused(call(headers=headers))
                    expected = "PERMISSION_DENIED" if name in granted else "UNAUTHENTICATED"
                    assert code == expected, (called, name)
