"""Triton's model repository extension: index, load and unload, as its clients call them."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import MODELS, connected

from service.app import create_app
from service.settings import Settings

pytestmark = pytest.mark.anyio

FEATURES = {"name": "features", "datatype": "FP32", "shape": [1, 64], "data": [1] * 64}
READY = {"name": "digits", "version": "1", "state": "READY", "reason": ""}
UNLOADED = {"name": "digits", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODELS / "digits", tmp_path / "models" / "digits")).parent


@pytest.fixture
async def client(models: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(models=models, admin_key="secret"))  # type: ignore[arg-type] # pydantic makes it one
    async with app.router.lifespan_context(app), connected(app) as client:
        client.headers["authorization"] = "Bearer secret"
        yield client


async def index(client: httpx.AsyncClient, **body: Any) -> list[dict[str, str]]:
    answer = await client.post("/v2/repository/index", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found: list[dict[str, str]] = answer.json()
    return found


async def infer(client: httpx.AsyncClient, model: str = "digits") -> tuple[int, str | None]:
    answer = await client.post(f"/v2/models/{model}/infer", json={"inputs": [FEATURES]})
    return answer.status_code, answer.json().get("model_version")


async def test_the_index_follows_what_is_loaded(client: httpx.AsyncClient) -> None:
    assert await index(client) == await index(client, ready=True) == [READY]
    assert (await client.post("/v2/repository/index")).json() == [READY], "a body is not needed"
    answer = await client.post("/v2/repository/models/digits/unload")
    assert (answer.status_code, answer.content) == (200, b"")
    assert await index(client) == [UNLOADED]
    assert await index(client, ready=True) == []
    assert (await infer(client))[0] == 503
    answer = await client.post("/v2/repository/models/digits/load", json={"parameters": {}})
    assert (answer.status_code, answer.content) == (200, b"")
    assert await index(client) == [READY]
    assert await infer(client) == (200, "1")


async def test_all_versions_of_a_model_are_meant_and_of_no_other(
    client: httpx.AsyncClient, models: Path
) -> None:
    shutil.copytree(models / "digits" / "1", models / "digits" / "10")
    shutil.copytree(models / "digits" / "1", models / "cats" / "3")
    await client.post("/v2/repository/models/digits/load")
    assert [(entry["name"], entry["version"]) for entry in await index(client)] == [
        ("digits", "1"),
        ("digits", "10"),
    ]
    assert await infer(client) == (200, "10")
    await client.post("/v2/repository/models/cats/load")
    assert await infer(client, "cats") == (200, "3")
    await client.post("/v2/repository/models/digits/unload", json={"parameters": {"unload_dependents": True}})
    assert [entry["name"] for entry in await index(client, ready=True)] == ["cats"]


async def test_a_model_that_cannot_be_loaded_is_told_and_the_old_version_serves(
    client: httpx.AsyncClient, models: Path
) -> None:
    (models / "digits" / "2").mkdir()
    (models / "digits" / "2" / "model.onnx").write_bytes(b"garbage")
    answer = await client.post("/v2/repository/models/digits/load")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("digits version 2: onnxruntime cannot open the model")
    first, second = await index(client)
    assert first == READY
    assert (second["state"], second["reason"]) == ("UNAVAILABLE", answer.json()["error"].split(": ", 1)[1])
    assert await infer(client) == (200, "1")


@pytest.mark.parametrize("parameters", [{"config": '{"backend": "x"}'}, {"file:1/model.onnx": "AAAA"}])
async def test_files_and_configurations_cannot_be_sent(
    client: httpx.AsyncClient, parameters: dict[str, str]
) -> None:
    for verb in ("load", "unload"):
        answer = await client.post(f"/v2/repository/models/digits/{verb}", json={"parameters": parameters})
        assert answer.status_code == 400
        assert "as it lies in the repository" in answer.json()["error"]
    assert await index(client) == [READY]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v2/repository/models/cats/load", b"", 404),
        ("/v2/repository/models/cats/unload", b"", 404),
        ("/v2/repository/models/softmax/unload", b"", 404),
        ("/v2/repository/models/digits/load", b"{", 400),
        ("/v2/repository/index", b'{"ready": "yes"}', 400),
        ("/v2/repository/index", b"[]", 400),
        ("/v2/repository/nothing", b"", 404),
    ],
)
async def test_mistakes_are_told_in_the_protocols_form(
    client: httpx.AsyncClient, path: str, body: bytes, status: int
) -> None:
    answer = await client.post(path, content=body)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert await index(client) == [READY]
