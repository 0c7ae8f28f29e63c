"""How calls become requests: the real codec reads back what the client wrote, nothing is sent."""

from typing import Any

import httpx
import numpy as np
import pytest
from scipy.sparse import csr_array

from service.client.answers import Answer
from service.client.attempts import Steps
from service.client.calls import NPZ_FROM_ELEMENTS, features_fields, logits_fields
from service.client.endpoints import Client
from service.types import Operation, Output, ScoreRequest, ScoreResult
from service.wire import media, native
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=10**8, rows=10**6, elements=10**8, json_depth=32)


def first_request(steps: Steps[Any]) -> httpx.Request:
    request = next(steps)
    assert isinstance(request, httpx.Request)
    return request


def decoded(operation: Operation, request: httpx.Request) -> ScoreRequest:
    query = list(request.url.params.multi_items())
    media_type = request.headers["content-type"]
    read = native.decode(operation, request.content, media_type=media_type, query=query, limits=LIMITS)
    assert isinstance(read, ScoreRequest)
    return read


def sent(operation: Operation, fields: dict[str, Any], **settings: Any) -> httpx.Request:
    with Client(**settings) as client:
        return first_request(client.score_steps(operation, fields, None))


def answered(fields: dict[str, Any], result: ScoreResult, media_type: str) -> Answer:
    """Run a call whose answer is `result`, encoded as the service would."""
    with Client(media="npz" if media_type == media.NPZ else "json") as client:
        steps = client.score_steps("loss", fields, None)
        request = first_request(steps)
        response = httpx.Response(
            200,
            content=native.encode(result, media_type),
            headers={"content-type": media_type},
            request=request,
        )
        with pytest.raises(StopIteration) as end:
            steps.send(response)
    answer: Answer = end.value.value
    return answer


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [("float16", "float32"), ("float32", "float32"), ("float64", "float64"), ("int32", "float64")],
)
@pytest.mark.parametrize("kind", ["json", "npz"])
def test_logits_are_computed_in_their_own_type_however_they_travel(
    dtype: str, computed: str, kind: str
) -> None:
    fields = logits_fields(np.zeros((2, 3), dtype), {})
    assert decoded("softmax", sent("softmax", fields, media=kind)).dtype == computed


def test_a_type_that_is_asked_for_wins() -> None:
    fields = logits_fields(np.zeros((2, 3), np.float32), {"dtype": "float64"})
    assert decoded("softmax", sent("softmax", fields)).dtype == np.float64


def test_lists_are_float64() -> None:
    assert decoded("softmax", sent("softmax", logits_fields([0.5, 1.5], {}))).dtype == np.float64


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_options_arrive_as_they_were_meant(kind: str) -> None:
    options: Any = {
        "axis": 0,
        "temperature": 2.0,
        "top_k": 1,
        "class_names": ["a, b", "c"],
        "outputs": ["losses", "top_names"],
        "label_smoothing": 0.1,
        "class_weight": [1.0, 2.0],
        "reduction": "none",
        "ignore_index": -100,
    }
    fields = {**logits_fields([[1.0, 2.0], [3.0, 4.0]], options), "labels": [0, -100]}
    request = decoded("loss", sent("loss", fields, media=kind))
    assert (request.axis, request.temperature, request.top_k) == (0, 2.0, 1)
    assert request.class_names == ("a, b", "c")
    assert request.outputs == ("losses", "top_names")
    assert request.labels is not None
    assert request.labels.values.tolist() == [0, -100]
    assert (request.labels.reduction, request.labels.ignore_index) == ("none", -100)
    assert request.labels.label_smoothing == 0.1
    assert request.labels.class_weight is not None
    assert request.labels.class_weight.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_a_masked_class_stays_masked(kind: str) -> None:
    request = decoded("softmax", sent("softmax", logits_fields([[0.0, -np.inf]], {}), media=kind))
    assert request.dense.tolist() == [[0.0, -np.inf]]


@pytest.mark.parametrize(
    ("shape", "media_type"),
    [
        ((1, 10), media.JSON),
        ((NPZ_FROM_ELEMENTS - 1,), media.JSON),
        ((NPZ_FROM_ELEMENTS,), media.NPZ),
        ((2, NPZ_FROM_ELEMENTS), media.NPZ),
        ((0, 10), media.NPZ),
    ],
)
def test_the_size_chooses_how_arrays_travel(shape: tuple[int, ...], media_type: str) -> None:
    request = sent("softmax", logits_fields(np.zeros(shape), {}))
    assert request.headers["content-type"] == media_type
    assert request.headers["accept"] == media_type


@pytest.mark.parametrize(
    ("shape", "entries", "media_type"),
    [
        ((1, 10**6), 3, media.JSON),
        ((1, 10**6), NPZ_FROM_ELEMENTS // 2, media.NPZ),
        ((NPZ_FROM_ELEMENTS, 10), 0, media.NPZ),
        ((2, 10), 0, media.JSON),
        ((0, 10), 0, media.NPZ),
    ],
)
def test_what_is_there_of_sparse_features_chooses_how_they_travel(
    shape: tuple[int, int], entries: int, media_type: str
) -> None:
    indices = np.arange(entries)
    features = csr_array((np.ones(entries), (np.zeros(entries, int), indices)), shape=shape)
    request = sent("predict", features_fields(features, {}))
    assert request.headers["content-type"] == media_type


def test_labels_count_towards_the_size() -> None:
    half = np.zeros((NPZ_FROM_ELEMENTS // 2, 1))
    request = sent("loss", {**logits_fields(half, {}), "labels": half})
    assert request.headers["content-type"] == media.NPZ


def test_an_empty_batch_keeps_its_classes() -> None:
    request = decoded("softmax", sent("softmax", logits_fields(np.zeros((0, 7)), {})))
    assert request.values.shape == (0, 7)


def test_what_is_not_said_is_not_sent() -> None:
    request = sent("predict", {"features": [1.0, 2.0]})
    assert request.content == b'{"features":[1.0,2.0]}'
    assert request.url.query == b""


def test_a_key_travels_as_a_bearer_token() -> None:
    assert sent("predict", {"features": [1.0]}, api_key="k-1").headers["authorization"] == "Bearer k-1"
    assert "authorization" not in sent("predict", {"features": [1.0]}).headers


@pytest.mark.parametrize("media_type", [media.JSON, media.NPZ])
def test_the_mean_of_nothing_is_none_in_both_media(media_type: str) -> None:
    result = ScoreResult({"loss": None, "losses": np.zeros(1), "count": 0}, rows=1)
    answer = answered({"logits": [[1.0, 2.0]], "labels": [0]}, result, media_type)
    assert answer.loss is None
    assert answer.count == 0
    assert "loss" in answer


@pytest.mark.parametrize("media_type", [media.JSON, media.NPZ])
def test_the_accuracy_of_nothing_is_none_where_it_was_asked_for(media_type: str) -> None:
    fields = {"logits": [[1.0, 2.0]], "labels": [0], "outputs": ["accuracy"]}
    answer = answered(fields, ScoreResult({"accuracy": None}, rows=1), media_type)
    assert dict(answer) == {"accuracy": None}


@pytest.mark.parametrize("media_type", [media.JSON, media.NPZ])
def test_what_is_one_per_example_is_an_array_for_a_single_example_too(media_type: str) -> None:
    per_example: dict[str, Output] = {
        "classes": np.array(1),
        "losses": np.array(0.5),
        "predicted_names": "b",
    }
    fields = {**logits_fields(np.zeros(2, np.float32), {}), "labels": 0}
    answer = answered(fields, ScoreResult({**per_example, "loss": 0.5, "count": 1}, rows=1), media_type)
    assert answer.classes.shape == ()
    assert answer.classes.dtype == np.int64
    assert answer.losses.shape == ()
    assert answer.losses.dtype == np.float32
    assert answer.predicted_names.shape == ()
    assert type(answer.loss) is float
    assert type(answer.count) is int


def test_without_a_reduction_there_is_no_loss() -> None:
    fields = {"logits": [[1.0, 2.0]], "labels": [0], "reduction": "none"}
    answer = answered(fields, ScoreResult({"losses": np.zeros(1), "count": 1}, rows=1), media.NPZ)
    assert "loss" not in answer


@pytest.mark.parametrize("media_type", [media.JSON, media.NPZ])
def test_float32_answers_are_the_same_bits_in_both_media(media_type: str) -> None:
    losses = np.array([0.1, 1e-45, 3.4e38], np.float32)
    fields = {**logits_fields(np.zeros((3, 2), np.float32), {}), "labels": [0, 0, 0]}
    result = ScoreResult({"losses": losses, "classes": np.array([0, 1, 0])}, rows=3)
    answer = answered(fields, result, media_type)
    assert answer.losses.dtype == np.float32
    assert answer.losses.tobytes() == losses.tobytes()
    assert answer.classes.dtype == np.int64
