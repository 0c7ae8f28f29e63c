"""The routes that Vertex AI chooses: predictions of the default head, and whether it is ready."""

import json
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import MODELS, Serve, connected

from service.api import vertex
from service.app import create_app
from service.application import Application
from service.errors import DeadlineExceeded, Invalid, NotFound, NotReady, QueueFull, RequestError, TooLarge
from service.settings import Settings
from service.wire import v1_schemas, v2

pytestmark = pytest.mark.anyio

PREDICT = "/v1/endpoints/7/deployedModels/8:predict"
HEALTH = "/vertex/health"
FEATURES = (np.arange(128).reshape(2, 64) % 17).astype(np.float32)
ROWS: list[list[float]] = FEATURES.tolist()


def made() -> Application:
    return create_app(Settings(models=MODELS, vertex_health_route=HEALTH, vertex_predict_route=PREDICT))


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = made()
    async with app.router.lifespan_context(app), connected(app) as client:
        yield client


async def test_there_are_no_routes_unless_vertex_ai_names_them(serve: Serve) -> None:
    async with serve() as client:
        assert (await client.get(HEALTH)).status_code == 404
        assert (await client.post(PREDICT, json={"instances": ROWS})).status_code == 400
        described = (await client.get("/openapi.json")).json()["paths"]
    assert not any("endpoints" in path for path in described)


async def test_health_is_readiness() -> None:
    app = made()
    async with connected(app) as client:
        waiting = await client.get(HEALTH)
        assert (waiting.status_code, waiting.json()["error"]["status"]) == (503, "UNAVAILABLE")
        async with app.router.lifespan_context(app):
            assert (await client.get(HEALTH)).status_code == 200
            app.drain()
            assert (await client.get(HEALTH)).status_code == 503


async def test_there_is_a_prediction_for_each_instance(client: httpx.AsyncClient) -> None:
    native = (await client.post("/predict", json={"features": ROWS})).json()
    answer = await client.post(PREDICT, json={"instances": ROWS})
    assert (answer.status_code, answer.json()) == (200, {"predictions": native["probabilities"]})
    assert answer.headers["x-model"] == "digits"
    parameters = {"temperature": 0.5, "outputs": ["classes", "predicted_names"]}
    told = (await client.post(PREDICT, json={"instances": ROWS, "parameters": parameters})).json()
    native = (await client.post("/predict", json={"features": ROWS, **parameters})).json()
    assert [row["classes"] for row in told["predictions"]] == native["classes"]
    labelled = [{"features": row, "labels": 3} for row in ROWS]
    told = (await client.post(PREDICT, json={"instances": labelled})).json()
    assert [list(row) for row in told["predictions"]] == [["probabilities", "losses"]] * 2


@pytest.mark.parametrize("name", v1_schemas.VERTEX_EXAMPLES)
async def test_the_documented_examples_run(client: httpx.AsyncClient, name: str) -> None:
    said = v1_schemas.VERTEX_EXAMPLES[name]["value"]
    answer = await client.post(PREDICT, json=said)
    assert (answer.status_code, len(answer.json()["predictions"])) == (200, 1)


async def test_its_route_is_its_own_even_where_another_would_answer(serve: Serve) -> None:
    async with serve(vertex_predict_route="/predict") as client:
        answer = await client.post("/predict", json={"instances": ROWS})
        assert list(answer.json()) == ["predictions"]
        refused = await client.post("/predict", json={"features": ROWS})
        assert refused.json()["error"]["code"] == 400
        assert (await client.post("/models/digits/predict", json={"features": ROWS})).status_code == 200


async def test_parameters_choose_among_several_heads(tmp_path: Path, serve: Serve) -> None:
    for name in ("one", "two"):
        shutil.copytree(MODELS / "digits", tmp_path / name)
    async with serve(models=tmp_path, vertex_predict_route=PREDICT) as client:
        unsaid = await client.post(PREDICT, json={"instances": ROWS})
        assert (unsaid.status_code, unsaid.json()["error"]["status"]) == (404, "NOT_FOUND")
        said = await client.post(PREDICT, json={"instances": ROWS, "parameters": {"model": "two"}})
        assert (said.status_code, said.headers["x-model"]) == (200, "two")


# rawPredict with the binary tensors of V2


@pytest.mark.parametrize("spaced", ["", " "])
async def test_binary_tensors_come_and_go_as_tritons(client: httpx.AsyncClient, spaced: str) -> None:
    body = v2.encode_request({"features": FEATURES}, outputs=["probabilities"])
    content_type = vertex.TRITON.replace(";", f";{spaced}") + str(body.json_bytes)
    answer = await client.post(PREDICT, content=body.content, headers={"content-type": content_type})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(vertex.TRITON)
    found = v2.decode_result(answer.content, answer.headers["content-type"].removeprefix(vertex.TRITON))
    native = (await client.post("/predict", json={"features": ROWS})).json()
    expected = np.asarray(native["probabilities"], np.float32)
    np.testing.assert_array_equal(found["probabilities"], expected, strict=True)


async def test_a_wrong_length_of_the_json_is_refused(client: httpx.AsyncClient) -> None:
    body = v2.encode_request({"features": FEATURES})
    for length in ("", "x", "-1", "99999999", "3"):
        headers = {"content-type": vertex.TRITON + length}
        answer = await client.post(PREDICT, content=body.content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, 400)
    large = v2.encode_request({"features": np.tile(FEATURES, (1000, 1))})
    headers = {"content-type": f"{vertex.TRITON}{large.json_bytes}"}
    assert (await client.post(PREDICT, content=large.content, headers=headers)).status_code == 200


# Errors


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (Invalid("ragged", "uneven", path="features[1]"), 400, "INVALID_ARGUMENT"),
        (NotFound("unknown_model", "none"), 404, "NOT_FOUND"),
        (TooLarge("rows_too_many", "many"), 413, "INVALID_ARGUMENT"),
        (QueueFull("queue_full", "full"), 429, "RESOURCE_EXHAUSTED"),
        (NotReady("not_ready", "starting"), 503, "UNAVAILABLE"),
        (DeadlineExceeded("deadline", "late"), 504, "DEADLINE_EXCEEDED"),
    ],
)
def test_errors_are_those_of_googles_services(error: RequestError, code: int, status: str) -> None:
    got, body, media_type = vertex.error_body(error)
    assert (got, media_type) == (code, "application/json")
    assert json.loads(body) == {"error": {"code": code, "message": error.detail, "status": status}}


@pytest.mark.parametrize(
    "said",
    [{}, {"instances": []}, {"instances": [[1]]}, {"instances": [1]}, {"instances": ROWS, "parameters": 1}],
)
async def test_a_mistake_is_told_in_that_form(client: httpx.AsyncClient, said: dict[str, Any]) -> None:
    answer = await client.post(PREDICT, json=said)
    assert (answer.status_code, list(answer.json()["error"])) == (400, ["code", "message", "status"])


async def test_no_damage_to_a_body_is_a_fault_of_the_service(client: httpx.AsyncClient) -> None:
    chance = random.Random(0)
    seed = json.dumps({"instances": ROWS, "parameters": {"top_k": 2}}).encode()
    raw = v2.encode_request({"features": FEATURES})
    for number in range(400):
        binary = bool(number % 2)
        body = bytearray(raw.content if binary else seed)
        for _ in range(chance.randint(1, 3)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        headers = {"content-type": f"{vertex.TRITON}{raw.json_bytes}"} if binary else {}
        answer = await client.post(PREDICT, content=bytes(body), headers=headers)
        assert answer.status_code in {200, 400}, bytes(body)
