"""Loading, unloading and naming versions by the native admin routes, and who may."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import MODELS, Serve, connected
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.application import Application
from service.settings import Settings

pytestmark = pytest.mark.anyio

KEY = {"authorization": "Bearer secret"}
VERSION = "/admin/models/digits/versions/1"
ROUTES = [
    ("POST", f"{VERSION}/load"),
    ("POST", f"{VERSION}/unload"),
    ("POST", "/admin/reload"),
    ("PUT", "/admin/models/digits/aliases/stable"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/digits/load"),
    ("POST", "/v2/repository/models/digits/unload"),
]
FEATURES = [1] * 64
TENSOR = {"name": "features", "datatype": "FP32", "shape": [1, 64], "data": FEATURES}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODELS / "digits", tmp_path / "models" / "digits")).parent


def put(models: Path, model: str, version: int) -> Path:
    return Path(shutil.copytree(MODELS / "digits" / "1", models / model / str(version)))


def made(models: Path, run_folder: Path | None = None, **settings: Any) -> Application:
    given = {"models": models, "admin_key": "secret", **settings}
    return create_app(Settings(**given), run_folder=run_folder)


async def loaded(client: httpx.AsyncClient) -> set[tuple[str, str]]:
    """What the metrics say is served."""
    text = (await client.get("/metrics")).text
    return {
        (sample.labels["model"], sample.labels["version"])
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "logitserve_model_info"
    }


async def predicted(client: httpx.AsyncClient, path: str = "/predict", **fields: Any) -> tuple[int, str]:
    answer = await client.post(path, json={"features": FEATURES, **fields})
    said = answer.json()
    return answer.status_code, said["version" if answer.status_code == 200 else "code"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_each_route_asks_for_the_admin_key_in_its_dialects_form(
    models: Path, method: str, path: str
) -> None:
    app = made(models)
    async with app.router.lifespan_context(app), connected(app) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = await client.request(method, path, headers=headers, content=b"{")
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Bearer ")
            if path.startswith("/v2"):
                assert list(answer.json()) == ["error"]
                assert answer.headers["content-type"] == "application/json"
            else:
                assert answer.json()["code"] == "unauthenticated"
        assert await predicted(client) == (200, "1"), "nothing happened, and scoring asks for no key"


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_key_set_nobody_may(serve: Serve, method: str, path: str) -> None:
    async with serve() as client:
        answer = await client.request(method, path, headers=KEY)
        assert answer.status_code == 403
        assert "LOGITSERVE_ADMIN_KEY" in answer.text


async def test_only_these_routes_ask_for_a_key_and_the_document_says_so(serve: Serve) -> None:
    async with serve() as client:
        document = (await client.get("/openapi.json")).json()
    guarded = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if operation.get("security") == [{"admin key": []}]
    }
    filled = {("model", "digits"), ("version", "1"), ("alias", "stable")}

    def fill(path: str) -> str:
        for name, value in filled:
            path = path.replace(f"{{{name}}}", value)
        return path

    assert {(method, fill(path)) for method, path in guarded} == set(ROUTES)
    assert document["components"]["securitySchemes"]["admin key"]["scheme"] == "bearer"


async def test_a_version_is_unloaded_and_loaded_again(models: Path) -> None:
    app = made(models)
    async with app.router.lifespan_context(app), connected(app) as client:
        before = (await client.get("/models/digits/versions/1")).json()
        answer = await client.post(f"{VERSION}/unload", headers=KEY)
        assert (answer.status_code, answer.json()) == (
            200,
            {"model": "digits", "version": "1", "state": "unloaded", "reason": "unloaded"},
        )
        assert (await client.get("/models/digits/versions/1")).json() == answer.json()
        assert await predicted(client) == (503, "not_ready")
        assert await predicted(client, version="1") == (503, "not_ready")
        refused = await client.post("/predict", json={"features": FEATURES})
        assert refused.headers["retry-after"] == "1"
        assert await loaded(client) == set()
        assert (await client.post(f"{VERSION}/unload", headers=KEY)).status_code == 200, "it is already"
        answer = await client.post(f"{VERSION}/load", headers=KEY)
        assert (answer.status_code, answer.json()) == (200, before)
        assert await predicted(client) == (200, "1")
        assert await loaded(client) == {("digits", "1")}


async def test_a_reload_finds_new_versions_and_models_and_all_paths_lead_to_them(models: Path) -> None:
    app = made(models)
    async with app.router.lifespan_context(app), connected(app) as client:
        put(models, "digits", 2)
        put(models, "cats", 1)
        assert await predicted(client) == (200, "1")
        answer = await client.post("/admin/reload", headers=KEY)
        assert answer.status_code == 200
        assert answer.json() == (await client.get("/models")).json()
        assert await predicted(client, model="digits") == (200, "2")
        assert await predicted(client, "/models/cats/predict") == (200, "1")
        assert await predicted(client) == (404, "unknown_model"), "there are two now"
        assert ("POST", "/v2/models/cats/infer") in app.hot
        assert b"/v2/models/cats/infer" in app.shortcuts
        assert (await client.post("/v2/models/cats/infer", json={"inputs": [TENSOR]})).status_code == 200
        assert await loaded(client) == {("digits", "1"), ("digits", "2"), ("cats", "1")}
        shutil.rmtree(models / "cats")
        assert (await client.post("/admin/reload", headers=KEY)).status_code == 200
        assert ("POST", "/v2/models/cats/infer") not in app.hot
        assert b"/v2/models/cats/infer" not in app.shortcuts
        gone = await client.post("/v2/models/cats/infer", json={"inputs": [TENSOR]})
        assert gone.status_code == 404
        assert await loaded(client) == {("digits", "1"), ("digits", "2")}


async def test_an_unloaded_model_is_told_alike_on_the_hot_and_the_cold_way(models: Path) -> None:
    app = made(models)
    async with app.router.lifespan_context(app), connected(app) as client:
        await client.post(f"{VERSION}/unload", headers=KEY)
        given = {"x-request-id": "same"}
        hot = await client.post("/v2/models/digits/infer", json={"inputs": [TENSOR]}, headers=given)
        app.hot.clear()
        cold = await client.post("/v2/models/digits/infer", json={"inputs": [TENSOR]}, headers=given)
    assert (hot.status_code, hot.content, hot.headers) == (cold.status_code, cold.content, cold.headers)
    assert hot.status_code == 503


async def test_a_name_leads_to_its_version_on_every_way(models: Path) -> None:
    put(models, "digits", 2)
    alias = "/admin/models/digits/aliases/stable"
    app = made(models)
    async with app.router.lifespan_context(app), connected(app) as client:
        answer = await client.put(alias, headers=KEY, json={"version": "1"})
        assert (answer.status_code, answer.json()) == (200, {"model": "digits", "aliases": {"stable": "1"}})
        assert (await client.get("/models/digits")).json()["aliases"] == {"stable": "1"}
        assert await predicted(client) == (200, "2")
        assert await predicted(client, version="stable") == (200, "1")
        assert await predicted(client, "/models/digits/versions/stable/predict") == (200, "1")
        answer = await client.post("/v2/models/digits/versions/stable/infer", json={"inputs": [TENSOR]})
        assert answer.json()["model_version"] == "1"
        await client.put(alias, headers=KEY, json={"version": "2"})
        assert await predicted(client, version="stable") == (200, "2")
        await client.put(alias, headers=KEY, json={"version": None})
        assert await predicted(client, version="stable") == (404, "unknown_version")


async def test_a_version_that_cannot_be_loaded_is_told_and_what_served_serves(models: Path) -> None:
    app = made(models)
    async with app.router.lifespan_context(app), connected(app) as client:
        (models / "digits" / "2").mkdir()
        (models / "digits" / "2" / "model.onnx").write_bytes(b"garbage")
        answer = await client.post("/admin/models/digits/versions/2/load", headers=KEY)
        assert (answer.status_code, answer.json()["code"]) == (422, "not_loadable")
        assert answer.json()["detail"].startswith("digits version 2: onnxruntime cannot open the model")
        told = (await client.get("/models/digits/versions/2")).json()
        assert (told["state"], answer.json()["detail"]) == ("failed", f"digits version 2: {told['reason']}")
        assert await predicted(client) == (200, "1")
        assert await predicted(client, version="2") == (503, "not_ready")
        assert (await client.get("/health/ready")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "told"),
    [
        ("POST", "/admin/models/cats/versions/1/load", b"", (404, "unknown_model")),
        ("POST", "/admin/models/cats/versions/1/unload", b"", (404, "unknown_model")),
        ("POST", "/admin/models/digits/versions/2/load", b"", (404, "unknown_version")),
        ("POST", "/admin/models/digits/versions/01/unload", b"", (404, "unknown_version")),
        ("PUT", "/admin/models/digits/aliases/stable", b'{"version": "2"}', (404, "unknown_version")),
        ("PUT", "/admin/models/digits/aliases/1", b'{"version": "1"}', (422, "option_type")),
        ("PUT", "/admin/models/digits/aliases/stable", b'{"version": 1}', (422, "option_type")),
        ("PUT", "/admin/models/digits/aliases/stable", b"", (400, "malformed_json")),
        ("GET", "/admin/reload", b"", (405, "method_not_allowed")),
    ],
)
async def test_a_mistake_is_told_with_its_code(
    models: Path, method: str, path: str, body: bytes, told: tuple[int, str]
) -> None:
    app = made(models)
    async with app.router.lifespan_context(app), connected(app) as client:
        answer = await client.request(method, path, headers=KEY, content=body)
        assert (answer.status_code, answer.json()["code"]) == told


async def test_a_worker_that_does_not_follow_is_named_in_time(models: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    app = made(models, run_folder=tmp_path / "run", workers=2)
    async with app.router.lifespan_context(app), connected(app) as client:
        answer = await client.post(f"{VERSION}/unload", headers={**KEY, "x-request-timeout-ms": "300"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline")
    assert "before worker 2 had followed" in answer.json()["detail"]


async def test_requests_under_way_finish_while_their_version_is_unloaded(models: Path) -> None:
    app = made(models, batch_delay_s=0.5)
    async with app.router.lifespan_context(app), connected(app) as client:
        waiting = asyncio.create_task(predicted(client))
        await asyncio.sleep(0.1)
        assert (await client.post(f"{VERSION}/unload", headers=KEY)).status_code == 200
        assert not waiting.done()
        assert await predicted(client) == (503, "not_ready")
        assert await waiting == (200, "1")
