"""TensorFlow Serving's REST API and KServe's V1 protocol: bytes to requests, results to bytes."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Invalid, NotFound, RequestError
from service.types import HeadInfo, ScoreRequest, ScoreResult
from service.wire import v1
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "3", 4, 3, np.dtype(np.float32), ("a", "b", "c"), "0" * 64, "cpu")
BARE = HeadInfo("bare", "1", 1, 2, np.dtype(np.float64), None, "0" * 64, "cpu")
ROWS = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.5]]
LOGITS = [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]]


def head_of(model: str | None, version: str | None) -> HeadInfo:
    head = {None: HEAD, "digits": HEAD, "bare": BARE}.get(model)
    if head is None:
        raise NotFound("unknown_model", "there is no such head", path="model")
    if version not in {None, head.version, "stable"}:
        raise NotFound("unknown_version", "there is no such version", path="version")
    return head


def decode(
    body: bytes, model: str | None = "digits", version: str | None = None, *, kserve: bool = False
) -> v1.Prediction:
    return v1.decode(body, model=model, version=version, kserve=kserve, limits=LIMITS, head_of=head_of)


def said(model: str | None = "digits", version: str | None = None, **members: Any) -> v1.Prediction:
    return decode(orjson.dumps(members), model, version)


def refused(body: bytes, model: str | None = "digits") -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        decode(body, model)
    assert len(caught.value.detail) < 500
    return caught.value.code, caught.value.offences[0].path if caught.value.offences else ""


def refused_said(model: str | None = "digits", **members: Any) -> tuple[str, str]:
    return refused(orjson.dumps(members), model)


# What is asked


def test_rows_and_tensors_are_answered_under_their_own_keys() -> None:
    for instances in (ROWS, [{"features": row} for row in ROWS]):
        asked = said(instances=instances)
        assert (asked.key, asked.by_rows) == ("predictions", True)
        np.testing.assert_array_equal(asked.request.values, np.array(ROWS, np.float32), strict=True)
    for inputs in (ROWS, {"features": ROWS}):
        asked = said(inputs=inputs)
        assert (asked.key, asked.by_rows) == ("outputs", False)
        np.testing.assert_array_equal(asked.request.values, np.array(ROWS, np.float32), strict=True)


def test_kserve_answers_all_as_predictions() -> None:
    for members, by_rows in (
        ({"instances": ROWS}, True),
        ({"inputs": ROWS}, True),
        ({"inputs": [{"features": row} for row in ROWS]}, True),
        ({"inputs": {"features": ROWS}}, False),
    ):
        asked = decode(orjson.dumps(members), kserve=True)
        assert (asked.key, asked.by_rows) == ("predictions", by_rows)
        assert asked.request.values.shape == (2, 4)


@pytest.mark.parametrize(
    ("model", "signature", "outputs"),
    [
        ("digits", None, ("probabilities",)),
        ("digits", "", ("probabilities",)),
        ("digits", "serving_default", ("probabilities",)),
        ("digits", "classes", ("classes",)),
        ("digits", "logits", ("logits",)),
        ("digits", "log_probabilities", ("log_probabilities",)),
        ("digits", "all", ("probabilities", "classes", "logits", "log_probabilities")),
        ("softmax", None, ("probabilities",)),
        ("softmax", "all", ("probabilities", "classes", "log_probabilities")),
    ],
)
def test_a_signature_says_what_is_answered(model: str, signature: str | None, outputs: tuple[str]) -> None:
    rows = LOGITS if model == "softmax" else ROWS
    assert said(model, instances=rows, signature_name=signature).request.outputs == outputs


@pytest.mark.parametrize("name", ["logits", "serving", "x" * 999, 'a"b'])
def test_an_unknown_signature_is_refused_in_tensorflow_servings_words(name: str) -> None:
    with pytest.raises(Invalid, match=r'^Serving signature name: ".*" not found in signature def') as caught:
        said("softmax", instances=LOGITS, signature_name=name)
    assert "serving_default" in caught.value.detail
    assert len(caught.value.detail) < 300
    assert refused_said(instances=ROWS, signature_name=1) == ("option_type", "signature_name")


def test_labels_add_losses_and_top_k_the_best() -> None:
    rows = [{"features": row, "labels": label} for row, label in zip(ROWS, (2, 0), strict=True)]
    assert said(instances=rows).request.outputs == ("probabilities", "losses")
    assert said(instances=rows, signature_name="classes").request.outputs == ("classes", "losses")
    best = said(instances=ROWS, parameters={"top_k": 2}).request
    assert (best.outputs, best.top_k) == (("probabilities", "top_classes", "top_probabilities"), 2)


def test_parameters_are_the_options_of_the_native_routes() -> None:
    parameters = {
        "temperature": 0.5,
        "dtype": "float64",
        "outputs": ["classes", "entropy", "predicted_names"],
    }
    request = said(instances=ROWS, parameters=parameters).request
    assert (request.temperature, request.dtype) == (0.5, np.dtype(np.float64))
    assert request.outputs == ("classes", "entropy", "predicted_names")
    assert refused_said(instances=ROWS, parameters={"temperature": 0}) == ("temperature_range", "temperature")
    assert refused_said(instances=ROWS, parameters={"x": 0}) == ("unknown_field", "parameters.x")
    assert refused_said(instances=ROWS, parameters={"model": "bare"}) == ("unknown_field", "model")
    assert refused_said(instances=ROWS, parameters=[]) == ("option_type", "parameters")


def test_what_else_there_is_is_read_over() -> None:
    assert said(instances=ROWS, id="7", more=[{}]).request.values.shape == (2, 4)


def test_the_operations_on_bare_logits_are_models() -> None:
    labels = [1, 2]
    rows = [{"logits": row, "labels": label} for row, label in zip(LOGITS, labels, strict=True)]
    for members in ({"instances": rows}, {"inputs": {"logits": LOGITS, "labels": labels}}):
        request = said("loss", **members).request
        assert (request.operation, request.outputs) == ("loss", ("losses",))
        assert request.labels is not None
        assert request.labels.values.tolist() == labels
    assert refused_said("loss", instances=LOGITS) == ("missing_field", "labels")
    for version in (None, "1"):
        assert said("softmax", version, instances=LOGITS).request.operation == "softmax"
    with pytest.raises(NotFound, match="only version is 1"):
        said("softmax", "2", instances=LOGITS)


def test_the_path_names_model_and_version_or_leaves_them_to_the_request() -> None:
    assert said("bare", "1", instances=[[1]]).request.head == BARE
    assert said(None, None, instances=ROWS).request.head == HEAD
    assert said(None, None, instances=[[1]], parameters={"model": "bare"}).request.head == BARE
    assert said("digits", "stable", instances=ROWS).request.head == HEAD
    for model, version in (("cats", None), ("digits", "9")):
        with pytest.raises(NotFound):
            said(model, version, instances=ROWS)


def test_numbers_of_the_whole_request_are_for_columns() -> None:
    labelled = {"logits": LOGITS, "labels": [1, 2]}
    rows = [dict(zip(labelled, row, strict=True)) for row in zip(*labelled.values(), strict=True)]
    for name in ("loss", "count", "accuracy"):
        parameters = {"outputs": ["losses", name]}
        assert said("loss", inputs=labelled, parameters=parameters).request.outputs == ("losses", name)
        assert refused_said("loss", instances=rows, parameters=parameters) == ("unknown_output", "outputs")


# The forms of TensorFlow Serving's own documentation, for a head of one feature


def test_the_forms_of_the_documentation_are_read() -> None:
    for body in (
        b'{"instances": [[1.0], [2.0], [5.0]]}',
        b'{"signature_name": "serving_default", "instances": [[1.0], [2.0], [5.0]]}',
        b'{"instances": [{"features": [1.0]}, {"features": [2]}, {"features": [5.0]}]}',
        b'{"inputs": [[1.0], [2.0], [5.0]]}',
        b'{"inputs": {"features": [[1.0], [2.0], [5.0]]}}',
    ):
        assert decode(body, "bare").request.dense.tolist() == [[1], [2], [5]]
    for body in (
        b'{"examples": [{"features": 1.0}, {"features": [2]}]}',
        b'{"context": {"features": 1}, "examples": [{}, {"features": 2.0}]}',
    ):
        assert examples(body, "bare").dense.tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        (b"", "malformed_json", ""),
        (b"{", "malformed_json", ""),
        (b'{"instances": [[NaN, 1, 2, 3]]}', "malformed_json", ""),
        (b'{"instances": [[Infinity, 1, 2, 3]]}', "malformed_json", ""),
        (b'{"instances": [[1, 2, 3, 4]]} and more', "malformed_json", ""),
        (b'{"instances": [[1, 2, 3, 4]], "instances": 1}', "malformed_json", ""),
        (b"[[1, 2, 3, 4]]", "body_type", ""),
        (b"{}", "missing_field", ""),
        (b'{"instances": [[1, 2, 3, 4]], "inputs": [[1, 2, 3, 4]]}', "unknown_field", "inputs"),
        (b'{"instances": []}', "option_type", "instances"),
        (b'{"inputs": []}', "features_shape", "features"),
        (b'{"instances": [1, 2, 3, 4]}', "option_type", "instances[0]"),
        (b'{"instances": [[1, 2, 3, 4], [1, 2]]}', "ragged", "features[1]"),
        (b'{"instances": [[1, 2, 3]]}', "features_shape", "features"),
        (b'{"instances": [["NaN", 2, 3, 4]]}', "non_finite_features", "features[0][0]"),
        (b'{"instances": [[1, 2, 3, null]]}', "features_type", "features[0][3]"),
        (b'{"instances": [{"features": [1, 2, 3, 4], "labels": "x"}]}', "unknown_class_name", "labels[0]"),
        (b'{"inputs": {"features": {}}}', "missing_field", "features.indptr"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(body: bytes, code: str, path: str) -> None:
    assert refused(body) == (code, path)


def test_neither_key_is_missed_in_tensorflow_servings_words() -> None:
    with pytest.raises(Invalid, match=r"^Missing 'inputs' or 'instances' key"):
        said()


# Examples to classify


def examples(body: bytes, model: str = "digits", version: str | None = None) -> ScoreRequest:
    return v1.decode_examples(body, model=model, version=version, limits=LIMITS, head_of=head_of)


def classified(model: str = "digits", **members: Any) -> ScoreRequest:
    return examples(orjson.dumps(members), model)


def test_examples_are_rows_and_share_a_context() -> None:
    request = classified(examples=[{"features": [1, 2.5, 3, 4]}, {"features": ROWS[1]}])
    assert (request.outputs, request.class_names) == (("probabilities",), HEAD.class_names)
    assert request.dense.tolist() == [[1, 2.5, 3, 4], ROWS[1]]
    shared = classified(context={"features": ROWS[0]}, examples=[{}, {"features": ROWS[1]}])
    assert shared.dense.tolist() == ROWS
    assert classified("softmax", examples=[{"logits": LOGITS[0]}]).dense.tolist() == LOGITS[:1]
    assert classified(examples=[{"features": ROWS[0]}], parameters={"temperature": 2}).temperature == 2


@pytest.mark.parametrize(
    ("members", "code", "path"),
    [
        ({}, "missing_field", "examples"),
        ({"examples": []}, "missing_field", "examples"),
        ({"examples": {}}, "missing_field", "examples"),
        ({"examples": [1]}, "option_type", "examples[0]"),
        ({"examples": [{}]}, "missing_field", "examples[0].features"),
        ({"examples": [{"features": ROWS[0]}, {}]}, "missing_field", "examples[1].features"),
        ({"examples": [{"x": 1}]}, "unknown_field", "examples[0]"),
        ({"examples": [{"features": ROWS[0], "y" * 99: 1}]}, "unknown_field", "examples[0]"),
        ({"examples": [{}], "context": [1]}, "option_type", "context"),
        ({"examples": [{}], "context": {"x": 1}}, "unknown_field", "context"),
        ({"examples": [{"features": ["a", 2, 3, 4]}]}, "features_type", "features[0][0]"),
        ({"examples": [{"features": {}}]}, "features_type", "features[0][0]"),
        ({"examples": [{"features": [ROWS[0], ROWS[1]]}]}, "option_type", "examples[0].features"),
        ({"examples": [{"features": [ROWS[0]] * 3}]}, "option_type", "examples[0].features"),
        ({"examples": [{"features": ROWS[0]}, {"features": [1]}]}, "ragged", "features[1]"),
        ({"examples": [{"features": ROWS[0]}], "parameters": {"top_k": 1}}, "unknown_field", "parameters.top_k"),
        ({"examples": [{"features": ROWS[0]}], "parameters": {"outputs": []}}, "unknown_field", "parameters.outputs"),
        ({"examples": [{"features": ROWS[0]}], "signature_name": "classes"}, "unknown_option_value", "signature_name"),
        ({"examples": [{"features": ROWS[0]}], "signature_name": "x"}, "unknown_option_value", ""),
    ],
)  # fmt: skip
def test_what_is_no_list_of_examples_is_refused(members: dict[str, Any], code: str, path: str) -> None:
    with pytest.raises(RequestError) as caught:
        classified(**members)
    offences = caught.value.offences
    assert (caught.value.code, offences[0].path if offences else "") == (code, path)
    assert len(caught.value.detail) < 500


def test_a_loss_classifies_nothing() -> None:
    with pytest.raises(Invalid, match="no classifier"):
        classified("loss", examples=[{"logits": LOGITS[0]}])


def test_every_class_is_answered_with_its_name_or_none() -> None:
    probabilities = np.array([[0.1, 0.7, 0.2]], np.float32)
    result = ScoreResult({"probabilities": probabilities}, 1)
    named = classified(examples=[{"features": ROWS[0]}])
    assert v1.encode_examples(named, result) == b'{"results":[[["a",0.1],["b",0.7],["c",0.2]]]}'
    bare = classified("bare", examples=[{"features": 1}])
    answered = v1.encode_examples(bare, ScoreResult({"probabilities": probabilities[:, :2]}, 1))
    assert answered == b'{"results":[[["",0.1],["",0.7]]]}'


# Answers


def test_answers_have_the_form_of_the_request() -> None:
    values = np.array([[0.25, 0.1]], np.float32)
    one, two = {"probabilities": values}, {"probabilities": values, "classes": np.array([0])}
    rows, columns = said(instances=ROWS), said(inputs=ROWS)
    assert v1.encode(rows, ScoreResult({**one}, 1)) == b'{"predictions":[[0.25,0.1]]}'
    assert v1.encode(columns, ScoreResult({**one}, 1)) == b'{"outputs":[[0.25,0.1]]}'
    assert (
        v1.encode(rows, ScoreResult({**two}, 1))
        == b'{"predictions":[{"probabilities":[0.25,0.1],"classes":0}]}'
    )
    assert (
        v1.encode(columns, ScoreResult({**two}, 1))
        == b'{"outputs":{"probabilities":[[0.25,0.1]],"classes":[0]}}'
    )


def test_a_masked_class_is_a_word_and_never_null() -> None:
    values = np.array([[0, -np.inf]], np.float32)
    asked = said("softmax", instances=[[1, 2]], signature_name="log_probabilities")
    assert (
        v1.encode(asked, ScoreResult({"log_probabilities": values}, 1))
        == b'{"predictions":[[0.0,"-Infinity"]]}'
    )


def test_a_status_has_the_keys_of_both_protocols() -> None:
    versions: list[dict[str, Any]] = [
        {"version": "1", "state": "ready", "reason": None},
        {"version": "2", "state": "loading", "reason": None},
        {"version": "3", "state": "failed", "reason": "the self-test failed"},
    ]
    told = orjson.loads(v1.write_status("digits", versions))
    states = [(version["version"], version["state"]) for version in told["model_version_status"]]
    assert states == [("1", "AVAILABLE"), ("2", "LOADING"), ("3", "END")]
    assert told["model_version_status"][0]["status"] == {"error_code": "OK", "error_message": ""}
    assert told["model_version_status"][2]["status"]["error_message"] == "the self-test failed"
    assert (told["name"], told["ready"]) == ("digits", True)
    assert orjson.loads(v1.write_status("digits", versions[1:]))["ready"] is False


def sizes(tensor: dict[str, Any]) -> list[str]:
    return [dim["size"] for dim in tensor["tensor_shape"]["dim"]]


def test_metadata_describe_every_signature() -> None:
    told = orjson.loads(v1.write_metadata("digits", HEAD))
    assert told["model_spec"] == {"name": "digits", "signature_name": "", "version": "3"}
    signatures = told["metadata"]["signature_def"]["signature_def"]
    assert signatures.keys() == v1.SIGNATURES["predict"].keys()
    for name, outputs in v1.SIGNATURES["predict"].items():
        (features,) = signatures[name]["inputs"].values()
        assert (features["dtype"], sizes(features)) == ("DT_FLOAT", ["-1", "4"])
        assert tuple(signatures[name]["outputs"]) == outputs
    every = signatures["all"]["outputs"]
    assert (every["classes"]["dtype"], sizes(every["classes"])) == ("DT_INT64", ["-1"])
    assert (every["logits"]["dtype"], sizes(every["logits"])) == ("DT_FLOAT", ["-1", "3"])
    loss = orjson.loads(v1.write_metadata("loss", None))
    (signature,) = loss["metadata"]["signature_def"]["signature_def"].values()
    shapes = {name: (tensor["dtype"], sizes(tensor)) for name, tensor in signature["inputs"].items()}
    assert shapes == {"logits": ("DT_DOUBLE", ["-1", "-1"]), "labels": ("DT_INT64", ["-1"])}
    assert sizes(signature["outputs"]["losses"]) == ["-1"]
    assert loss["model_spec"]["version"] == "1"


def test_a_head_is_found_by_its_path() -> None:
    assert v1.find_head("digits", None, head_of) == HEAD
    assert v1.find_head("softmax", None, head_of) is None
    with pytest.raises(NotFound):
        v1.find_head("softmax", "7", head_of)


# Whatever comes


SEEDS = [
    ("digits", b'{"instances": [[1, 2.5, 3, 4], [5, 6, 7, 8]], "signature_name": "all", "parameters": {"top_k": 2}}'),
    ("digits", b'{"instances": [{"features": [1, 2, 3, 4], "labels": 1, "sample_weight": 0.5}]}'),
    ("loss", b'{"inputs": {"logits": [[1, 2], [3, "-Infinity"]], "labels": [0, 0]}, "parameters": {"outputs": ["loss"]}}'),
    ("softmax", b'{"inputs": [[1, 2], [3, 4]], "signature_name": "classes", "parameters": {"temperature": 0.5}}'),
    ("bare", b'{"context": {"features": 1}, "examples": [{}, {"features": [2.5]}], "parameters": {"dtype": "float32"}}'),
]  # fmt: skip
PIECES = [b"[", b"]", b"{", b"}", b"null", b"1e39", b'"', b":", b"-", b",", b"[]", b"{}", b"true", b"1e400"]


@given(st.sampled_from(SEEDS), st.data())
def test_a_damaged_body_is_read_or_refused_and_nothing_else(
    seed: tuple[str, bytes], data: st.DataObject
) -> None:
    model, body = seed
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        upto = at + data.draw(st.integers(0, 4))
        body = body[:at] + data.draw(st.sampled_from(PIECES) | st.binary(max_size=2)) + body[upto:]
    for read in (decode, examples):
        try:
            read(body, model)
        except RequestError as error:
            assert len(error.detail) < 600  # noqa: PT017 - an error's size, where there is one
