"""Magika's deep network: through /predict and V2 it says of this repository's files what the package says."""

from pathlib import Path
from typing import Any

import httpx
import magika
import numpy as np
import pytest
from conftest import MODELS, ROOT

pytestmark = pytest.mark.anyio

# Two files of one kind are no better proof than one.
FILES = [
    ROOT / "README.md",
    ROOT / "LICENSE",
    ROOT / "Dockerfile",
    ROOT / "Makefile",
    ROOT / "pyproject.toml",
    ROOT / "service" / "app.py",
    ROOT / ".ci" / "run",
    MODELS / "digits" / "1" / "model.onnx",
    MODELS / "digits" / "1" / "head.json",
]


@pytest.fixture(scope="module")
def package() -> Any:
    return magika.Magika(prediction_mode=magika.PredictionMode.BEST_GUESS)


def _features(package: Any, path: Path) -> Any:
    return package._get_result_or_features_from_path(path)[1]


def _row(features: Any) -> list[int]:
    """The first and the last 1024 bytes, as the package takes them."""
    return [*features.beg, *features.mid, *features.end]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
async def test_predict_answers_as_the_package_does(
    client: httpx.AsyncClient, package: Any, path: Path
) -> None:
    # One file at a time: in a batch the network rounds otherwise, in the package too, by up to 2e-4.
    features = _features(package, path)
    answer = await client.post("/predict", json={"features": [_row(features)], "model": "files"})
    assert answer.status_code == 200, answer.text
    said = package.identify_path(path).prediction
    assert answer.json()["predicted_names"] == [str(said.dl.label)]
    assert max(answer.json()["probabilities"][0]) == pytest.approx(said.score, rel=1e-5)


async def test_v2_answers_as_the_package_does(client: httpx.AsyncClient, package: Any) -> None:
    taken = [_features(package, path) for path in FILES]
    rows = [_row(features) for features in taken]
    tensor = {"name": "features", "shape": [len(FILES), 2048], "datatype": "FP32", "data": rows}
    body = {"inputs": [tensor], "outputs": [{"name": "probabilities"}, {"name": "classes"}]}
    answer = await client.post("/v2/models/files/infer", json=body)
    assert answer.status_code == 200, answer.text
    outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
    expected = package._get_raw_predictions(list(zip(FILES, taken, strict=True)))
    np.testing.assert_allclose(
        np.reshape(outputs["probabilities"], (len(FILES), -1)), expected, rtol=1e-4, atol=1e-7
    )
    assert outputs["classes"] == np.argmax(expected, axis=1).tolist()


async def test_the_report_is_kept_and_the_licence_is(heads: Path, client: httpx.AsyncClient) -> None:
    (version,) = (await client.get("/models/files")).json()["versions"]
    assert version["state"] == "ready"
    notes = version["source"]["notes"]
    assert "Softmax at the end was cut off" in notes
    assert "input bytes takes INT32" in notes
    assert "Apache-2.0" in (heads / "files" / "LICENSE").read_text(encoding="utf-8")
