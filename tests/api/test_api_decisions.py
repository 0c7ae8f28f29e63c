"""Decisions from end to end: rules in a request and in head.json, through the native route and the V2 protocol."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import connected

from service.app import create_app
from service.heads.graphs import Linear, build_linear
from service.settings import Settings

pytestmark = pytest.mark.anyio

# The logits are the features themselves.
IDENTITY = build_linear(Linear(np.eye(3, dtype=np.float32), np.zeros(3, np.float32)))
NAMES = ["cat", "dog", "eel"]
ROWS = np.log([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.34, 0.33, 0.33]]).tolist()
COSTS = [[0, 1, 1], [10, 0, 1], [1, 1, 0]]


def head(folder: Path, name: str, **said: Any) -> None:
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "1" / "model.onnx").write_bytes(IDENTITY)
    (folder / name / "1" / "head.json").write_text(
        json.dumps({"class_names": NAMES, **said}), encoding="utf-8"
    )


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    head(tmp_path, "plain")
    head(tmp_path, "careful", decision={"costs": COSTS, "abstain": {"cost": 0.65}})
    app = create_app(Settings(models=tmp_path))
    async with app.router.lifespan_context(app), connected(app) as client:
        yield client


async def predict(client: httpx.AsyncClient, **body: Any) -> Any:
    answer = await client.post("/predict", json={"features": ROWS, "model": "plain", **body})
    return answer.json()


async def test_without_rules_there_are_no_decisions(client: httpx.AsyncClient) -> None:
    assert "decisions" not in await predict(client)
    told = await predict(client, outputs=["classes", "decisions"])
    assert (told["code"], told["errors"][0]["path"]) == ("unknown_output", "outputs[1]")


async def test_the_rules_of_the_request_add_decisions_and_leave_the_rest(client: httpx.AsyncClient) -> None:
    told = await predict(client, decision={"mask": ["cat"], "abstain": {"below": 0.55}})
    assert told["classes"] == [0, 2, 0]
    assert told["decisions"] == [1, 2, -1]
    assert told["decided_names"] == ["dog", "eel", ""]
    assert "expected_costs" not in told
    np.testing.assert_allclose(told["probabilities"][0], [0.5, 0.3, 0.2], rtol=1e-6)


async def test_the_rules_of_the_head_hold_until_the_request_brings_its_own(client: httpx.AsyncClient) -> None:
    told = await predict(client, model="careful")
    # Of the first row: to decide on the cat costs 0.3 * 10 + 0.2, on the dog 0.7, on the eel 0.8.
    assert told["decisions"] == [-1, 2, -1]
    np.testing.assert_allclose(told["expected_costs"], [0.65, 0.3, 0.65], rtol=1e-6)
    own = await predict(client, model="careful", decision={})
    assert own["decisions"] == [0, 2, 0]
    assert "expected_costs" not in own


async def test_adjusted_probabilities_are_after_priors_and_mask(client: httpx.AsyncClient) -> None:
    rules = {"priors": {"fitted": [0.25, 0.25, 0.5], "used": [0.5, 0.25, 0.25]}, "mask": [1]}
    told = await predict(client, decision=rules, outputs=["adjusted_probabilities", "decisions"])
    np.testing.assert_allclose(told["adjusted_probabilities"][0], [1 / 1.1, 0, 0.1 / 1.1], rtol=1e-6)
    assert told["decisions"] == [0, 2, 0]


async def test_a_single_row_has_a_single_decision(client: httpx.AsyncClient) -> None:
    told = await predict(client, features=ROWS[1], decision={"abstain": {"below": 0.9}})
    assert (told["decisions"], told["decided_names"]) == (-1, "")


async def test_every_other_option_and_output_stays_beside_it(client: httpx.AsyncClient) -> None:
    rules = {"thresholds": [0.6, 0.2, 0.2]}
    told = await predict(
        client, labels=["dog", "eel", "cat"], temperature=2.0, top_k=2, decision=rules, dtype="float64"
    )
    assert told["decisions"] == [1, 2, 1]
    assert told["count"] == 3
    assert len(told["top_names"][0]) == 2


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        ({"decision": []}, "option_type", "decision"),
        ({"decision": {"costs": [[0]]}}, "decision_shape", "decision.costs"),
        ({"decision": {"mask": ["cow"]}}, "unknown_class_name", "decision.mask[0]"),
        ({"decision": {}, "outputs": ["expected_costs"]}, "unknown_output", "outputs[0]"),
    ],
)
async def test_rules_that_cannot_hold_are_refused(
    client: httpx.AsyncClient, body: dict[str, Any], code: str, path: str
) -> None:
    told = await predict(client, **body)
    assert (told["status"], told["code"], told["errors"][0]["path"]) == (422, code, path)


async def test_the_v2_protocol_answers_the_heads_decisions(client: httpx.AsyncClient) -> None:
    tensor = {"name": "features", "datatype": "FP32", "shape": [3, 3], "data": ROWS}
    asked = {"inputs": [tensor], "outputs": [{"name": "decisions"}, {"name": "decided_names"}]}
    answer = await client.post("/v2/models/careful/infer", json=asked)
    decisions, names = answer.json()["outputs"]
    assert (decisions["datatype"], decisions["data"]) == ("INT64", [-1, 2, -1])
    assert (names["datatype"], names["data"]) == ("BYTES", ["", "eel", ""])
