"""The native dialect: JSON, npz and npy bodies, seen from the server and from the client."""

import io
import json
import math
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import Invalid, Malformed, RequestError, UnsupportedMedia
from service.types import (
    HeadInfo,
    Labels,
    Operation,
    Output,
    Reduction,
    ScoreRequest,
    ScoreResult,
    SparseRows,
)
from service.wire import json_writer, native
from service.wire.arrays import write_npy, write_npz
from service.wire.limits import Limits
from service.wire.media import JSON, NPY, NPZ

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "3", 4, 3, np.dtype(np.float32), ("a", "b", "c"), "0" * 64, "cpu")
LOGITS = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]])
GOLDEN = Path(__file__).parent.parent / "golden" / "vectors.jsonl"

Query = tuple[tuple[str, str], ...]


def decode(
    operation: Operation,
    body: bytes,
    media_type: str = JSON,
    query: Query = (),
    named: tuple[str, str | None] | None = None,
) -> ScoreRequest:
    request = native.decode(
        operation,
        body,
        media_type=media_type,
        query=query,
        limits=LIMITS,
        head_of=lambda _model, _version: HEAD,
        named=named,
    )
    assert isinstance(request, ScoreRequest)
    return request


def code_of(operation: Operation, body: bytes, media_type: str = JSON, query: Query = ()) -> str:
    try:
        decode(operation, body, media_type, query)
    except RequestError as error:
        assert len(error.detail) < 500  # noqa: PT017 - an error's size is checked beside its code
        return error.code
    return "read"


def refused(operation: Operation, body: bytes, media_type: str, query: Query = ()) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        decode(operation, body, media_type, query)
    return caught.value.code, caught.value.offences[0].path


def assert_equal(left: Any, right: Any) -> None:
    """Compare requests to the last bit and type, arrays inside included."""
    names = left._fields if isinstance(left, ScoreRequest) else [field.name for field in fields_of(left)]
    for name in names:
        one, other = getattr(left, name), getattr(right, name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, name
            np.testing.assert_array_equal(one, other, name, strict=True)
        elif isinstance(one, Labels):
            assert_equal(one, other)
        else:
            assert one == other, name


# Requests


def test_a_json_body_is_a_request() -> None:
    request = decode("loss", b'{"logits": [[0.5, 1.5]], "labels": [1], "top_k": 1}')
    assert request.dense.tolist() == [[0.5, 1.5]]
    assert request.top_k == 1
    assert request.labels is not None
    assert request.labels.values.tolist() == [1]


@pytest.mark.parametrize("media_type", ["", "application/json; charset=utf-8"])
def test_json_is_what_nobody_said_otherwise(media_type: str) -> None:
    assert decode("softmax", b'{"logits": [1, 2]}', media_type).axis == 0


@pytest.mark.parametrize("rows", [1, 100])  # as lists, and where simdjson is installed as an array
@pytest.mark.parametrize("operation", get_args(Operation))
def test_few_and_many_rows_are_the_same_request(operation: Operation, rows: int) -> None:
    name, width = ("features", HEAD.num_features) if operation == "predict" else ("logits", HEAD.num_classes)
    tensor = np.random.default_rng(rows).normal(size=(rows, width))
    fields = {"labels": [1] * rows, name: tensor.tolist()} if operation == "loss" else {name: tensor.tolist()}
    request = decode(operation, json.dumps(fields).encode())
    expected = tensor.astype(HEAD.dtype) if operation == "predict" else tensor
    np.testing.assert_array_equal(request.values, expected, strict=True)
    assert request.dense.flags.c_contiguous


@pytest.mark.parametrize(
    ("rows", "code", "path"),
    [
        ([[0.1] * 3] * 300 + [[0.1] * 2], "ragged", "logits[300]"),
        ([[0.1] * 3] * 300 + [[0.1, None, 0.1]], "logits_type", "logits[300][1]"),
        ([[0.1] * 3] * 300 + [[0.1, "Infinity", 0.1]], "non_finite_logits", "logits[300][1]"),
        ([[0.1] * 3] * 300 + [["-Infinity"] * 3], "row_all_masked", "logits[300]"),
        ([[0.1] * 3] * 1001, "rows_too_many", "logits"),
        ([[0.1] * 11] * 1000, "elements_too_many", "logits"),
    ],
)
def test_mistakes_among_many_rows_are_named_by_their_place(rows: list[Any], code: str, path: str) -> None:
    assert refused("softmax", json.dumps({"logits": rows}).encode(), JSON) == (code, path)


def test_the_options_of_a_json_request_are_in_its_body() -> None:
    assert refused("softmax", b'{"logits": [1, 2]}', JSON, (("top_k", "1"),)) == ("unknown_field", "top_k")


def test_npz_brings_arrays_by_name_and_options_in_the_query() -> None:
    body = write_npz(
        {
            "logits": LOGITS.astype(np.float32),
            "labels": np.array([1, 2], np.int32),
            "class_weight": np.array([1.0, 2.0, 3.0]),
            "class_names": np.array(["x", "yy", "zzz"]),
        }
    )
    query = (("reduction", "sum"), ("label_smoothing", "0.25"), ("outputs", "loss,gradient"))
    request = decode("loss", body, NPZ, query)
    assert request.dense.dtype == request.dtype == np.float32
    assert request.outputs == ("loss", "gradient")
    assert request.class_names == ("x", "yy", "zzz")
    assert request.labels is not None
    assert (request.labels.reduction, request.labels.label_smoothing) == ("sum", 0.25)
    assert request.labels.class_weight is not None
    assert request.labels.class_weight.dtype == np.float32


def test_npy_brings_logits_or_features_alone() -> None:
    assert decode("softmax", write_npy(LOGITS), NPY, (("top_k", "2"),)).top_k == 2
    request = decode("predict", write_npy(np.zeros((5, 4), np.float64)), NPY)
    assert request.values.shape == (5, 4)
    assert request.dense.dtype == np.float32


def test_arrays_of_any_order_are_read_as_they_were() -> None:
    array = np.arange(24.0).reshape(2, 3, 4)
    for sent in (array, np.asfortranarray(array), array.astype(">f8"), array.astype("<f4")):
        request = decode("softmax", write_npy(sent), NPY, (("axis", "1"),))
        assert request.dense.tolist() == array.tolist()
        assert request.dense.flags.c_contiguous


def test_an_empty_batch_travels_as_npz() -> None:
    body = write_npz({"logits": np.zeros((0, 3)), "labels": np.zeros(0, np.int64)})
    assert decode("loss", body, NPZ).values.shape == (0, 3)


@pytest.mark.parametrize(
    ("operation", "arrays", "query", "code", "path"),
    [
        ("softmax", {"logit": LOGITS}, (), "unknown_field", "logit"),
        ("softmax", {"logits": LOGITS}, (("temprature", "2"),), "unknown_field", "temprature"),
        ("softmax", {"logits": LOGITS, "x" * 100: LOGITS}, (), "unknown_field", "x" * 40),
        ("softmax", {}, (), "missing_field", "logits"),
        ("loss", {"logits": LOGITS}, (), "missing_field", "labels"),
        ("softmax", {"logits": LOGITS}, (("top_k", "two"),), "option_type", "top_k"),
        ("softmax", {"logits": LOGITS}, (("top_k", "1"), ("more", "1")), "unknown_field", "more"),
        ("softmax", {"logits": LOGITS, "axis": np.array(0)}, (), "option_type", "axis"),
        ("softmax", {"logits": LOGITS}, (("logits", "1,2"),), "option_type", "logits"),
        (
            "softmax",
            {"logits": LOGITS, "class_names": np.array(["a", "b", "c"])},
            (("class_names", "a,b,c"),),
            "option_type",
            "class_names",
        ),
        ("softmax", {"logits": LOGITS}, (("top_k", "9"),), "top_k_range", "top_k"),
        ("softmax", {"logits": np.array(["a", "b"])}, (), "logits_type", "logits"),
        ("loss", {"logits": LOGITS, "labels": np.array([1.0, 2.0])}, (), "labels_type", "labels"),
    ],
)
def test_mistakes_in_npz_are_found_in_the_same_order(
    operation: Operation, arrays: dict[str, Any], query: Query, code: str, path: str
) -> None:
    assert refused(operation, write_npz(arrays), NPZ, query) == (code, path)


def test_bytes_come_before_everything_else() -> None:
    with pytest.raises(Malformed):
        decode("softmax", b"no archive", NPZ, (("temprature", "2"),))
    with pytest.raises(Malformed):
        decode("softmax", b"{", JSON, (("top_k", "1"),))
    with pytest.raises(UnsupportedMedia):
        decode("loss", b"", NPY)


def test_what_the_path_names_may_not_be_named_again_in_either_form() -> None:
    body = b'{"features": [1, 2, 3, 4], "model": "digits"}'
    with pytest.raises(Invalid) as caught:
        decode("predict", body, named=("digits", None))
    assert (caught.value.code, caught.value.offences[0].path) == ("unknown_field", "model")
    with pytest.raises(Invalid, match="path"):
        decode("predict", write_npy(np.zeros(4)), NPY, (("version", "3"),), ("digits", "3"))
    assert decode("predict", write_npy(np.zeros(4)), NPY, (("version", "3"),), ("digits", None)).head == HEAD


def golden() -> list[dict[str, Any]]:
    return [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("case", golden(), ids=lambda case: case["name"])
def test_the_golden_cases_are_read_or_refused_as_they_say(case: dict[str, Any]) -> None:
    labelled = "labels" in case
    operation: Operation = "loss" if labelled else "softmax"
    said = {"logits": case["logits"], "dtype": case["dtype"], **case["options"]}
    if labelled:
        said["labels"] = case["labels"]
    if 0 in case.get("shape", ()) and "error" not in case["expected"]:  # no JSON form
        said["logits"] = np.zeros(case["shape"], case["dtype"])
        said["labels"] = np.zeros(case["labels_shape"], np.int64)
    for media_type in (JSON, NPZ):
        if 0 not in case.get("shape", ()) or media_type == NPZ:
            body, query = native.encode_request(operation, said, media_type)
            code = code_of(operation, body, media_type, tuple(query.items()))
            assert code == case["expected"].get("error", "read")


# Requests there and back

FLOATS = st.one_of(
    st.floats(-1e30, 1e30), st.sampled_from([0.0, -0.0, 5e-324, 1e-45, 0.1, 1 / 3, 16777217.0])
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Operation, dict[str, Any]]:
    operation: Operation = draw(st.sampled_from(get_args(Operation)))
    batch = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=1, max_side=3))
    classes = HEAD.num_classes
    width = HEAD.num_features if operation == "predict" else classes
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    leaves = FLOATS.map(lambda number: number if dtype == np.float64 else max(-6e4, min(6e4, number)))
    tensor = draw(hnp.arrays(np.float64, (*batch, width), elements=leaves)).astype(dtype)
    fields: dict[str, Any] = {"features" if operation == "predict" else "logits": tensor}
    if operation != "predict" and draw(st.booleans()):
        tensor[..., 0] = -np.inf
    if draw(st.booleans()):
        fields |= draw(OPTIONS)
    if operation != "softmax":
        index = draw(hnp.arrays(np.int64, batch, elements=st.integers(0, classes - 1)))
        dense = draw(hnp.arrays(np.float64, (*batch, classes), elements=st.floats(0, 1)))
        fields["labels"] = draw(st.sampled_from([index, dense, dense.astype(np.float32), index.tolist()]))
        fields |= draw(st.fixed_dictionaries({}, optional=LOSS_OPTIONS))
        if draw(st.booleans()):
            fields["sample_weight"] = np.ones(batch)
    return operation, fields


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["float32", "float64"]),
        "temperature": st.floats(1e-3, 1e3) | st.integers(1, 9) | st.just(np.float64(0.1)),
        "top_k": st.integers(1, 3) | st.just(np.int64(2)),
        "class_names": st.sampled_from([["x", "y,z", "Infinity"], np.array(["p", "q", "r"])]),
        "outputs": st.sampled_from([["probabilities"], ("entropy", "classes")]),
        "axis": st.just(-1),
    },
)
LOSS_OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "reduction": st.sampled_from(get_args(Reduction)),
    "label_smoothing": st.floats(0, 1),
    "broadcast_labels": st.booleans() | st.just(np.ones((), bool)[()]),
    "non_finite": st.sampled_from(["error", "string"]),
    "class_weight": st.sampled_from([[0.1, 2, 3.5], np.array([1.0, 1 / 3, 0.0])]),
    "label_format": st.just("auto"),
    "ignore_index": st.none(),
}


@given(requests())
def test_json_and_npz_say_the_same_request(said: tuple[Operation, dict[str, Any]]) -> None:
    operation, fields = said
    read = []
    for media_type in (JSON, NPZ):
        body, query = native.encode_request(operation, fields, media_type)
        read.append(decode(operation, body, media_type, tuple(query.items())))
    assert_equal(*read)
    tensor = fields.get("logits", fields.get("features"))
    assert tensor is not None
    np.testing.assert_array_equal(read[0].dense, tensor.astype(read[0].dense.dtype), strict=True)


def test_the_query_of_json_is_empty_and_that_of_npz_plain_text() -> None:
    fields = {
        "logits": LOGITS,
        "top_k": 2,
        "temperature": 0.5,
        "outputs": ["classes", "entropy"],
        "dtype": None,
        "class_names": ["a", "b", "c"],
    }
    body, query = native.encode_request("softmax", fields, JSON)
    assert query == {}
    assert "dtype" not in orjson.loads(body)
    body, query = native.encode_request("softmax", fields, NPZ)
    assert query == {"top_k": "2", "temperature": "0.5", "outputs": "classes,entropy"}
    with np.load(io.BytesIO(body), allow_pickle=False) as archive:
        assert sorted(archive.files) == ["class_names", "logits"]


def test_a_truth_value_is_spelt_as_json_does() -> None:
    fields = {"logits": LOGITS, "labels": [0, 1], "validate_labels": False, "broadcast_labels": True}
    _, query = native.encode_request("loss", fields, NPZ)
    assert query == {"validate_labels": "false", "broadcast_labels": "true"}


def test_masks_in_lists_are_sent_either_way() -> None:
    for logits in ([[1, "-Infinity"]], [[1, -math.inf]], [(1.0, -math.inf)], np.array([[1, -np.inf]])):
        for media_type in (JSON, NPZ):
            body, _ = native.encode_request("softmax", {"logits": logits}, media_type)
            assert decode("softmax", body, media_type).dense.tolist() == [[1.0, -math.inf]]


def test_a_nan_is_sent_as_it_is_and_refused_by_the_service_never_as_null() -> None:
    for media_type in (JSON, NPZ):
        body, _ = native.encode_request("softmax", {"logits": np.array([1.0, np.nan])}, media_type)
        assert refused("softmax", body, media_type) == ("non_finite_logits", "logits[1]")


def test_names_as_labels_are_sent_either_way() -> None:
    for labels in (["b", "a"], np.array(["b", "a"])):
        fields = {"logits": LOGITS, "labels": labels, "class_names": ["a", "b", "c"]}
        for media_type in (JSON, NPZ):
            body, query = native.encode_request("loss", fields, media_type)
            request = decode("loss", body, media_type, tuple(query.items()))
            assert request.labels is not None
            assert request.labels.values.tolist() == [1, 0]


def test_arrays_of_foreign_byte_order_and_layout_are_sent() -> None:
    fields = {"logits": np.asfortranarray(LOGITS.astype(">f4")), "labels": np.array([1, 2], ">i2")}
    for media_type in (JSON, NPZ):
        body, query = native.encode_request("loss", fields, media_type)
        request = decode("loss", body, media_type, tuple(query.items()))
        assert request.dtype == np.float32
        assert request.dense.tolist() == LOGITS.astype(np.float32).tolist()


@pytest.mark.parametrize("logits", [[["1.0", 2]], [[None, 1]], [[True, "x"]]])
def test_lists_that_are_no_numbers_are_left_to_the_service(logits: Any) -> None:
    body, _ = native.encode_request("softmax", {"logits": logits}, JSON)
    assert code_of("softmax", body) == "logits_type"
    if logits[0][0] is not None:  # numpy has no array for null that could be sent
        body, _ = native.encode_request("softmax", {"logits": logits}, NPZ)
        assert code_of("softmax", body, NPZ) == "logits_type"


# Answers


def result(head: HeadInfo | None = None, **outputs: Output) -> ScoreResult:
    return ScoreResult(outputs, 2, head)


def test_a_json_answer_has_the_outputs_in_their_order() -> None:
    body = native.encode(result(classes=np.array([1, 0]), probabilities=np.array([[0.25, 0.75]])), JSON)
    assert body == b'{"classes":[1,0],"probabilities":[[0.25,0.75]]}'


def test_the_answer_of_a_head_says_which_it_was() -> None:
    answer = orjson.loads(native.encode(result(HEAD, classes=np.array(1)), JSON))
    assert answer == {"model": "digits", "version": "3", "classes": 1}
    with np.load(io.BytesIO(native.encode(result(HEAD, classes=np.array(1)), NPZ))) as archive:
        assert archive.files == ["classes"]


def test_float32_is_written_in_its_shortest_digits() -> None:
    body = native.encode(
        result(probabilities=np.array([0.1, 1e-45], np.float32), entropy=np.array(0.2, np.float32)), JSON
    )
    assert body == b'{"probabilities":[0.1,1e-45],"entropy":0.2}'


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinities_are_words_and_their_neighbours_keep_their_digits(dtype: type) -> None:
    losses: np.ndarray[Any, Any] = np.array([[0.1, np.inf], [-np.inf, 2.5]], dtype)
    body = native.encode(result(losses=losses, loss=np.inf, gradient=np.array(-np.inf, dtype)), JSON)
    assert body == (
        b'{"losses":[[0.1,"Infinity"],["-Infinity",2.5]],"loss":"Infinity","gradient":"-Infinity"}'
    )


def test_null_is_the_mean_of_nothing_and_nothing_else() -> None:
    assert native.encode(result(loss=None, count=0), JSON) == b'{"loss":null,"count":0}'
    assert b"null" not in native.encode(result(entropy=np.array([np.nan]), loss=math.nan), JSON)


@pytest.mark.parametrize(
    "rows", [1, json_writer.SCANNED_BYTES]
)  # either side of how non-finite ones are found
@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_one_number_among_many_that_is_not_finite_is_a_word(rows: int, number: float) -> None:
    losses: np.ndarray[Any, Any] = np.full(rows + 1, 0.5, np.float32)
    losses[-1] = number
    written = orjson.loads(native.encode(result(count=rows, losses=losses, loss=0.5), JSON))
    word = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}[str(number)]
    assert written == {"count": rows, "losses": [0.5] * rows + [word], "loss": 0.5}


@pytest.mark.parametrize("rows", [1, json_writer.SCANNED_BYTES])
@pytest.mark.parametrize("loss", [np.array(np.inf, np.float32), np.float32(np.inf), math.inf])
def test_a_single_infinity_is_a_word_beside_few_and_many_numbers(rows: int, loss: Any) -> None:
    written = orjson.loads(native.encode(result(loss=loss, losses=np.zeros(rows), count=None), JSON))
    assert written == {"loss": "Infinity", "losses": [0.0] * rows, "count": None}


def test_a_name_that_reads_null_is_a_name() -> None:
    head = replace(HEAD, model="null")
    body = native.encode(
        result(head, predicted_names=["null", "b"], losses=np.array([0.1], np.float32)), JSON
    )
    assert body == b'{"model":"null","version":"3","predicted_names":["null","b"],"losses":[0.1]}'


def test_contributions_may_be_infinite_too() -> None:
    outputs: dict[str, Output] = {
        "contributions.features": np.array([[3]]),
        "contributions.values": np.array([[np.inf]]),
    }
    body = native.encode(ScoreResult(outputs, 1), JSON)
    assert body == b'{"contributions":{"features":[[3]],"values":[["Infinity"]]}}'


def test_names_in_an_array_are_written() -> None:
    assert native.encode(result(top_names=np.array([["a", "b"]])), JSON) == b'{"top_names":[["a","b"]]}'


def test_scalars_names_and_any_layout_are_written() -> None:
    columns = np.arange(6.0).reshape(2, 3).T
    body = native.encode(
        result(
            classes=np.array(2),
            loss=0.5,
            predicted_names=["a", "b"],
            top_names=[["a"], ["b"]],
            probabilities=columns,
            one_hot=columns.astype(">f4"),
        ),
        JSON,
    )
    assert orjson.loads(body) == {
        "classes": 2,
        "loss": 0.5,
        "predicted_names": ["a", "b"],
        "top_names": [["a"], ["b"]],
        "probabilities": columns.tolist(),
        "one_hot": columns.tolist(),
    }


def test_contributions_are_one_object_in_their_place() -> None:
    outputs: dict[str, Output] = {
        "contributions.features": np.array([[3, 1]]),
        "contributions.values": np.array([[0.5, 0.25]]),
        "classes": np.array([1]),
    }
    body = native.encode(ScoreResult(outputs, 1), JSON)
    assert body == b'{"contributions":{"features":[[3,1]],"values":[[0.5,0.25]]},"classes":[1]}'
    for media_type in (JSON, NPZ):
        found = native.decode_result(native.encode(ScoreResult(outputs, 1), media_type), media_type)
        assert found["contributions"]["features"].dtype == np.int64
        assert found["contributions"]["values"].tolist() == [[0.5, 0.25]]
        assert set(found) == {"contributions", "classes"}


def test_npz_answers_have_scalars_names_and_no_key_for_nothing() -> None:
    answer = result(loss=None, count=0, predicted_names=["a", "bc"], top_names="d", losses=np.array([np.inf]))
    with np.load(io.BytesIO(native.encode(answer, NPZ)), allow_pickle=False) as archive:
        assert archive.files == ["count", "predicted_names", "top_names", "losses"]
        assert archive["count"].shape == ()
        assert archive["count"].dtype == np.int64
        assert archive["predicted_names"].dtype == np.dtype("<U2")
        assert archive["top_names"].item() == "d"
        assert archive["losses"].tolist() == [math.inf]


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        ({"classes": np.array([1, 2]), "entropy": np.array([0.5])}, np.array([1, 2])),
        ({"loss": 0.5, "count": 3}, np.array(0.5)),
        ({"loss": None, "count": 0}, np.array([])),
        ({"predicted_names": ["a", "b"]}, np.array(["a", "b"])),
        (
            {"contributions.features": np.array([[1]]), "contributions.values": np.array([[0.5]])},
            np.array([[1]]),
        ),
    ],
)
def test_an_npy_answer_is_the_first_output(outputs: dict[str, Output], found: np.ndarray[Any, Any]) -> None:
    body = native.encode(ScoreResult(outputs, 1), NPY)
    read = np.load(io.BytesIO(body), allow_pickle=False)
    np.testing.assert_array_equal(read, found, strict=True)


ANSWERED = st.fixed_dictionaries(
    {},
    optional={
        "probabilities": hnp.arrays(np.float64, (2, 3), elements=st.floats(0, 1)),
        "losses": hnp.arrays(np.float64, (2,), elements=st.floats(allow_nan=False)),
        "gradient": hnp.arrays(np.float64, (2, 1, 2), elements=st.floats(allow_nan=False)),
        "classes": hnp.arrays(np.int64, (2,), elements=st.integers(0, 9)),
        "top_classes": hnp.arrays(np.int64, (2, 2), elements=st.integers(0, 9)),
        "loss": st.floats(allow_nan=False) | st.none(),
        "count": st.integers(0, 99),
        "accuracy": st.floats(0, 1) | st.none(),
        "predicted_names": st.lists(st.sampled_from(["a", "Infinity", "é"]), min_size=2, max_size=2),
    },
)


@given(ANSWERED, st.sampled_from([JSON, NPZ, "application/json; charset=utf-8"]))
def test_every_answer_comes_back_to_the_client(outputs: dict[str, Any], media_type: str) -> None:
    written = NPZ if media_type == NPZ else JSON
    found = native.decode_result(native.encode(ScoreResult(outputs, 2, HEAD), written), media_type)
    if written == JSON:
        assert (found.pop("model"), found.pop("version")) == ("digits", "3")
    assert list(found) == [name for name, value in outputs.items() if value is not None or written == JSON]
    for name, value in found.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, np.asarray(outputs[name]), strict=name != "predicted_names")
        else:
            assert value == outputs[name]
            assert type(value) is type(outputs[name])


def test_a_single_row_comes_back_as_scalars() -> None:
    answer = result(classes=np.array(1), predicted_names="b", entropy=np.array(0.5), losses=np.array(np.inf))
    for media_type in (JSON, NPZ):
        found = native.decode_result(native.encode(answer, media_type), media_type)
        assert found == {"classes": 1, "predicted_names": "b", "entropy": 0.5, "losses": math.inf}


# Anything at all

GOOD: list[tuple[Operation, bytes, str, Query]] = [
    ("softmax", b'{"logits": [[1, 2.5], ["-Infinity", 3]], "top_k": 2, "class_names": ["a", "b"]}', JSON, ()),
    ("loss", b'{"logits": [[1, 2]], "labels": [[0, 1]], "class_weight": [1, 2], "axis": -1}', JSON, ()),
    ("loss", b'{"logits": [[1, 2]], "labels": ["b"], "class_names": ["a", "b"]}', JSON, ()),
    ("predict", b'{"features": [1, 2, 3, 4], "outputs": ["contributions"], "labels": 1}', JSON, ()),
    ("softmax", write_npy(LOGITS), NPY, (("top_k", "1"),)),
    ("loss", write_npz({"logits": LOGITS, "labels": np.array([0, 1])}), NPZ, (("reduction", "sum"),)),
]


@pytest.mark.parametrize(("operation", "body", "media_type", "query"), GOOD)
def test_what_is_mutated_below_is_good(
    operation: Operation, body: bytes, media_type: str, query: Query
) -> None:
    assert code_of(operation, body, media_type, query) == "read"


@given(st.data())
def test_a_mutated_body_raises_nothing_but_errors_for_its_sender(data: st.DataObject) -> None:
    operation, good, media_type, query = data.draw(st.sampled_from(GOOD))
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(body) - 1))
        piece = data.draw(
            st.binary(max_size=2) | st.sampled_from([b"[", b"]", b"null", b"1e39", b'"', b":", b"-"])
        )
        body[place : place + data.draw(st.integers(0, 3))] = piece
        body = body or bytearray(b" ")
    assert code_of(operation, bytes(body), media_type, query)


LEAVES = st.sampled_from(
    [
        None,
        True,
        0,
        1,
        -1,
        1.5,
        2**63,
        2**64,
        1e300,
        1e39,
        "a",
        "b",
        "NaN",
        "-Infinity",
        "float32",
        "none",
        "",
    ]
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.just({"a": 1}), max_leaves=10)


@given(st.data(), st.sampled_from(get_args(Operation)))
def test_any_values_of_known_fields_raise_nothing_but_errors_for_their_sender(
    data: st.DataObject, operation: Operation
) -> None:
    known = {
        "softmax": ["logits", "axis", "top_k", "outputs", "class_names", "dtype"],
        "loss": ["logits", "labels", "class_weight", "sample_weight", "ignore_index", "reduction"],
        "predict": ["features", "labels", "model", "version", "calibration", "top_contributions"],
    }[operation]
    fields = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(known, VALUES)))
    if data.draw(st.booleans()):
        fields |= {"features": [0.0] * 4} if operation == "predict" else {"logits": [[1, 2, 3]]}
    assert code_of(operation, json.dumps(fields).encode())


@given(st.data())
def test_any_query_raises_nothing_but_errors_for_its_sender(data: st.DataObject) -> None:
    names = st.sampled_from(
        ["axis", "top_k", "temperature", "outputs", "class_names", "dtype", "logits", "x"]
    )
    texts = st.sampled_from(
        ["", "1", "-1", "1.5", "nan", "a,b", "true", "float32", "classes", "é", "9" * 400]
    )
    query = tuple(data.draw(st.lists(st.tuples(names, texts), max_size=4)))
    assert code_of("softmax", write_npy(LOGITS), NPY, query)


# Sparse features

CSR: dict[str, Any] = {
    "indptr": np.array([0, 1, 1, 3], np.int32),
    "indices": np.array([2, 0, 3], np.int32),
    "data": np.array([0.1, -1, 2], np.float32),
    "num_features": 4,
}


@pytest.mark.parametrize("media_type", [JSON, NPZ])
def test_sparse_features_come_back_as_they_were_written(media_type: str) -> None:
    body, query = native.encode_request("predict", {"features": CSR, "outputs": ["logits"]}, media_type)
    request = decode("predict", body, media_type, tuple(query.items()))
    assert isinstance(request.values, SparseRows)
    expected = [[0, 0, np.float32(0.1), 0], [0] * 4, [-1, 0, 0, 2]]
    assert request.values.to_dense().tolist() == expected
    assert request.outputs == ("logits",)


def test_an_archive_names_the_parts_of_sparse_features() -> None:
    parts = {f"features.{name}": np.asarray(part) for name, part in CSR.items()}
    assert decode("predict", write_npz(parts), NPZ).values.shape == (3, 4)
    code, path = refused("predict", write_npz(parts | {"features.shape": np.zeros(2)}), NPZ)
    assert (code, path) == ("unknown_field", "features.shape")
    del parts["features.data"]
    assert refused("predict", write_npz(parts), NPZ) == ("missing_field", "features.data")
    both = parts | {"features": np.zeros((1, 4))}
    assert refused("predict", write_npz(both), NPZ) == ("unknown_field", "features.indices")
    logits = {"logits": LOGITS, "features.data": np.zeros(1)}
    assert refused("softmax", write_npz(logits), NPZ) == ("unknown_field", "features.data")


@pytest.mark.parametrize("features", [{}, {"data": {}}, {"indptr": {"indptr": [0]}}, [{}], {"": None}])
def test_objects_that_are_no_sparse_features_are_refused(features: Any) -> None:
    assert code_of("predict", json.dumps({"features": features}).encode()) in {
        "missing_field",
        "features_type",
        "unknown_field",
    }


def test_a_large_body_of_sparse_features_is_read_as_a_small_one_is() -> None:
    """From some length on simdjson has the first look, and must leave this to the other reader."""
    entries = 800
    features = {
        "indptr": list(range(entries + 1)),
        "indices": [1] * entries,
        "data": [0.5] * entries,
        "num_features": 4,
    }
    request = decode("predict", json.dumps({"features": features}).encode())
    assert isinstance(request.values, SparseRows)
    assert request.values.to_dense().sum() == entries / 2


# Several models


def several() -> tuple[ScoreResult, ...]:
    other = replace(HEAD, model="ani.mals", version="1")
    digits: dict[str, Output] = {"classes": np.array([1, 2]), "loss": None, "count": 0}
    animals: dict[str, Output] = {
        "log_probabilities": np.array([[0.0, -np.inf]]),
        "contributions.features": np.array([[1]]),
        "contributions.values": np.array([[0.5]]),
        "predicted_names": ["cat"],
    }
    return ScoreResult(digits, 2, head=HEAD), ScoreResult(animals, 1, head=other)


def test_several_answers_stand_under_the_names_of_their_models() -> None:
    assert json.loads(native.encode_each(several(), JSON)) == {
        "results": {
            "digits": {"model": "digits", "version": "3", "classes": [1, 2], "loss": None, "count": 0},
            "ani.mals": {
                "model": "ani.mals",
                "version": "1",
                "log_probabilities": [[0.0, "-Infinity"]],
                "contributions": {"features": [[1]], "values": [[0.5]]},
                "predicted_names": ["cat"],
            },
        }
    }


def test_several_answers_have_their_models_in_the_names_of_their_arrays() -> None:
    archive = np.load(io.BytesIO(native.encode_each(several(), NPZ)))
    assert sorted(archive) == [
        "ani.mals.contributions.features",
        "ani.mals.contributions.values",
        "ani.mals.log_probabilities",
        "ani.mals.predicted_names",
        "ani.mals.version",
        "digits.classes",
        "digits.count",
        "digits.version",
    ]
    assert archive["digits.version"] == "3"
    assert archive["digits.classes"].tolist() == [1, 2]
    assert np.load(io.BytesIO(native.encode_each(several(), NPY))).tolist() == [1, 2]


@pytest.mark.parametrize("media_type", [JSON, NPZ])
def test_a_request_to_several_models_is_one_to_each(media_type: str) -> None:
    fields = {"features": [[0.0] * 4], "models": ["a", "b"], "outputs": ["classes"]}
    body, query = native.encode_request("predict", fields, media_type)
    requests = native.decode(
        "predict",
        body,
        media_type=media_type,
        query=tuple(query.items()),
        limits=LIMITS,
        head_of=lambda model, _version: replace(HEAD, model=str(model)),
    )
    assert [
        request.head.model for request in requests if isinstance(request, ScoreRequest) and request.head
    ] == [
        "a",
        "b",
    ]
