"""The native routes, from bytes to bytes: the vectors, the answers' forms, the headers."""

import gzip
import io
import json
import re
import shutil
from pathlib import Path
from random import Random
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
import zstandard
from conftest import ROOT, Serve

pytestmark = pytest.mark.anyio

VECTORS = [json.loads(line) for line in (ROOT / "tests/golden/vectors.jsonl").read_text().splitlines()]
SOFTMAX_OUTPUTS = ["probabilities", "log_probabilities", "classes"]
LOGITS = [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]]


def fields_of(vector: dict[str, Any]) -> dict[str, Any]:
    fields = {"logits": vector["logits"], "dtype": vector["dtype"], **vector["options"]}
    outputs = [*SOFTMAX_OUTPUTS]
    if vector["op"] == "cross_entropy":
        fields["labels"] = vector["labels"]
        outputs += ["losses", "count"]
        if vector["options"].get("reduction") != "none":
            outputs.append("loss")
    if "top_k" in vector["options"]:
        outputs += ["top_classes", "top_probabilities"]
    return {**fields, "outputs": outputs}


def route_of(vector: dict[str, Any]) -> str:
    return "/softmax" if vector["op"] == "softmax" else "/loss"


def floats(value: Any) -> np.ndarray[Any, Any]:
    """Nested lists of numbers and of the strings that stand for what JSON lacks."""
    return np.array(value, dtype=object).astype(np.float64)


def check(vector: dict[str, Any], got: dict[str, Any]) -> None:
    expected, tolerance = vector["expected"], vector["tolerance"]
    assert np.shape(got["probabilities"]) == tuple(expected["shape"])
    np.testing.assert_array_equal(got["classes"], expected["classes"])
    close = {"rtol": tolerance["rtol"], "atol": tolerance["atol"]}
    for name in ("probabilities", "log_probabilities"):
        if name in expected:
            np.testing.assert_allclose(
                floats(got[name]), floats(expected[name]).reshape(expected["shape"]), **close
            )
    if "top_k" in expected:
        np.testing.assert_array_equal(got["top_classes"], expected["top_k"]["indices"])
        np.testing.assert_allclose(
            floats(got["top_probabilities"]), floats(expected["top_k"]["probabilities"]), **close
        )
    if vector["op"] == "cross_entropy":
        np.testing.assert_allclose(floats(got["losses"]), floats(expected["loss"]), **close)
        assert int(got["count"]) == expected["count"]
        if "loss" in got and got["loss"] is not None:
            assert floats(got["loss"]) == pytest.approx(
                floats(expected["reduced"]), rel=tolerance["rtol_reduced"], abs=0
            )
        else:
            assert expected["reduced"] is None


def test_there_are_sixty_seven_vectors() -> None:
    assert len(VECTORS) == 67


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
async def test_every_vector_holds_over_http(serve: Serve, vector: dict[str, Any]) -> None:
    async with serve() as client:
        fields, route, expected = fields_of(vector), route_of(vector), vector["expected"]
        if "shape" in vector and 0 in vector["shape"] and "error" not in expected:
            arrays = {
                "logits": np.zeros(vector["shape"], vector["dtype"]),
                "labels": np.zeros(vector["labels_shape"], np.int64),
            }
            answer = await post_npz(client, route, arrays, {"outputs": ",".join(fields["outputs"])})
            got = dict(np.load(io.BytesIO(answer.content)))
            assert "loss" not in got, "a mean of nothing leaves its key out"
            check(vector, got)
            return
        answer = await client.post(route, json=fields)
        if "error" in expected:
            assert (answer.status_code, answer.json()["code"]) == (expected["status"], expected["error"])
            return
        if "http" in expected:
            assert (answer.status_code, answer.json()["code"]) == (
                expected["http"]["status"],
                expected["http"]["error"],
            )
            answer = await client.post(route, json={**fields, "non_finite": "string"})
            assert "Infinity" in answer.text
        assert answer.status_code == 200, answer.text
        check(vector, answer.json())


@pytest.mark.parametrize(
    "vector",
    [v for v in VECTORS if "error" not in v["expected"] and "http" not in v["expected"]],
    ids=lambda vector: vector["name"],
)
async def test_npz_gives_the_same_numbers_as_json(serve: Serve, vector: dict[str, Any]) -> None:
    fields = fields_of(vector)
    shape = vector.get("shape")
    arrays = {
        "logits": floats(fields.pop("logits"))
        .astype(fields.pop("dtype"))
        .reshape(shape or np.shape(vector["logits"]))
    }
    for name in ("labels", "class_weight", "sample_weight"):
        if name in fields:
            arrays[name] = np.array(fields.pop(name), dtype=None if vector.get("labels") else np.int64)
    query = {
        name: ",".join(value) if isinstance(value, list) else json.dumps(value).strip('"')
        for name, value in fields.items()
    }
    async with serve() as client:
        answer = await post_npz(client, route_of(vector), arrays, query)
    assert answer.status_code == 200, answer.text
    check(vector, dict(np.load(io.BytesIO(answer.content))))


async def post_npz(
    client: httpx.AsyncClient, route: str, arrays: dict[str, Any], query: dict[str, str]
) -> httpx.Response:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    headers = {"content-type": "application/x-npz", "accept": "application/x-npz"}
    answer = await client.post(route, content=file.getvalue(), params=query, headers=headers)
    if answer.status_code == 200:
        assert answer.headers["content-type"] == "application/x-npz"
    return answer


async def test_the_worked_example_of_the_field(serve: Serve) -> None:
    async with serve() as client:
        probabilities = (await client.post("/softmax", json={"logits": LOGITS})).json()["probabilities"]
        assert np.round(probabilities, 8).tolist() == [
            [0.227863, 0.61939586, 0.15274114],
            [0.49674623, 0.20196195, 0.30129182],
        ]
        for labels in ([1, 2], [[0, 1, 0], [0, 0, 1]]):
            answer = (await client.post("/loss", json={"logits": LOGITS, "labels": labels})).json()
            assert np.round(answer["losses"], 8).tolist() == [0.4790107, 1.19967598]
            assert abs(answer["loss"] - 0.8393433389787792) <= np.spacing(0.8393433389787792)


async def test_defaults_of_the_three_routes(serve: Serve) -> None:
    async with serve() as client:
        softmax = (await client.post("/softmax", json={"logits": LOGITS})).json()
        loss = (await client.post("/loss", json={"logits": LOGITS, "labels": [1, 2]})).json()
        predict = (await client.post("/predict", json={"features": [0.0] * 64})).json()
        judged = (await client.post("/predict", json={"features": [[0.0] * 64], "labels": [3]})).json()
    assert list(softmax) == ["probabilities", "classes"]
    assert list(loss) == ["loss", "losses", "count"]
    assert set(predict) == {"probabilities", "classes", "predicted_names", "model", "version"}
    assert set(judged) == set(predict) | {"loss", "losses", "count"}
    assert (predict["model"], predict["version"]) == ("digits", "1")
    assert np.shape(predict["probabilities"]) == (10,)


async def test_answers_carry_their_times_and_their_head(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.post("/predict", json={"features": [[0.0] * 64] * 5})
        (version,) = (await client.get("/models/digits")).json()["versions"]
        plain = await client.post("/softmax", json={"logits": LOGITS})
    timing = answer.headers["server-timing"]
    assert re.fullmatch(r"decode;dur=[\d.]+, queue;dur=[\d.]+, infer;dur=[\d.]+, encode;dur=[\d.]+", timing)
    assert answer.headers["x-batch-rows"] == "5"
    assert answer.headers["x-model"] == "digits"
    assert answer.headers["x-model-version"] == "1"
    assert answer.headers["x-model-digest"] == version["digest"]
    assert plain.headers["x-batch-rows"] == "2"
    assert "x-model" not in plain.headers


async def test_the_names_in_the_path_are_the_names_in_the_body(serve: Serve) -> None:
    body = {"features": [[1.0] * 64]}
    async with serve() as client:
        plain = await client.post("/predict", json={**body, "model": "digits", "version": "1"})
        named = await client.post("/models/digits/predict", json=body)
        versioned = await client.post("/models/digits/versions/1/predict", json=body)
        assert plain.content == named.content == versioned.content
        assert (await client.post("/models/cats/predict", json=body)).json()["code"] == "unknown_model"
        missing = await client.post("/models/digits/versions/7/predict", json=body)
        assert (missing.status_code, missing.json()["code"]) == (404, "unknown_version")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_bodies_may_be_compressed(serve: Serve, encoding: str) -> None:
    body = orjson.dumps({"logits": LOGITS})
    packed = gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)
    async with serve() as client:
        plain = await client.post("/softmax", content=body)
        answer = await client.post("/softmax", content=packed, headers={"content-encoding": encoding})
    assert answer.content == plain.content


async def test_an_npy_array_in_and_the_first_output_out(serve: Serve) -> None:
    file = io.BytesIO()
    np.save(file, np.array(LOGITS))
    headers = {"content-type": "application/x-npy", "accept": "application/x-npy"}
    async with serve() as client:
        answer = await client.post("/softmax", content=file.getvalue(), headers=headers)
        expected = (await client.post("/softmax", json={"logits": LOGITS})).json()["probabilities"]
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), expected)


async def test_contributions_are_an_object_of_two_arrays(serve: Serve) -> None:
    body = {"features": [[4.0] * 64], "outputs": ["contributions"], "top_contributions": 2}
    async with serve() as client:
        answer = (await client.post("/predict", json=body)).json()
    assert set(answer) == {"contributions", "model", "version"}
    assert (
        np.shape(answer["contributions"]["features"]) == np.shape(answer["contributions"]["values"]) == (1, 2)
    )


async def test_the_deadline_drops_work_before_it_is_computed(serve: Serve) -> None:
    rows = np.zeros((20_000, 64), np.float32)
    file = io.BytesIO()
    np.savez(file, features=rows)
    headers = {"content-type": "application/x-npz", "x-request-timeout-ms": "1"}
    async with serve() as client:
        answer = await client.post("/predict", content=file.getvalue(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline")
        assert "logitserve_rows_total{" not in (await client.get("/metrics")).text


async def test_health_answers_while_a_large_request_is_scored(serve: Serve) -> None:
    import asyncio

    logits = np.random.default_rng(0).normal(size=(20_000, 50))
    file = io.BytesIO()
    np.savez(file, logits=logits)
    headers = {"content-type": "application/x-npz", "accept": "application/x-npz"}
    async with serve() as client:
        large = asyncio.create_task(client.post("/softmax", content=file.getvalue(), headers=headers))
        answered_before = 0
        while not large.done():
            assert (await client.get("/health/live")).status_code == 200
            answered_before += not large.done()
            await asyncio.sleep(0)
        assert (await large).status_code == 200
    assert answered_before >= 3


def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return pixels, labels


@pytest.mark.parametrize("dtype", ["float32", "float64"])
async def test_all_1797_digits_are_scored_and_judged(serve: Serve, dtype: str) -> None:
    pixels, labels = digits()
    body = {
        "features": pixels.tolist(),
        "labels": labels.tolist(),
        "dtype": dtype,
        "outputs": ["logits", "classes", "loss", "losses", "accuracy", "count"],
    }
    async with serve() as client:
        answer = (await client.post("/predict", json=body)).json()
    logits = np.array(answer["logits"])
    assert logits.shape == (1797, 10)
    largest = logits.max(-1)
    log_sum_exp = largest + np.log(np.exp(logits - largest[:, None]).sum(-1))
    expected = (log_sum_exp - logits[np.arange(1797), labels]).mean()
    assert answer["loss"] == pytest.approx(expected, abs=1e-6)
    assert answer["accuracy"] == (logits.argmax(-1) == labels).mean() > 0.95
    assert answer["count"] == 1797


def test_the_vectors_are_the_ones_of_the_contract() -> None:
    assert {vector["op"] for vector in VECTORS} == {"softmax", "cross_entropy"}
    assert sum("error" in vector["expected"] for vector in VECTORS) >= 10
    assert Path(ROOT / "tests/golden/vectors.jsonl").stat().st_size > 50_000


SPARSE = {"indptr": [0, 2, 2], "indices": [20, 43], "data": [4, 16], "num_features": 64}


async def test_sparse_features_get_the_answer_of_the_dense_ones(serve: Serve) -> None:
    dense = np.zeros((2, 64))
    dense[0, [20, 43]] = [4, 16]
    options = {"labels": [1, 2], "outputs": ["logits", "loss", "predicted_names", "contributions"]}
    async with serve() as client:
        expected = await client.post("/predict", json={"features": dense.tolist(), **options})
        answer = await client.post("/predict", json={"features": SPARSE, **options})
        named = await client.post("/models/digits/versions/1/predict", json={"features": SPARSE, **options})
    assert answer.status_code == named.status_code == 200, answer.text
    assert answer.json() == named.json() == expected.json()


JUNK: list[Any] = [-1, 0, 2, 64, 2**63, -(2**70), 0.5, 1e39, None, "NaN", "x", [], {}, [1], [[1]], True]


async def test_no_change_to_sparse_features_is_a_fault_of_ours(serve: Serve) -> None:
    """Mutations of a good request: each is answered, or refused with a place."""
    random = Random(7)
    statuses = set()
    async with serve() as client:
        for _ in range(300):
            features = json.loads(json.dumps(SPARSE))
            for _ in range(random.randint(1, 2)):
                name = random.choice(sorted(features))
                numbers = features[name]
                if isinstance(numbers, list) and numbers and random.random() < 0.7:
                    numbers[random.randrange(len(numbers))] = random.choice(JUNK)
                else:
                    features[name] = random.choice(JUNK)
            answer = await client.post("/predict", json={"features": features})
            statuses.add(answer.status_code)
            if answer.status_code != 200:
                assert answer.json()["errors"][0]["path"].startswith("features"), answer.text
    assert statuses == {200, 422}


# Several models


def copied(root: Path, *models: str) -> Path:
    for model in models:
        shutil.copytree(ROOT / "models" / "digits", root / model)
    return root


FEW = {"features": [[1.0] * 64, [2.0] * 64], "labels": [1, 2], "outputs": ["classes", "logits", "loss"]}


async def test_several_models_answer_at_once_as_each_does_alone(serve: Serve, tmp_path: Path) -> None:
    async with serve(models=copied(tmp_path, "one", "two")) as client:
        alone = {
            model: (await client.post("/predict", json={**FEW, "model": model})).json()
            for model in ("one", "two")
        }
        for _ in range(2):
            answer = await client.post("/predict", json={**FEW, "models": ["two", "one"]})
            assert answer.status_code == 200, answer.text
            assert list(answer.json()["results"]) == ["two", "one"]
            assert answer.json() == {"results": alone}, "digits are exact whichever way they are summed"
            assert answer.headers["x-batch-rows"] == "2"
            assert "x-model" not in answer.headers
        sparse = {"indptr": [0, 1], "indices": [9], "data": [1], "num_features": 64}
        for model, found in (
            (await client.post("/predict", json={"features": sparse, "models": ["two", "one"]})).json()[
                "results"
            ]
        ).items():
            lone = await client.post("/predict", json={"features": sparse, "model": model})
            assert found == lone.json()
        metrics = (await client.get("/metrics")).text
    assert 'logitserve_rows_total{model="one",version="1"} 8' in metrics.replace(".0\n", "\n")
    assert 'logitserve_rows_total{model="two",version="1"} 8' in metrics.replace(".0\n", "\n")


async def test_several_models_answer_in_an_archive(serve: Serve, tmp_path: Path) -> None:
    body = io.BytesIO()
    np.savez(body, features=np.ones((2, 64)))
    headers = {"content-type": "application/x-npz", "accept": "application/x-npz"}
    async with serve(models=copied(tmp_path, "one", "two")) as client:
        answer = await client.post(
            "/predict?models=one,two&outputs=classes", content=body.getvalue(), headers=headers
        )
    assert answer.status_code == 200, answer.text
    archive = np.load(io.BytesIO(answer.content))
    assert sorted(archive) == ["one.classes", "one.version", "two.classes", "two.version"]
    assert archive["one.classes"].tolist() == archive["two.classes"].tolist()


async def test_a_single_model_of_a_list_is_answered_as_a_list_is(serve: Serve) -> None:
    async with serve() as client:
        alone = await client.post("/predict", json=FEW)
        answer = await client.post("/predict", json={**FEW, "models": ["digits"]})
        elsewhere = [
            await client.post("/v1/models/digits:predict", json={"instances": FEW["features"], "parameters": {"models": ["digits"]}}),
            await client.post("/invocations", json={"instances": FEW["features"], "params": {"models": ["digits"]}}),
            await client.post("/models/digits/predict", json={**FEW, "models": ["digits"]}),
        ]  # fmt: skip
    assert answer.json() == {"results": {"digits": alone.json()}}
    assert answer.headers["x-model"] == "digits"
    assert {answer.status_code // 100 for answer in elsewhere} == {4}


async def test_what_goes_wrong_with_one_of_several_models_is_counted_for_each(
    serve: Serve, tmp_path: Path
) -> None:
    sharp = {"features": [[1.0] * 64], "labels": [1], "temperature": 1e-300, "models": ["one", "two"]}
    async with serve(models=copied(tmp_path, "one", "two")) as client:
        answer = await client.post("/predict", json=sharp)
        assert (answer.status_code, answer.json()["code"]) == (422, "infinite_loss")
        good = await client.post("/predict", json={**FEW, "models": ["one", "two"]})
        assert good.status_code == 200
        failed = [
            (await client.get(f"/v2/models/{model}/stats")).json()["model_stats"][0]["inference_stats"][
                "fail"
            ]["count"]
            for model in ("one", "two")
        ]
    assert failed == [1, 1]
