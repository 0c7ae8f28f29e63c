"""What an inference of the Open Inference Protocol asks and answers, whichever transport brings it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from service.errors import Invalid, NotFound, RequestError
from service.types import HeadInfo, Output, ScoreResult
from service.wire import inference
from service.wire.inference import Inference, Wanted, answer_of, asked_of, compose
from service.wire.limits import Limits

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=10_000, json_depth=16)
HEAD = HeadInfo("digits", "3", 4, 3, np.dtype(np.float32), ("a", "b", "c"), "0" * 64, "cpu")
FEATURES = np.arange(8, dtype=np.float32).reshape(2, 4)
LOGITS = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]])


def head_of(_model: str | None, _version: str | None) -> HeadInfo:
    return HEAD


def asked(tensors: Mapping[str, Any], model: str = "digits", **said: Any) -> Inference:
    operation = inference.operation_of(model, None)
    told = asked_of(
        said.get("options", {}),
        said.get("wanted", {}),
        all_binary=said.get("all_binary", False),
        request_id=said.get("request_id"),
    )
    return compose(operation, model, None, told, tensors, limits=LIMITS, head_of=head_of)


def answered(request: Inference, **outputs: Output) -> dict[str, Any]:
    return answer_of(request, ScoreResult(outputs, 2, head=HEAD))


# Names


def test_softmax_and_loss_are_models_of_one_version() -> None:
    assert inference.operation_of("softmax", None) == inference.operation_of("softmax", "1") == "softmax"
    assert inference.operation_of("loss", None) == "loss"
    assert inference.operation_of("digits", "1") == "predict"
    with pytest.raises(NotFound, match="whose only version is 1"):
        inference.operation_of("loss", "2")


def test_an_input_is_known_and_comes_once() -> None:
    inference.check_input("predict", "features", (), "inputs[0].")
    for name, before, message in (
        ("logits", (), "expected one of features, labels"),
        ("feature", (), "did you mean 'features'"),
        ("labels", ("labels",), "expected 'labels' once"),
    ):
        with pytest.raises(Invalid, match=message) as caught:
            inference.check_input("predict", name, before, "inputs[1].")
        assert caught.value.offences[0].path == "inputs[1].name"


def test_options_are_found_among_the_protocols_own_words() -> None:
    said = {"temperature": 2.0, "priority": 1, "timeout": 5, "binary_data_output": True, "top_k": 2}
    assert inference.read_options("softmax", said) == {"temperature": 2.0, "top_k": 2}
    with pytest.raises(Invalid, match=r"parameters.temprature: .*did you mean 'temperature'"):
        inference.read_options("softmax", {"temprature": 2.0})
    with pytest.raises(Invalid, match=r"parameters\.label_smoothing"):
        inference.read_options("softmax", {"label_smoothing": 0.1})


# How outputs are wanted


def test_an_output_says_how_it_is_wanted() -> None:
    assert inference.read_wanted({}, "") == Wanted()
    said = {"binary_data": False, "classification": 3, "binary_data_size": 5, "anything": []}
    assert inference.read_wanted(said, "") == Wanted(binary=False, classification=3)
    assert inference.read_wanted({"classification": 0}, "").classification is None  # Triton's word for "not"


@pytest.mark.parametrize(
    "said", [{"binary_data": 1}, {"classification": True}, {"classification": -1}, {"classification": "3"}]
)
def test_an_output_that_says_something_else_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        inference.read_wanted(said, "outputs[0].")
    assert caught.value.code == "option_type"
    assert caught.value.offences[0].path == f"outputs[0].parameters.{next(iter(said))}"


def test_only_what_has_a_number_for_each_class_has_best_classes() -> None:
    for name in ("probabilities", "log_probabilities", "logits"):
        inference.check_wanted(name, Wanted(classification=1), (), "")
    for name in ("classes", "entropy", "losses"):
        with pytest.raises(Invalid, match="expected one of log_probabilities, logits, probabilities"):
            inference.check_wanted(name, Wanted(classification=1), (), "")
    with pytest.raises(Invalid, match="expected it once"):
        inference.check_wanted("classes", Wanted(), {"classes"}, "")


def test_what_is_raw_is_said_by_each_output_or_for_all() -> None:
    tensors = {"features": FEATURES}
    wanted = {"classes": Wanted(), "entropy": Wanted(binary=True), "logits": Wanted(binary=False)}
    assert asked(tensors, wanted=wanted).binary == {"entropy"}
    assert asked(tensors, wanted=wanted, all_binary=True).binary == {"classes", "entropy"}
    assert asked(tensors).binary == frozenset()
    everything = asked(tensors, all_binary=True)
    assert everything.binary == set(everything.request.outputs)


def test_contributions_travel_as_two_tensors() -> None:
    found = asked({"features": FEATURES}, wanted={"contributions": Wanted(binary=True)})
    assert found.request.outputs == ("contributions",)
    assert found.binary == {"contributions.features", "contributions.values"}


def test_all_faults_of_the_fields_are_found() -> None:
    for tensors, said, code in (
        ({}, {}, "missing_field"),
        ({"features": FEATURES[:, :3]}, {}, "features_shape"),
        ({"features": FEATURES}, {"options": {"temperature": 0}}, "temperature_range"),
        ({"features": FEATURES}, {"wanted": {"probs": Wanted()}}, "unknown_output"),
        ({"features": [["a"] * 4]}, {}, "features_type"),
        ({"features": FEATURES > 1}, {}, "features_type"),
        ({"features": FEATURES, "labels": ["a", "z"]}, {}, "unknown_class_name"),
    ):
        with pytest.raises(RequestError) as caught:
            asked(tensors, **said)
        assert caught.value.code == code


def test_labels_may_be_names() -> None:
    found = asked({"features": FEATURES, "labels": ["c", "a"]}).request
    assert found.labels is not None
    assert found.labels.values.tolist() == [2, 0]
    assert found.outputs[-1] == "losses"


def test_every_number_of_the_protocol_may_be_features() -> None:
    for kind in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"):
        found = asked({"features": FEATURES.astype(kind)}).request
        np.testing.assert_array_equal(found.values, FEATURES, strict=True)


# Answers


def test_every_output_has_an_axis_and_names_are_text() -> None:
    request = asked({"features": FEATURES, "labels": np.array([1, 2])})
    found = answered(
        request, loss=np.asarray(0.5, np.float32), count=2, predicted_names=["a", "b"], nothing=None
    )
    assert {name: array.shape for name, array in found.items()} == {
        "loss": (1,),
        "count": (1,),
        "predicted_names": (2,),
        "nothing": (0,),
    }
    assert found["loss"].dtype == found["nothing"].dtype == np.float32
    assert found["count"].dtype == np.int64
    assert found["predicted_names"].tolist() == ["a", "b"]
    assert found["predicted_names"].dtype == np.object_


def test_the_best_classes_are_told_highest_first_with_their_names() -> None:
    values = np.array([[0.25, 0.5, 0.25], [0.125, 0.125, 0.75]], np.float32)
    request = asked({"features": FEATURES}, wanted={"probabilities": Wanted(classification=2)})
    assert answered(request, probabilities=values)["probabilities"].tolist() == [
        ["0.500000:1:b", "0.250000:0:a"],
        ["0.750000:2:c", "0.125000:0:a"],
    ]
    many = asked({"features": FEATURES}, wanted={"probabilities": Wanted(classification=99)})
    assert answered(many, probabilities=values)["probabilities"].shape == (2, 3)


def test_classes_without_names_are_told_by_their_index_and_along_their_axis() -> None:
    request = asked(
        {"logits": LOGITS.T},
        "softmax",
        options={"axis": 0},
        wanted={"probabilities": Wanted(classification=1)},
    )
    found = answered(request, probabilities=np.array([[0.2, 0.6], [0.7, 0.1], [0.1, 0.3]]))
    assert found["probabilities"].tolist() == [["0.700000:1"], ["0.600000:0"]]


def test_masked_classes_are_told_last() -> None:
    request = asked({"logits": LOGITS}, "softmax", wanted={"log_probabilities": Wanted(classification=3)})
    found = answered(request, log_probabilities=np.array([[-np.inf, -1.5, -0.25]]))
    assert found["log_probabilities"].tolist() == [["-0.250000:2", "-1.500000:1", "-inf:0"]]


def test_more_classes_than_anybody_reads_are_refused() -> None:
    request = asked({"features": FEATURES}, wanted={"logits": Wanted(classification=3)})
    with pytest.raises(Invalid, match="at most 1000000"):
        answered(request, logits=np.broadcast_to(np.float32(1), (1_000_000, 3)))
