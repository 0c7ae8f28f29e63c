"""Questions as rows of TensorFlow Serving's REST API and KServe's V1."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from test_conformance_dialect import TARGETS, answering
from test_conformance_vectors import named

from service.conformance.dialect import Words
from service.conformance.discovery import ALL_OPTIONS
from service.conformance.v1 import V1

NOBODY = answering(lambda _: httpx.Response(500))
PLAIN = V1(NOBODY, Words(TARGETS))


def written(vector: str, operation: str = "loss", **words: Any) -> Any:
    request = V1(NOBODY, Words(TARGETS, **words)).write(named(vector, operation))
    assert request.path == f"/v1/models/{operation}:predict"
    return json.loads(request.body)


def test_logits_are_rows_and_with_labels_rows_are_objects() -> None:
    logits = [[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]]
    assert written("seed_softmax_f64", "softmax") == {"instances": logits}
    rows = [{"logits": row, "labels": label} for row, label in zip(logits, [1, 2], strict=True)]
    assert written("seed_ce_index_mean") == {"instances": rows}
    renamed = written("seed_ce_index_mean", renamed={"logits": "x", "labels": "y"})
    assert renamed["instances"][0] == {"x": logits[0], "y": 1}


def test_masks_are_strings_and_other_ranks_rows() -> None:
    assert written("masked_class", "softmax")["instances"][0] == [1.0, "-Infinity", 2.0]
    assert written("tf_doc_softmax", "softmax") == {"instances": [[-1.0, 0.0, 1.0]]}
    rows = written("fuzz_002_dense_r1_float64")["instances"]
    assert [row["labels"] for row in rows] == [[0.28692313846888556, 0.7130768615311145]]


def test_options_are_parameters_and_sample_weights_the_rows_own() -> None:
    said = written("keras_sample_weight", options=ALL_OPTIONS)
    assert [row["sample_weight"] for row in said["instances"]] == [1.2, 3.4, 5.6]
    assert said["parameters"]["dtype"] == "float32"
    assert said["parameters"]["outputs"] == ["losses"]
    weighted = written("weight_index", options=ALL_OPTIONS)
    assert weighted["parameters"]["class_weight"] == [1.0, 2.0, 3.0]
    assert "parameters" not in written("weight_index")


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        ("empty_batch", "the protocol has no empty batch"),
        ("axis0", "the protocol has rows, and no other axis"),
        ("labels_shape", "the protocol has rows, each with its own label"),
        ("labels_broadcast_refused", "the protocol has rows, each with its own label"),
        ("seed_ce_index_mean", ""),
        ("fuzz_002_dense_r1_float64", ""),
        ("fuzz_005_index_r4_float64", ""),
        ("label_float", ""),
    ],
)
def test_what_is_no_rows_cannot_be_put(vector: str, reason: str) -> None:
    assert PLAIN.cannot_say(named(vector)) == reason


def read(operation: str, predictions: Any, **words: Any) -> Any:
    body = json.dumps({"predictions": predictions}).encode()
    dialect = V1(NOBODY, Words(TARGETS, **words))
    return dialect.read(named("seed_ce_index_mean", operation), httpx.Response(200, content=body))


@pytest.mark.parametrize(
    ("operation", "predictions", "output", "expected"),
    [
        ("softmax", [[0.5, 0.5], [1, 0.0]], "probabilities", [[0.5, 0.5], [1.0, 0.0]]),
        ("softmax", [{"classes": 1}, {"classes": 0}], "classes", [1, 0]),
        ("softmax", {"classes": [1, 0]}, "classes", [1, 0]),
        ("loss", [0.5, "Infinity"], "losses", [0.5, np.inf]),
        ("loss", [0.5, float("inf")], "losses", [0.5, np.inf]),
        ("loss", [{"losses": 0.5}, {"losses": 1}], "losses", [0.5, 1.0]),
    ],
)
def test_predictions_are_rows_of_the_one_output_or_of_named_ones(
    operation: str, predictions: Any, output: str, expected: Any
) -> None:
    outputs, faults = read(operation, predictions)
    np.testing.assert_array_equal(outputs[output], expected)
    assert not faults


def test_outputs_are_found_by_the_servers_names() -> None:
    outputs, _ = read("loss", [{"output_0": 0.5}], renamed={"losses": "output_0"})
    np.testing.assert_array_equal(outputs["losses"], [0.5])


def test_null_is_no_number() -> None:
    assert read("loss", [0.5, None]) == ({}, {"losses": "null, or what is no number, among the numbers"})


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>"])
def test_what_is_no_answer_of_the_protocol_has_no_outputs(body: bytes) -> None:
    response = httpx.Response(200, content=body)
    assert PLAIN.read(named("seed_ce_index_mean"), response) == ({}, {"": "no predictions in the answer"})
