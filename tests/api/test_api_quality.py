"""Quality as operators see it: one set of numbers, by the route, by Prometheus and offline, over all workers."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import MODELS, NO_TLS, Serve, connected, running_service
from prometheus_client.parser import text_string_to_metric_families
from sklearn.datasets import load_digits

from service import cli
from service.app import create_app
from service.scorer import INLINE_COST
from service.settings import Settings

pytestmark = pytest.mark.anyio

PIXELS, DIGITS = load_digits(return_X_y=True)
PIXELS, DIGITS = PIXELS[:600], DIGITS[:600]


def batch(at: int, size: int = 50) -> dict[str, Any]:
    return {"features": PIXELS[at : at + size].tolist(), "labels": DIGITS[at : at + size].tolist()}


async def quality_of(client: httpx.AsyncClient, model: str = "digits") -> Any:
    answer = await client.get(f"/models/{model}/quality")
    assert answer.status_code == 200, answer.text
    return answer.json()


def series(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """What Prometheus reads: each name with its values by the labels, in the order of their names."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


@pytest.fixture
async def client(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    async with serve() as client:
        yield client


async def test_the_route_prometheus_and_evaluate_say_the_same(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    for at in range(0, 600, 50):
        answer = await client.post("/predict", json=batch(at))
        assert answer.status_code == 200
    np.savez(tmp_path / "rows.npz", features=PIXELS, labels=DIGITS)
    flags = [f"--models={MODELS}", f"--data={tmp_path / 'rows.npz'}", f"--json={tmp_path / 'found.json'}"]
    assert cli.main(["evaluate", *flags]) == 0
    offline = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["raw"]

    (version,) = (await quality_of(client))["versions"]
    online = version["since_start"]["labelled"]
    assert version["window"]["labelled"] == online
    assert online["rows"] == offline["rows"] == 600
    for name, theirs in (
        ("log_loss", offline["log_loss"]),
        ("accuracy", offline["accuracy"]),
        ("ece_equal_width", offline["ece_equal_width"]),
        ("mce", offline["mce"]),
    ):
        assert online[name] == pytest.approx(theirs, rel=1e-12), name
    assert online["brier"]["score"] == pytest.approx(offline["brier"]["score"], rel=1e-12)
    assert online["mistakes"] == offline["mistakes"]
    for ours, other in zip(online["classes"], offline["classes"], strict=True):
        assert (ours["name"], ours["rows"], ours["predicted"]) == (
            other["name"],
            other["rows"],
            other["predicted"],
        )
        assert ours["precision"] == pytest.approx(other["precision"])
        assert ours["recall"] == pytest.approx(other["recall"])

    found = series((await client.get("/metrics")).text)
    place = ("digits", "1")
    rows = found["logitserve_quality_rows_total"][place]
    assert rows == 600
    loss = found["logitserve_quality_loss_nats_total"][place] / rows
    assert loss == pytest.approx(offline["log_loss"], rel=1e-12)
    assert found["logitserve_quality_correct_total"]["1", *place] / rows == offline["accuracy"]
    confidences = found["logitserve_quality_confidence_total"]
    gaps = [
        abs(right - confidences[labels])
        for labels, right in found["logitserve_quality_confidence_correct_total"].items()
    ]
    assert sum(gaps) / rows == pytest.approx(offline["ece_equal_width"], rel=1e-12)


@pytest.mark.parametrize("outputs", [["classes"], ["predicted_names", "logits"], ["losses"], ["gradient"]])
async def test_labels_count_whatever_is_answered(client: httpx.AsyncClient, outputs: list[str]) -> None:
    for options in ({}, {"temperature": 7}):
        answer = await client.post("/predict", json={**batch(0), "outputs": outputs, **options})
        assert answer.status_code == 200
    (version,) = (await quality_of(client))["versions"]
    labelled = version["since_start"]["labelled"]
    assert labelled["rows"] == 100
    assert labelled["log_loss"] < 0.2, "a request's own temperature is no part of the head's quality"
    assert version["since_start"]["traffic"]["rows"] == 100


async def test_labels_of_other_dialects_count(client: httpx.AsyncClient) -> None:
    rows = {"name": "features", "shape": [5, 64], "datatype": "FP32", "data": PIXELS[:5].ravel().tolist()}
    labels = {"name": "labels", "shape": [5], "datatype": "INT64", "data": DIGITS[:5].tolist()}
    body = {"inputs": [rows, labels], "outputs": [{"name": "classes"}]}
    answer = await client.post("/v2/models/digits/infer", json=body)
    assert answer.status_code == 200, answer.text
    (version,) = (await quality_of(client))["versions"]
    assert version["since_start"]["labelled"]["rows"] == 5


TRIAL = {"content-type": "application/json", "x-trial": "1"}
LOGITS = {"logits": [[0.0, 1.0], [2.0, 0.5]], "labels": [1, 0]}


@pytest.mark.parametrize("padding", [0, 5 * INLINE_COST], ids=["on the loop", "beside it"])
@pytest.mark.parametrize(
    ("path", "body", "model", "rows"),
    [
        ("/predict", batch(0), "digits", 50),
        ("/predict", {**batch(0), "outputs": ["loss"], "temperature": 2}, "digits", 50),
        ("/predict", {**batch(0), "models": ["digits"]}, "digits", 50),
        ("/loss", LOGITS, "loss", 2),
    ],
)
async def test_labels_of_a_trial_count_nowhere(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], model: str, rows: int, *, padding: int
) -> None:
    content = json.dumps(body) + " " * padding
    tried = await client.post(path, content=content, headers=TRIAL)
    assert tried.status_code == 200, tried.text
    for version in (await quality_of(client, model))["versions"]:
        assert version["since_start"]["labelled"]["rows"] == 0
    meant = await client.post(path, content=content, headers={**TRIAL, "x-trial": "0"})
    assert meant.content == tried.content
    (version,) = (await quality_of(client, model))["versions"]
    assert version["since_start"]["labelled"]["rows"] == rows
    if model == "digits":
        assert version["since_start"]["traffic"]["rows"] == 2 * rows, "batches are seen, whoever shares them"


async def test_a_trial_in_the_same_batch_leaves_the_others_judged(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(client.post("/predict", json=batch(at, 5), headers=TRIAL if at % 2 else {}) for at in range(10))
    )
    assert {answer.status_code for answer in answers} == {200}
    (version,) = (await quality_of(client))["versions"]
    assert version["since_start"]["labelled"]["rows"] == 25


async def test_what_was_refused_does_not_count(client: httpx.AsyncClient) -> None:
    answer = await client.post("/predict", json={**batch(0), "labels": [10] * 50})
    assert answer.status_code == 422
    body = {"logits": [[0, "-Infinity"], [1, 2]], "labels": [1, 1]}
    assert (await client.post("/loss", json=body)).status_code == 422
    assert (await quality_of(client))["versions"] == []
    assert (await quality_of(client, "loss"))["versions"] == []
    answer = await client.post("/loss", json={**body, "non_finite": "string"})
    assert answer.status_code == 200
    (bare,) = (await quality_of(client, "loss"))["versions"]
    assert bare["since_start"]["labelled"]["rows"] == 1


async def test_traffic_without_labels_is_seen(client: httpx.AsyncClient) -> None:
    for at in range(0, 200, 20):
        await client.post("/predict", json={"features": PIXELS[at : at + 20].tolist()})
    traffic = (await quality_of(client))["versions"][0]["window"]["traffic"]
    assert traffic["rows"] == 200
    assert sum(traffic["classes"].values()) == pytest.approx(1)
    assert set(traffic["classes"]) <= {
        "zero",
        "one",
        "two",
        "three",
        "four",
        *["five", "six", "seven", "eight", "nine"],
    }
    found = series((await client.get("/metrics")).text)
    assert sum(found["logitserve_predictions_total"].values()) == 200
    assert found["logitserve_prediction_confidence_count"]["digits", "1"] == 200
    assert found["logitserve_resident_memory_bytes"][()] > 1e7


@pytest.mark.parametrize("calibration", [None, {"method": "temperature", "temperature": 3}])
async def test_labels_that_come_later_count_as_if_they_had_come_at_once(
    tmp_path: Path, calibration: dict[str, Any] | None
) -> None:
    folder = tmp_path / "heads" / "digits" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes((MODELS / "digits" / "1" / "model.onnx").read_bytes())
    (folder / "head.json").write_text(json.dumps({"calibration": calibration}), encoding="utf-8")
    found = []
    for later in (False, True):
        app = create_app(Settings(models=tmp_path / "heads", feedback=str(tmp_path / f"{later}.sqlite")))
        async with app.router.lifespan_context(app), connected(app) as client:
            body = batch(0)
            labels = body["labels"] if not later else body.pop("labels")
            answer = await client.post("/predict", json={**body, **({"row_ids": True} if later else {})})
            assert answer.status_code == 200, answer.text
            if later:
                sent = {"ids": answer.json()["row_ids"], "labels": labels}
                answer = await client.post("/feedback", json=sent)
                assert answer.json()["joined"] == 50
            (version,) = (await quality_of(client))["versions"]
            found.append(version["since_start"])
    assert found[0]["traffic"] == found[1]["traffic"]
    one, other = (part["labelled"] for part in found)
    assert one["log_loss"] == pytest.approx(other["log_loss"], rel=1e-13)
    for name in ("rows", "accuracy", "top_k_accuracy", "classes", "mistakes"):
        assert one[name] == other[name], name


async def test_several_heads_at_once_are_each_seen(client: httpx.AsyncClient) -> None:
    body = {"models": ["digits"], "features": PIXELS[:3].tolist(), "labels": DIGITS[:3].tolist()}
    assert (await client.post("/predict", json=body)).status_code == 200
    (version,) = (await quality_of(client))["versions"]
    assert version["since_start"]["labelled"]["rows"] == version["since_start"]["traffic"]["rows"] == 3


async def test_a_model_that_is_not_there_is_named(client: httpx.AsyncClient) -> None:
    answer = await client.get("/models/cats/quality")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_model")
    assert "digits, loss" in answer.json()["detail"]


async def test_quality_can_be_off(serve: Serve) -> None:
    async with serve(quality="off") as client:
        assert (await client.post("/predict", json=batch(0))).status_code == 200
        answer = await client.get("/models/digits/quality")
        assert answer.status_code == 404
        assert "LOGITSERVE_QUALITY is off" in answer.json()["detail"]
        assert "logitserve_quality_rows_total{" not in (await client.get("/metrics")).text


async def test_drift_is_measured_from_the_reference_of_the_head(tmp_path: Path) -> None:
    shipped = MODELS / "digits" / "1"
    np.savez(tmp_path / "rows.npz", features=PIXELS, labels=DIGITS)
    flags = [f"--models={MODELS}", f"--data={tmp_path / 'rows.npz'}", f"--out={tmp_path / 'heads'}"]
    assert cli.main(["calibrate", *flags]) == 0
    reference = json.loads((tmp_path / "heads" / "digits" / "1" / "head.json").read_bytes())["reference"]
    assert reference["rows"] == sum(reference["predicted"]) == sum(reference["energy"])
    assert shipped.exists()
    app = create_app(Settings(models=tmp_path / "heads"))
    async with app.router.lifespan_context(app), connected(app) as client:
        found = []
        for rows in (PIXELS[:300], np.where(DIGITS == 3, 1, 0)[:, None] * PIXELS):
            for at in range(0, len(rows), 8):  # of so few each row is looked at
                await client.post("/predict", json={"features": rows[at : at + 8].tolist()})
            found.append((await quality_of(client))["versions"][0]["window"]["drift"])
        assert found[0]["classes"]["psi"] < 0.1
        assert found[1]["classes"]["psi"] > 0.25
        metrics = series((await client.get("/metrics")).text)
        assert metrics["logitserve_drift_psi"]["digits", "classes", "1"] == found[1]["classes"]["psi"]
        assert metrics["logitserve_drift_ks"]["digits", "energy", "1"] == found[1]["energy"]["ks"]


def test_workers_count_exactly_what_was_answered_though_one_is_killed(tmp_path: Path) -> None:
    """Each worker is killed the moment after its last answer came: nothing that was answered may be missing."""
    answered = 0
    with running_service("--workers=2", f"--run-dir={tmp_path}", "--drain-delay-s=0") as running:
        for victim in range(3):
            pids = workers_of(running.process.pid)
            for at in range(40):
                body = batch(at % 600, 1 + at % 3)
                answer = httpx.post(
                    f"{running.url}/predict", json=body, verify=NO_TLS
                )  # on a connection of its own
                assert answer.status_code == 200
                answered += len(body["labels"])
            os.kill(pids[victim % 2], signal.SIGKILL)
            end_s = time.monotonic() + 20
            while len(workers_of(running.process.pid)) < 2 or pids[victim % 2] in workers_of(
                running.process.pid
            ):
                assert time.monotonic() < end_s
                time.sleep(0.05)
        end_s = time.monotonic() + 20
        while True:
            (version,) = httpx.get(f"{running.url}/models/digits/quality", verify=NO_TLS).json()["versions"]
            if version["since_start"]["labelled"]["rows"] == answered:
                break
            assert time.monotonic() < end_s, version["since_start"]["labelled"]["rows"]
            time.sleep(0.1)
        time.sleep(0.6)  # nor may anything be counted twice
        text = httpx.get(f"{running.url}/metrics").text
        assert series(text)["logitserve_quality_rows_total"]["digits", "1"] == answered


def workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in children.split()]
