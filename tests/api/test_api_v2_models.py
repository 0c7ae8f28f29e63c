"""The V2 routes that tell of the server and its models."""

from collections.abc import AsyncIterator

import httpx
import pytest
from conftest import MODELS, connected

from service import __version__
from service.app import create_app
from service.application import Application
from service.settings import Settings
from service.wire.v2_models import EXTENSIONS

pytestmark = pytest.mark.anyio

DIGITS = "/v2/models/digits"


@pytest.fixture
async def app() -> AsyncIterator[Application]:
    app = create_app(Settings(models=MODELS))
    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def client(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with connected(app) as client:
        yield client


async def told(client: httpx.AsyncClient, path: str) -> dict[str, object]:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, object] = answer.json()
    return found


async def test_the_server_tells_its_name_with_and_without_a_slash(client: httpx.AsyncClient) -> None:
    for path in ("/v2", "/v2/"):
        assert await told(client, path) == {
            "name": "logitserve",
            "version": __version__,
            "extensions": list(EXTENSIONS),
        }


async def test_health_is_200_with_a_body(client: httpx.AsyncClient) -> None:
    assert await told(client, "/v2/health/live") == {"live": True}
    assert await told(client, "/v2/health/ready") == {"ready": True}
    assert await told(client, f"{DIGITS}/ready") == {"name": "digits", "ready": True}
    assert await told(client, f"{DIGITS}/versions/1/ready") == {"name": "digits", "ready": True}


async def test_a_service_that_is_not_ready_says_so_in_the_protocols_form(
    app: Application, client: httpx.AsyncClient
) -> None:
    app.drain()
    for path in ("/v2/health/ready", f"{DIGITS}/ready"):
        answer = await client.get(path)
        assert (answer.status_code, list(answer.json())) == (503, ["error"])
        assert answer.headers["retry-after"] == "1"
    assert (await client.get("/v2/health/live")).status_code == 200
    starting = create_app(Settings(models=MODELS))
    async with connected(starting) as early:
        assert (await early.get("/v2/health/ready")).json() == {
            "error": "starting: the models are being loaded"
        }


async def test_a_model_is_told_with_and_without_its_version(client: httpx.AsyncClient) -> None:
    model = await told(client, DIGITS)
    assert model == await told(client, f"{DIGITS}/versions/1")
    assert model["versions"] == ["1"]
    assert model["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 64]}]
    config = await told(client, f"{DIGITS}/config")
    assert config == await told(client, f"{DIGITS}/versions/1/config")
    assert config["max_batch_size"] == 1024**2


@pytest.mark.parametrize("suffix", ["", "/ready", "/config", "/stats"])
@pytest.mark.parametrize("path", ["/v2/models/cats", f"{DIGITS}/versions/9", "/v2/models/loss/versions/2"])
async def test_what_there_is_not_is_404_in_the_protocols_form(
    client: httpx.AsyncClient, path: str, suffix: str
) -> None:
    answer = await client.get(path + suffix)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


async def test_statistics_count_what_was_inferred(client: httpx.AsyncClient) -> None:
    tensor = {"name": "features", "datatype": "FP32", "shape": [3, 64], "data": [0] * 192}
    for _ in range(2):
        assert (await client.post(f"{DIGITS}/infer", json={"inputs": [tensor]})).status_code == 200
    logits = {"name": "logits", "datatype": "FP32", "shape": [2, 2], "data": [0, 1, 0, "-Infinity"]}
    assert (await client.post("/v2/models/softmax/infer", json={"inputs": [logits]})).status_code == 200
    every = (await client.get("/v2/models/stats")).json()["model_stats"]
    assert [one["name"] for one in every] == ["digits", "softmax", "loss"]
    digits, softmax, loss = every
    assert (digits["inference_count"], digits["execution_count"]) == (6, 2)
    assert digits["inference_stats"]["success"]["count"] == 2
    assert digits["inference_stats"]["compute_infer"]["ns"] > 0
    assert (softmax["inference_count"], loss["inference_count"]) == (2, 0)
    for path in (f"{DIGITS}/stats", f"{DIGITS}/versions/1/stats"):
        assert (await client.get(path)).json()["model_stats"] == [digits]


async def test_a_request_that_fails_is_counted_as_failed(client: httpx.AsyncClient) -> None:
    masked = {"name": "logits", "datatype": "FP32", "shape": [1, 2], "data": [0, "-Infinity"]}
    labels = {"name": "labels", "datatype": "INT64", "shape": [1], "data": [1]}
    answer = await client.post("/v2/models/loss/infer", json={"inputs": [masked, labels]})
    assert answer.status_code == 400
    (loss,) = (await client.get("/v2/models/loss/stats")).json()["model_stats"]
    assert loss["inference_stats"]["fail"]["count"] == 1
    assert loss["inference_stats"]["success"]["count"] == 0
