"""The promised accuracy, against mpmath: each quantity, each family of inputs, each way to break it.

The inputs and the reference are those of `benchmarks/accuracy.py`, so that what is tested is what is printed.
"""

import runpy
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from service.numeric import losses
from service.numeric.softmax import log_softmax, normalise, softmax
from service.types import FloatArray, Labels

ACCURACY = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "accuracy.py"), run_name="accuracy")
FAMILIES: tuple[str, ...] = ACCURACY["FAMILIES"]

# The contract, in units in the last place: float32, float64, and float64 below the normal numbers.
ULP = {np.dtype(np.float32): 1.0, np.dtype(np.float64): 4.0}
ULP_SUBNORMAL = 8.0

DTYPES = [np.dtype(np.float32), np.dtype(np.float64)]


def exact_row(logits: NDArray[Any], temperature: float = 1.0) -> tuple[list[Any], list[Any]]:
    """Probabilities and their logarithms in 256 bits."""
    scaled = [mpmath.mpf(float(x)) / mpmath.mpf(temperature) for x in logits]
    p, log_p = ACCURACY["exact_row"](scaled)
    return p, log_p


def errors_in_ulp(found: NDArray[Any], exact: list[Any]) -> NDArray[np.float64]:
    units = ACCURACY["in_units"](np.array(exact, object).reshape(found.shape), found.dtype)
    scaled = np.ldexp(found.astype(np.float64), -units.unit_exponent)
    errors: NDArray[np.float64] = np.abs((scaled - units.high) - units.low)
    return errors


def relative_errors(found: NDArray[Any], exact: list[Any]) -> list[float]:
    return [float(abs(mpmath.mpf(float(x)) / y - 1)) for x, y in zip(found.flat, exact, strict=True)]


@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_family_of_inputs_is_within_the_contract(dtype: np.dtype[Any], num_classes: int) -> None:
    library = ACCURACY["logitserve"]()
    for case in ACCURACY["cases"](dtype, num_classes, 300):
        truths = ACCURACY["exact_answers"](case)
        for quantity, found, exact in zip(ACCURACY["QUANTITIES"], library.answers(case), truths, strict=True):
            worst = ACCURACY["worst_error"](found, exact)
            assert found.dtype == dtype
            assert worst <= ULP[dtype], f"{quantity} of {case.family}: {worst} ulp"


@pytest.mark.parametrize("num_classes", [1000, 3000])
def test_a_subnormal_loss_stays_exact_for_many_classes(num_classes: int) -> None:
    rng = np.random.default_rng(num_classes)
    logits = rng.uniform(-744, -709, (1, num_classes))
    logits[0, 7] = 0.0
    found = losses.cross_entropy(logits, np.array([7]), reduction="none").losses
    _, log_p = exact_row(logits[0])
    assert 0 < found[0] < 1e-300
    assert errors_in_ulp(found, [-log_p[7]]).max() <= ULP_SUBNORMAL


def test_a_loss_that_only_many_vanishing_classes_make_is_not_lost() -> None:
    # Each e^-745.5 rounds to 0; four hundred of them are a subnormal number.
    logits = np.full(401, -745.5)
    logits[0] = 0.0
    found = losses.cross_entropy(logits, np.array(0)).loss
    assert found == float(mpmath.mpf(400) * mpmath.exp(-745.5)) > 0


@pytest.mark.parametrize(
    ("logit", "smallest", "dtype"), [(-103.2, 1.4e-45, np.float32), (-744.4, 4.9e-324, np.float64)]
)
def test_the_smallest_number_of_the_type_is_reached(logit: float, smallest: float, dtype: type) -> None:
    logits: NDArray[Any] = np.array([0.0, logit], dtype)
    assert softmax(logits)[1] == np.array(smallest, dtype) > 0
    assert log_softmax(logits)[0] == -np.array(smallest, dtype) < 0
    assert losses.cross_entropy(logits, np.array(0)).losses == np.array(smallest, dtype)


TEMPERATURES = [0.1, 0.7, 1.5, 2.5, 3.0, 1e-3, 1e3, 1e-290, 1e290, 5e-324]


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("reach", [3.0, 100.0])
def test_a_temperature_costs_no_accuracy(temperature: float, reach: float) -> None:
    rng = np.random.default_rng(11)
    logits = reach * rng.standard_normal((12, 9)) * temperature
    p, log_p = softmax(logits, temperature=temperature), log_softmax(logits, temperature=temperature)
    exact = [exact_row(row, temperature) for row in logits]
    assert errors_in_ulp(p, [row[0] for row in exact]).max() <= 4
    assert errors_in_ulp(log_p, [row[1] for row in exact]).max() <= 4


@pytest.mark.parametrize("temperature", [0.1, 0.7, 2.5, 1e3])
def test_a_temperature_costs_no_accuracy_in_float32(temperature: float) -> None:
    rng = np.random.default_rng(12)
    logits = (20 * rng.standard_normal((12, 9)) * temperature).astype(np.float32)
    exact = [exact_row(row, temperature) for row in logits]
    found = log_softmax(logits, temperature=temperature)
    assert errors_in_ulp(softmax(logits, temperature=temperature), [row[0] for row in exact]).max() <= 1
    assert errors_in_ulp(found, [row[1] for row in exact]).max() <= 1


@pytest.mark.parametrize(
    ("logits", "temperature", "expected"),
    [
        # The difference is beyond float64, the quotient is not.
        ([1.7e308, -1.7e308], 1e308, [-0.0328284704, -3.4328284704]),
        ([1.7e308, -1.7e308], 1.5, [0.0, -np.inf]),
        ([1e308, 1e308], 0.25, [-np.log(2), -np.log(2)]),
        ([1e308, 1e308], 5e-324, [-np.log(2), -np.log(2)]),
        ([1e-308, 0.0], 5e-324, [0.0, -2024022533073106.0]),
        ([5.0, 3.0], 1.7e308, [-np.log(2), -np.log(2)]),
        ([1.7e308, -1.7e308], 1.0, [0.0, -np.inf]),
    ],
)
def test_extreme_logits_and_temperatures_overflow_only_where_the_answer_does(
    logits: list[float], temperature: float, expected: list[float]
) -> None:
    found = log_softmax(np.array(logits), temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert np.isfinite(softmax(np.array(logits), temperature=temperature)).all()


def exact_gradient(logits: FloatArray, a: list[float], scale: Any, temperature: float) -> list[Any]:
    p, _ = exact_row(logits, temperature)
    total = mpmath.fsum(a)
    others = [mpmath.fsum(q for j, q in enumerate(p) if j != i) for i in range(len(p))]
    return [
        scale * ((total - mpmath.mpf(a[j])) * p[j] - mpmath.mpf(a[j]) * others[j]) / mpmath.mpf(temperature)
        for j in range(len(p))
    ]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_gradient_of_index_labels_is_within_4_ulp(dtype: np.dtype[Any], temperature: float) -> None:
    weight = np.array([0.5, 1.25, 3.0, 0.7, 2.0], dtype)
    for case in ACCURACY["cases"](dtype, 5, 100):
        labels = Labels(case.labels, "index", "mean", class_weight=weight)
        found = losses.gradient(normalise(case.logits, temperature=temperature), labels)
        scale = 1 / mpmath.fsum(float(weight[y]) for y in case.labels)
        exact = []
        for row, y in zip(case.logits, case.labels, strict=True):
            a = [float(weight[y]) if j == y else 0.0 for j in range(5)]
            exact.append(exact_gradient(row, a, scale, temperature))
        assert errors_in_ulp(found, exact).max() <= 4, case.family


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_of_soft_labels_is_within_4_ulp_of_its_larger_term(dtype: np.dtype[Any]) -> None:
    for case in ACCURACY["cases"](dtype, 5, 100):
        found = losses.gradient(normalise(case.logits), Labels(case.targets, "dense", "none"))
        for row, target, gradient in zip(case.logits, case.targets, found, strict=True):
            p, _ = exact_row(row)
            exact = exact_gradient(row, [float(y) for y in target], mpmath.mpf(1), 1.0)
            for j in range(5):
                term = max(p[j], mpmath.mpf(float(target[j])))
                error = abs(mpmath.mpf(float(gradient[j])) - exact[j])
                assert error <= 4 * np.finfo(dtype).eps * term + float(np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("smoothing", [1e-10, 0.1])
def test_gradient_keeps_its_digits_under_a_small_smoothing(smoothing: float) -> None:
    logits = np.array([[60.0, 0.0, 1.0, -2.0]])
    found = losses.gradient(normalise(logits), Labels(np.array([0]), "index", "sum", smoothing))
    spread, epsilon = mpmath.mpf(smoothing) / 4, mpmath.mpf(smoothing)
    exact = exact_gradient(logits[0], [1 - epsilon + spread, spread, spread, spread], mpmath.mpf(1), 1.0)
    assert max(relative_errors(found, exact)) <= 1e-15


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_entropy_and_brier_keep_their_digits(dtype: type, rtol: float) -> None:
    for case in ACCURACY["cases"](np.dtype(dtype), 10, 120):
        normalised = normalise(case.logits)
        entropies = normalised.entropy()
        briers = losses.brier(normalised, Labels(case.labels, "index"))
        for row, y, entropy, brier in zip(case.logits, case.labels, entropies, briers, strict=True):
            p, log_p = exact_row(row)
            others = mpmath.fsum(q for j, q in enumerate(p) if j != y)
            square = others**2 + mpmath.fsum(q**2 for j, q in enumerate(p) if j != y)
            smallest = float(np.finfo(dtype).smallest_subnormal)
            exact = -mpmath.fsum(q * log_q for q, log_q in zip(p, log_p, strict=True))
            assert abs(float(entropy) - exact) <= rtol * exact + smallest, case.family
            assert abs(float(brier) - square) <= rtol * square + smallest, case.family


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reduced_losses_are_exact_sums_rounded_last(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(5)
    logits = (30 * rng.standard_normal((200, 4))).astype(dtype)
    labels = rng.integers(4, size=200)
    total = mpmath.fsum(-exact_row(row)[1][y] for row, y in zip(logits, labels, strict=True))
    rtol = 2.4e-7 if dtype == np.float32 else 2e-15
    for reduction, exact in (("sum", total), ("mean", total / 200)):
        found = losses.cross_entropy(logits, labels, reduction=reduction).loss
        assert found is not None
        assert found == dtype.type(found)
        assert abs(found - exact) <= rtol * exact


def test_the_command_prints_every_library_and_says_which_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise ModuleNotFoundError

    monkeypatch.setitem(ACCURACY["LIBRARIES"], "torch", absent)
    monkeypatch.delitem(ACCURACY["LIBRARIES"], "tensorflow")
    ACCURACY["main"](["--quick", "--classes", "60", "--families"])
    printed = capsys.readouterr().out
    for word in ("logitserve", "numpy", "scipy", "onnxruntime", "near-tie", "Not installed", "torch"):
        assert word in printed
