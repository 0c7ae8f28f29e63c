"""Questions as JSON fields and npz."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from test_conformance_dialect import TARGETS, answering
from test_conformance_vectors import named

from service.conformance.dialect import Words
from service.conformance.discovery import ALL_OPTIONS
from service.conformance.native import Native
from service.wire import arrays
from service.wire.limits import Limits

NOBODY = answering(lambda _: httpx.Response(500))
LIMITS = Limits(10**6, 10**6, 10**6, 10)


def written(question: Any, words: Words) -> Any:
    return json.loads(Native(NOBODY, words).write(question).body)


def test_a_server_without_options_gets_logits_and_labels_alone() -> None:
    assert written(named("weight_smoothing_index"), Words(TARGETS)) == {
        "logits": np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]], np.float32).tolist(),
        "labels": [1, 2],
    }


def test_a_server_with_all_options_gets_them_all() -> None:
    said = written(named("weight_smoothing_index"), Words(TARGETS, options=ALL_OPTIONS))
    assert said["dtype"] == "float32"
    assert said["outputs"] == ["losses", "count", "loss"]
    assert (said["label_smoothing"], said["class_weight"]) == (0.1, [1.0, 2.0, 3.0])


def test_fields_have_the_servers_names_and_the_path_its_own() -> None:
    words = Words({"softmax": ("/api/scores",), "loss": ("loss",)}, renamed={"logits": "x", "labels": "y"})
    request = Native(NOBODY, words).write(named("seed_ce_index_mean", "softmax"))
    assert request.path == "/api/scores"
    assert json.loads(request.body).keys() == {"x"}
    assert written(named("seed_ce_index_mean"), words).keys() == {"x", "y"}


def test_a_server_of_matrices_gets_rows() -> None:
    question = named("tf_doc_softmax", "softmax")
    request = Native(NOBODY, Words(TARGETS, ranks={"softmax": 2})).write(question)
    assert not request.keeps_shape
    assert json.loads(request.body) == {"logits": [[-1, 0, 1]]}
    assert Native(NOBODY, Words(TARGETS)).write(question).keeps_shape


def test_masks_are_strings() -> None:
    assert written(named("masked_class", "softmax"), Words(TARGETS))["logits"][0] == [1.0, "-Infinity", 2.0]


def test_an_empty_batch_has_no_json_but_an_npz() -> None:
    question = named("empty_batch")
    assert Native(NOBODY, Words(TARGETS)).cannot_say(question) == "JSON has no empty batch"
    binary = Native(NOBODY, Words(TARGETS, options=ALL_OPTIONS), binary=True)
    assert not binary.cannot_say(question)
    request = binary.write(question)
    assert arrays.read_npz(request.body, LIMITS)["logits"].shape == (0, 3)
    assert request.query["dtype"] == "float32"
    assert request.headers["content-type"] == "application/x-npz"
    # Rows without classes can be nested.
    assert not Native(NOBODY, Words(TARGETS)).cannot_say(named("no_classes", "softmax"))


def read(body: bytes, **words: Any) -> Any:
    dialect = Native(NOBODY, Words(TARGETS, **words))
    return dialect.read(named("masked_class", "softmax"), httpx.Response(200, content=body))


def test_each_output_is_read_by_itself() -> None:
    outputs, faults = read(
        b'{"probabilities": [[0.5, "-Infinity"]], "classes": [0], "log_probabilities": [[1, null]], "more": {}}'
    )
    np.testing.assert_array_equal(outputs["probabilities"], [[0.5, -np.inf]])
    np.testing.assert_array_equal(outputs["classes"], [0])
    assert faults == {"log_probabilities": "log_probabilities[0][1]: expected a number, got null"}


def test_outputs_are_found_by_the_servers_names() -> None:
    outputs, _ = read(b'{"p": [[1.0]], "probabilities": 3}', renamed={"probabilities": "p"})
    np.testing.assert_array_equal(outputs["probabilities"], [[1.0]])


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"[[0.5]]", "no JSON object"),
        (b"<html>", "no JSON"),
        (b'{"probabilities": [[NaN]]}', "no JSON: it has bare words for numbers that JSON lacks"),
    ],
)
def test_an_answer_that_is_no_object_has_no_outputs(body: bytes, fault: str) -> None:
    assert read(body) == ({}, {"": fault})


def test_an_npz_is_read_as_a_whole() -> None:
    dialect = Native(NOBODY, Words(TARGETS), binary=True)
    body = arrays.write_npz({"probabilities": np.eye(2, dtype=np.float32), "count": np.array(2)})
    outputs, faults = dialect.read(named("seed_ce_index_mean"), httpx.Response(200, content=body))
    assert outputs["probabilities"] is not None
    assert outputs["probabilities"].dtype == np.float32
    assert outputs["count"] == 2
    assert not faults
    _, faults = dialect.read(named("seed_ce_index_mean"), httpx.Response(200, content=b"no archive"))
    assert faults.keys() == {""}
