"""The routes of MLflow's scoring server and SageMaker's containers, from bytes to bytes and in a real process."""

import csv
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from conftest import MODELS, ROOT, Serve, connected

from service import __version__
from service.api import invocations as routes
from service.app import create_app
from service.errors import (
    DeadlineExceeded,
    Invalid,
    Malformed,
    MethodNotAllowed,
    NotFound,
    NotReady,
    QueueFull,
    RequestError,
    TooLarge,
    Unforeseen,
)
from service.settings import Settings
from service.wire import arrays, invocations_schemas, v2
from service.wire.limits import Limits
from service.wire.media import CSV, JSON, LINES, NPY, NPZ, RAW

pytestmark = pytest.mark.anyio

LIMITS = Limits(body_bytes=16 << 20, rows=1000, elements=1 << 20, json_depth=32)
# Of two rows, and of so many that numbers become arrays without Python objects.
SMALL = np.arange(128, dtype=np.float32).reshape(2, 64) % 17
LARGE = np.random.default_rng(0).uniform(0, 16, (60, 64)).astype(np.float32)
COLUMNS = [f"pixel_{index}" for index in range(64)]


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    async with serve() as client:
        yield client


def listed(features: Any) -> Any:
    return features.astype(np.float64).tolist()


def as_csv(features: Any, *, header: bool = False, quoting: int = csv.QUOTE_MINIMAL) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, quoting=quoting)  # type: ignore[arg-type] # one of its own
    writer.writerows([*([COLUMNS] if header else []), *listed(features)])
    return file.getvalue().encode()


def bodies(features: Any) -> dict[str, tuple[bytes, str]]:
    """The same features in every form, each with its media type."""
    rows = listed(features)
    records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return {
        "dataframe_split": (
            orjson.dumps({"dataframe_split": {"columns": COLUMNS, "index": list(range(len(rows))), "data": rows}}),
            JSON,
        ),
        "dataframe_records": (orjson.dumps({"dataframe_records": records}), JSON),
        "instances": (orjson.dumps({"instances": rows}), JSON),
        "inputs": (orjson.dumps({"inputs": rows, "params": {"model": "digits", "version": "1"}}), JSON),
        "list": (orjson.dumps(rows), ""),
        "csv": (as_csv(features), CSV),
        "csv with header": (as_csv(features, header=True), f"{CSV}; charset=utf-8"),
        "csv quoted": (as_csv(features, quoting=csv.QUOTE_ALL), f"{CSV}; header=absent"),
        "lines": (b"\n".join(map(orjson.dumps, rows)), LINES),
        "npy": (arrays.write_npy(features), NPY),
        "npz": (arrays.write_npz({"features": features}), NPZ),
    }  # fmt: skip


async def post(
    client: httpx.AsyncClient, body: bytes, media_type: str = "", **headers: str
) -> httpx.Response:
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    if media_type:
        said["content-type"] = media_type
    return await client.post("/invocations", content=body, headers=said)


async def native(client: httpx.AsyncClient, features: Any, **fields: Any) -> Any:
    answer = await client.post("/predict", json={"features": listed(features), **fields})
    assert answer.status_code == 200
    return answer.json()


def check_error(answer: httpx.Response, status: int, code: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == JSON
    said: dict[str, str] = answer.json()
    assert list(said) == ["error_code", "message"]
    assert said["error_code"] == code
    assert 0 < len(said["message"]) < 500
    assert "Traceback" not in said["message"]
    return said["message"]


@pytest.mark.parametrize("features", [SMALL, LARGE], ids=["small", "large"])
async def test_every_form_gives_the_bits_of_the_native_route(
    client: httpx.AsyncClient, features: Any
) -> None:
    expected = await native(client, features)
    for name, (body, media_type) in bodies(features).items():
        answer = await post(client, body, media_type)
        assert answer.status_code == 200, f"{name}: {answer.text}"
        assert answer.headers["content-type"] == JSON
        assert answer.json() == {"predictions": expected["probabilities"]}, name
        assert answer.headers["x-model"] == "digits"


@pytest.mark.parametrize("features", [SMALL, LARGE], ids=["small", "large"])
async def test_every_answer_has_the_bits_of_the_native_route(
    client: httpx.AsyncClient, features: Any
) -> None:
    expected = np.array((await native(client, features))["probabilities"], np.float32)
    body, media_type = bodies(features)["instances"]

    async def answered(accept: str) -> bytes:
        answer = await post(client, body, media_type, accept=accept)
        assert (answer.status_code, answer.headers["content-type"]) == (200, accept)
        return answer.content

    lines = csv.reader(io.StringIO((await answered(CSV)).decode()))
    np.testing.assert_array_equal(np.array(list(lines), np.float32), expected)
    for media in (LINES, "application/x-jsonlines"):
        rows = [orjson.loads(line) for line in (await answered(media)).splitlines()]
        np.testing.assert_array_equal(np.array(rows, np.float32), expected)
    np.testing.assert_array_equal(
        arrays.read_npy(await answered(NPY), LIMITS, path=""), expected, strict=True
    )
    found = arrays.read_npz(await answered(NPZ), LIMITS)
    assert list(found) == ["probabilities"]
    np.testing.assert_array_equal(found["probabilities"], expected, strict=True)


async def test_params_choose_outputs_and_options(client: httpx.AsyncClient) -> None:
    outputs = ["classes", "predicted_names", "top_probabilities"]
    options = {"outputs": outputs, "top_k": 2, "temperature": 0.5}
    expected = await native(client, SMALL, **options)
    answer = await post(client, orjson.dumps({"instances": listed(SMALL), "params": options}))
    columns = [expected[name] for name in outputs]
    assert answer.json()["predictions"] == [
        dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)
    ]
    query = {"outputs": ",".join(outputs), "top_k": "2", "temperature": "0.5"}
    answer = await client.post(
        "/invocations", content=as_csv(SMALL), headers={"content-type": CSV, "accept": LINES}, params=query
    )
    assert [orjson.loads(line) for line in answer.text.splitlines()] == [
        dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)
    ]


async def test_labels_bring_losses(client: httpx.AsyncClient) -> None:
    expected = await native(client, SMALL, labels=[3, 7])
    rows = [{"features": row, "labels": label} for row, label in zip(listed(SMALL), [3, 7], strict=True)]
    answer = await post(client, orjson.dumps({"instances": rows, "params": {"outputs": ["losses"]}}))
    assert answer.json() == {"predictions": expected["losses"]}
    npz = arrays.write_npz({"features": SMALL, "labels": np.array([3, 7])})
    answer = await post(client, npz, NPZ, accept=NPZ)
    found = arrays.read_npz(answer.content, LIMITS)
    assert list(found) == ["probabilities", "losses"]
    np.testing.assert_array_equal(found["losses"], np.array(expected["losses"], np.float32), strict=True)


@pytest.mark.parametrize("binary", [True, False])
async def test_v2_travels_under_sagemakers_media_type(client: httpx.AsyncClient, binary: bool) -> None:  # noqa: FBT001
    body = v2.encode_request({"features": SMALL}, outputs=["probabilities"], request_id="7", binary=binary)
    length = len(body.content) if body.json_bytes is None else body.json_bytes
    answer = await post(client, body.content, f"{RAW};json-header-size={length}")
    assert answer.status_code == 200
    media_type, _, json_length = answer.headers["content-type"].partition(";json-header-size=")
    assert media_type == (RAW if binary else JSON)
    found = v2.decode_result(answer.content, json_length or None)
    expected = np.array((await native(client, SMALL))["probabilities"], np.float32)
    np.testing.assert_array_equal(found["probabilities"], expected, strict=True)
    assert answer.headers["x-model"] == "digits"


async def test_bare_features_and_plain_v2_travel_too(client: httpx.AsyncClient) -> None:
    expected = np.array((await native(client, SMALL))["probabilities"], np.float32)
    answer = await post(client, SMALL.tobytes(), f"{RAW};json-header-size=0")
    json_length = answer.headers["content-type"].partition(";json-header-size=")[2]
    np.testing.assert_array_equal(v2.decode_result(answer.content, json_length)["probabilities"], expected)
    body = v2.encode_request({"features": SMALL}, binary=False).content
    answer = await post(client, body, JSON)
    assert answer.headers["content-type"] == JSON
    assert answer.json()["model_name"] == "digits"
    np.testing.assert_array_equal(v2.decode_result(answer.content, None)["probabilities"], expected)


@pytest.fixture
async def two_heads(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    for name in ("cats", "dogs"):
        shutil.copytree(MODELS / "digits", tmp_path / name)
    app = create_app(Settings(models=tmp_path))
    async with app.router.lifespan_context(app), connected(app) as client:
        yield client


async def test_of_several_heads_one_must_be_named(two_heads: httpx.AsyncClient) -> None:
    rows = listed(SMALL)
    raw = v2.encode_request({"features": SMALL})
    media_type = f"{RAW};json-header-size={raw.json_bytes}"
    for body, kind in ((orjson.dumps(rows), JSON), (as_csv(SMALL), CSV), (raw.content, media_type)):
        message = check_error(await post(two_heads, body, kind), 400, "BAD_REQUEST")
        assert message == "params.model: expected one of 'cats', 'dogs'"
        for target in ("dogs", "dogs.tar.gz", "/dogs.tar.gz"):
            answer = await post(two_heads, body, kind, x_amzn_sagemaker_target_model=target)
            assert (answer.status_code, answer.headers["x-model"]) == (200, "dogs")
        answer = await post(two_heads, body, kind, x_amzn_sagemaker_target_model="mice")
        check_error(answer, 404, "RESOURCE_DOES_NOT_EXIST")
    named = orjson.dumps({"instances": rows, "params": {"model": "cats"}})
    answer = await post(two_heads, named, JSON, x_amzn_sagemaker_target_model="dogs")
    assert answer.headers["x-model"] == "cats"


@pytest.mark.parametrize(
    ("body", "media_type", "status", "code"),
    [
        (b"", JSON, 400, "BAD_REQUEST"),
        (b"{", JSON, 400, "BAD_REQUEST"),
        (b"null", JSON, 400, "BAD_REQUEST"),
        (b"[1, 2]", JSON, 400, "BAD_REQUEST"),
        (b"{}", JSON, 400, "BAD_REQUEST"),
        (b'{"instances": [[1, 2]]}', JSON, 400, "BAD_REQUEST"),
        (b'{"instances": [[1]], "inputs": [[1]]}', JSON, 400, "BAD_REQUEST"),
        (b'{"signature_name": "x", "instances": [[1]]}', JSON, 400, "BAD_REQUEST"),
        (b'{"dataframe_split": {"data": "secret"}}', JSON, 400, "BAD_REQUEST"),
        (b'{"dataframe_records": [{}]}', JSON, 400, "BAD_REQUEST"),
        (b'{"inputs": [[1]], "params": {"model": "cats"}}', JSON, 404, "RESOURCE_DOES_NOT_EXIST"),
        (b'{"inputs": [{"datatype": 1}]}', JSON, 400, "BAD_REQUEST"),
        (b"", CSV, 400, "BAD_REQUEST"),
        (b"1,2", CSV, 400, "BAD_REQUEST"),
        (b"1,x\n2,y", CSV, 400, "BAD_REQUEST"),
        (b"1," * 1_000, CSV, 400, "BAD_REQUEST"),
        (b"[1]\n[2", LINES, 400, "BAD_REQUEST"),
        (b"1,2", NPY, 400, "BAD_REQUEST"),
        (b"1,2", NPZ, 400, "BAD_REQUEST"),
        (b"1,2", f"{RAW};json-header-size=x", 400, "BAD_REQUEST"),
        (b"1,2", f"{RAW};json-header-size=9", 400, "BAD_REQUEST"),
        (b"1,2", f"{RAW};json-header-size=2", 400, "BAD_REQUEST"),
        (b"1,2", RAW, 415, "BAD_REQUEST"),
        (b"1,2", "text/csv; charset=latin-1", 415, "BAD_REQUEST"),
        (b"[[1]]", "application/json; version=2", 415, "BAD_REQUEST"),
        (b"a=1", "application/x-www-form-urlencoded", 415, "BAD_REQUEST"),
        (b"1,2", "application/x-pickle", 415, "BAD_REQUEST"),
        (b" " * 3_000_000, CSV, 413, "BAD_REQUEST"),
        (b"1\n" * 2000, CSV, 413, "BAD_REQUEST"),
        (b"1,1,1,1,1,1\n" * 900, CSV, 413, "BAD_REQUEST"),
    ],
)  # fmt: skip
async def test_every_mistake_has_mlflows_shape(
    serve: Serve, body: bytes, media_type: str, status: int, code: str
) -> None:
    async with serve(body_limit_bytes=2 << 20, rows_limit=1000, elements_limit=5000) as client:
        message = check_error(await post(client, body, media_type), status, code)
        assert len(message) < 400
        good = await post(client, as_csv(SMALL), CSV)
        assert good.status_code == 200


async def test_what_cannot_be_written_is_not_acceptable(client: httpx.AsyncClient) -> None:
    message = check_error(await post(client, as_csv(SMALL), CSV, accept="text/html"), 406, "BAD_REQUEST")
    assert CSV in message
    hint = check_error(await post(client, b"a=1", "application/x-www-form-urlencoded"), 415, "BAD_REQUEST")
    assert "-H 'Content-Type: application/json'" in hint


async def test_other_methods_and_paths_have_the_shape_too(client: httpx.AsyncClient) -> None:
    answer = await client.get("/invocations")
    check_error(answer, 405, "BAD_REQUEST")
    assert answer.headers["allow"] == "POST"
    check_error(await client.post("/invocations/digits"), 404, "ENDPOINT_NOT_FOUND")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Malformed("malformed_csv", "bad"), 400, "BAD_REQUEST"),
        (Invalid("ragged", "bad", path="features"), 400, "BAD_REQUEST"),
        (NotFound("unknown_version", "no such version"), 404, "RESOURCE_DOES_NOT_EXIST"),
        (NotFound("unknown_route", "no such route"), 404, "ENDPOINT_NOT_FOUND"),
        (MethodNotAllowed("method_not_allowed", "POST only"), 405, "BAD_REQUEST"),
        (TooLarge("rows_too_many", "too many rows"), 413, "BAD_REQUEST"),
        (QueueFull("queue_full", "later"), 429, "RESOURCE_EXHAUSTED"),
        (Unforeseen("internal", "a fault"), 500, "INTERNAL_ERROR"),
        (NotReady("not_ready", "starting"), 503, "TEMPORARILY_UNAVAILABLE"),
        (DeadlineExceeded("deadline", "too late"), 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_errors_have_mlflows_names(error: RequestError, status: int, code: str) -> None:
    body = orjson.dumps({"error_code": code, "message": error.detail})
    assert routes.error_body(error) == (status, body, JSON)


async def test_the_deadline_is_kept(client: httpx.AsyncClient) -> None:
    body = as_csv(np.concatenate([LARGE] * 30))
    answer = await post(client, body, CSV, x_request_timeout_ms="1")
    check_error(answer, 504, "DEADLINE_EXCEEDED")


async def test_no_damaged_body_is_a_fault_of_ours(client: httpx.AsyncClient) -> None:
    generator = random.Random(0)
    pieces = [b"[", b"]", b"{", b"}", b",", b":", b'"', b"\n", b"\r", b"-", b"1e999", b"nan", b"null", b"\xff", b"\x00",
              b"{}", b"[[]]", b'"params":', b'"data":', b"\\", b" "]  # fmt: skip
    forms = bodies(SMALL)
    statuses = set()
    for name in (
        "dataframe_split",
        "dataframe_records",
        "instances",
        "list",
        "csv",
        "csv with header",
        "lines",
    ):
        body, media_type = forms[name]
        for _ in range(1000):
            damaged = bytearray(body)
            for _ in range(generator.randint(1, 4)):
                place = generator.randrange(len(damaged) + 1)
                damaged[place : place + generator.choice([0, 0, 1, 2, 40])] = generator.choice(pieces)
            answer = await post(client, bytes(damaged), media_type)
            statuses.add(answer.status_code)
            if answer.status_code != 200:
                check_error(answer, 400, "BAD_REQUEST")
    assert statuses == {200, 400}


async def test_ping_says_whether_it_is_ready() -> None:
    app = create_app(Settings(models=MODELS))
    async with connected(app) as client:  # whose models are not loaded
        for path in ("/ping", "/health"):
            message = check_error(await client.get(path), 503, "TEMPORARILY_UNAVAILABLE")
            assert message.startswith("starting")
        async with app.router.lifespan_context(app):
            for path in ("/ping", "/health"):
                answer = await client.get(path)
                assert (answer.status_code, answer.content) == (200, b"\n")
                assert (await client.head(path)).status_code == 200
            assert (await client.get("/health/ready")).json() == {"status": "ready"}
            app.drain()
            check_error(await client.get("/ping"), 503, "TEMPORARILY_UNAVAILABLE")
            assert (await client.head("/health")).status_code == 503


async def test_version_is_plain_text(client: httpx.AsyncClient) -> None:
    answer = await client.get("/version")
    assert (answer.status_code, answer.text) == (200, __version__)
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("settings", "concurrent", "payload_mb"),
    [
        ({}, 1, 64),
        ({"body_limit_bytes": 6 << 20}, 1, 6),
        ({"workers": 4}, 4, 25),
        ({"body_limit_bytes": 1000}, 1, 1),
        ({"workers": 200}, 200, 1),
        ({"body_limit_bytes": 1 << 30}, 1, 100),
    ],
)
async def test_a_batch_transform_is_told_what_to_send(
    serve: Serve, settings: dict[str, int], concurrent: int, payload_mb: int
) -> None:
    async with serve(**settings) as client:
        assert (await client.get("/execution-parameters")).json() == {
            "MaxConcurrentTransforms": concurrent,
            "BatchStrategy": "MULTI_RECORD",
            "MaxPayloadInMB": payload_mb,
        }


async def test_whoever_takes_any_gets_what_the_setting_says(serve: Serve) -> None:
    async with serve(invocations_accept=CSV) as client:
        for accept in ({}, {"accept": "*/*"}, {"accept": CSV}):
            answer = await post(client, as_csv(SMALL), CSV, **accept)
            assert answer.headers["content-type"] == CSV
        answer = await post(client, as_csv(SMALL), CSV, accept=JSON)
        assert answer.headers["content-type"] == JSON


@pytest.mark.parametrize(
    ("media_type", "name"),
    [(kind, name) for kind, examples in invocations_schemas.EXAMPLES.items() for name in examples],
)
async def test_the_documented_examples_run(client: httpx.AsyncClient, media_type: str, name: str) -> None:
    value = invocations_schemas.EXAMPLES[media_type][name]["value"]
    body = orjson.dumps(value) if media_type == JSON else value.encode()
    answer = await post(client, body, media_type)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"]


async def test_it_is_counted_under_its_route(client: httpx.AsyncClient) -> None:
    await post(client, as_csv(SMALL), CSV)
    metrics = (await client.get("/metrics")).text
    assert 'logitserve_requests_total{method="POST",route="/invocations",status="200"} 1' in metrics
    assert 'logitserve_rows_total{model="digits",version="1"} 2' in metrics


def test_a_container_of_sagemaker_starts_pings_answers_and_stops(tmp_path: Path) -> None:
    """What model.tar.gz held is served with the one argument `serve` and SageMaker's variables."""
    unpacked = tmp_path / "model"
    shutil.copytree(MODELS / "digits" / "1", unpacked)
    (unpacked / "code").mkdir()
    foreign = ("LOGITSERVE_", "SAGEMAKER_", "AIP_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environ |= {
        "LOGITSERVE_MODELS": str(unpacked),
        "SAGEMAKER_BIND_TO_PORT": "0",
        "SAGEMAKER_MODEL_SERVER_WORKERS": "2",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT": "20",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6",
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": CSV,
    }
    command = [sys.executable, "-m", "service", "serve"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            block = "".join(process.stdout.readline() for _ in range(7))
            url = re.findall(r"http://127\.0\.0\.1:\d+", block)[0]
            assert "model 1 (sha256" in block
            assert re.search(r"workers +2", block)
            with httpx.Client(base_url=url, timeout=5) as client:
                assert client.get("/ping").status_code == 200
                told = client.get("/execution-parameters").json()
                assert (told["MaxConcurrentTransforms"], told["MaxPayloadInMB"]) == (2, 6)
                headers = {"content-type": CSV, "accept": "*/*"}
                answer = client.post("/invocations", content=as_csv(SMALL), headers=headers)
                assert (answer.status_code, answer.headers["content-type"]) == (200, CSV)
                assert answer.text.count("\n") == 2
                predicted = client.post(
                    "/predict", json={"features": listed(SMALL), "outputs": ["predicted_names"]}
                )
                assert predicted.json()["predicted_names"] == ["seven", "one"], "head.json is read too"
                refused = client.post("/invocations", content=b" " * (7 << 20), headers=headers)
                assert refused.status_code == 413
            process.send_signal(signal.SIGTERM)
            rest, stderr = process.communicate(timeout=30)
            assert (process.returncode, rest, stderr) == (0, "", "")
        finally:
            process.kill()
