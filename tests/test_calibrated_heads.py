"""A head's calibration as callers meet it: in every dialect alike, with the option to do without, and told by /models."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import MODELS, connected
from numpy.typing import NDArray

from service.app import create_app
from service.client import AsyncClient
from service.numeric.softmax import softmax
from service.settings import Settings

pytestmark = pytest.mark.anyio

FEATURES = (np.arange(2 * 64).reshape(2, 64) * 7 % 17).tolist()
SCALE, BIAS = np.linspace(0.25, 0.75, 10), np.linspace(1, -1, 10)
FITTED = {"rows": 100, "loss_before": 0.5, "loss_after": 0.25}
CALIBRATIONS: dict[str, Any] = {
    "1": None,
    "2": {"method": "temperature", "temperature": 3, "fitted": FITTED},
    "3": {"method": "vector", "scale": SCALE.tolist(), "bias": BIAS.tolist()},
}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    shipped = MODELS / "digits" / "1"
    for version, calibration in CALIBRATIONS.items():
        folder = tmp_path / "digits" / version
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes((shipped / "model.onnx").read_bytes())
        described = json.loads((shipped / "head.json").read_text(encoding="utf-8"))
        del described["digest"]
        described["calibration"] = calibration
        (folder / "head.json").write_text(json.dumps(described), encoding="utf-8")
    app = create_app(Settings(models=tmp_path))
    async with app.router.lifespan_context(app), connected(app) as client:
        yield client


async def asked(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def raw_logits(client: httpx.AsyncClient) -> NDArray[np.float32]:
    body = {"features": FEATURES, "version": "1", "outputs": ["logits"]}
    return np.asarray((await asked(client, "/predict", body))["logits"], np.float32)


async def native(client: httpx.AsyncClient, version: str, options: dict[str, Any]) -> Any:
    path = f"/models/digits/versions/{version}/predict"
    return (await asked(client, path, {"features": FEATURES, **options}))["probabilities"]


async def by_query(client: httpx.AsyncClient, version: str, options: dict[str, Any]) -> Any:
    import io

    body = io.BytesIO()
    np.savez(body, features=np.asarray(FEATURES, np.float32))
    query = {"version": version, "outputs": "probabilities", **options}
    headers = {"content-type": "application/x-npz", "accept": "application/x-npz"}
    answer = await client.post("/predict", params=query, content=body.getvalue(), headers=headers)
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))["probabilities"]


async def v1(client: httpx.AsyncClient, version: str, options: dict[str, Any]) -> Any:
    body = {"instances": FEATURES, "parameters": {"outputs": ["probabilities"], **options}}
    found = (await asked(client, f"/v1/models/digits/versions/{version}:predict", body))["predictions"]
    return [row["probabilities"] if isinstance(row, dict) else row for row in found]


async def v2(client: httpx.AsyncClient, version: str, options: dict[str, Any]) -> Any:
    body = {
        "inputs": [{"name": "features", "shape": [2, 64], "datatype": "FP32", "data": FEATURES}],
        "outputs": [{"name": "probabilities"}],
        "parameters": options,
    }
    answer = await asked(client, f"/v2/models/digits/versions/{version}/infer", body)
    return np.reshape(answer["outputs"][0]["data"], (2, 10))


async def invocations(client: httpx.AsyncClient, version: str, options: dict[str, Any]) -> Any:
    params = {"version": version, "outputs": ["probabilities"], **options}
    answer = await asked(client, "/invocations", {"inputs": FEATURES, "params": params})
    return answer["predictions"]


@pytest.mark.parametrize("ask", [native, by_query, v1, v2, invocations], ids=lambda ask: ask.__name__)
async def test_every_dialect_serves_a_head_with_its_calibration(client: httpx.AsyncClient, ask: Any) -> None:
    raw = await raw_logits(client)
    calibrated = {
        "1": softmax(raw),
        "2": softmax(raw, temperature=3),
        "3": softmax(raw.astype(np.float64) * SCALE + BIAS),
    }
    for version, expected in calibrated.items():
        found = {
            said: np.asarray(await ask(client, version, options), np.float32)
            for said, options in {
                "default": {},
                "model": {"calibration": "model"},
                "none": {"calibration": "none"},
                "replaced": {"temperature": 2.0},
            }.items()
        }
        np.testing.assert_allclose(found["default"], expected, rtol=1e-6)
        np.testing.assert_array_equal(found["model"], found["default"])
        np.testing.assert_allclose(found["none"], softmax(raw), rtol=1e-6)
        np.testing.assert_allclose(found["replaced"], softmax(raw, temperature=2), rtol=1e-6)


async def test_losses_are_of_the_calibrated_probabilities(client: httpx.AsyncClient) -> None:
    raw = (await raw_logits(client)).astype(np.float64)
    body = {"features": FEATURES, "labels": [3, 8], "version": "3", "dtype": "float64"}
    answer = await asked(client, "/predict", {**body, "outputs": ["losses", "classes", "logits"]})
    scaled = raw * SCALE + BIAS
    np.testing.assert_allclose(answer["losses"], -np.log(softmax(scaled)[[0, 1], [3, 8]]), rtol=1e-12)
    assert answer["classes"] == scaled.argmax(axis=1).tolist()
    np.testing.assert_array_equal(np.asarray(answer["logits"], np.float32), raw)


@pytest.mark.parametrize("version", ["2", "3"])
async def test_decisions_go_by_the_calibrated_probabilities(client: httpx.AsyncClient, version: str) -> None:
    raw = (await raw_logits(client)).astype(np.float64)
    scaled = {"2": raw / 3, "3": raw * SCALE + BIAS}[version]
    body = {
        "features": FEATURES,
        "version": version,
        "dtype": "float64",
        "decision": {"abstain": {"below": 0.9}},
        "outputs": ["decisions", "adjusted_probabilities"],
    }
    answer = await asked(client, "/predict", body)
    np.testing.assert_allclose(answer["adjusted_probabilities"], softmax(scaled), rtol=1e-12)
    sure = softmax(scaled).max(axis=1) >= 0.9
    assert answer["decisions"] == np.where(sure, scaled.argmax(axis=1), -1).tolist()


async def test_sparse_features_are_calibrated_like_dense_ones(client: httpx.AsyncClient) -> None:
    dense = np.asarray(FEATURES, np.float64)
    rows = [np.flatnonzero(row) for row in dense]
    sparse = {
        "indptr": np.cumsum([0, *map(len, rows)]).tolist(),
        "indices": np.concatenate(rows).tolist(),
        "data": dense[dense != 0].tolist(),
        "num_features": 64,
    }
    found = [
        (await asked(client, "/predict", {"features": features, "version": "3"}))["probabilities"]
        for features in (FEATURES, sparse)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)


async def test_the_client_has_the_option(client: httpx.AsyncClient) -> None:
    raw = await raw_logits(client)
    async with AsyncClient("http://service", transport=client._transport) as ours:
        found = await ours.predict(FEATURES, version="2", calibration="none")
    np.testing.assert_allclose(found.probabilities, softmax(raw), rtol=1e-6)


async def test_another_word_for_it_is_refused_with_those_known(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predict", json={"features": FEATURES, "calibration": "platt"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_option_value")
    assert answer.json()["errors"][0]["path"] == "calibration"
    assert "model, none" in answer.json()["detail"]


async def test_models_tell_the_calibration_and_how_it_was_fitted(client: httpx.AsyncClient) -> None:
    told = {
        version["version"]: version["calibration"]
        for version in (await client.get("/models/digits")).json()["versions"]
    }
    assert told["1"] is None
    assert told["2"]["temperature"] == 3
    assert FITTED.items() <= told["2"]["fitted"].items()
    assert told["3"] == {**CALIBRATIONS["3"], "fitted": None}
