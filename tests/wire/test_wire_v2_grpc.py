"""The messages of an inference over gRPC, made and read by Triton's own classes of them."""

import math
import struct
import tracemalloc
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult, service_pb2
from tritonclient.utils import serialize_byte_tensor

from service.errors import (
    DeadlineExceeded,
    Invalid,
    Malformed,
    NotFound,
    NotReady,
    QueueFull,
    RequestError,
    TooLarge,
    Unforeseen,
    UnsupportedMedia,
)
from service.types import HeadInfo, Output, ScoreResult
from service.wire import v2, v2_grpc
from service.wire.inference import Inference
from service.wire.limits import Limits
from service.wire.tensors import DATATYPES
from service.wire.v2_grpc import Code

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "3", 4, 3, np.dtype(np.float32), ("a", "b", "c"), "0" * 64, "cpu")
FEATURES = np.arange(8, dtype=np.float32).reshape(2, 4)
LOGITS = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]])
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def head_of(model: str | None, version: str | None) -> HeadInfo:
    if (model, version) not in {("digits", None), ("digits", "3")}:
        raise NotFound("unknown_model", "no", path="model")
    return HEAD


def decode(body: bytes, limits: Limits = LIMITS) -> Inference:
    return v2_grpc.decode(body, limits=limits, head_of=head_of)


def parameter(value: Any) -> Any:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    return service_pb2.InferParameter(**{kinds[type(value)]: value})


def asking(
    tensors: Mapping[str, NDArray[Any]],
    model: str = "digits",
    *,
    raw: bool = True,
    outputs: Mapping[str, Mapping[str, Any]] | None = None,
    parameters: Mapping[str, Any] | None = None,
    **said: Any,
) -> Any:
    """Make a ModelInferRequest."""
    message = service_pb2.ModelInferRequest(model_name=model, **said)
    for name, array in tensors.items():
        datatype = datatype_of(array)
        entry = message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            is_text = datatype == "BYTES"
            message.raw_input_contents.append(
                serialize_byte_tensor(array).item() if is_text and array.size else array.tobytes()
            )
        else:
            getattr(entry.contents, CONTENTS[datatype]).extend(
                [text.encode() for text in array.ravel()] if datatype == "BYTES" else array.ravel().tolist()
            )
    for name, value in (parameters or {}).items():
        message.parameters[name].CopyFrom(parameter(value))
    for name, how in (outputs or {}).items():
        output = message.outputs.add(name=name)
        for key, value in how.items():
            output.parameters[key].CopyFrom(parameter(value))
    return message


def datatype_of(array: NDArray[Any]) -> str:
    if array.dtype == ml_dtypes.bfloat16:
        return "BF16"
    return next(name for name, dtype in DATATYPES.items() if dtype == array.dtype and name != "BF16")


def refused(message: Any, limits: Limits = LIMITS) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        decode(message if isinstance(message, bytes) else message.SerializeToString(), limits)
    assert len(caught.value.detail) < 400
    return caught.value.code, caught.value.offences[0].path if caught.value.offences else ""


# Tensors


@given(hnp.arrays(np.float64, st.tuples(st.integers(0, 5), st.just(3)), elements=st.floats(-1e6, 1e6)))
def test_raw_and_written_numbers_are_the_same(logits: NDArray[np.float64]) -> None:
    for raw in (True, False):
        body = asking({"logits": logits}, "softmax", raw=raw).SerializeToString()
        np.testing.assert_array_equal(decode(body).request.values, logits, strict=True)


@pytest.mark.parametrize("kind", sorted(CONTENTS.keys() - {"BOOL", "BYTES"}))
@pytest.mark.parametrize("raw", [True, False])
def test_every_datatype_of_numbers(kind: str, raw: bool) -> None:  # noqa: FBT001
    dtype = DATATYPES[kind]
    features = np.array([[0, 1, 100, 127]], dtype)
    if dtype.kind == "i":
        features[0, 1] = np.iinfo(dtype).min if dtype.itemsize < 8 else -(1 << 40)
    found = decode(asking({"features": features}, raw=raw).SerializeToString()).request.values
    np.testing.assert_array_equal(found, features.astype(np.float32))


@given(hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 2)))
def test_labels_are_written_as_integers(labels: NDArray[np.int64]) -> None:
    logits = np.zeros((len(labels), 3))
    for kind in (np.int64, np.uint64, np.int8, np.uint16):
        tensors = {"logits": logits, "labels": labels.astype(kind)}
        read = decode(asking(tensors, "loss", raw=False).SerializeToString()).request.labels
        assert read is not None
        np.testing.assert_array_equal(read.values, labels, strict=True)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_short_floats_travel_raw_only(kind: Any) -> None:
    features = FEATURES.astype(kind)
    message = asking({"features": features})
    np.testing.assert_array_equal(decode(message.SerializeToString()).request.values, FEATURES)
    del message.raw_input_contents[:]
    message.inputs[0].contents.fp32_contents.extend(FEATURES.ravel().tolist())
    assert refused(message) == ("missing_field", "inputs[0].contents")


@pytest.mark.parametrize("raw", [True, False])
def test_text_is_read_as_names_of_classes(raw: bool) -> None:  # noqa: FBT001
    labels = np.array(["c", "a"], np.object_)
    request = decode(asking({"features": FEATURES, "labels": labels}, raw=raw).SerializeToString()).request
    assert request.labels is not None
    assert request.labels.values.tolist() == [2, 0]


@pytest.mark.parametrize("raw", [True, False])
def test_true_and_false_are_no_labels(raw: bool) -> None:  # noqa: FBT001
    message = asking({"features": FEATURES, "labels": np.array([True, False])}, raw=raw)
    assert refused(message) == ("labels_type", "labels")


def test_nothing_is_a_tensor_too() -> None:
    message = asking({"features": FEATURES[:0]})
    assert decode(message.SerializeToString()).request.values.shape == (0, 4)
    del message.raw_input_contents[:]
    assert decode(message.SerializeToString()).request.values.shape == (0, 4)


def test_numbers_may_be_written_one_by_one() -> None:
    """As protobuf's older half would: each in its own field, in place of all in one."""

    def tensor(name: str, datatype: str, shape: list[int], contents: bytes) -> bytes:
        whole = service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
        return bytes(whole.SerializeToString() + b"\x2a" + bytes([len(contents)]) + contents)

    features = b"".join(b"\x35" + struct.pack("<f", number) for number in range(4))
    labels = b"\x18\x02\x1a\x01\x01"
    parts = [tensor("features", "FP32", [1, 4], features), tensor("labels", "INT64", [2], labels)]
    message = service_pb2.ModelInferRequest(model_name="digits").SerializeToString()
    with pytest.raises(Invalid, match="labels"):  # one row, two labels
        decode(message + b"".join(b"\x2a" + bytes([len(part)]) + part for part in parts))
    parts[0] = tensor("features", "FP32", [2, 4], 2 * features)
    request = decode(message + b"".join(b"\x2a" + bytes([len(part)]) + part for part in parts)).request
    assert request.dense.tolist() == [[0, 1, 2, 3]] * 2
    assert request.labels is not None
    assert request.labels.values.tolist() == [2, 1]


def test_fields_may_come_in_any_order() -> None:
    whole = asking({"features": FEATURES}, id="7").SerializeToString()
    raw = asking({"features": FEATURES})
    raw.ClearField("inputs")
    raw.ClearField("model_name")
    behind = asking({"features": FEATURES}, id="7")
    del behind.raw_input_contents[:]
    mixed = decode(raw.SerializeToString() + behind.SerializeToString())
    assert mixed.id == decode(whole).id == "7"
    np.testing.assert_array_equal(mixed.request.values, FEATURES)


def test_raw_tensors_stay_where_they_are() -> None:
    body = asking({"features": FEATURES.repeat(250, 0)}).SerializeToString()
    decode(body)  # the description is remembered
    tracemalloc.start()
    decode(body)
    assert tracemalloc.get_traced_memory()[1] < 2 * len(body)  # checked, and copied only where unaligned
    tracemalloc.stop()


# What is said beside the tensors


def test_options_are_parameters() -> None:
    said = {"temperature": 0.5, "top_k": 2, "dtype": "float32", "axis": -1}
    request = decode(asking({"logits": LOGITS}, "softmax", parameters=said).SerializeToString()).request
    assert (request.temperature, request.top_k, request.dtype) == (0.5, 2, np.dtype(np.float32))
    assert request.outputs[-2:] == ("top_classes", "top_probabilities")


def test_options_may_be_text_and_lists_must_be() -> None:
    said = {"temperature": "0.5", "top_k": "2", "class_names": "x,y,z"}
    request = decode(asking({"logits": LOGITS}, "softmax", parameters=said).SerializeToString()).request
    assert (request.temperature, request.top_k, request.class_names) == (0.5, 2, ("x", "y", "z"))
    message = asking({"logits": LOGITS}, "softmax", parameters={"top_k": "two"})
    assert refused(message) == ("option_type", "top_k")


def test_the_protocols_own_words_change_nothing() -> None:
    message = asking({"features": FEATURES}, parameters={"timeout": 5, "sequence_id": "a"})
    message.parameters["priority"].uint64_param = 1 << 63
    message.parameters["triton_enable_empty_final_response"].bool_param = True
    assert decode(message.SerializeToString()).request.temperature == 1


def test_outputs_are_answered_in_their_order() -> None:
    outputs = {"classes": {}, "probabilities": {"classification": 2, "binary_data": True}}
    asked = decode(asking({"features": FEATURES}, outputs=outputs).SerializeToString())
    assert asked.request.outputs == ("classes", "probabilities")
    assert asked.classified == {"probabilities": 2}


def test_model_version_and_id_are_said() -> None:
    asked = decode(asking({"features": FEATURES}, model_version="3", id="seven").SerializeToString())
    assert (asked.model, asked.id, asked.request.head) == ("digits", "seven", HEAD)
    assert decode(asking({"features": FEATURES}).SerializeToString()).id is None
    assert decode(asking({"logits": LOGITS}, "softmax", model_version="1").SerializeToString())


def test_a_request_is_read_as_over_http() -> None:
    tensors = {"features": FEATURES, "labels": np.array([1, 2])}
    said = {"reduction": "sum", "label_smoothing": 0.25}
    body = v2.encode_request(tensors, parameters=said)
    length = None if body.json_bytes is None else str(body.json_bytes)
    over_http = v2.decode(
        body.content, length, model="digits", version=None, limits=LIMITS, head_of=head_of
    ).request
    request = decode(asking(tensors, parameters=said).SerializeToString()).request
    assert request.outputs == over_http.outputs
    assert request.labels is not None
    assert over_http.labels is not None
    assert request.labels.reduction == over_http.labels.reduction
    np.testing.assert_array_equal(request.values, over_http.values, strict=True)


# Mistakes


def spoiled(**changes: Any) -> Any:
    """Make a request with one input whose description is changed."""
    message = asking({"features": FEATURES})
    for name, value in changes.items():
        if name == "shape":
            message.inputs[0].ClearField("shape")
            message.inputs[0].shape.extend(value)
        else:
            setattr(message.inputs[0], name, value)
    return message


@pytest.mark.parametrize(
    ("changes", "code", "path"),
    [
        ({"name": "feature"}, "unknown_field", "inputs[0].name"),
        ({"name": ""}, "unknown_field", "inputs[0].name"),
        ({"datatype": "FP31"}, "unknown_option_value", "inputs[0].datatype"),
        ({"datatype": ""}, "unknown_option_value", "inputs[0].datatype"),
        ({"shape": [-1, 4]}, "option_type", "inputs[0].shape"),
        ({"shape": [2, 5]}, "malformed_tensor", "features"),
        ({"shape": [1 << 62, 1 << 62]}, "elements_too_many", "features"),
        ({"shape": [0, 1 << 62]}, "elements_too_many", "features"),
        ({"shape": [1] * 33}, "rank", "features"),
        ({"datatype": "FP64"}, "malformed_tensor", "features"),
        ({"datatype": "BYTES"}, "malformed_tensor", "features"),
    ],
)
def test_a_wrong_description_is_told_by_its_place(changes: dict[str, Any], code: str, path: str) -> None:
    assert refused(spoiled(**changes)) == (code, path)


def test_every_tensor_comes_once_and_one_way() -> None:
    message = asking({"features": FEATURES})
    message.inputs.append(message.inputs[0])
    assert refused(message) == ("unknown_field", "inputs[1].name")
    message = asking({"features": FEATURES})
    message.raw_input_contents.append(b"")
    assert refused(message) == ("malformed_tensor", "raw_input_contents")
    message = asking({"features": FEATURES})
    message.inputs[0].contents.fp32_contents.extend(FEATURES.ravel().tolist())
    assert refused(message) == ("unknown_field", "inputs[0].contents")
    message = asking({"features": FEATURES})
    del message.raw_input_contents[:]
    message.inputs[0].parameters["shared_memory_region"].string_param = "there"
    assert refused(message) == ("missing_field", "inputs[0].contents")
    assert refused(service_pb2.ModelInferRequest(model_name="digits")) == ("missing_field", "features")


def test_written_numbers_fit_their_datatype_and_shape() -> None:
    message = asking({"features": FEATURES}, raw=False)
    message.inputs[0].contents.fp32_contents.append(1)
    assert refused(message) == ("malformed_tensor", "features")
    message.inputs[0].contents.fp64_contents.append(1)
    assert refused(message) == ("option_type", "inputs[0].contents")
    for kind, value in ((np.int8, 128), (np.int16, -32769), (np.uint8, 256)):
        message = asking({"features": FEATURES.astype(kind)}, raw=False)
        contents = getattr(message.inputs[0].contents, CONTENTS[datatype_of(FEATURES.astype(kind))])
        contents[3] = value
        assert refused(message) == ("features_type", "features")
    labels = np.array(["a", "b"], np.object_)
    message = asking({"features": FEATURES, "labels": labels}, raw=False)
    message.inputs[1].contents.bytes_contents.append(b"c")
    assert refused(message) == ("malformed_tensor", "labels")
    message.inputs[1].contents.bytes_contents[:] = [b"a", b"\xff"]
    assert refused(message) == ("malformed_tensor", "labels")


@pytest.mark.parametrize(
    ("outputs", "code", "path"),
    [
        ({"nonsense": {}}, "unknown_output", "outputs[0]"),
        ({"": {}}, "unknown_output", "outputs[0]"),
        ({"classes": {"classification": 2}}, "unknown_output", "outputs[0].parameters.classification"),
        ({"probabilities": {"classification": "2"}}, "option_type", "outputs[0].parameters.classification"),
        ({"probabilities": {"binary_data": 1}}, "option_type", "outputs[0].parameters.binary_data"),
        (
            {"probabilities": {"shared_memory_region": "there"}},
            "unknown_field",
            "outputs[0].parameters.shared_memory_region",
        ),
    ],
)
def test_wrong_outputs_are_told_by_their_place(outputs: dict[str, Any], code: str, path: str) -> None:
    assert refused(asking({"features": FEATURES}, outputs=outputs)) == (code, path)


def test_other_mistakes_have_the_codes_of_every_dialect() -> None:
    message = asking({"features": FEATURES}, parameters={"temprature": 1.0})
    assert refused(message) == ("unknown_field", "parameters.temprature")
    assert refused(asking({"features": FEATURES}, "cats")) == ("unknown_model", "model")
    assert refused(asking({"features": FEATURES}, "")) == ("unknown_model", "model")
    assert refused(asking({"logits": LOGITS}, "softmax", model_version="2")) == ("unknown_version", "version")
    twice = asking({"features": FEATURES}, outputs={"classes": {}})
    twice.outputs.append(twice.outputs[0])
    assert refused(twice) == ("unknown_output", "outputs[1].name")
    unsaid = asking({"features": FEATURES})
    unsaid.parameters["top_k"].SetInParent()
    assert refused(unsaid) == ("option_type", "top_k")
    few = Limits(body_bytes=1 << 20, rows=1, elements=10_000, json_depth=16)
    assert refused(asking({"features": FEATURES}), few) == ("rows_too_many", "features")


@pytest.mark.parametrize("repeated", [b"\x2a\x00", b"\x3a\x00", b"\x22\x00", b"\x32\x00"])
def test_a_few_bytes_do_not_become_many(repeated: bytes) -> None:
    """Protobuf's own library takes 48 times the memory of such a message."""
    hostile = repeated * (1 << 20)
    tracemalloc.start()
    assert refused(hostile)[0] == "malformed_protobuf"
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_written_text_is_counted() -> None:
    message = asking({"features": FEATURES, "labels": np.array(["a", "b"], np.object_)}, raw=False)
    message.inputs[1].contents.bytes_contents.extend([b""] * LIMITS.elements)
    assert refused(message)[0] == "malformed_protobuf"


BODIES = [
    asking({"features": FEATURES, "labels": np.array(["a", "b"], np.object_)}).SerializeToString(),
    asking({"features": FEATURES, "labels": np.array([1, 2])}, raw=False).SerializeToString(),
    asking(
        {"logits": LOGITS}, "softmax", parameters={"top_k": 1}, outputs={"classes": {}}, id="7"
    ).SerializeToString(),
]


@given(st.sampled_from(BODIES), st.data())
def test_a_damaged_message_is_read_or_refused(body: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(body) - 1))
    cut = data.draw(st.integers(place, len(body)))
    instead = data.draw(st.binary(max_size=4))
    for damaged in (body[:place], body[:place] + instead + body[cut:], body[:place] + instead + body[place:]):
        try:
            decode(damaged)
        except RequestError as error:
            assert error.status < 500  # noqa: PT017 - most are refused, none may fail otherwise
            assert len(error.detail) < 400  # noqa: PT017


# Answers


def answer(message: Any, **outputs: Output) -> Any:
    asked = decode(message.SerializeToString())
    result = ScoreResult(outputs, 2, head=asked.request.head)
    return InferResult(service_pb2.ModelInferResponse.FromString(v2_grpc.encode(asked, result)))


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
        elements=st.floats(width=32),
    )
)
def test_an_answer_is_read_by_tritons_client(values: NDArray[np.float32]) -> None:
    classes = np.arange(3)
    read = answer(asking({"features": FEATURES}, id="7"), probabilities=values, classes=classes, loss=0.5)
    np.testing.assert_array_equal(read.as_numpy("probabilities"), values, strict=True)
    np.testing.assert_array_equal(read.as_numpy("classes"), classes, strict=True)
    assert read.as_numpy("loss").tolist() == [0.5]
    response = read.get_response()
    assert (response.model_name, response.model_version, response.id) == ("digits", "3", "7")
    assert not response.outputs[0].HasField("contents")


def test_text_is_answered_as_bytes() -> None:
    outputs = {"probabilities": {"classification": 2}, "predicted_names": {}}
    read = answer(
        asking({"features": FEATURES}, outputs=outputs),
        probabilities=np.array([[0.25, 0.75, 0], [0.5, 0, 0.5]]),
        predicted_names=["b", "ä"],
    )
    assert read.as_numpy("probabilities").tolist() == [
        [b"0.750000:1:b", b"0.250000:0:a"],
        [b"0.500000:0:a", b"0.500000:2:c"],
    ]
    assert [name.decode() for name in read.as_numpy("predicted_names")] == ["b", "ä"]


def test_an_operation_has_no_version_in_its_answer() -> None:
    response = answer(asking({"logits": LOGITS}, "softmax"), classes=np.array([1, 0])).get_response()
    assert (response.model_name, response.model_version, response.id) == ("softmax", "", "")


def test_an_array_in_another_layout_is_answered_as_it_is() -> None:
    values = np.arange(6.0).reshape(2, 3)
    for laid_out in (np.asfortranarray(values), values.astype(">f8"), values[:, ::-1], values[::2]):
        read = answer(asking({"features": FEATURES}), logits=laid_out)
        np.testing.assert_array_equal(read.as_numpy("logits"), laid_out)


def test_tritons_own_inputs_and_outputs_are_read() -> None:
    features = InferInput("features", [2, 4], "FP32")
    features.set_data_from_numpy(FEATURES)
    output = InferRequestedOutput("probabilities", class_count=2)
    message = service_pb2.ModelInferRequest(model_name="digits")
    message.inputs.append(features._get_tensor())
    message.raw_input_contents.append(features._get_content())
    message.outputs.append(output._get_tensor())
    asked = decode(message.SerializeToString())
    np.testing.assert_array_equal(asked.request.values, FEATURES)
    assert asked.classified == {"probabilities": 2}


def test_a_stream_brings_an_answer_or_an_error() -> None:
    message = asking({"features": FEATURES})
    body = v2_grpc.encode(decode(message.SerializeToString()), ScoreResult({"count": 2}, 2, head=HEAD))
    streamed = service_pb2.ModelStreamInferResponse.FromString(v2_grpc.streamed(body))
    assert streamed.infer_response == service_pb2.ModelInferResponse.FromString(body)
    assert not streamed.error_message
    streamed = service_pb2.ModelStreamInferResponse.FromString(v2_grpc.streamed(b"", "wrong"))
    assert streamed.error_message == "wrong"
    assert not streamed.HasField("infer_response")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Malformed("malformed_protobuf", "no"), Code.INVALID_ARGUMENT),
        (Invalid("rank", "no"), Code.INVALID_ARGUMENT),
        (UnsupportedMedia("unsupported_encoding", "no"), Code.INVALID_ARGUMENT),
        (NotFound("unknown_model", "no"), Code.NOT_FOUND),
        (NotFound("unknown_route", "no"), Code.UNIMPLEMENTED),
        (TooLarge("rows_too_many", "no"), Code.RESOURCE_EXHAUSTED),
        (QueueFull("queue_full", "no"), Code.RESOURCE_EXHAUSTED),
        (NotReady("not_ready", "no"), Code.UNAVAILABLE),
        (DeadlineExceeded("deadline", "no"), Code.DEADLINE_EXCEEDED),
        (Unforeseen("internal", "no"), Code.INTERNAL),
    ],
)
def test_an_error_has_grpcs_code_for_it(error: RequestError, code: Code) -> None:
    assert v2_grpc.error_body(error) == (code, b"no", "")
    assert str(code) == code.name


def test_raw_bytes_are_cheap_to_decode() -> None:
    features = np.zeros((2000, 4), np.float32)
    raw = asking({"features": features}).SerializeToString()
    written = asking({"features": features}, raw=False).SerializeToString()
    assert v2_grpc.bytes_worth(written) == len(written)
    assert features.nbytes / 16 <= v2_grpc.bytes_worth(raw) < features.nbytes / 16 + 100
    assert v2_grpc.bytes_worth(b"\x3a\xff") == 0
    assert math.isfinite(v2_grpc.bytes_worth(b""))
