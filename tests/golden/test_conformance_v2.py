"""Questions as tensors of the Open Inference Protocol."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from test_conformance_dialect import TARGETS, answering
from test_conformance_vectors import named

from service.conformance.dialect import Model, Tensor, Words
from service.conformance.discovery import ALL_OPTIONS
from service.conformance.v2 import V2

NOBODY = answering(lambda _: httpx.Response(500))


def model(name: str, datatype: str, labels: Tensor | None = None, outputs: tuple[str, ...] = ()) -> Model:
    inputs = (Tensor("logits", datatype, 2), *([labels] if labels else []))
    return Model(name, inputs, tuple(Tensor(output, datatype, 2) for output in outputs))


MODELS = {
    one.name: one
    for one in (
        model("softmax32", "FP32"),
        model("softmax64", "FP64"),
        model("loss64", "FP64", Tensor("labels", "INT64", 2)),
        model("soft_loss64", "FP64", Tensor("labels", "FP64", 2)),
    )
}
DESCRIBED = Words({"softmax": ("softmax32", "softmax64"), "loss": ("loss64", "soft_loss64")}, models=MODELS)


def written(vector: str, operation: str, words: Words, *, binary: bool = False) -> tuple[str, Any]:
    request = V2(NOBODY, words, binary=binary).write(named(vector, operation))
    length = request.headers.get("Inference-Header-Content-Length", len(request.body))
    return request.path, json.loads(request.body[: int(length)])


@pytest.mark.parametrize(
    ("vector", "operation", "path"),
    [
        ("seed_softmax_f32", "softmax", "softmax32"),
        ("seed_softmax_f64", "softmax", "softmax64"),
        ("seed_ce_index_mean", "loss", "loss64"),
        ("label_float", "loss", "loss64"),
        ("seed_ce_dense_mean", "loss", "soft_loss64"),
    ],
)
def test_the_model_is_asked_whose_tensors_fit(vector: str, operation: str, path: str) -> None:
    assert written(vector, operation, DESCRIBED)[0] == f"/v2/models/{path}/infer"


def test_a_question_whose_tensors_fit_no_model_cannot_be_put() -> None:
    dialect = V2(NOBODY, DESCRIBED)
    assert (
        dialect.cannot_say(named("seed_ce_index_f32"))
        == "no model of loss takes float32 with indices as labels"
    )
    assert dialect.cannot_say(named("tf_doc_xent")) == "no model of loss takes float32 with rows as labels"
    only64 = V2(NOBODY, Words({"softmax": ("softmax64",), "loss": ()}, models=MODELS))
    assert only64.cannot_say(named("seed_softmax_f32", "softmax")) == "no model of softmax takes float32"
    assert only64.cannot_say(named("seed_ce_index_mean")) == "the server has no loss"
    assert not dialect.cannot_say(named("seed_ce_index_mean"))


def test_tensors_have_the_rank_that_the_model_declares() -> None:
    _, said = written("seed_ce_index_mean", "loss", DESCRIBED)
    assert [(one["name"], one["shape"], one["datatype"]) for one in said["inputs"]] == [
        ("logits", [2, 3], "FP64"),
        ("labels", [2, 1], "INT64"),
    ]
    _, said = written("tf_doc_softmax", "softmax", DESCRIBED)
    assert said["inputs"][0]["shape"] == [1, 3]
    assert "outputs" not in said


def test_tensors_have_the_names_that_the_model_declares_labels_last() -> None:
    backwards = Model("m", (Tensor("target", "INT64", 1), Tensor("x", "FP64", 2)), ())
    words = Words({"softmax": (), "loss": ("m",)}, renamed={"labels": "target"}, models={"m": backwards})
    _, said = written("seed_ce_index_mean", "loss", words)
    assert [(one["name"], one["shape"]) for one in said["inputs"]] == [("x", [2, 3]), ("target", [2])]


def test_a_server_that_describes_nothing_is_asked_by_our_names_with_its_options() -> None:
    words = Words(TARGETS, options=ALL_OPTIONS)
    path, said = written("weight_smoothing_index", "loss", words)
    assert path == "/v2/models/loss/infer"
    assert [one["name"] for one in said["inputs"]] == ["logits", "labels", "class_weight"]
    assert said["parameters"] == {"binary_data_output": False, "label_smoothing": 0.1}
    assert said["outputs"] == [{"name": name} for name in ("losses", "count", "loss")]
    assert written("masked_label_is_infinite", "loss", words)[1]["parameters"]["non_finite"] == "string"


def test_binary_tensors_follow_the_json() -> None:
    request = V2(NOBODY, DESCRIBED, binary=True).write(named("seed_ce_index_mean"))
    length = int(request.headers["Inference-Header-Content-Length"])
    assert request.headers["content-type"] == "application/octet-stream"
    np.testing.assert_array_equal(np.frombuffer(request.body[length + 48 :], np.int64), [1, 2])


def read(operation: str, entries: Any, **words: Any) -> Any:
    body = entries if isinstance(entries, bytes) else json.dumps({"outputs": entries}).encode()
    question = named("seed_ce_index_mean", operation)
    return V2(NOBODY, Words(TARGETS, **words)).read(question, httpx.Response(200, content=body))


def tensor(name: str, data: Any, datatype: str = "FP64", shape: Any = (2,)) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def test_each_tensor_is_read_by_itself() -> None:
    outputs, faults = read("loss", [tensor("losses", [0.5, None]), tensor("loss", [0.5], shape=(1,))])
    np.testing.assert_array_equal(outputs["loss"], [0.5])
    assert faults == {"losses": "losses[1]: expected a number, got null"}


def test_text_and_types_that_are_not_read_are_faults() -> None:
    entries = [tensor("classes", ["0", "1"], "BYTES"), tensor("probabilities", [0.5, 0.5], "FP8")]
    assert read("softmax", entries) == (
        {},
        {"classes": "no numbers", "probabilities": "it has no 'FP8', or one that is not read here"},
    )


@pytest.mark.parametrize(("operation", "output"), [("softmax", "probabilities"), ("loss", "losses")])
def test_the_only_output_is_the_one_that_is_meant(operation: str, output: str) -> None:
    assert read(operation, [tensor("output_0", [0.5, 0.5])])[0].keys() == {output}
    assert read(operation, [tensor("output_0", [0.5, None])])[1].keys() == {output}
    assert read(operation, [tensor("a", [0.5, 0.5]), tensor("b", [0.5, 0.5])])[0].keys() == {"a", "b"}


def test_outputs_are_found_by_the_servers_names() -> None:
    entries = [tensor("p", [0.5, 0.5]), tensor("q", [0.5, 0.5])]
    assert "probabilities" in read("softmax", entries, renamed={"probabilities": "p"})[0]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"{}", "no outputs in the answer"),
        (b"[]", "no outputs in the answer"),
        (b'{"outputs": [1]}', "no outputs in the answer"),
        (b'{"outputs": [{"data": [NaN]}]}', "no JSON: it has bare words for numbers that JSON lacks"),
    ],
)
def test_what_is_no_answer_of_the_protocol_has_no_outputs(body: bytes, fault: str) -> None:
    assert read("loss", body) == ({}, {"": fault})


def test_a_binary_answer_is_read_with_its_header() -> None:
    said = {"name": "losses", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16}}
    head = json.dumps({"outputs": [said]}).encode()
    response = httpx.Response(
        200,
        content=head + np.array([0.5, np.nan]).tobytes(),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    outputs, faults = V2(NOBODY, Words(TARGETS), binary=True).read(named("seed_ce_index_mean"), response)
    np.testing.assert_array_equal(outputs["losses"], [0.5, np.nan])
    assert not faults
