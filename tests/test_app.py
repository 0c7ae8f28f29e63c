"""The assembly: one FastAPI application, whose hot routes answer past the router exactly as through it."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import MODELS, connected
from fastapi import FastAPI
from fastapi.routing import APIRoute

from service.app import create_app
from service.application import Application
from service.errors import ModelError, StartError
from service.settings import Settings

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
TENSOR = {"name": "features", "datatype": "FP32", "shape": [1, 64], "data": [1] * 64}
REQUESTS: list[tuple[str, bytes, dict[str, str]]] = [
    ("/softmax", b'{"logits": [[1, 2], [3, 4]]}', JSON),
    ("/softmax", b'{"logits": [[1, 2], [3]]}', JSON),
    ("/softmax", b"{", JSON),
    ("/softmax", b'{"logits": [1, 2]}', {**JSON, "accept": "text/html"}),
    ("/softmax", b'{"logits": [1, 2]}', {**JSON, "accept": "application/x-npz"}),
    ("/softmax", b"a=1", {"content-type": "application/x-www-form-urlencoded"}),
    ("/softmax", b"x" * 3000, JSON),
    ("/loss", b'{"logits": [[1, 2], [3, 4]], "labels": [0, 1]}', JSON),
    ("/loss", b'{"logits": [[1, 2], [3, 4]], "labels": [0, 2]}', JSON),
    ("/predict", json.dumps({"features": [1] * 64}).encode(), JSON),
    ("/predict", json.dumps({"features": [1] * 64, "model": "cats"}).encode(), JSON),
    ("/predict", json.dumps({"features": [1] * 64}).encode(), {**JSON, "x-request-timeout-ms": "x"}),
    ("/v2/models/digits/infer", json.dumps({"inputs": [TENSOR]}).encode(), JSON),
    ("/v2/models/digits/infer", b"{", JSON),
    ("/v2/models/softmax/infer", json.dumps({"inputs": [TENSOR]}).encode(), JSON),
    ("/v1/models/digits:predict", json.dumps({"instances": [[1] * 64]}).encode(), {}),
    ("/v1/models/digits:predict", json.dumps({"instances": []}).encode(), JSON),
    ("/v1/models/loss:predict", b'{"inputs": {"logits": [[1, 2]], "labels": [0]}}', JSON),
]


def made(**settings: Any) -> Application:
    return create_app(Settings(**{"models": MODELS, "body_limit_bytes": 2000, **settings}))


def seen(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    headers = {name: value for name, value in answer.headers.items() if name != "server-timing"}
    assert ("server-timing" in answer.headers) == (answer.status_code == 200)
    return answer.status_code, answer.content, headers


@pytest.mark.parametrize(("path", "body", "headers"), REQUESTS)
@pytest.mark.parametrize("draining", [False, True])
async def test_hot_and_cold_ways_give_the_same_bytes_statuses_and_headers(
    path: str, body: bytes, headers: dict[str, str], *, draining: bool
) -> None:
    app = made()
    given = {**headers, "x-request-id": "same"}
    async with app.router.lifespan_context(app), connected(app) as client:
        if draining:
            app.drain()
        assert ("POST", path) in app.hot
        hot = await client.post(path, content=body, headers=given)
        app.hot.clear()
        cold = await client.post(path, content=body, headers=given)
    assert seen(hot) == seen(cold)


class Reply:
    """Where the answer to a whole request goes."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[httpx.Response] = asyncio.get_running_loop().create_future()

    disconnected = False

    def gone(self) -> bool:
        return self.disconnected

    def send(self, status: int, headers: str, body: bytes, *, close: bool) -> None:
        pairs = [line.split(": ", 1) for line in headers.split("\r\n")[:-1]]
        assert close == (["connection", "close"] in pairs)
        named = [(name, value) for name, value in pairs]
        self.answered.set_result(httpx.Response(status, headers=named, content=body))


@pytest.mark.parametrize(("path", "body", "headers"), REQUESTS)
@pytest.mark.parametrize("draining", [False, True])
async def test_a_whole_request_gives_the_same_bytes_status_and_headers(
    path: str, body: bytes, headers: dict[str, str], *, draining: bool
) -> None:
    app = made()
    given = {**headers, "x-request-id": "same"}
    async with app.router.lifespan_context(app), connected(app) as client:
        if draining:
            app.drain()
        reply = Reply()
        pairs = [(name.encode(), value.encode()) for name, value in given.items()]
        app.shortcuts[path.encode()](pairs, body, reply)
        whole = await reply.answered
        conversed = await client.post(path, content=body, headers=given)
        counts = app.metrics.values["logitserve_requests"]
    assert seen(whole) == seen(conversed)
    assert list(counts.values()) == [2]


async def test_whoever_went_away_is_counted_and_no_longer_in_flight() -> None:
    app = made()
    async with app.router.lifespan_context(app):
        reply = Reply()
        app.shortcuts[b"/predict"]([], json.dumps({"features": [1] * 64}).encode(), reply)
        assert app.metrics.values["logitserve_inflight_requests"] == {(): 1}
        reply.disconnected = True
        await asyncio.sleep(0.02)
        counts = app.metrics.values
    assert not reply.answered.done()
    assert counts["logitserve_requests"] == {("/predict", "POST", "499"): 1}
    assert counts["logitserve_inflight_requests"] == {(): 0}
    assert counts["logitserve_errors"] == counts["logitserve_batch_rows"] == {}, "and nothing was computed"


async def test_every_hot_path_has_its_shortcut() -> None:
    app = made()
    async with app.router.lifespan_context(app):
        assert {path.encode() for _, path in app.hot} == set(app.shortcuts)


async def test_hot_and_cold_ways_are_counted_alike() -> None:
    app = made()
    async with app.router.lifespan_context(app), connected(app) as client:
        await client.post("/softmax", content=b"{")
        app.hot.clear()
        await client.post("/softmax", content=b"{")
    assert app.metrics.values["logitserve_requests"] == {("/softmax", "POST", "400"): 2}
    assert app.metrics.values["logitserve_errors"] == {("/softmax", "malformed_json"): 2}


async def test_there_is_no_middleware() -> None:
    assert made().user_middleware == []


async def test_every_hot_route_is_registered_and_has_its_url() -> None:
    app = made()
    assert {path for _, path in app.hot} == {"/softmax", "/loss", "/predict", "/invocations"}
    async with app.router.lifespan_context(app):
        infer = {f"/v2/models/{name}/infer" for name in ("digits", "softmax", "loss")}
        assert infer < {path for _, path in app.hot}, "V2 is hot for what is loaded"
        predict = {f"/v1/models/{name}:predict" for name in ("digits", "softmax", "loss")}
        assert predict < {path for _, path in app.hot}, "and so is V1"
    for name in ("softmax", "loss", "predict"):
        assert app.url_path_for(name) == f"/{name}"


async def test_a_path_stays_with_whoever_registered_it_first() -> None:
    app = made(vertex_predict_route="/v1/models/digits:predict", vertex_health_route="/health/ready")
    bodies = b'{"instances": []}', b'{"features": []}'
    async with app.router.lifespan_context(app), connected(app) as client:
        for _ in ("hot", "cold"):
            for body in bodies:
                answer = await client.post("/v1/models/digits:predict", content=body)
                assert answer.json()["error"]["status"] == "INVALID_ARGUMENT"
            app.hot.clear()
        assert (await client.get("/health/ready")).status_code == 200
        named = [
            (*(route.methods or ()), route.path) for route in app.router.routes if isinstance(route, APIRoute)
        ]
    assert len(set(named)) == len(named)


async def test_it_can_be_mounted_in_another_application() -> None:
    app = made()
    outer = FastAPI()
    outer.mount("/scoring", app)
    transport = httpx.ASGITransport(app=outer)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        answer = await client.post("/scoring/softmax", json={"logits": [1.0, 2.0]})
        assert (answer.status_code, answer.json()["classes"]) == (200, 1)
        page = await client.get("/scoring/docs")
        assert 'src="docs/start.js"' in page.text, (
            "the page's links are relative, so they hold below a prefix"
        )


async def test_two_applications_with_different_settings_live_in_one_process() -> None:
    small, large = made(rows_limit=1), made(rows_limit=10)
    body = {"logits": [[1.0, 2.0]] * 5}
    async with (
        small.router.lifespan_context(small),
        large.router.lifespan_context(large),
        connected(small) as to_small,
        connected(large) as to_large,
    ):
        assert (await to_small.post("/softmax", json=body)).status_code == 413
        assert (await to_large.post("/softmax", json=body)).status_code == 200
        assert "rows_too_many" not in (await to_large.get("/metrics")).text


async def test_what_is_served_is_told_once_ready() -> None:
    app = create_app(Settings(models=MODELS), threads=2)
    async with app.router.lifespan_context(app):
        served = app.served()
    (model,) = served["models"]
    assert (model["model"], model["version"], model["provider"]) == ("digits", "1", "cpu")
    assert len(model["digest"]) == 64
    assert served["threads"] == 2


async def test_a_missing_folder_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    app = made(models=tmp_path / "nowhere")
    with pytest.raises((StartError, ModelError), match="nowhere"):
        async with app.router.lifespan_context(app):
            pass


async def test_a_broken_model_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    version = tmp_path / "broken" / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes((MODELS / "digits/1/model.onnx").read_bytes()[:100])
    app = made(models=tmp_path)
    with pytest.raises(ModelError, match="broken version 1"):
        async with app.router.lifespan_context(app):
            pass


async def test_counts_go_to_the_run_folder_and_are_taken_over_from_there(tmp_path: Path) -> None:
    for expected in (1, 2):
        app = create_app(Settings(models=MODELS), run_folder=tmp_path, slot=0)
        async with app.router.lifespan_context(app), connected(app) as client:
            await asyncio.sleep(0)
            await client.post("/softmax", json={"logits": [1.0, 2.0]})
        assert app.metrics.values["logitserve_requests"]["/softmax", "POST", "200"] == expected


def test_nothing_reads_the_environment_or_loads_a_model_at_import() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import service.app\n"
        "changed = {k for k in os.environ if os.environ[k] != before.get(k)}\n"
        "assert changed <= {'ORT_DISABLE_TELEMETRY'}, changed\n"
        "assert 'onnx' not in sys.modules and 'matplotlib' not in sys.modules and 'rich' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
