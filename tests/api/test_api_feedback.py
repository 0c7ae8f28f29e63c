"""Rows that wait for their labels, in the whole application."""

import asyncio
import gzip
import io
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import MODELS, Serve, connected

from service.app import create_app
from service.application import Application
from service.settings import Settings
from service.types import FloatArray, IndexArray

pytestmark = pytest.mark.anyio

FEATURES = np.arange(5 * 64).reshape(5, 64) % 17
ROWS = FEATURES.tolist()
NOTHING: dict[str, Any] = {"count": 0, "ids": []}


class Judged(list[tuple[str, str, FloatArray, IndexArray]]):
    def __call__(self, *row: Any) -> None:
        self.append(row)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.sqlite"


@pytest.fixture
def app(path: Path) -> Application:
    return create_app(Settings(models=MODELS, feedback=path))


@pytest.fixture
async def client(app: Application) -> AsyncIterator[httpx.AsyncClient]:
    async with app.router.lifespan_context(app), connected(app) as client:
        yield client


@pytest.fixture
def judged(app: Application) -> Judged:
    judged = Judged()
    assert app.feedback is not None
    app.feedback._judged = judged
    return judged


async def predict(client: httpx.AsyncClient, route: str = "/predict", **fields: Any) -> dict[str, Any]:
    answer = await client.post(route, json={"features": ROWS, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def label(client: httpx.AsyncClient, ids: list[str], labels: list[Any]) -> dict[str, Any]:
    answer = await client.post("/feedback", json={"ids": ids, "labels": labels})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_logits_of_a_row_are_judged_by_the_label_that_came_later(
    client: httpx.AsyncClient, judged: Judged
) -> None:
    answer = await predict(client, row_ids=True, outputs=["classes", "logits"])
    ids = answer["row_ids"]
    assert len(set(ids)) == 5
    assert await label(client, ids[::-1], [4, 3, "two", 1, 0]) == {
        "joined": 5,
        "unknown": NOTHING,
        "expired": NOTHING,
        "repeated": NOTHING,
    }
    ((model, version, logits, labels),) = judged
    assert (model, version, logits.dtype.name) == ("digits", "1", "float32")
    expected = np.asarray(answer["logits"], np.float32)
    assert logits[np.argsort(labels)].tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"outputs": ["probabilities"]},
        {"outputs": ["logits", "classes"]},
        {"outputs": ["classes", "contributions"]},
        {"temperature": 2.0},
        {"dtype": "float64"},
        {"labels": [1, 2, 3, 4, 5]},
        {"top_k": 2},
        {"calibration": "none"},
        {"decision": {"abstain": {"below": 0.5}}},
    ],
)
async def test_an_answer_is_the_same_with_ids_and_without(
    client: httpx.AsyncClient, judged: Judged, options: dict[str, Any]
) -> None:
    without = await predict(client, **options)
    ids = [f"row {number}" for number in range(5)]
    assert await predict(client, row_ids=ids, **options) == {**without, "row_ids": ids}
    assert (await label(client, ids, [0] * 5))["joined"] == 5
    raw = await predict(client, outputs=["logits"])
    ((_, _, logits, _),) = judged
    assert sorted(map(tuple, logits.tolist())) == sorted(
        map(tuple, np.asarray(raw["logits"], np.float32).tolist())
    )


@pytest.mark.parametrize("route", ["/predict", "/models/digits/predict", "/models/digits/versions/1/predict"])
async def test_every_form_of_the_route_keeps_rows(client: httpx.AsyncClient, route: str) -> None:
    answer = await predict(client, route, row_ids=True)
    assert (await label(client, answer["row_ids"], [0] * 5))["joined"] == 5


async def test_ids_are_nested_as_the_classes_are(client: httpx.AsyncClient) -> None:
    one = await predict(client, features=ROWS[0], row_ids=["a"])
    assert one["row_ids"] == "a"
    nested = await predict(client, features=[[ROWS[:2]], [ROWS[2:4]]], row_ids=list("abcd"))
    assert nested["row_ids"] == [[["a", "b"]], [["c", "d"]]]
    assert np.shape(nested["row_ids"]) == np.shape(nested["classes"])


async def test_sparse_rows_are_kept_too(client: httpx.AsyncClient, judged: Judged) -> None:
    sparse = {"indptr": [0, 1, 1], "indices": [10], "data": [4], "num_features": 64}
    answer = await predict(client, features=sparse, row_ids=True, outputs=["logits"])
    assert (await label(client, answer["row_ids"], [1, 2]))["joined"] == 2
    assert len(judged[0][2]) == 2


def npz(**arrays: Any) -> bytes:
    body = io.BytesIO()
    np.savez(body, **arrays)
    return body.getvalue()


async def test_npz_brings_ids_as_an_array_and_gets_them_as_one(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/x-npz", "accept": "application/x-npz"}
    ids = np.array([f"{number}" for number in range(5)])
    answer = await client.post("/predict", content=npz(features=FEATURES, row_ids=ids), headers=headers)
    with np.load(io.BytesIO(answer.content)) as arrays:
        assert arrays["row_ids"].tolist() == ids.tolist()
    answer = await client.post(
        "/predict?row_ids=true", content=npz(features=FEATURES.reshape(1, 5, 64)), headers=headers
    )
    with np.load(io.BytesIO(answer.content)) as arrays:
        made = arrays["row_ids"]
    assert (made.shape, made.dtype.kind) == ((1, 5), "U")
    answer = await client.post(
        "/predict?row_ids=a,b", content=npz(features=FEATURES[:2]), headers=headers | {"accept": "*/*"}
    )
    assert answer.json()["row_ids"] == ["a", "b"]
    empty = await client.post(
        "/predict?row_ids=true", content=npz(features=np.zeros((0, 64))), headers=headers | {"accept": "*/*"}
    )
    assert empty.json()["row_ids"] == []
    assert (await label(client, [*made[0], "a", "4"], [0] * 7))["joined"] == 7


async def test_one_array_alone_has_no_room_for_ids_that_are_made(client: httpx.AsyncClient) -> None:
    headers = {"accept": "application/x-npy"}
    answer = await client.post("/predict", json={"features": ROWS, "row_ids": True}, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "row_ids")
    given = {"features": ROWS, "row_ids": list("abcde"), "outputs": ["classes"]}
    answer = await client.post("/predict", json=given, headers=headers)
    assert np.load(io.BytesIO(answer.content)).shape == (5,)
    assert (await label(client, ["a"], [0]))["joined"] == 1


async def test_what_became_of_each_id_is_told_and_counted(client: httpx.AsyncClient) -> None:
    await predict(client, row_ids=list("abcde"))
    assert await label(client, ["a", "x", "a"], [1, 1, 2]) == {
        "joined": 1,
        "unknown": {"count": 1, "ids": ["x"]},
        "expired": NOTHING,
        "repeated": {"count": 1, "ids": ["a"]},
    }
    lines = (await client.get("/metrics")).text.splitlines()
    for outcome, rows in {"joined": 1, "unknown": 1, "expired": 0, "repeated": 1}.items():
        assert f'logitserve_feedback_rows_total{{outcome="{outcome}"}} {rows}.0' in lines


async def test_a_label_that_comes_too_late_is_told(serve: Serve, path: Path) -> None:
    async with serve(feedback=path, feedback_ttl_s=1) as client:
        await predict(client, row_ids=list("abcde"))
        await asyncio.sleep(1.01)
        answer = await label(client, ["a", "x"], [1, 1])
        assert (answer["expired"], answer["unknown"]["ids"]) == ({"count": 1, "ids": ["a"]}, ["x"])


async def test_rows_wait_through_a_restart_and_no_more_than_the_limit(serve: Serve, path: Path) -> None:
    async with serve(feedback=path, feedback_rows_limit=3) as client:
        await predict(client, row_ids=list("abcde"))
    async with serve(feedback=path, feedback_rows_limit=3) as client:
        answer = await label(client, list("abcde"), [0] * 5)
        assert (answer["joined"], answer["unknown"]["ids"]) == (3, ["a", "b"])


async def refused(answer: httpx.Response) -> tuple[int, str, list[str]]:
    problem = answer.json()
    return answer.status_code, problem["code"], [offence["path"] for offence in problem["errors"]]


async def test_a_label_that_the_head_does_not_have_joins_nothing(
    client: httpx.AsyncClient, judged: Judged
) -> None:
    await predict(client, row_ids=list("abcde"))
    answer = await client.post("/feedback", json={"ids": list("abcde"), "labels": [0, 1, 2, 10, -1]})
    assert await refused(answer) == (422, "label_out_of_range", ["labels[3]", "labels[4]"])
    answer = await client.post("/feedback", json={"ids": ["a", "b"], "labels": [0, "eleven"]})
    assert await refused(answer) == (422, "unknown_class_name", ["labels[1]"])
    assert judged == []
    assert (await label(client, list("abcde"), [0] * 5))["joined"] == 5


async def test_what_is_wrong_with_ids_is_told_before_anything_is_scored(
    client: httpx.AsyncClient, path: Path
) -> None:
    for value, code, place in (
        (False, "option_type", "row_ids"),
        (["a"], "row_ids_shape", "row_ids"),
        ([*"abcd", 5], "row_ids_type", "row_ids[4]"),
        ([*"abcd", "\n"], "row_ids_value", "row_ids[4]"),
        ([*"abcd", "a"], "row_ids_value", "row_ids[4]"),
    ):
        answer = await client.post("/predict", json={"features": ROWS, "row_ids": value})
        assert await refused(answer) == (422, code, [place])
    several = {"features": ROWS, "models": ["digits"], "row_ids": True}
    answer = await client.post("/predict", json=several)
    assert await refused(answer) == (422, "unknown_field", ["row_ids"])
    answer = await client.post("/softmax", json={"logits": [[1, 2]], "row_ids": True})
    assert await refused(answer) == (422, "unknown_field", ["row_ids"])
    assert not os.path.exists(path)  # noqa: ASYNC240, PTH110 - at once


async def test_a_request_that_fails_keeps_nothing(client: httpx.AsyncClient) -> None:
    fields = {"features": ROWS, "row_ids": list("abcde"), "outputs": ["logits", "loss"]}
    infinite = {**fields, "labels": np.full((5, 10), 1e308).tolist()}
    answer = await client.post("/predict", json=infinite)
    assert answer.status_code == 422, answer.text
    assert (await label(client, ["a"], [0]))["unknown"]["ids"] == ["a"]


async def test_nothing_is_kept_where_feedback_is_off(serve: Serve) -> None:
    async with serve(feedback="off") as client:
        answer = await client.post("/predict", json={"features": ROWS, "row_ids": True})
        assert await refused(answer) == (422, "feedback_off", ["row_ids"])
        answer = await client.post("/feedback", json={"ids": [], "labels": []})
        assert await refused(answer) == (422, "feedback_off", ["ids"])
        await predict(client)


async def test_a_place_that_fails_harms_only_who_asks_for_it(
    client: httpx.AsyncClient, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkdir(path)  # noqa: PTH102 - at once
    answer = await client.post("/predict", json={"features": ROWS, "row_ids": True})
    assert (answer.status_code, answer.json()["code"]) == (503, "feedback_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert str(path) not in answer.text
    answer = await client.post("/feedback", json={"ids": ["a"], "labels": [1]})
    assert (answer.status_code, answer.json()["code"]) == (503, "feedback_unavailable")
    assert "the store of feedback fails" in caplog.text
    await predict(client)
    os.rmdir(path)  # noqa: PTH106 - at once
    await predict(client, row_ids=list("abcde"))
    assert (await label(client, ["a"], [1]))["joined"] == 1


async def test_who_waits_for_the_store_keeps_nobody_else_waiting(
    client: httpx.AsyncClient, path: Path
) -> None:
    await predict(client, row_ids=list("abcde"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(predict(client, row_ids=list("fghij")))
    begun_s = time.monotonic()
    for _ in range(5):
        await predict(client)
    assert time.monotonic() - begun_s < 1
    assert not waiting.done()
    other.execute("COMMIT")
    other.close()
    assert (await waiting)["row_ids"] == list("fghij")


async def test_labels_may_come_compressed_and_only_as_json(client: httpx.AsyncClient) -> None:
    await predict(client, row_ids=list("abcde"))
    body = gzip.compress(json.dumps({"ids": ["a"], "labels": [1]}).encode())
    answer = await client.post("/feedback", content=body, headers={"content-encoding": "gzip"})
    assert answer.json()["joined"] == 1
    answer = await client.post("/feedback", content=body, headers={"content-type": "application/x-npz"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_feedback_needs_no_key(serve: Serve, path: Path) -> None:
    async with serve(feedback=path, admin_key="secret") as client:
        assert (await label(client, ["a"], [1]))["unknown"]["count"] == 1


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v2/models/digits/infer", {"inputs": [], "parameters": {"row_ids": True}}),
        ("/v1/models/digits:predict", {"instances": ROWS, "parameters": {"row_ids": True}}),
        ("/invocations", {"instances": ROWS, "params": {"row_ids": True}}),
    ],
)
async def test_other_dialects_refuse_the_field(
    client: httpx.AsyncClient, path: Path, route: str, body: dict[str, Any]
) -> None:
    answer = await client.post(route, json=body)
    assert answer.status_code in {400, 422}
    assert "row_ids" in answer.text
    assert not os.path.exists(path)  # noqa: ASYNC240, PTH110 - at once


async def test_the_documentation_has_the_route_with_its_schemas(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    described = paths["/feedback"]["post"]
    content = described["requestBody"]["content"]["application/json"]
    assert content["schema"]["required"] == ["ids", "labels"]
    await predict(client, row_ids=["order-17", "order-18", "x", "y", "z"])
    answer = await client.post("/feedback", json=content["example"])
    assert answer.json()["joined"] == 2
    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    assert list(answer.json()) == schema["required"]
    assert described["responses"]["422"]["content"]["application/problem+json"]["schema"]["properties"]
    predicted = paths["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "row_ids" in predicted["properties"]
    assert described["security"] == [{"infer key": []}, {}], "open, or for a key"
