"""The Open Inference Protocol V2: requests and answers, seen from the server and from the client."""

import tracemalloc
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.errors import DeadlineExceeded, Invalid, NotFound, NotReady, RequestError, TooLarge
from service.types import HeadInfo, Output, ScoreResult
from service.wire import nested, tensors, v2
from service.wire.inference import OPERATIONS, Inference
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 30, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "3", 4, 3, np.dtype(np.float32), ("a", "b", "c"), "0" * 64, "cpu")
FEATURES = np.arange(8, dtype=np.float32).reshape(2, 4)
LOGITS = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]])
NESTED = {"name": "features", "datatype": "FP32", "shape": [2, 4], "data": FEATURES.tolist()}
ROW = {"name": "features", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}


def head_of(model: str | None, version: str | None) -> HeadInfo:
    if model != HEAD.model or version not in {None, HEAD.version}:
        raise NotFound("unknown_model", "there is no such head", path="model")
    return HEAD


def decode(
    body: bytes,
    json_length: str | None = None,
    model: str = "digits",
    version: str | None = None,
    limits: Limits = LIMITS,
) -> Inference:
    return v2.decode(body, json_length, model=model, version=version, limits=limits, head_of=head_of)


def said(model: str = "digits", **members: Any) -> Inference:
    return decode(orjson.dumps({"inputs": [NESTED], **members}), model=model)


def sent(body: tensors.Body, model: str = "digits", version: str | None = None) -> Inference:
    return decode(body.content, length_of(body), model, version)


def length_of(body: tensors.Body) -> str | None:
    return None if body.json_bytes is None else str(body.json_bytes)


def refused(body: bytes, json_length: str | None = None, model: str = "digits") -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        decode(body, json_length, model)
    assert len(caught.value.detail) < 500
    return caught.value.code, caught.value.offences[0].path if caught.value.offences else ""


def refused_said(model: str = "digits", **members: Any) -> tuple[str, str]:
    return refused(orjson.dumps({"inputs": [NESTED], **members}), model=model)


def raw(entry: dict[str, Any], content: bytes, **members: Any) -> tuple[bytes, str]:
    """A body with `content` behind its JSON, whatever the JSON says of it."""
    text = orjson.dumps({"inputs": [entry], **members})
    return text + content, str(len(text))


# What is asked


def test_a_head_is_asked_in_json_nested_or_flat() -> None:
    for data in (FEATURES.tolist(), FEATURES.ravel().tolist()):
        request = said(inputs=[{**NESTED, "data": data}]).request
        assert request.operation == "predict"
        assert request.head == HEAD
        np.testing.assert_array_equal(request.values, FEATURES, strict=True)


def test_unasked_a_model_answers_all_that_it_has() -> None:
    labels = {"name": "labels", "datatype": "INT64", "shape": [2], "data": [1, 2]}
    own = ("probabilities", "classes", "log_probabilities", "logits")
    assert said().request.outputs == own
    assert said(outputs=[]).request.outputs == own
    assert said(inputs=[NESTED, labels]).request.outputs == (*own, "losses")
    best = ("top_classes", "top_probabilities")
    assert said(parameters={"top_k": 2}).request.outputs == (*own, *best)
    logits = {"name": "logits", "datatype": "FP64", "shape": [2, 3], "data": LOGITS.tolist()}
    assert said("softmax", inputs=[logits]).request.outputs == own[:3]
    assert said("loss", inputs=[logits, labels]).request.outputs == ("loss", "losses", "count")
    none = said("loss", inputs=[logits, labels], parameters={"reduction": "none"})
    assert none.request.outputs == ("losses", "count")


def test_outputs_are_answered_in_the_order_they_are_asked_for() -> None:
    assert said(outputs=[{"name": "classes"}, {"name": "entropy"}]).request.outputs == ("classes", "entropy")


def test_parameters_are_the_options_of_the_native_routes() -> None:
    options = {"temperature": 0.5, "top_k": 2, "dtype": "float64", "label_smoothing": 0.1, "reduction": "sum"}
    request = said(parameters=options).request
    assert (request.temperature, request.top_k, request.dtype) == (0.5, 2, np.dtype(np.float64))
    for name, value in (("top_k", 2.0), ("temperature", "1"), ("validate_labels", 1)):
        assert refused_said(parameters={name: value}) == ("option_type", name)
    assert refused_said(parameters={"temperature": 0}) == ("temperature_range", "temperature")


@pytest.mark.parametrize(
    "name", ["temprature", "labels", "model", "version", "outputs", "triton_x", "y" * 99]
)
def test_a_parameter_that_is_no_option_is_refused(name: str) -> None:
    assert refused_said(parameters={name: "1"}) == ("unknown_field", f"parameters.{name[:40]}")


def test_what_does_not_change_an_answer_is_read_over() -> None:
    request = said(
        model_name="digits",
        id=None,
        parameters={"priority": 1, "timeout": 1000, "sequence_id": 0, "headers": {}},
        inputs=[{**NESTED, "parameters": {"content_type": "np"}, "more": [{}]}],
        outputs=[{"name": "classes", "parameters": None, "more": 1}],
    ).request
    assert request.outputs == ("classes",)
    np.testing.assert_array_equal(request.values, FEATURES, strict=True)


def test_the_id_is_kept() -> None:
    assert said(id="é-7").id == "é-7"
    assert said().id is None
    assert refused_said(id=7) == ("option_type", "id")


def test_labels_and_weights_are_tensors_too() -> None:
    inputs = {
        "logits": LOGITS.astype(np.float32),
        "labels": np.array([1, 2]),
        "class_weight": np.array([1.0, 2.0, 3.0]),
        "sample_weight": np.array([1.0, 0.5], np.float32),
    }
    for binary in (True, False):
        request = sent(v2.encode_request(inputs, binary=binary), "loss").request
        assert request.dtype == np.float32
        assert request.labels is not None
        assert request.labels.values.tolist() == [1, 2]
        assert request.labels.class_weight is not None
        assert request.labels.class_weight.tolist() == [1, 2, 3]
        assert request.labels.sample_weight is not None


def test_the_path_names_model_and_version() -> None:
    body = orjson.dumps({"inputs": [NESTED]})
    assert decode(body, version="3").request.head == HEAD
    with pytest.raises(NotFound, match="no such head"):
        decode(body, version="4")
    with pytest.raises(NotFound, match="no such head"):
        decode(body, model="cats")
    for operation in OPERATIONS:
        with pytest.raises(NotFound) as caught:
            decode(body, model=operation, version="2")
        assert caught.value.code == "unknown_version"


# Which outputs are raw


@pytest.mark.parametrize("default", [None, False, True])
@pytest.mark.parametrize("own", [None, False, True])
def test_an_output_says_whether_it_is_raw_and_else_the_request_does(
    *, default: bool | None, own: bool | None
) -> None:
    # Listed or not: so says the protocol's text, though some servers forget the request's word for listed ones.
    parameters = {} if default is None else {"binary_data_output": default}
    listed = {"name": "classes", "parameters": {} if own is None else {"binary_data": own}}
    raw_outputs = said(parameters=parameters, outputs=[listed]).binary
    assert ("classes" in raw_outputs) == bool(default if own is None else own)
    assert len(said(parameters=parameters).binary) == (4 if default else 0)


# What is wrong


@pytest.mark.parametrize(
    ("members", "code", "path"),
    [
        ({"inputs": None}, "missing_field", "inputs"),
        ({"inputs": []}, "missing_field", "features"),
        ({"inputs": {}}, "option_type", "inputs"),
        ({"inputs": [NESTED, 1]}, "option_type", "inputs[1]"),
        ({"inputs": [NESTED, NESTED]}, "unknown_field", "inputs[1].name"),
        ({"inputs": [{**NESTED, "name": "x"}]}, "unknown_field", "inputs[0].name"),
        ({"inputs": [{**NESTED, "name": "logits"}]}, "unknown_field", "inputs[0].name"),
        ({"inputs": [{**NESTED, "name": 1}]}, "option_type", "inputs[0].name"),
        ({"inputs": [{**NESTED, "datatype": "FP8"}]}, "unknown_option_value", "inputs[0].datatype"),
        ({"inputs": [{**NESTED, "shape": [2, -4]}]}, "option_type", "inputs[0].shape"),
        ({"inputs": [{**NESTED, "shape": [2, 4.0]}]}, "option_type", "inputs[0].shape"),
        ({"inputs": [{**NESTED, "shape": [2, True]}]}, "option_type", "inputs[0].shape"),
        ({"inputs": [{**NESTED, "shape": [2, 3]}]}, "malformed_tensor", "features"),
        ({"inputs": [{**NESTED, "shape": [0, 10**12]}]}, "elements_too_many", "features"),
        ({"inputs": [{**NESTED, "shape": [1] * 33}]}, "rank", "features"),
        ({"inputs": [{**NESTED, "data": None}]}, "missing_field", "inputs[0].data"),
        ({"inputs": [{**NESTED, "parameters": {"binary_data_size": 32}}]}, "missing_field", "inputs[0].data"),
        ({"inputs": [{**NESTED, "parameters": []}]}, "option_type", "inputs[0].parameters"),
        ({"inputs": [{**NESTED, "data": [["x"] * 4] * 2}]}, "features_type", "features[0][0]"),
        ({"inputs": [{**NESTED, "data": ["NaN", *range(7)]}]}, "non_finite_features", "features[0][0]"),
        ({"inputs": [{**ROW, "shape": [4, 1]}]}, "features_shape", "features"),
        ({"parameters": 1}, "option_type", "parameters"),
        ({"parameters": {"binary_data_output": 1}}, "option_type", "parameters.binary_data_output"),
        ({"outputs": ["classes"]}, "option_type", "outputs[0]"),
        ({"outputs": [{}]}, "missing_field", "outputs[0].name"),
        ({"outputs": [{"name": "probs"}]}, "unknown_output", "outputs[0]"),
        ({"outputs": [{"name": "classes"}, {"name": "classes"}]}, "unknown_output", "outputs[1].name"),
        ({"outputs": [{"name": "losses"}]}, "missing_field", "labels"),
        (
            {"outputs": [{"name": "classes", "parameters": {"classification": 3}}]},
            "unknown_output",
            "outputs[0].parameters.classification",
        ),
        (
            {"outputs": [{"name": "logits", "parameters": {"classification": 2.0}}]},
            "option_type",
            "outputs[0].parameters.classification",
        ),
        (
            {"outputs": [{"name": "logits", "parameters": {"shared_memory_region": "x"}}]},
            "unknown_field",
            "outputs[0].parameters.shared_memory_region",
        ),
        (
            {"outputs": [{"name": "classes", "parameters": {"binary_data": "yes"}}]},
            "option_type",
            "outputs[0].parameters.binary_data",
        ),
    ],
)
def test_a_mistake_is_refused_at_its_place(members: dict[str, Any], code: str, path: str) -> None:
    assert refused_said(**members) == (code, path)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"inputs": [], "inputs": []}',
        b'{"inputs": [{"name": "features", "name": "features"}]}',
        b'{"inputs": [], "x": NaN}',
        b'{"inputs": ' + b"[" * 99 + b"]" * 99 + b"}",
    ],
)
def test_broken_json_is_refused_raw_tensors_behind_it_or_not(body: bytes) -> None:
    for json_length in (None, str(len(body)).zfill(2)):
        assert refused(body, json_length)[0] == "malformed_json"


def test_the_json_is_one_object() -> None:
    assert refused(b"[]") == ("body_type", "")


# Raw tensors in


RAW = {"name": "features", "datatype": "FP32", "shape": [2, 4], "parameters": {"binary_data_size": 32}}


@pytest.mark.parametrize("json_length", ["-1", "+9", " 9", "1_0", "²", "9" * 5000, "9999", "", "0x9", "1.0"])
def test_a_length_that_is_none_is_refused(json_length: str) -> None:
    body, _ = raw(RAW, FEATURES.tobytes())
    assert refused(body, json_length) == ("malformed_tensor", v2.JSON_LENGTH)
    assert 0 <= v2.json_bytes_worth(body, json_length) <= len(body)


@pytest.mark.parametrize(
    ("entry", "content", "message"),
    [
        (RAW, FEATURES.tobytes()[:-1], "unexpected size for input 'features', expecting 1 additional bytes"),
        (RAW, b"", "expecting 32 additional bytes"),
        (RAW, FEATURES.tobytes() + b"xy", "unexpected additional input data: 2 bytes"),
        (NESTED, b"x", "unexpected additional input data: 1 bytes"),
        ({**RAW, "parameters": {"binary_data_size": 16}}, FEATURES.tobytes(), "expected 32 raw bytes"),
        ({**RAW, "parameters": {"binary_data_size": -32}}, b"", "expected 32 raw bytes"),
    ],
)
def test_bytes_that_are_not_as_described_are_refused(
    entry: dict[str, Any], content: bytes, message: str
) -> None:
    body, json_length = raw(entry, content)
    for _ in range(2):  # what is remembered of the JSON must not hide the fault
        with pytest.raises(RequestError, match=message) as caught:
            decode(body, json_length)
        assert (caught.value.code, caught.value.status) == ("malformed_tensor", 400)


@pytest.mark.parametrize("size", [True, 32.0, "32"])
def test_a_size_is_an_integer(size: Any) -> None:
    body, json_length = raw({**RAW, "parameters": {"binary_data_size": size}}, FEATURES.tobytes())
    assert refused(body, json_length) == ("option_type", "inputs[0].parameters.binary_data_size")


def test_tensors_follow_in_the_order_of_the_json_those_in_it_left_out() -> None:
    text = orjson.dumps(
        {
            "inputs": [
                {"name": "labels", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}},
                {"name": "class_weight", "datatype": "FP32", "shape": [3], "data": [1, 2, 3]},
                RAW,
            ]
        }
    )
    labels = np.array([2, 0])
    request = decode(text + labels.tobytes() + FEATURES.tobytes(), str(len(text))).request
    np.testing.assert_array_equal(request.values, FEATURES, strict=True)
    assert request.labels is not None
    assert request.labels.values.tolist() == [2, 0]


def test_requests_that_differ_in_their_bytes_alone_are_told_apart() -> None:
    for factor in range(3):
        body, json_length = raw(RAW, (FEATURES * factor).tobytes())
        np.testing.assert_array_equal(decode(body, json_length).request.values, FEATURES * factor)


def test_what_is_remembered_of_a_request_is_not_another_models() -> None:
    body, json_length = raw({**RAW, "name": "logits"}, FEATURES.tobytes())
    assert decode(body, json_length, "softmax").request.operation == "softmax"
    assert refused(body, json_length) == ("unknown_field", "inputs[0].name")
    few = Limits(body_bytes=1 << 20, rows=1000, elements=7, json_depth=16)
    with pytest.raises(RequestError) as caught:
        decode(body, json_length, "softmax", limits=few)
    assert caught.value.code == "elements_too_many"


def test_an_empty_batch_is_a_batch() -> None:
    entry = {**RAW, "shape": [0, 4], "parameters": {"binary_data_size": 0}}
    body, json_length = raw(entry, b"")
    assert decode(body, json_length).request.values.shape == (0, 4)


def test_bare_bytes_are_the_rows_of_a_head_and_everything_is_answered_raw() -> None:
    asked = decode(FEATURES.tobytes(), "0")
    np.testing.assert_array_equal(asked.request.values, FEATURES, strict=True)
    assert asked.binary == {"probabilities", "classes", "log_probabilities", "logits"}
    assert refused(FEATURES.tobytes() + b"x", "0") == ("malformed_tensor", "features")
    assert refused(FEATURES.tobytes(), "0", "softmax") == ("malformed_tensor", v2.JSON_LENGTH)
    assert refused(FEATURES.tobytes(), "0", "cats") == ("unknown_model", "model")


# Copies


def test_no_list_is_made_of_a_raw_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("a tensor was taken apart")

    body = v2.encode_request({"features": FEATURES})
    monkeypatch.setattr(nested, "flatten", unwanted)
    monkeypatch.setattr(nested, "floats", unwanted)
    monkeypatch.setattr(tensors, "plain_leaves", unwanted)
    asked = sent(body)
    assert np.shares_memory(asked.request.values, np.frombuffer(body.content, np.uint8))
    v2.encode(asked, ScoreResult({"probabilities": FEATURES}, 2, head=HEAD))
    with pytest.raises(AssertionError, match="taken apart"):
        said()  # the trap works


def test_memory_stays_under_the_body_and_two_tensors() -> None:
    limits = Limits(body_bytes=1 << 30, rows=1 << 22, elements=1 << 24, json_depth=16)
    features = np.ones((1 << 22, 4), np.float32)
    body = v2.encode_request({"features": features}, outputs=["probabilities"])
    assert len(body.content) > 64 << 20
    tracemalloc.start()
    try:
        asked = decode(body.content, length_of(body), limits=limits)
        _, decoding_bytes = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        answer = v2.encode(asked, ScoreResult({"probabilities": features}, 1 << 22, head=HEAD))
        _, encoding_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The body is there already; checking that all is finite takes a byte a number.
    assert decoding_bytes < features.nbytes // 2
    assert encoding_bytes < len(answer.content) + (1 << 16)


# Errors


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Invalid("rank", "expected an axis", path="logits"), 400),
        (NotFound("unknown_model", "no such model", path="model"), 404),
        (TooLarge("rows_too_many", "too many rows", path="logits"), 413),
        (NotReady("not_ready", "starting"), 503),
        (DeadlineExceeded("deadline", "too late"), 504),
    ],
)
def test_errors_keep_their_status_but_for_422(error: RequestError, status: int) -> None:
    body = orjson.dumps({"error": error.detail})
    assert v2.error_body(error) == (status, body, "application/json")


# Answers


def result(head: HeadInfo | None = None, **outputs: Output) -> ScoreResult:
    return ScoreResult(outputs, 2, head=head)


def test_an_answer_says_who_gave_it_and_has_flat_data() -> None:
    asked = said(id="7", outputs=[{"name": "probabilities"}])
    body = v2.encode(asked, result(HEAD, probabilities=np.array([[0.25, 0.75]], np.float32)))
    assert body.json_bytes is None
    assert body.content == (
        b'{"model_name":"digits","model_version":"3","id":"7","outputs":[{"name":"probabilities",'
        b'"datatype":"FP32","shape":[1,2],"data":[0.25,0.75]}]}'
    )


def test_an_operation_has_no_version_and_nobody_an_id_that_was_not_sent() -> None:
    logits = {"name": "logits", "datatype": "FP64", "shape": [2, 3], "data": LOGITS.tolist()}
    body = v2.encode(said("softmax", inputs=[logits]), result(classes=np.array([1, 0])))
    assert list(orjson.loads(body.content)) == ["model_name", "outputs"]


def test_raw_outputs_follow_the_json_and_others_may_be_in_it() -> None:
    outputs = [{"name": "classes", "parameters": {"binary_data": True}}, {"name": "entropy"}]
    asked = said(outputs=outputs)
    body = v2.encode(asked, result(HEAD, classes=np.array([1, 0]), entropy=np.array([0.5, 0.25])))
    text, content = body.content[: body.json_bytes], body.content[body.json_bytes :]
    classes, entropy = orjson.loads(text)["outputs"]
    assert classes == {
        "name": "classes",
        "datatype": "INT64",
        "shape": [2],
        "parameters": {"binary_data_size": 16},
    }
    assert entropy == {"name": "entropy", "datatype": "FP64", "shape": [2], "data": [0.5, 0.25]}
    assert np.frombuffer(content, "<i8").tolist() == [1, 0]


def test_a_number_is_a_tensor_of_one_and_the_mean_of_nothing_one_of_none() -> None:
    for binary in (False, True):
        asked = said(parameters={"binary_data_output": binary})._replace(
            binary=frozenset({"loss", "count", "accuracy", "classes"} if binary else ())
        )
        loss, none = np.array(0.5, np.float32), None
        body = v2.encode(asked, result(HEAD, loss=loss, count=2, accuracy=1.0, classes=np.array(1)))
        found = v2.decode_result(body.content, length_of(body))
        assert {name: array.tolist() for name, array in found.items()} == {
            "loss": [0.5],
            "count": [2],
            "accuracy": [1.0],
            "classes": [1],
        }
        body = v2.encode(asked, result(HEAD, loss=none, count=0))
        assert v2.decode_result(body.content, length_of(body))["loss"].shape == (0,)


@given(
    hnp.arrays(np.float32, (2, 3), elements=st.floats(width=32, allow_nan=False)),
    hnp.arrays(np.int64, (2,)),
    st.sets(st.sampled_from(["log_probabilities", "classes"])),
)
def test_a_client_reads_what_was_answered(
    floats: NDArray[np.float32], classes: NDArray[np.int64], binary: set[str]
) -> None:
    asked = said()._replace(binary=frozenset(binary))
    body = v2.encode(asked, result(HEAD, log_probabilities=floats, classes=classes))
    found = v2.decode_result(body.content, length_of(body))
    np.testing.assert_array_equal(found["log_probabilities"], floats, strict=True)
    np.testing.assert_array_equal(found["classes"], classes, strict=True)


# Requests there and back


@given(
    hnp.arrays(np.float32, (2, 4), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    st.sampled_from([np.float32, np.float64]),
    st.none() | st.text(max_size=9),
    st.sampled_from([(), ("classes",), ("losses", "probabilities")]),
)
def test_json_and_raw_bytes_say_the_same(
    features: NDArray[np.float32], dtype: type, request_id: str | None, outputs: tuple[str, ...]
) -> None:
    inputs: dict[str, NDArray[Any]] = {"features": features.astype(dtype), "labels": np.array([2, 0])}
    read = []
    for binary in (True, False):
        body = v2.encode_request(
            inputs, outputs=outputs, parameters={"top_k": 1}, request_id=request_id, binary=binary
        )
        asked = sent(body, version="3")
        assert asked.id == request_id
        assert asked.binary == (set(asked.request.outputs) if binary else set())
        np.testing.assert_array_equal(asked.request.values, features, strict=True)
        assert asked.request.labels is not None
        assert asked.request.labels.values.tolist() == [2, 0]
        read.append((asked.request.outputs, asked.request.top_k, asked.request.dtype))
    assert read[0] == read[1]


def test_raw_tensors_cost_a_fraction_of_text() -> None:
    body, json_length = raw(RAW, FEATURES.tobytes())
    assert v2.json_bytes_worth(body, None) == len(body)
    assert v2.json_bytes_worth(body, json_length) == int(json_length) + FEATURES.nbytes // 16


@given(st.binary(max_size=64), st.none() | st.integers(0, 80).map(str))
def test_any_bytes_are_read_or_refused(body: bytes, json_length: str | None) -> None:
    for model in ("digits", "softmax", "loss"):
        try:
            decode(body, json_length, model)
        except RequestError as error:
            assert error.status in {400, 404, 413, 422}  # noqa: PT017 - any other exception fails the test


@given(st.data())
def test_mutated_requests_are_read_or_refused(data: st.DataObject) -> None:
    body = v2.encode_request({"features": FEATURES, "labels": np.array([1, 2])}, outputs=["losses"])
    content = bytearray(body.content)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(content), length_of(body))
    except RequestError as error:
        assert error.status in {400, 413, 422}  # noqa: PT017 - any other exception fails the test
