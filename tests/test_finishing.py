"""The finishing step: every output of every operation, from logits and labels."""

from typing import Any

import numpy as np
import pytest

from service.errors import Invalid
from service.finishing import OUTPUTS, finish
from service.heads.description import LARGEST_FACTOR
from service.numeric.losses import cross_entropy
from service.numeric.softmax import log_softmax, softmax
from service.types import Calibration, FloatArray, Labels, ScoreRequest

LOGITS = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]])
NAMES = ("cat", "dog", "eel")
MASKED = np.array([[0.0, -np.inf], [1.0, 2.0]])


def asked(*outputs: str, values: FloatArray = LOGITS, **options: Any) -> ScoreRequest:
    fields = {"operation": "softmax", "axis": values.ndim - 1, "dtype": values.dtype, **options}
    return ScoreRequest(values=values, outputs=outputs, **fields)


def made(request: ScoreRequest) -> dict[str, Any]:
    return dict(finish(request, request.dense))


def test_outputs_come_in_the_order_asked_and_nothing_else_does() -> None:
    outputs = made(asked("classes", "probabilities"))
    assert list(outputs) == ["classes", "probabilities"]


def test_probabilities_their_logarithms_and_classes() -> None:
    outputs = made(asked("probabilities", "log_probabilities", "classes", "one_hot", "entropy"))
    np.testing.assert_array_equal(outputs["probabilities"], softmax(LOGITS))
    np.testing.assert_array_equal(outputs["log_probabilities"], log_softmax(LOGITS))
    np.testing.assert_array_equal(outputs["classes"], [1, 0])
    np.testing.assert_array_equal(outputs["one_hot"], [[0, 1, 0], [1, 0, 0]])
    expected = -(softmax(LOGITS) * log_softmax(LOGITS)).sum(-1)
    np.testing.assert_allclose(outputs["entropy"], expected, rtol=1e-12)


def test_the_best_classes_with_their_probabilities_and_names() -> None:
    request = asked(
        "top_classes", "top_probabilities", "top_names", "predicted_names", top_k=2, class_names=NAMES
    )
    outputs = made(request)
    np.testing.assert_array_equal(outputs["top_classes"], [[1, 0], [0, 2]])
    p = softmax(LOGITS)
    np.testing.assert_array_equal(outputs["top_probabilities"], [[p[0, 1], p[0, 0]], [p[1, 0], p[1, 2]]])
    assert outputs["top_names"] == [["dog", "cat"], ["cat", "eel"]]
    assert outputs["predicted_names"] == ["dog", "cat"]


def test_a_single_row_gives_single_answers() -> None:
    request = asked("classes", "predicted_names", "entropy", values=LOGITS[0], class_names=NAMES)
    outputs = made(request)
    assert outputs["predicted_names"] == "dog"
    assert np.asarray(outputs["classes"]).shape == ()


def test_the_class_axis_may_lie_anywhere() -> None:
    values = np.ascontiguousarray(LOGITS.T)
    request = asked("probabilities", "one_hot", "top_probabilities", values=values, axis=0, top_k=3)
    outputs = made(request)
    np.testing.assert_array_equal(outputs["probabilities"], softmax(LOGITS).T)
    np.testing.assert_array_equal(outputs["one_hot"], [[0, 1], [1, 0], [0, 0]])
    np.testing.assert_array_equal(outputs["top_probabilities"], np.sort(softmax(LOGITS).T, axis=0)[::-1])


def test_losses_and_what_comes_with_them() -> None:
    labels = Labels(np.array([1, 2]), "index")
    request = asked("loss", "losses", "count", "accuracy", "brier", "gradient", labels=labels)
    outputs = made(request)
    expected = cross_entropy(LOGITS, np.array([1, 2]))
    assert outputs["loss"] == expected.loss
    assert outputs["loss"] == pytest.approx(0.8393433389787792, abs=1.2e-16)
    np.testing.assert_array_equal(outputs["losses"], expected.losses)
    assert outputs["count"] == 2
    assert outputs["accuracy"] == 0.5
    truth = np.eye(3)[[1, 2]]
    np.testing.assert_allclose(outputs["brier"], ((softmax(LOGITS) - truth) ** 2).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(outputs["gradient"], (softmax(LOGITS) - truth) / 2, rtol=1e-12)


def test_the_temperature_divides_the_logits() -> None:
    outputs = made(asked("probabilities", temperature=2.5))
    np.testing.assert_array_equal(outputs["probabilities"], softmax(LOGITS, temperature=2.5))


@pytest.mark.parametrize("output", ["loss", "losses"])
def test_an_infinite_loss_is_an_error_that_names_the_example(output: str) -> None:
    labels = Labels(np.array([1, 1]), "index")
    with pytest.raises(Invalid) as caught:
        made(asked(output, values=MASKED, labels=labels))
    assert caught.value.code == "infinite_loss"
    assert [offence.path for offence in caught.value.offences] == ["losses[0]"]


def test_an_infinite_loss_is_answered_where_that_was_asked_for() -> None:
    labels = Labels(np.array([1, 1]), "index", non_finite="string")
    outputs = made(asked("loss", "losses", values=MASKED, labels=labels))
    assert outputs["loss"] == np.inf
    assert np.isinf(np.asarray(outputs["losses"])).tolist() == [True, False]


def test_finite_losses_with_an_infinite_sum_are_an_error_at_the_loss() -> None:
    values = np.array([[1.7e308, 0.0], [1.7e308, 0.0]])
    labels = Labels(np.array([1, 1]), "index", reduction="sum")
    with pytest.raises(Invalid) as caught:
        made(asked("loss", values=values, labels=labels))
    assert [offence.path for offence in caught.value.offences] == ["loss"]


def test_every_output_has_one_place_where_it_is_made() -> None:
    assert {"probabilities", "losses", "loss", "logits", "top_names", "gradient"} <= set(OUTPUTS)
    assert "contributions" not in OUTPUTS, "it is two arrays, made beside the others"


# What a head's calibration changes

SCALE, BIAS = np.array([2.0, -1.0, 0.5]), np.array([0.0, 1.0, -1.0])
VECTOR = Calibration(1.0, SCALE, BIAS)
EVERY = (
    "probabilities",
    "log_probabilities",
    "classes",
    "one_hot",
    "entropy",
    "top_classes",
    "top_probabilities",
)


def calibrated(*outputs: str, by: Calibration, values: FloatArray = LOGITS, **options: Any) -> ScoreRequest:
    return asked(*outputs, operation="predict", values=values, calibration=by, top_k=2, **options)


def test_a_calibrated_temperature_is_one_of_the_request() -> None:
    labels = Labels(np.array([1, 2]), "index")
    names = (*EVERY, "loss", "losses", "brier", "accuracy", "gradient", "logits")
    own = made(calibrated(*names, by=Calibration(2.5), labels=labels))
    sent = made(asked(*names, temperature=2.5, top_k=2, labels=labels))
    for name in names:
        np.testing.assert_array_equal(own[name], sent[name], err_msg=name)
    np.testing.assert_array_equal(own["logits"], LOGITS)


def test_scaled_classes_are_those_of_the_scaled_logits_and_the_logits_stay_raw() -> None:
    labels = Labels(np.array([1, 2]), "index")
    names = (*EVERY, "loss", "losses", "brier", "accuracy")
    scaled = LOGITS * SCALE + BIAS
    own = made(calibrated(*names, "logits", by=VECTOR, labels=labels))
    by_hand = made(asked(*names, values=scaled, top_k=2, labels=labels))
    for name in names:
        np.testing.assert_array_equal(own[name], by_hand[name], err_msg=name)
    np.testing.assert_array_equal(own["logits"], LOGITS)
    assert own["classes"].tolist() == scaled.argmax(-1).tolist() != LOGITS.argmax(-1).tolist()


@pytest.mark.parametrize("by", [Calibration(2.5), VECTOR, Calibration(1.0, np.array([0.0, 3, 1]), BIAS)])
def test_the_gradient_is_that_of_the_raw_logits(by: Calibration) -> None:
    labels = Labels(np.array([1, 2]), "index")
    gradient = made(calibrated("gradient", by=by, labels=labels))["gradient"]
    for place in np.ndindex(LOGITS.shape):
        step = np.zeros_like(LOGITS)
        step[place] = 1e-6
        up, down = (
            made(calibrated("loss", by=by, values=LOGITS + moved, labels=labels))["loss"]
            for moved in (step, -step)
        )
        assert gradient[place] == pytest.approx((up - down) / 2e-6, abs=1e-9)


def test_float32_answers_of_scaled_logits_are_rounded_once() -> None:
    values = (LOGITS * 7).astype(np.float32)
    labels = Labels(np.array([1, 2]), "index")
    names = ("probabilities", "log_probabilities", "entropy", "losses", "loss", "brier", "gradient")
    own = made(calibrated(*names, by=VECTOR, values=values, labels=labels))
    wide = values.astype(np.float64)
    exact = made(calibrated(*names, by=VECTOR, values=wide, labels=labels))
    for name in names:
        assert np.asarray(own[name]).dtype == np.float32
        np.testing.assert_allclose(own[name], np.asarray(exact[name], np.float32), rtol=1.3e-7, err_msg=name)


def test_any_number_of_rows_is_scaled() -> None:
    for values in (LOGITS[0], LOGITS[None], LOGITS[:0]):
        outputs = made(calibrated("probabilities", "classes", by=VECTOR, values=values))
        np.testing.assert_allclose(outputs["probabilities"], softmax(values * SCALE + BIAS), rtol=1e-14)
        assert np.shape(outputs["classes"]) == values.shape[:-1]


def test_scaled_logits_beyond_float64_are_refused_with_their_place() -> None:
    values = np.array([[[1.0, 2, 3]], [[1e308, 0, 0]]])
    with pytest.raises(Invalid) as caught:
        made(calibrated("classes", by=VECTOR, values=values))
    assert (caught.value.code, caught.value.offences[0].path) == ("non_finite_logits", "features[1][0]")


def test_float32_logits_scaled_as_far_as_may_be_stay_finite() -> None:
    by = Calibration(1.0, np.full(3, LARGEST_FACTOR), np.full(3, -LARGEST_FACTOR))
    values = np.array([[3.4e38, -3.4e38, 1]], np.float32)
    outputs = made(calibrated("probabilities", "log_probabilities", "entropy", by=by, values=values))
    assert outputs["probabilities"].tolist() == [[1, 0, 0]]
    assert outputs["entropy"].tolist() == [0]
