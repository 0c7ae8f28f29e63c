"""Calibration: its minima against scipy and mpmath, what holds of every fit, bounds, and what is refused."""

from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp
from test_scores import LABELS, LOGITS

from service.errors import Invalid
from service.numeric import calibration
from service.numeric.calibration import (
    GRADIENT_TOLERANCE,
    LARGEST_SCALE,
    Fit,
    apply,
    fit_temperature,
    fit_vector,
)
from service.numeric.losses import cross_entropy
from service.numeric.softmax import softmax
from service.types import Calibration

FITS = [fit_temperature, fit_vector]


def made_up(
    rows: int = 600, classes: int = 4, sureness: float = 3.0, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Logits that are so many times too sure, with a bias of each class that they do not know of."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, classes)) * 1.5
    noise = -np.log(
        -np.log(generator.random(logits.shape))
    )  # the largest of logits + noise is drawn by softmax
    return logits * sureness, (logits + generator.normal(size=classes) + noise).argmax(axis=1)


def loss_of(logits: NDArray[Any], labels: NDArray[Any], weight: NDArray[Any] | None = None) -> float:
    rows = np.eye(logits.shape[1])[labels] if labels.ndim == 1 else labels
    losses = logsumexp(logits, axis=1) * rows.sum(axis=1) - (rows * logits).sum(axis=1)
    return float(np.average(losses, weights=weight))


def calibrated(logits: NDArray[Any], fit: Fit) -> NDArray[Any]:
    scaled, temperature = apply(logits, fit.calibration)
    return np.asarray(scaled / temperature)


def place_of(fit: Fit) -> NDArray[Any]:
    """The scales, then the biases."""
    assert fit.calibration.scale is not None
    assert fit.calibration.bias is not None
    return np.concatenate([fit.calibration.scale, fit.calibration.bias])


def test_the_worked_example() -> None:
    fit = fit_temperature(LOGITS, LABELS)
    assert fit.calibration.temperature == pytest.approx(1.704734354, abs=5e-10)
    assert fit.loss_before == pytest.approx(0.830879687421, abs=6e-13)
    assert fit.loss_after == pytest.approx(0.753326494192, abs=6e-13)
    assert (fit.rows, fit.at_bound) == (12, ())


def test_mpmath_finds_the_same_temperature_to_ten_digits() -> None:
    logits, labels = made_up(rows=40, classes=3)
    with mpmath.workdps(40):

        def slope(b: Any) -> Any:
            """The derivative of the loss by b = 1 / temperature."""
            total = mpmath.mpf(0)
            for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
                weights = [mpmath.exp(b * x) for x in row]
                total += sum(w * x for w, x in zip(weights, row, strict=True)) / sum(weights) - row[label]
            return total

        expected = 1 / mpmath.findroot(slope, 0.3)
    assert fit_temperature(logits, labels).calibration.temperature == pytest.approx(
        float(expected), rel=1e-11
    )


def targets(logits: NDArray[Any], labels: NDArray[Any], seed: int = 0) -> NDArray[Any]:
    mixed = np.random.default_rng(seed).dirichlet(np.ones(logits.shape[1]), len(logits))
    return np.asarray(0.7 * np.eye(logits.shape[1])[labels] + 0.3 * mixed)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_scipy_finds_no_better_temperature(*, soft: bool, weighted: bool) -> None:
    logits, labels = made_up()
    truth = targets(logits, labels) if soft else labels
    weight = np.random.default_rng(2).integers(0, 4, len(logits)) if weighted else None
    fit = fit_temperature(logits, truth, weight)
    found = minimize_scalar(
        lambda b: loss_of(logits * b, truth, weight),
        bounds=(0.02, 50),
        method="bounded",
        options={"xatol": 1e-12},
    )
    assert 1 / fit.calibration.temperature == pytest.approx(found.x, rel=1e-6)
    assert fit.loss_after <= found.fun + 1e-14
    assert fit.loss_after == pytest.approx(loss_of(calibrated(logits, fit), truth, weight), rel=1e-13)
    assert fit.loss_before == pytest.approx(loss_of(logits, truth, weight), rel=1e-13)
    assert fit.rows == (len(logits) if weight is None else np.count_nonzero(weight))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_scipy_finds_no_better_scales_and_biases(*, soft: bool, weighted: bool) -> None:
    logits, labels = made_up(classes=3)
    truth = targets(logits, labels) if soft else labels
    weight = np.random.default_rng(2).integers(0, 4, len(logits)) if weighted else None
    fit = fit_vector(logits, truth, weight)

    def loss(place: NDArray[Any]) -> float:
        return loss_of(logits * place[:3] + place[3:], truth, weight)

    found = minimize(loss, np.repeat([1.0, 0.0], 3), method="BFGS", options={"gtol": 1e-9})
    assert fit.loss_after <= found.fun + 1e-14
    assert fit.loss_after == pytest.approx(found.fun, rel=1e-10)
    np.testing.assert_allclose(place_of(fit)[:3], found.x[:3], rtol=1e-4)
    np.testing.assert_allclose(place_of(fit)[3:], found.x[3:] - found.x[3:].mean(), atol=1e-4)


@pytest.mark.parametrize("fit", FITS)
@given(
    rows=st.integers(2, 60),
    classes=st.integers(1, 5),
    sureness=st.floats(0.1, 20),
    seed=st.integers(0, 2**31 - 1),
    soft=st.booleans(),
)
@effort(max_examples=60)
def test_a_fit_is_never_worse_than_none_and_its_gradient_is_zero(
    fit: Any, rows: int, classes: int, sureness: float, seed: int, *, soft: bool
) -> None:
    logits, labels = made_up(rows, classes, sureness, seed)
    truth = targets(logits, labels, seed) if soft else labels
    found = fit(logits, truth)
    assert found.loss_after <= found.loss_before
    assert found.loss_after == pytest.approx(loss_of(calibrated(logits, found), truth), rel=1e-11, abs=1e-14)
    # Logits of 100 in float64 leave some 1e-13 of rounding in a gradient.
    assert found.gradient_norm <= GRADIENT_TOLERANCE
    if not found.at_bound:
        place = found.calibration
        moved = [Calibration(place.temperature * t, place.scale, place.bias) for t in (1 - 1e-4, 1 + 1e-4)]
        for other in moved:
            scaled, temperature = apply(logits, other)
            assert loss_of(scaled / temperature, truth) >= found.loss_after - 1e-12


@given(st.integers(0, 2**31 - 1))
@effort(max_examples=30)
def test_a_temperature_keeps_every_class(seed: int) -> None:
    logits, labels = made_up(60, 5, seed=seed)
    fit = fit_temperature(logits, labels)
    calibrated_rows = softmax(logits, temperature=fit.calibration.temperature)
    np.testing.assert_array_equal(calibrated_rows.argmax(axis=1), logits.argmax(axis=1))


def test_the_gradient_by_differences_is_zero_at_the_minimum() -> None:
    logits, labels = made_up(classes=3)
    fit = fit_vector(logits, labels)
    place = place_of(fit)
    for index in range(6):
        step = np.zeros(6)
        step[index] = 1e-5
        up, down = (loss_of(logits * p[:3] + p[3:], labels) for p in (place + step, place - step))
        assert (up - down) / 2e-5 == pytest.approx(0, abs=1e-9)


def test_vector_scaling_is_at_least_as_good_as_a_temperature() -> None:
    logits, labels = made_up()
    by_temperature, by_vector = (fit(logits, labels) for fit in FITS)
    assert by_vector.loss_after < by_temperature.loss_after < by_temperature.loss_before
    assert place_of(by_vector)[4:].sum() == pytest.approx(0, abs=1e-9)


def test_logits_drawn_as_labels_are_have_the_temperature_one() -> None:
    logits, labels = made_up(rows=100_000, classes=3, sureness=1.0)
    fit = fit_vector(logits, labels)
    np.testing.assert_allclose(place_of(fit)[:3], 1, atol=0.03)


def test_rows_that_are_all_right_end_at_the_least_temperature() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4))
    fit = fit_temperature(logits, logits.argmax(axis=1))
    assert fit.calibration.temperature == pytest.approx(1 / LARGEST_SCALE)
    assert fit.at_bound == ("temperature",)
    vector = fit_vector(logits, logits.argmax(axis=1))
    assert np.abs(place_of(vector)[:4]).max() <= LARGEST_SCALE
    assert vector.loss_after < 0.001


def test_logits_that_say_the_opposite_end_at_the_largest_temperature() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4))
    fit = fit_temperature(logits, logits.argmin(axis=1))
    assert fit.calibration.temperature == pytest.approx(LARGEST_SCALE)
    assert fit.at_bound == ("temperature",)
    assert fit.loss_after < fit.loss_before


def test_logits_that_say_nothing_are_left_alone() -> None:
    fit = fit_temperature(np.zeros((6, 3)), np.arange(6) % 3)
    assert (fit.calibration.temperature, fit.at_bound, fit.steps) == (1.0, (), 0)


def test_a_class_without_rows_has_a_finite_scale_and_bias() -> None:
    logits, labels = made_up(classes=4)
    fit = fit_vector(logits, np.where(labels == 3, 0, labels))
    assert np.isfinite(place_of(fit)).all()
    assert fit.loss_after < fit.loss_before


def test_huge_logits_reach_the_minimum_as_far_as_rounding_lets_them() -> None:
    logits, labels = made_up(sureness=1.0)
    expected = fit_temperature(logits, labels).loss_after
    assert fit_temperature(logits * 40, labels).loss_after == pytest.approx(expected, rel=1e-12)
    assert fit_vector(logits * 1e4, labels).loss_after == pytest.approx(
        fit_vector(logits, labels).loss_after, rel=1e-6
    )


def test_masked_classes_stay_masked_under_a_temperature() -> None:
    logits, labels = made_up(classes=3)
    widened = np.concatenate([logits, np.full((len(logits), 1), -np.inf)], axis=1)
    plain, masked = fit_temperature(logits, labels), fit_temperature(widened, labels)
    assert masked.calibration.temperature == pytest.approx(plain.calibration.temperature, rel=1e-12)
    with pytest.raises(Invalid, match="vector scaling takes finite logits"):
        fit_vector(widened, labels)
    with pytest.raises(Invalid, match="masked") as caught:
        fit_temperature(widened, np.full(len(labels), 3))
    assert caught.value.code == "infinite_loss"


@pytest.mark.parametrize("fit", FITS)
def test_blocks_and_files_make_no_difference(
    fit: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logits, labels = made_up(rows=1000)
    expected = fit(logits, labels)
    np.save(tmp_path / "logits.npy", logits)
    mapped = np.load(tmp_path / "logits.npy", mmap_mode="r")
    monkeypatch.setattr(
        calibration, "blocks", lambda rows, _: [slice(at, at + 7) for at in range(0, rows, 7)]
    )
    found = fit(mapped, labels)
    assert found.loss_after == pytest.approx(expected.loss_after, rel=1e-13)
    np.testing.assert_allclose(calibrated(logits, found), calibrated(logits, expected), rtol=1e-7)


def test_float32_logits_are_fitted_as_they_are() -> None:
    logits, labels = made_up()
    narrow = logits.astype(np.float32)
    fit = fit_temperature(narrow, labels)
    assert (
        fit.calibration.temperature
        == fit_temperature(narrow.astype(np.float64), labels).calibration.temperature
    )


def test_the_steps_are_heard() -> None:
    heard: list[tuple[int, float]] = []
    fit = fit_vector(*made_up(), watch=lambda step, norm: heard.append((step, norm)))
    assert [step for step, _ in heard] == list(range(fit.steps + 1))
    assert heard[-1][1] == fit.gradient_norm <= GRADIENT_TOLERANCE < heard[0][1]


REFUSED: dict[str, tuple[Any, Any, Any, str, str]] = {
    "one row": (LOGITS[0], LABELS, None, "rank", "logits"),
    "NaN": (np.where(LOGITS == 0.9, np.nan, LOGITS), LABELS, None, "non_finite_logits", "logits[4][1]"),
    "fractions": (LOGITS, LABELS.astype(float), None, "labels_type", "labels"),
    "a class too many": (LOGITS, LABELS + 1, None, "label_out_of_range", "labels[5]"),
    "too few labels": (LOGITS, LABELS[1:], None, "labels_shape", "labels"),
    "no distribution": (LOGITS, np.ones((12, 3)), None, "labels_distribution", "labels[0]"),
    "a negative weight": (LOGITS, LABELS, -np.ones(12), "sample_weight_value", "sample_weight[0]"),
    "no weight": (LOGITS, LABELS, np.zeros(12), "sample_weight_value", "sample_weight"),
    "no rows": (LOGITS[:0], LABELS[:0], None, "sample_weight_value", "sample_weight"),
}


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fitted_is_refused(fit: Any, case: str) -> None:
    logits, labels, weight, code, path = REFUSED[case]
    with pytest.raises(Invalid) as caught:
        fit(logits, labels, weight)
    assert (caught.value.code, caught.value.offences[0].path) == (code, path)


def test_a_fault_in_a_later_block_is_counted_from_the_first_row() -> None:
    logits = np.zeros((70_000, 2))
    logits[69_999, 1] = np.inf
    with pytest.raises(Invalid) as caught:
        fit_temperature(logits, np.zeros(70_000, np.int64))
    assert caught.value.offences[0].path == "logits[69999][1]"


def test_more_classes_than_a_curvature_can_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MOST_CLASSES", 2)
    with pytest.raises(Invalid, match="at most 2 classes, got 3: fit a temperature"):
        fit_vector(LOGITS, LABELS)


def test_applying_leaves_to_softmax_what_softmax_does() -> None:
    logits = LOGITS.astype(np.float32)
    assert apply(logits, None) == (logits, 1.0)
    assert apply(logits, Calibration(2.0)) == (logits, 2.0)
    scale, bias = np.array([1.0, 2.0, 0.5]), np.array([0.0, -1.0, 3.0])
    scaled, temperature = apply(logits, Calibration(1.0, scale, bias))
    assert scaled.dtype == np.float64
    assert temperature == 1.0
    np.testing.assert_array_equal(scaled, logits.astype(np.float64) * scale + bias)
    np.testing.assert_array_equal(
        apply(logits, Calibration(1.0, scale))[0], logits.astype(np.float64) * scale
    )


def test_what_float64_cannot_hold_becomes_infinite_without_a_word() -> None:
    scaled, _ = apply(np.array([[1e308, 1.0]]), Calibration(1.0, np.full(2, 1e3), np.zeros(2)))
    assert scaled.tolist() == [[np.inf, 1000.0]]


def test_calibrated_losses_are_those_of_the_core() -> None:
    logits, labels = made_up(rows=50)
    fit = fit_vector(logits, labels)
    assert cross_entropy(apply(logits, fit.calibration)[0], labels).loss == pytest.approx(
        fit.loss_after, rel=1e-14
    )
