"""`instances` and `inputs`: rows or tensors in, predictions of the same form out."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Invalid
from service.types import HeadInfo, Operation, ScoreRequest
from service.wire import instances, json_reader, json_writer
from service.wire.fields import assemble
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "3", 4, 3, np.dtype(np.float32), ("a", "b", "c"), "0" * 64, "cpu")
ROWS = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.5]]


def read(operation: Operation = "predict", *, alike: bool = False, **said: Any) -> instances.Inputs:
    return instances.read(operation, instances.read_body(json_writer.dumps(said), LIMITS), alike=alike)


def assembled(operation: Operation = "predict", **said: Any) -> ScoreRequest:
    fields = read(operation, **said).fields
    return assemble(operation, fields, limits=LIMITS, head_of=lambda _model, _version: HEAD)


def refused(operation: Operation = "predict", *, alike: bool = False, **said: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        read(operation, alike=alike, **said)
    assert len(caught.value.detail) < 500
    return caught.value.code, caught.value.offences[0].path if caught.value.offences else ""


# Rows


def test_a_list_of_rows_is_the_first_tensor() -> None:
    assert read(instances=ROWS) == ({"features": ROWS}, True)
    assert read("softmax", instances=ROWS) == ({"logits": ROWS}, True)
    assert read("loss", instances=ROWS).fields.keys() == {"logits"}
    np.testing.assert_array_equal(assembled(instances=ROWS).values, np.array(ROWS, np.float32), strict=True)


def test_many_rows_come_as_one_array() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 4))
    found = read(instances=rows, signature_name="serving_default").fields["features"]
    assert isinstance(found, np.ndarray) == json_reader.HAS_SIMDJSON
    np.testing.assert_array_equal(np.asarray(found), rows, strict=True)
    np.testing.assert_array_equal(np.asarray(read(inputs=rows).fields["features"]), rows, strict=True)


def test_objects_name_the_tensors_of_each_row() -> None:
    rows = [{"features": ROWS[0], "labels": 2}, {"labels": 0, "features": ROWS[1]}]
    assert read(instances=rows) == ({"features": ROWS, "labels": [2, 0]}, True)
    request = assembled(instances=rows)
    assert request.labels is not None
    assert request.labels.values.tolist() == [2, 0]
    assert read(instances=[{"features": ROWS[0]}]) == ({"features": ROWS[:1]}, True)
    named = [
        {"features": row, "labels": name, "sample_weight": 0.5} for row, name in zip(ROWS, "ca", strict=True)
    ]
    assert read(instances=named).fields["labels"] == ["c", "a"]
    assert read(instances=named).fields["sample_weight"] == [0.5, 0.5]
    dense = [{"logits": [1, 2, 3], "labels": [0, 0.5, 0.5]}]
    assert read("loss", instances=dense).fields == {"logits": [[1, 2, 3]], "labels": [[0, 0.5, 0.5]]}


@pytest.mark.parametrize(
    ("rows", "code", "path"),
    [
        ([], "option_type", "instances"),
        ({}, "option_type", "instances"),
        ("x" * 1000, "option_type", "instances"),
        (3, "option_type", "instances"),
        (ROWS[0], "option_type", "instances[0]"),
        (list(range(1000)), "option_type", "instances[0]"),
        ([None], "option_type", "instances[0]"),
        ([{}], "missing_field", "instances[0].features"),
        ([{"labels": 1}], "missing_field", "instances[0].features"),
        ([{"features": ROWS[0], "x": 1}], "unknown_field", "instances[0].x"),
        ([{"b64": "AAAA"}], "unknown_field", "instances[0].b64"),
        ([{"k" * 1000: 1}], "unknown_field", f"instances[0].{'k' * 40}"),
        ([{"features": 1.0}] * 4, "option_type", "instances[0].features"),
        ([{"features": ROWS[0]}, ROWS[1]], "ragged", "instances[1]"),
        ([{"features": ROWS[0]}, {"features": ROWS[1], "labels": 1}], "ragged", "instances[1]"),
        ([{"features": ROWS[0], "labels": 1}, {"features": ROWS[1]}], "ragged", "instances[1]"),
        ([{"features": ROWS[0]}, {"k" * 1000: 1}], "ragged", "instances[1]"),
    ],
)
def test_what_is_no_list_of_rows_is_refused_where_it_is_wrong(rows: Any, code: str, path: str) -> None:
    assert refused(instances=rows) == (code, path)


def test_uneven_rows_are_found_when_they_become_a_tensor() -> None:
    for rows in ([ROWS[0], ROWS[1][:3]], [ROWS[0], 1], [{"features": ROWS[0]}, {"features": [1]}]):
        with pytest.raises(Invalid) as caught:
            assembled(instances=rows)
        assert (caught.value.code, caught.value.offences[0].path) == ("ragged", "features[1]")


# Columns


def test_a_tensor_or_an_object_of_tensors_stands_at_inputs() -> None:
    assert read(inputs=ROWS) == ({"features": ROWS}, False)
    assert read(inputs=ROWS[0]) == ({"features": ROWS[0]}, False)
    assert read(inputs={"features": ROWS, "labels": [1, 2]}) == ({"features": ROWS, "labels": [1, 2]}, False)
    assert refused(inputs={"labels": [1]}) == ("missing_field", "inputs.features")
    assert refused(inputs={"features": ROWS, "label": [1]}) == ("unknown_field", "inputs.label")


def test_the_two_names_mean_the_same_where_a_dialect_says_so() -> None:
    assert read(inputs=ROWS, alike=True) == ({"features": ROWS}, True)
    assert read(inputs=[{"features": ROWS[0]}], alike=True) == ({"features": ROWS[:1]}, True)
    assert read(inputs={"features": ROWS}, alike=True) == ({"features": ROWS}, False)
    assert refused(inputs=[], alike=True) == ("option_type", "inputs")


def test_exactly_one_of_the_two_is_there() -> None:
    assert refused() == refused(instances=None) == ("missing_field", "")
    assert refused(instances=ROWS, inputs=ROWS) == ("unknown_field", "inputs")
    assert read(instances=ROWS, inputs=None).by_rows


# Options


def test_options_are_those_of_the_native_routes() -> None:
    assert instances.read_options("predict", None, "parameters") == {}
    said = {"temperature": 0.5, "top_k": 2, "outputs": ["classes"], "class_weight": [1, 1, 1], "model": "x"}
    assert instances.read_options("predict", said, "parameters") == said


@pytest.mark.parametrize("name", ["temprature", "labels", "features", "axis", "y" * 99])
def test_what_is_no_option_is_refused(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        instances.read_options("predict", {name: 1}, "params")
    assert (caught.value.code, caught.value.offences[0].path) == ("unknown_field", f"params.{name[:40]}")


@pytest.mark.parametrize("said", [[], "x", 1, True])
def test_options_are_an_object(said: Any) -> None:
    with pytest.raises(Invalid, match="parameters: expected an object"):
        instances.read_options("softmax", said, "parameters")


# Answers


PROBABILITIES = np.array([[0.1, 0.9], [0.5, 0.5]], np.float32)
CLASSES = np.array([1, 0])


def written(*, by_rows: bool, **outputs: Any) -> bytes:
    return json_writer.write({"p": instances.tabled(outputs, by_rows=by_rows)}, outputs.values())


@pytest.mark.parametrize("by_rows", [True, False])
def test_one_output_is_its_value(by_rows: bool) -> None:  # noqa: FBT001
    assert written(by_rows=by_rows, probabilities=PROBABILITIES) == b'{"p":[[0.1,0.9],[0.5,0.5]]}'
    assert written(by_rows=by_rows, classes=CLASSES) == b'{"p":[1,0]}'
    assert written(by_rows=by_rows, predicted_names=["a", "b"]) == b'{"p":["a","b"]}'


def test_several_outputs_are_an_object_for_each_row_or_one_of_tensors() -> None:
    outputs = {"probabilities": PROBABILITIES, "classes": CLASSES, "predicted_names": ["b", "a"]}
    assert written(by_rows=True, **outputs) == (
        b'{"p":[{"probabilities":[0.1,0.9],"classes":1,"predicted_names":"b"},'
        b'{"probabilities":[0.5,0.5],"classes":0,"predicted_names":"a"}]}'
    )
    assert written(by_rows=False, **outputs) == (
        b'{"p":{"probabilities":[[0.1,0.9],[0.5,0.5]],"classes":[1,0],"predicted_names":["b","a"]}}'
    )


def test_numbers_of_the_whole_request_stand_in_columns_only() -> None:
    outputs = {"loss": np.asarray(0.1, np.float32), "count": 2, "accuracy": None}
    assert written(by_rows=False, **outputs) == b'{"p":{"loss":0.1,"count":2,"accuracy":null}}'
    assert written(by_rows=False, loss=np.asarray(0.1, np.float32)) == b'{"p":0.1}'
    instances.check_rows(["losses", "gradient", "brier", "probabilities"])
    for name in outputs:
        with pytest.raises(Invalid, match=f"outputs: {name} is one number for the whole request") as caught:
            instances.check_rows(["losses", name])
        assert caught.value.code == "unknown_output"


def test_infinities_are_words_in_both_forms() -> None:
    values = np.array([[-np.inf, 0.1]], np.float32)
    losses = np.array([np.inf], np.float32)
    assert written(by_rows=True, x=values, y=losses) == b'{"p":[{"x":["-Infinity",0.1],"y":"Infinity"}]}'
    assert written(by_rows=False, x=values, y=losses) == b'{"p":{"x":[["-Infinity",0.1]],"y":["Infinity"]}}'
    assert written(by_rows=True, x=values) == b'{"p":[["-Infinity",0.1]]}'


@given(st.integers(1, 30), st.booleans())
def test_rows_and_columns_say_the_same(rows: int, labelled: bool) -> None:  # noqa: FBT001
    features = np.arange(4.0 * rows).reshape(rows, 4).tolist()
    columns: dict[str, Any] = {"features": features} | (
        {"labels": [i % 3 for i in range(rows)]} if labelled else {}
    )
    objects = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    by_rows, by_columns = read(instances=objects), read(inputs=columns)
    assert by_rows.fields == by_columns.fields
    outputs = {name: np.asarray(values) for name, values in columns.items()}
    if labelled:
        assert orjson.loads(written(by_rows=True, **outputs))["p"] == objects
        assert orjson.loads(written(by_rows=False, **outputs))["p"] == columns
