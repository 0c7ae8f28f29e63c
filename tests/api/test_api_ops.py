"""Health, metrics, the list of models and the documentation, as operators and browsers get them."""

import re
import shutil
from pathlib import Path

import httpx
import pytest
from conftest import MODELS, Serve, connected
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.metrics import Board, Metrics
from service.settings import Settings

pytestmark = pytest.mark.anyio


async def test_live_and_ready_answer_get_and_head(serve: Serve) -> None:
    async with serve() as client:
        for state in ("live", "ready"):
            answer = await client.get(f"/health/{state}")
            assert (answer.status_code, answer.json()) == (200, {"status": state})
            assert (await client.head(f"/health/{state}")).status_code == 200


async def test_before_the_models_are_loaded_it_lives_but_is_not_ready() -> None:
    async with connected(create_app(Settings(models=MODELS))) as client:
        assert (await client.get("/health/live")).status_code == 200
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert answer.headers["retry-after"] == "1"
        assert "being loaded" in answer.json()["detail"]
        predicted = await client.post("/predict", json={"features": [0.0] * 64})
        assert (predicted.status_code, predicted.json()["code"]) == (503, "not_ready")


async def test_while_draining_it_is_not_ready_but_still_answers() -> None:
    app = create_app(Settings(models=MODELS))
    async with app.router.lifespan_context(app), connected(app) as client:
        app.drain()
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert "draining" in answer.json()["detail"]
        scored = await client.post("/softmax", json={"logits": [1.0, 2.0]})
        assert scored.status_code == 200
        assert scored.headers["connection"] == "close"


async def counted(client: httpx.AsyncClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_metrics_count_what_was_answered(serve: Serve) -> None:
    async with serve() as client:
        for _ in range(3):
            await client.post("/softmax", json={"logits": [1.0, 2.0]})
        await client.post("/softmax", json={})
        await client.post("/predict", json={"features": [[0.0] * 64] * 5})
        found = await counted(client)
        route = ("route", "/softmax")
        assert found["logitserve_requests_total", (("method", "POST"), route, ("status", "200"))] == 3
        assert found["logitserve_requests_total", (("method", "POST"), route, ("status", "422"))] == 1
        assert found["logitserve_request_duration_seconds_count", (route,)] == 4
        assert found["logitserve_errors_total", (("code", "missing_field"), route)] == 1
        assert found["logitserve_rows_total", (("model", "digits"), ("version", "1"))] == 5
        assert found["logitserve_inflight_requests", ()] == 1, "the scrape itself"
        assert found["logitserve_workers", ()] == 1
        (digest,) = {version["digest"] for version in (await client.get("/models/digits")).json()["versions"]}
        (info,) = [labels for name, labels in found if name == "logitserve_model_info"]
        assert dict(info)["digest"] == digest


async def test_metrics_sum_the_workers_of_the_run_folder(tmp_path: Path) -> None:
    other = Metrics()
    other.request_started()
    other.request_finished("/softmax", "POST", 200, 0.001)
    board = Board(tmp_path, 1)
    board.publish(other.values)
    app = create_app(Settings(models=MODELS), run_folder=tmp_path, slot=0)
    async with app.router.lifespan_context(app), connected(app) as client:
        await client.post("/softmax", json={"logits": [1.0, 2.0]})
        found = await counted(client)
    labels = (("method", "POST"), ("route", "/softmax"), ("status", "200"))
    assert found["logitserve_requests_total", labels] == 2
    assert found["logitserve_workers", ()] == 2
    board.close()


async def test_the_list_of_models_tells_everything_of_a_version(serve: Serve) -> None:
    async with serve() as client:
        (model,) = (await client.get("/models")).json()["models"]
        assert model == (await client.get("/models/digits")).json()
        assert (model["name"], model["default_version"], model["aliases"]) == ("digits", "1", {})
        (version,) = model["versions"]
        assert version["state"] == "ready"
        assert version["inputs"] == [{"name": "features", "dtype": "float32", "shape": [-1, 64]}]
        assert len(version["class_names"]) == 10
        assert version["calibration"] is None
        assert re.fullmatch("[0-9a-f]{64}", version["digest"])
        assert version["provider"] == "cpu"
        assert version["image"] == {"height": 8, "width": 8, "largest": 16}
        assert version["examples"] == 40
        assert (await client.get("/models/digits/versions/1")).json() == {"model": "digits", **version}


async def test_the_examples_of_a_version_may_be_sent_as_they_come(serve: Serve) -> None:
    async with serve() as client:
        (version,) = (await client.get("/models/digits")).json()["versions"]
        answer = await client.get("/models/digits/versions/1/examples")
        assert answer.headers["content-type"] == "application/json"
        found = answer.json()
        assert list(found) == [
            "model", "version", "class_names", "num_features", "image", "features", "labels",
        ]  # fmt: skip
        assert (found["model"], found["version"], found["num_features"]) == ("digits", "1", 64)
        assert (found["class_names"], found["image"]) == (version["class_names"], version["image"])
        assert len(found["features"]) == len(found["labels"]) == version["examples"]
        body = {"features": found["features"], "labels": found["labels"], "outputs": ["accuracy"]}
        scored = await client.post("/models/digits/versions/1/predict", json=body)
        assert 0.7 < scored.json()["accuracy"] < 1.0


async def test_examples_are_found_by_an_alias_and_may_be_none(serve: Serve, tmp_path: Path) -> None:
    shutil.copy(MODELS / "digits" / "1" / "model.onnx", tmp_path / "bare.onnx")
    async with serve(models=tmp_path, admin_key="secret") as client:
        headers = {"Authorization": "Bearer secret"}
        named = await client.put("/admin/models/bare/aliases/stable", json={"version": "1"}, headers=headers)
        assert named.status_code == 200
        found = (await client.get("/models/bare/versions/stable/examples")).json()
        assert (found["version"], found["features"], found["labels"], found["image"]) == ("1", [], None, None)
        unloaded = await client.post("/admin/models/bare/versions/1/unload", headers=headers)
        assert unloaded.status_code == 200
        answer = await client.get("/models/bare/versions/1/examples")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/models/nobody/versions/1/examples", "unknown_model"),
        ("/models/digits/versions/2/examples", "unknown_version"),
        ("/models/digits/versions/latest/examples", "unknown_version"),
        ("/models/nobody", "unknown_model"),
        ("/models/nobody/versions/1", "unknown_model"),
        ("/models/digits/versions/2", "unknown_version"),
        ("/nowhere", "unknown_route"),
        ("/softmax/", "unknown_route"),
        ("/docs/../../secret", "unknown_route"),
        ("/docs/secret.js", "unknown_route"),
    ],
)
async def test_what_is_not_there_is_a_problem_with_its_code(serve: Serve, path: str, code: str) -> None:
    async with serve() as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, code)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_wrong_method_is_told_the_right_one(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.get("/softmax")
        assert (answer.status_code, answer.json()["code"], answer.headers["allow"]) == (
            405,
            "method_not_allowed",
            "POST",
        )


async def test_the_documentation_page_loads_from_this_host_only_and_has_no_inline_script(
    serve: Serve,
) -> None:
    async with serve() as client:
        page = await client.get("/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert "//" not in re.sub("<!doctype.*?>", "", page.text)
        assert re.findall("<script(?! src=)", page.text) == []
        for asset in re.findall('(?:src|href)="([^"]+)"', page.text):
            answer = await client.get(f"/{asset}")
            assert answer.status_code == 200, asset
            assert len(answer.content) > 50
        assert "javascript" in (await client.get("/docs/swagger-ui-bundle.js")).headers["content-type"]


async def test_the_openapi_document_lists_every_route_with_real_schemas(serve: Serve) -> None:
    async with serve() as client:
        document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    paths = document["paths"]
    scoring = {
        "/softmax": "logits",
        "/loss": "labels",
        "/predict": "features",
        "/models/{model}/predict": "features",
        "/models/{model}/versions/{version}/predict": "features",
    }
    for path, required in scoring.items():
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        assert required in content["schema"]["required"]
        assert content["schema"]["additionalProperties"] is False
        assert content["examples"]
        assert {"200", "400", "413", "422"} <= set(paths[path]["post"]["responses"])
    examples = "/models/{model}/versions/{version}/examples"
    assert {"404", "503"} <= set(paths[examples]["get"]["responses"])
    for path in ("/models", "/models/{model}", examples, "/health/live", "/health/ready", "/metrics"):
        assert "get" in paths[path]
