"""The routes of TensorFlow Serving's REST API and of KServe V1, from bytes to bytes."""

import gzip
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import MODELS, Serve, connected

from service.api import v1 as routes
from service.app import create_app
from service.errors import (
    DeadlineExceeded,
    Invalid,
    MethodNotAllowed,
    NotFound,
    NotReady,
    QueueFull,
    RequestError,
    TooLarge,
)
from service.settings import Settings
from service.wire import v1_schemas

pytestmark = pytest.mark.anyio

HEAD = "/v1/models/digits"
ROWS: list[list[float]] = (np.arange(128.0).reshape(2, 64) % 17).tolist()
LOGITS = [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]]
LABELLED = [{"features": row, "labels": label} for row, label in zip(ROWS, (3, 7), strict=True)]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(models=MODELS))
    async with app.router.lifespan_context(app), connected(app) as client:
        yield client


async def answered(client: httpx.AsyncClient, path: str, **said: Any) -> Any:
    answer = await client.post(path, json=said)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


async def native(client: httpx.AsyncClient, **said: Any) -> Any:
    return (await client.post("/models/digits/predict", json=said)).json()


# Predictions


async def test_a_head_answers_plain_probabilities_to_the_last_bit(client: httpx.AsyncClient) -> None:
    expected = await native(client, features=ROWS)
    assert await answered(client, f"{HEAD}:predict", instances=ROWS) == {
        "predictions": expected["probabilities"]
    }
    assert await answered(client, f"{HEAD}:predict", inputs=ROWS) == {"outputs": expected["probabilities"]}
    answer = await client.post(f"{HEAD}:predict", json={"instances": ROWS})
    bare = await client.post("/models/digits/predict", json={"features": ROWS, "outputs": ["probabilities"]})
    begun, inside = b'{"predictions":', bare.content.partition(b'"probabilities":')[2]
    assert answer.content == begun + inside, "the very same digits"


@pytest.mark.parametrize("rows", [1, 40, 1100])  # read by either reader, and in more than one batch
async def test_every_size_gives_the_bits_of_the_native_route(client: httpx.AsyncClient, rows: int) -> None:
    features = np.random.default_rng(rows).integers(0, 17, (rows, 64)).tolist()
    names = ["probabilities", "classes", "logits", "log_probabilities"]
    expected = await native(client, features=features, outputs=names)
    columns = await answered(client, f"{HEAD}:predict", inputs=features, signature_name="all")
    assert columns["outputs"] == {name: expected[name] for name in names}
    told = await answered(client, f"{HEAD}:predict", instances=features, signature_name="all")
    assert [list(row) for row in told["predictions"]] == [names] * rows
    for name in names:
        assert [row[name] for row in told["predictions"]] == expected[name]


async def test_labels_add_losses(client: httpx.AsyncClient) -> None:
    expected = await native(client, features=ROWS, labels=[3, 7], outputs=["probabilities", "losses", "loss"])
    told = await answered(client, f"{HEAD}:predict", instances=LABELLED)
    assert [row["losses"] for row in told["predictions"]] == expected["losses"]
    columns = {"features": ROWS, "labels": ["three", "seven"]}
    told = await answered(
        client, f"{HEAD}:predict", inputs=columns, parameters={"outputs": ["loss", "losses"]}
    )
    assert told == {"outputs": {"loss": expected["loss"], "losses": expected["losses"]}}


async def test_the_operations_on_bare_logits_are_models(client: httpx.AsyncClient) -> None:
    expected = (await client.post("/softmax", json={"logits": LOGITS})).json()
    told = await answered(client, "/v1/models/softmax:predict", instances=LOGITS)
    assert told == {"predictions": expected["probabilities"]}
    expected = (await client.post("/loss", json={"logits": LOGITS, "labels": [1, 2]})).json()
    told = await answered(
        client, "/v1/models/loss/versions/1:predict", inputs={"logits": LOGITS, "labels": [1, 2]}
    )
    assert told == {"outputs": expected["losses"]}


async def test_a_masked_class_is_a_word(client: httpx.AsyncClient) -> None:
    rows = [[1.0, "-Infinity", 2.0]]
    told = await answered(
        client, "/v1/models/softmax:predict", instances=rows, signature_name="log_probabilities"
    )
    assert told["predictions"][0][1] == "-Infinity"


async def test_options_travel_as_parameters(client: httpx.AsyncClient) -> None:
    parameters = {
        "temperature": 0.5,
        "top_k": 2,
        "outputs": ["top_classes", "predicted_names", "contributions"],
    }
    told = await answered(client, f"{HEAD}:predict", instances=ROWS, parameters=parameters)
    expected = await native(client, features=ROWS, **parameters)
    for index, row in enumerate(told["predictions"]):
        assert row["top_classes"] == expected["top_classes"][index]
        assert row["predicted_names"] == expected["predicted_names"][index]
        assert row["contributions.values"] == expected["contributions"]["values"][index]


async def test_an_answer_has_the_headers_of_every_answer(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        f"{HEAD}/versions/1:predict", json={"instances": ROWS}, headers={"x-request-id": "seven"}
    )
    assert (answer.headers["x-request-id"], answer.headers["x-batch-rows"]) == ("seven", "2")
    assert (answer.headers["x-model"], answer.headers["x-model-version"]) == ("digits", "1")
    metrics = (await client.get("/metrics")).text
    assert 'route="/v1/models/{model}/versions/{version}:predict"' in metrics
    assert 'logitserve_rows_total{model="digits",version="1"} 2' in metrics


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded"])
async def test_the_type_of_a_request_is_not_looked_at(client: httpx.AsyncClient, content_type: str) -> None:
    body = json.dumps({"instances": ROWS}).encode()
    for headers, content in (({}, body), ({"content-encoding": "gzip"}, gzip.compress(body))):
        answer = await client.post(
            f"{HEAD}:predict", content=content, headers={"content-type": content_type, **headers}
        )
        assert answer.status_code == 200


@pytest.mark.parametrize("name", v1_schemas.EXAMPLES)
async def test_the_documented_examples_to_predict_run(client: httpx.AsyncClient, name: str) -> None:
    example = v1_schemas.EXAMPLES[name]
    model = example["summary"].partition("(model ")[2].rstrip(")")
    told = await answered(client, f"/v1/models/{model}:predict", **example["value"])
    assert set(told) == {"predictions" if "instances" in example["value"] else "outputs"}


async def test_kserve_answers_all_as_predictions(serve: Serve) -> None:
    async with serve(v1="kserve") as client:
        by_name = await answered(client, f"{HEAD}:predict", inputs=ROWS)
        assert by_name == await answered(client, f"{HEAD}:predict", instances=ROWS)
        assert len(by_name["predictions"]) == 2
        told = await answered(client, f"{HEAD}:predict", inputs={"features": ROWS}, signature_name="classes")
        assert len(told["predictions"]) == 2


# Classes


async def test_examples_are_classified_by_name(client: httpx.AsyncClient) -> None:
    expected = await native(client, features=ROWS)
    names = (await client.get("/models/digits")).json()["versions"][0]["class_names"]
    told = await answered(client, f"{HEAD}:classify", examples=[{"features": row} for row in ROWS])
    assert [[name for name, _ in row] for row in told["results"]] == [names] * 2
    assert [[score for _, score in row] for row in told["results"]] == expected["probabilities"]


@pytest.mark.parametrize("name", v1_schemas.CLASSIFY_EXAMPLES)
async def test_the_documented_examples_to_classify_run(client: httpx.AsyncClient, name: str) -> None:
    said = v1_schemas.CLASSIFY_EXAMPLES[name]["value"]
    told = await answered(client, "/v1/models/softmax:classify", **said)
    assert [name for name, _ in told["results"][0]] == ["cat", "dog", "bird"]


@pytest.mark.parametrize("verb", ["regress", "explain"])
async def test_what_a_classifier_cannot_do_is_said(client: httpx.AsyncClient, verb: str) -> None:
    for place in (HEAD, f"{HEAD}/versions/1", "/v1/models/softmax"):
        answer = await client.post(f"{place}:{verb}", json={"examples": [{"features": ROWS[0]}]})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(f"{verb}: ")
    assert (await client.post(f"/v1/models/cats:{verb}", content=b"")).status_code == 404


# What is served


async def test_models_are_listed_with_their_status(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).json() == {"models": ["digits", "softmax", "loss"]}
    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for name in ("digits", "softmax"):
        for place in (f"/v1/models/{name}", f"/v1/models/{name}/versions/1"):
            answer = await client.get(place)
            assert answer.status_code == 200
            assert answer.json() == {"model_version_status": [available], "name": name, "ready": True}


async def test_metadata_tell_what_to_send(client: httpx.AsyncClient) -> None:
    for place in (HEAD, f"{HEAD}/versions/1"):
        told = (await client.get(f"{place}/metadata")).json()
        assert told["model_spec"] == {"name": "digits", "signature_name": "", "version": "1"}
        signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
        ((name, tensor),) = signature["inputs"].items()
        width = int(tensor["tensor_shape"]["dim"][1]["size"])
        assert tensor["dtype"] == "DT_FLOAT"
        sent = [{name: [1.0] * width}]
        assert len((await answered(client, f"{HEAD}:predict", instances=sent))["predictions"]) == 1
    assert (await client.get("/v1/models/loss/metadata")).status_code == 200


# What callers get wrong


BAD: list[tuple[str, str, bytes, int, str]] = [
    ("POST", f"{HEAD}:predict", b"", 400, ""),
    ("POST", f"{HEAD}:predict", b"{", 400, ""),
    ("POST", f"{HEAD}:predict", b"[]", 400, "expected a JSON object"),
    ("POST", f"{HEAD}:predict", b"{}", 400, "Missing 'inputs' or 'instances' key"),
    ("POST", f"{HEAD}:predict", b'{"instances": [[1]], "inputs": [[1]]}', 400, "exactly one"),
    ("POST", f"{HEAD}:predict", b'{"instances": []}', 400, "an empty list"),
    ("POST", f"{HEAD}:predict", b'{"instances": [NaN]}', 400, "JSON has no such number"),
    ("POST", f"{HEAD}:predict", b'{"instances": [[1, 2]]}', 400, "[..., 64]"),
    ("POST", f"{HEAD}:predict", b'{"instances": [[1, 2], [1]]}', 400, "a list of 1"),
    ("POST", f"{HEAD}:predict", b'{"instances": [{"b64": "AA=="}]}', 400, "b64"),
    ("POST", f"{HEAD}:predict", b'{"instances": [[1]], "signature_name": "x"}', 400, "not found in signature def"),
    ("POST", f"{HEAD}:predict", b'{"instances": [[1]], "parameters": {"x": 1}}', 400, "parameters.x"),
    ("POST", f"{HEAD}:predict", b'{"inputs": ' + b"[" * 99 + b"]" * 99 + b"}", 400, "levels of nesting"),
    ("POST", f"{HEAD}:classify", b'{"examples": []}', 400, "examples"),
    ("POST", f"{HEAD}:classify", b'{"examples": [{"features": [[1, 2], [3, 4]]}]}', 400, "features"),
    ("POST", f"{HEAD}:predict", json.dumps({"inputs": [[0] * 64] * 2000}).encode(), 413, "LOGITSERVE_ROWS_LIMIT"),
    ("POST", "/v1/models/cats:predict", b'{"instances": [[1]]}', 404, "Servable not found for request: "),
    ("POST", f"{HEAD}/versions/9:predict", b'{"instances": [[1]]}', 404, "Servable not found for request: "),
    ("POST", f"{HEAD}/labels/stable:predict", b'{"instances": [[1]]}', 404, "Servable not found for request: "),
    ("POST", f"{HEAD}/versions/x:predict", b'{"instances": [[1]]}', 400, "Malformed request: "),
    ("POST", "/v1/models/a:b:predict", b'{"instances": [[1]]}', 400, "Malformed request: "),
    ("POST", f"{HEAD}:infer", b"{}", 400, "Malformed request: "),
    ("POST", HEAD, b"{}", 400, "Malformed request: "),
    ("POST", "/v1/", b"{}", 400, "Malformed request: "),
    ("GET", "/v1/models/cats", b"", 404, "Servable not found for request: "),
    ("GET", "/v1/models/cats/metadata", b"", 404, "Servable not found for request: "),
    ("GET", f"{HEAD}/versions/2", b"", 404, "Servable not found for request: "),
    ("GET", f"{HEAD}/labels/stable", b"", 404, "Servable not found for request: "),
    ("GET", "/v1/models/softmax/versions/2/metadata", b"", 404, "Servable not found for request: "),
    ("GET", f"{HEAD}:predict", b"", 400, "Malformed request: "),
    ("GET", f"{HEAD}/versions/x", b"", 400, "Malformed request: "),
    ("GET", "/v1/nothing", b"", 400, "Malformed request: "),
    ("DELETE", HEAD, b"", 400, "Malformed request: "),
]  # fmt: skip


async def test_every_mistake_is_one_sentence(serve: Serve) -> None:
    async with serve(rows_limit=1000) as client:
        for method, path, body, status, words in BAD:
            answer = await client.request(method, path, content=body)
            assert (answer.status_code, list(answer.json())) == (status, ["error"]), (path, body[:80])
            assert words in answer.json()["error"], answer.text
            assert answer.headers["content-type"] == "application/json"
            assert 0 < len(answer.json()["error"]) < 600
        assert (await client.post(f"{HEAD}:predict", json={"instances": ROWS})).status_code == 200


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (Invalid("rank", "expected an axis", path="logits"), 400, "logits: expected an axis"),
        (NotFound("unknown_route", "nothing"), 400, "Malformed request: nothing"),
        (MethodNotAllowed("method_not_allowed", "POST only"), 400, "Malformed request: POST only"),
        (NotFound("unknown_model", "none"), 404, "Servable not found for request: none"),
        (TooLarge("rows_too_many", "too many rows"), 413, "too many rows"),
        (QueueFull("queue_full", "too much waits"), 429, "too much waits"),
        (NotReady("not_ready", "starting"), 503, "starting"),
        (DeadlineExceeded("deadline", "too late"), 504, "too late"),
    ],
)
def test_errors_have_the_statuses_of_tensorflow_serving(error: RequestError, status: int, words: str) -> None:
    got, body, media_type = routes.error_body(error)
    assert (got, json.loads(body), media_type) == (status, {"error": words}, "application/json")


SEEDS = [
    (f"{HEAD}:predict", json.dumps({"instances": ROWS, "signature_name": "all", "parameters": {"top_k": 2}}).encode()),
    (f"{HEAD}:predict", json.dumps({"instances": LABELLED}).encode()),
    (f"{HEAD}:predict", json.dumps({"inputs": {"features": ROWS[:1], "labels": [1]}}).encode()),
    ("/v1/models/softmax:predict", b'{"instances": [[1, 2.5], ["-Infinity", 3]], "signature_name": "all"}'),
    ("/v1/models/loss:predict", b'{"instances": [{"logits": [1, 2], "labels": 0, "sample_weight": 1}]}'),
    (f"{HEAD}:classify", json.dumps({"context": {"features": ROWS[0]}, "examples": [{}]}).encode()),
]  # fmt: skip
PIECES = [
    b"[",
    b"]",
    b"{",
    b"}",
    b"null",
    b"1e39",
    b'"',
    b":",
    b"-",
    b",",
    b"[]",
    b"{}",
    b"true",
    b"1e400",
    b"\\",
    b"\xff",
]


async def test_no_damage_to_a_body_is_a_fault_of_the_service(client: httpx.AsyncClient) -> None:
    chance = random.Random(0)
    statuses = set()
    for _ in range(2000):
        path, body = chance.choice(SEEDS)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(body))
            body = body[:at] + chance.choice(PIECES) + body[at + chance.randint(0, 6) :]
        answer = await client.post(path, content=body)
        statuses.add(answer.status_code)
        assert answer.status_code in {200, 400}, (path, body)
        assert answer.status_code == 200 or list(answer.json()) == ["error"]
    assert statuses == {200, 400}
