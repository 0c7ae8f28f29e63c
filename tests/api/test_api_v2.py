"""The routes of the Open Inference Protocol V2, from bytes to bytes."""

import gzip
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from conftest import MODELS, connected
from numpy.typing import NDArray

from service.app import create_app
from service.errors import DeadlineExceeded, Invalid, NotFound, NotReady, RequestError, TooLarge
from service.settings import Settings
from service.wire import v2, v2_schemas
from service.wire.limits import Limits

pytestmark = pytest.mark.anyio

HEAD = "/v2/models/digits/infer"
FEATURES = np.arange(128, dtype=np.float32).reshape(2, 64) % 17
LOGITS = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]])
LIMITS = Limits(body_bytes=16 << 20, rows=1000, elements=1 << 20, json_depth=32)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(models=MODELS))
    async with app.router.lifespan_context(app), connected(app) as client:
        yield client


async def infer(
    client: httpx.AsyncClient,
    inputs: Mapping[str, NDArray[Any]],
    path: str = HEAD,
    headers: Mapping[str, str] | None = None,
    **said: Any,
) -> tuple[httpx.Response, dict[str, NDArray[Any]]]:
    body = v2.encode_request(inputs, **said)
    length = {} if body.json_bytes is None else {v2.JSON_LENGTH: str(body.json_bytes)}
    answer = await client.post(path, content=body.content, headers={**length, **(headers or {})})
    assert answer.status_code == 200, answer.text
    return answer, v2.decode_result(answer.content, answer.headers.get(v2.JSON_LENGTH))


@pytest.mark.parametrize("binary", [True, False])
async def test_a_head_gives_the_numbers_of_the_native_route(client: httpx.AsyncClient, binary: bool) -> None:  # noqa: FBT001
    names = ["probabilities", "classes", "log_probabilities", "logits"]
    body = {"features": FEATURES.tolist(), "outputs": names}
    native = (await client.post("/models/digits/predict", json=body)).json()
    for outputs in ([], names):
        _, found = await infer(client, {"features": FEATURES}, outputs=outputs, binary=binary)
        assert list(found) == names
        for name in names:
            kind = np.int64 if name == "classes" else np.float32
            np.testing.assert_array_equal(found[name], np.asarray(native[name], kind), strict=True)


@pytest.mark.parametrize("binary", [True, False])
async def test_labels_add_losses(client: httpx.AsyncClient, binary: bool) -> None:  # noqa: FBT001
    inputs = {"features": FEATURES, "labels": np.array([3, 7])}
    _, found = await infer(client, inputs, binary=binary)
    body = {"features": FEATURES.tolist(), "labels": [3, 7], "outputs": ["losses"]}
    native = (await client.post("/models/digits/predict", json=body)).json()
    np.testing.assert_array_equal(found["losses"], np.asarray(native["losses"], np.float32), strict=True)


async def test_the_operations_on_bare_logits_are_models(client: httpx.AsyncClient) -> None:
    _, found = await infer(client, {"logits": LOGITS}, "/v2/models/softmax/infer")
    native = (await client.post("/softmax", json={"logits": LOGITS.tolist()})).json()
    assert found["probabilities"].tolist() == native["probabilities"]
    assert list(found) == ["probabilities", "classes", "log_probabilities"]
    inputs = {"logits": LOGITS, "labels": np.array([1, 2])}
    answer, found = await infer(client, inputs, "/v2/models/loss/infer", parameters={"reduction": "sum"})
    body = {"logits": LOGITS.tolist(), "labels": [1, 2], "reduction": "sum"}
    native = (await client.post("/loss", json=body)).json()
    assert {name: found[name].tolist() for name in found} == {
        "loss": [native["loss"]],
        "losses": native["losses"],
        "count": [2],
    }
    assert "x-model" not in answer.headers


async def test_an_answer_has_the_headers_of_every_answer(client: httpx.AsyncClient) -> None:
    answer, _ = await infer(client, {"features": FEATURES}, headers={"x-request-id": "seven"})
    assert answer.headers["x-request-id"] == "seven"
    assert answer.headers["x-batch-rows"] == "2"
    assert answer.headers["x-model"] == "digits"
    assert {part.split(";")[0].strip() for part in answer.headers["server-timing"].split(",")} == {
        "decode",
        "queue",
        "infer",
        "encode",
    }
    metrics = (await client.get("/metrics")).text
    assert 'logitserve_rows_total{model="digits",version="1"} 2' in metrics
    assert 'route="/v2/models/{model}/infer"' in metrics


async def test_the_media_type_says_whether_bytes_follow(client: httpx.AsyncClient) -> None:
    raw, _ = await infer(client, {"features": FEATURES})
    assert raw.headers["content-type"] == "application/octet-stream"
    assert raw.content[: int(raw.headers[v2.JSON_LENGTH])].rstrip().endswith(b"]}")
    plain, _ = await infer(client, {"features": FEATURES}, binary=False)
    empty, found = await infer(client, {"features": FEATURES[:0]})
    assert found["probabilities"].shape == (0, 10)
    for answer in (plain, empty):
        assert answer.headers["content-type"] == "application/json"
        assert v2.JSON_LENGTH not in answer.headers


@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "text/plain"])
async def test_the_type_of_a_request_is_not_looked_at(client: httpx.AsyncClient, content_type: str) -> None:
    await infer(client, {"features": FEATURES}, headers={"content-type": content_type})


async def test_the_id_and_the_version_are_echoed(client: httpx.AsyncClient) -> None:
    path = "/v2/models/digits/versions/1/infer"
    answer, _ = await infer(client, {"features": FEATURES}, path, binary=False, request_id="7")
    said = answer.json()
    assert (said["model_name"], said["model_version"], said["id"]) == ("digits", "1", "7")


async def test_bare_bytes_are_rows(client: httpx.AsyncClient) -> None:
    answer = await client.post(HEAD, content=FEATURES.tobytes(), headers={v2.JSON_LENGTH: "0"})
    found = v2.decode_result(answer.content, answer.headers[v2.JSON_LENGTH])
    _, expected = await infer(client, {"features": FEATURES})
    assert found["probabilities"].tolist() == expected["probabilities"].tolist()


async def test_the_length_counts_the_json_before_it_was_compressed(client: httpx.AsyncClient) -> None:
    body = v2.encode_request({"features": FEATURES})
    headers = {v2.JSON_LENGTH: str(body.json_bytes), "content-encoding": "gzip"}
    answer = await client.post(HEAD, content=gzip.compress(body.content), headers=headers)
    assert answer.status_code == 200
    assert answer.content == (await infer(client, {"features": FEATURES}))[0].content


async def test_large_raw_tensors_are_scored(client: httpx.AsyncClient) -> None:
    features = np.random.default_rng(0).integers(0, 17, (1000, 64)).astype(np.float32)
    _, found = await infer(client, {"features": features})
    _, last = await infer(client, {"features": features[-1:]})
    np.testing.assert_allclose(found["probabilities"][-1:], last["probabilities"], rtol=1e-4)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (HEAD, b"{", 400),
        (HEAD, b"[]", 400),
        (HEAD, b"{}", 400),
        (HEAD, b'{"inputs": [], "inputs": []}', 400),
        (
            HEAD,
            b'{"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}',
            400,
        ),
        (
            "/v2/models/loss/infer",
            b'{"inputs": [{"name": "logits", "datatype": "FP32", "shape": [1], "data": [1]}]}',
            400,
        ),
        (
            HEAD,
            b'{"inputs": [{"name": "features", "datatype": "FP32", "shape": [99999999], "data": []}]}',
            413,
        ),
        ("/v2/models/cats/infer", None, 404),
        ("/v2/models/digits/versions/9/infer", None, 404),
        ("/v2/models/softmax/versions/1/infer", None, 404),
    ],
)
async def test_every_mistake_is_one_sentence(
    client: httpx.AsyncClient, path: str, body: bytes | None, status: int
) -> None:
    body = v2.encode_request({"features": FEATURES}, binary=False).content if body is None else body
    answer = await client.post(path, content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert 0 < len(answer.json()["error"]) < 500
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Invalid("rank", "expected an axis", path="logits"), 400),
        (NotFound("unknown_model", "no such model", path="model"), 404),
        (TooLarge("rows_too_many", "too many rows", path="logits"), 413),
        (NotReady("not_ready", "starting"), 503),
        (DeadlineExceeded("deadline", "too late"), 504),
    ],
)
def test_errors_keep_their_status_but_for_422(error: RequestError, status: int) -> None:
    body = orjson.dumps({"error": error.detail})
    assert v2.error_body(error) == (status, body, "application/json")


async def test_the_deadline_is_kept(client: httpx.AsyncClient) -> None:
    body = v2.encode_request({"features": np.concatenate([FEATURES] * 400)}, binary=False)
    answer = await client.post(HEAD, content=body.content, headers={"x-request-timeout-ms": "1"})
    assert answer.status_code == 504
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("name", v2_schemas.EXAMPLES)
async def test_the_documented_examples_run(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.post("/v2/models/softmax/infer", json=v2_schemas.EXAMPLES[name]["value"])
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["shape"] == [2, 3]


async def test_unknown_routes_and_methods_under_v2_answer_as_the_protocol_does(
    client: httpx.AsyncClient,
) -> None:
    missing = await client.get("/v2/nothing")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/json")
    assert missing.json() == {"error": "there is nothing at this path; /docs lists what there is"}
    method = await client.get(HEAD)
    assert (method.status_code, method.headers["allow"]) == (405, "POST")
    assert method.json() == {"error": "this path answers POST only"}
