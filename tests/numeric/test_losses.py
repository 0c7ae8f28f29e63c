"""Cross-entropy and its relatives: hand-worked cases, properties, conventions at the edges, and no NaN ever."""

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.errors import Invalid
from service.numeric.losses import Losses, accuracy, brier, cross_entropy, gradient
from service.numeric.softmax import log_softmax, normalise, one_hot, softmax
from service.types import Labels, Reduction

INF = np.inf

# -log p of these logits is log 4 - log(1, 2, 1) and log 8 - log(1, 1, 6): everything by hand.
LOGITS = np.log(np.array([[1.0, 2.0, 1.0], [1.0, 1.0, 6.0]]))
COSTS = np.log(np.array([[4.0, 2.0, 4.0], [8.0, 8.0, 8 / 6]]))
LABELS = np.array([1, 0])
ROWS = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])
WEIGHT = np.array([2.0, 3.0, 0.5])
SAMPLES = np.array([0.5, 4.0])


def approx(values: Any) -> Any:
    return pytest.approx(values, rel=2e-15)


def test_index_labels_pick_the_cost_of_their_class() -> None:
    found = cross_entropy(LOGITS, LABELS)
    assert found.losses == approx([math.log(2), math.log(8)])
    assert found.loss == approx(math.log(16) / 2)
    assert found.count == 2


def test_dense_labels_weigh_the_costs() -> None:
    found = cross_entropy(LOGITS, ROWS, reduction="sum")
    expected = [0.5 * math.log(4) + 0.5 * math.log(2), 0.25 * math.log(8) + 0.75 * math.log(8 / 6)]
    assert found.losses == approx(expected)
    assert found.loss == approx(sum(expected))


def test_smoothing_spreads_its_share_evenly() -> None:
    by_hand = [
        0.7 * math.log(2) + 0.1 * math.log(4 * 2 * 4),
        0.7 * math.log(8) + 0.1 * math.log(8 * 8 * 8 / 6),
    ]
    assert cross_entropy(LOGITS, LABELS, label_smoothing=0.3).losses == approx(by_hand)
    assert cross_entropy(LOGITS, LABELS, label_smoothing=1.0).losses == approx(COSTS.mean(axis=-1))


def test_class_weights_enter_the_terms_and_the_denominator_of_index_labels() -> None:
    found = cross_entropy(LOGITS, LABELS, class_weight=WEIGHT)
    assert found.losses == approx([3 * math.log(2), 2 * math.log(8)])
    assert found.loss == approx((3 * math.log(2) + 2 * math.log(8)) / 5)


def test_class_weights_stay_out_of_the_denominator_of_dense_labels() -> None:
    found = cross_entropy(LOGITS, ROWS, class_weight=WEIGHT)
    expected = (WEIGHT * ROWS * COSTS).sum(axis=-1)
    assert found.losses == approx(expected)
    assert found.loss == approx(expected.sum() / 2)


def test_smoothing_with_weights_weighs_each_class_of_the_smoothing_too() -> None:
    found = cross_entropy(LOGITS, LABELS, class_weight=WEIGHT, label_smoothing=0.3)
    expected = 0.7 * WEIGHT[LABELS] * COSTS[[0, 1], LABELS] + 0.1 * (WEIGHT * COSTS).sum(axis=-1)
    assert found.losses == approx(expected)
    assert found.loss == approx(expected.sum() / 5)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("sum", 0.5 * math.log(2) + 4 * math.log(8)),
        ("mean", (0.5 * math.log(2) + 4 * math.log(8)) / 2),
        ("sum_over_batch_size", (0.5 * math.log(2) + 4 * math.log(8)) / 2),
        ("mean_with_sample_weight", (0.5 * math.log(2) + 4 * math.log(8)) / 4.5),
        ("none", None),
    ],
)
def test_sample_weights_enter_each_reduction(reduction: str, expected: float | None) -> None:
    found = cross_entropy(LOGITS, LABELS, sample_weight=SAMPLES, reduction=reduction)
    assert found.losses == approx([0.5 * math.log(2), 4 * math.log(8)])
    assert found.loss is None if expected is None else found.loss == approx(expected)
    assert found.count == 2


def test_class_weights_stay_out_of_the_denominators_from_keras() -> None:
    total = 3 * math.log(2) + 2 * math.log(8)
    found = cross_entropy(LOGITS, LABELS, class_weight=WEIGHT, reduction="sum_over_batch_size")
    assert found.loss == approx(total / 2)
    found = cross_entropy(LOGITS, LABELS, class_weight=WEIGHT, reduction="mean_with_sample_weight")
    assert found.loss == approx(total / 2)


@pytest.mark.parametrize("ignored", [-100, 1])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, math.log(8)),
        ({"class_weight": WEIGHT}, math.log(8)),
        ({"sample_weight": SAMPLES, "reduction": "mean_with_sample_weight"}, math.log(8)),
        ({"sample_weight": SAMPLES, "reduction": "sum_over_batch_size"}, 4 * math.log(8)),
        ({"label_smoothing": 1.0}, COSTS[1].mean()),
    ],
)
def test_an_ignored_example_has_no_loss_and_no_part_in_the_mean(
    ignored: int, options: dict[str, Any], expected: float
) -> None:
    found = cross_entropy(LOGITS, np.array([ignored, 0]), ignore_index=ignored, **options)
    assert found.losses[0] == 0
    assert not np.signbit(found.losses[0])
    assert found.loss == approx(expected)
    assert found.count == 1


@pytest.mark.parametrize(
    ("logits", "labels", "options"),
    [
        (LOGITS, np.array([-1, -1]), {"ignore_index": -1}),
        (LOGITS, LABELS, {"class_weight": np.array([0.0, 0.0, 1.0])}),
        (LOGITS, LABELS, {"sample_weight": np.zeros(2), "reduction": "mean_with_sample_weight"}),
        (np.zeros((0, 3)), np.zeros(0, int), {}),
        (np.zeros((0, 3)), np.zeros((0, 3)), {"label_smoothing": 0.5}),
        (np.zeros((2, 0, 3)), np.zeros((2, 0), int), {"reduction": "sum_over_batch_size"}),
    ],
)
def test_the_mean_of_nothing_is_none_and_its_sum_is_0(
    logits: NDArray[Any], labels: NDArray[Any], options: dict[str, Any]
) -> None:
    assert cross_entropy(logits, labels, **options).loss is None
    found = cross_entropy(logits, labels, **{**options, "reduction": "sum"})
    assert found.loss == 0
    assert not found.losses.any()
    assert found.losses.shape == logits.shape[:-1]


def test_column_labels_are_squeezed_only_where_index_labels_are_asked_for() -> None:
    found = cross_entropy(LOGITS, LABELS[:, None], label_format="index")
    assert found.losses == approx([math.log(2), math.log(8)])
    with pytest.raises(Invalid) as caught:
        cross_entropy(LOGITS, LABELS[:, None])
    assert caught.value.code == "labels_shape"


def test_a_single_example_has_a_loss_without_axes() -> None:
    found = cross_entropy(LOGITS[0], np.array(1))
    assert found.losses.shape == ()
    assert float(found.losses) == found.loss == approx(math.log(2))
    assert found.count == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_are_rounded_to_the_type_of_the_logits(dtype: type) -> None:
    found = cross_entropy(LOGITS.astype(dtype), LABELS)
    assert found.losses.dtype == dtype
    assert isinstance(found.loss, float)
    assert found.loss == float(dtype(found.loss))


def test_the_worked_example_of_the_field() -> None:
    logits = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]])
    for labels in (np.array([1, 2]), np.array([[0, 1, 0], [0, 0, 1]])):
        found = cross_entropy(logits, labels)
        np.testing.assert_allclose(found.losses, [0.4790107, 1.19967598], rtol=0, atol=5e-9)
        assert found.loss is not None
        assert abs(found.loss - 0.8393433389787792) <= math.ulp(0.8393433389787792)


# Masks, infinities and zeros


def test_a_zero_coefficient_on_a_masked_class_is_0() -> None:
    logits = np.array([[-INF, 0.0, 0.0]])
    assert cross_entropy(logits, np.array([[0.0, 1.0, 0.0]])).losses == approx([math.log(2)])
    assert cross_entropy(logits, np.array([0]), class_weight=np.array([0.0, 1.0, 1.0])).losses == [0.0]
    assert cross_entropy(logits, np.array([0]), sample_weight=np.array([0.0])).losses == [0.0]
    smoothed = cross_entropy(
        logits, np.array([1]), class_weight=np.array([0.0, 1.0, 1.0]), label_smoothing=0.5
    )
    assert smoothed.losses == approx([0.5 * math.log(2) + 0.5 / 3 * 2 * math.log(2)])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_positive_coefficient_on_a_masked_class_is_infinite(reduction: str) -> None:
    logits = np.array([[-INF, 0.0, 0.0], [0.0, 0.0, 0.0]])
    for labels, smoothing in (
        (np.array([0, 0]), 0.0),
        (np.array([1, 1]), 1e-9),
        (np.array([[1e-9, 1.0, 0.0], [1.0, 0.0, 0.0]]), 0.0),
    ):
        found = cross_entropy(logits, labels, reduction=reduction, label_smoothing=smoothing)
        assert found.losses[0] == found.loss == INF
        assert np.isfinite(found.losses[1])


def test_a_loss_beyond_float32_is_infinite_unless_its_weight_brings_it_back() -> None:
    logits = np.array([[3.4e38, -3.4e38]], np.float32)
    assert cross_entropy(logits, np.array([1])).losses == [INF]
    weighted = cross_entropy(logits, np.array([1]), class_weight=np.array([1.0, 0.25]), reduction="sum")
    assert weighted.losses == np.array([1.7e38], np.float32)
    assert cross_entropy(logits, np.array([0])).losses == [0.0]


def test_infinite_terms_of_both_signs_are_plus_infinity_never_nan() -> None:
    logits = np.array([[-INF, -INF, 0.0]])
    for reduction in ("mean", "none", "sum"):
        found = cross_entropy(logits, np.array([[1.0, -1.0, 0.0]]), reduction=reduction)
        assert found.losses == [INF]
    rows = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    found = cross_entropy(np.repeat(logits, 2, axis=0), rows)
    assert found.losses.tolist() == [INF, -INF]
    assert found.loss == INF


def test_sums_beyond_float64_are_infinite_and_their_means_are_not() -> None:
    logits = np.array([[0.0, -1.5e308]] * 3)
    labels = np.array([1, 1, 1])
    assert cross_entropy(logits, labels, reduction="sum").loss == INF
    assert cross_entropy(logits, labels).loss == 1.5e308
    weight = np.array([1.7e308, 1.7e308])
    swapped = np.array([1, 0])  # costs below 1, so that each loss is within the type and their sum is not
    found = cross_entropy(LOGITS[:, :2], swapped, class_weight=weight)
    assert found.loss == approx(cross_entropy(LOGITS[:, :2], swapped).losses.mean())


def test_zero_losses_have_no_sign() -> None:
    logits = np.array([[0.0, -1000.0], [-1000.0, 0.0]])
    for labels in (np.array([0, 1]), np.eye(2), -np.eye(2), np.zeros((2, 2))):
        found = cross_entropy(logits, labels)
        assert found.loss is not None
        assert not np.signbit([*found.losses, found.loss]).any()
        assert not found.losses.any()


FLOATS = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.3, 1e308, -1e308, 1e-308, 5e-324, -745.0, 88.0])


@settings(max_examples=300)
@given(
    hnp.arrays(np.float64, (2, 3), elements=FLOATS | st.just(-INF)),
    hnp.arrays(np.float64, (2, 3), elements=FLOATS),
    st.sampled_from([5e-324, 1e-300, 0.3, 1.0, 1.7e308]),
    st.sampled_from([0.0, 1e-300, 0.5, 1.0]),
    st.sampled_from(get_args(Reduction)),
)
def test_nothing_is_ever_nan(
    logits: NDArray[Any], rows: NDArray[Any], temperature: float, smoothing: float, reduction: Reduction
) -> None:
    logits[:, 0] = np.where(np.isinf(logits).all(axis=-1), 0.0, logits[:, 0])
    normalised = normalise(logits, temperature=temperature)
    weight = np.abs(rows[0])
    for values in (rows, np.array([0, 2])):
        labels = Labels(
            values, "dense" if values.ndim == 2 else "index", reduction, smoothing, weight, np.abs(rows[:, 1])
        )
        found = cross_entropy(
            logits,
            values,
            reduction=reduction,
            class_weight=weight,
            sample_weight=np.abs(rows[:, 1]),
            label_smoothing=smoothing,
            temperature=temperature,
        )
        everything = [
            found.losses,
            gradient(normalised, labels),
            brier(normalised, labels),
            found.loss or 0.0,
        ]
        assert not any(np.isnan(part).any() for part in everything)
    answers = [normalised.probabilities(), normalised.log_probabilities(), normalised.entropy()]
    assert not any(np.isnan(part).any() for part in answers)


# Properties


def batches() -> st.SearchStrategy[tuple[NDArray[Any], NDArray[np.int64]]]:
    return st.tuples(st.integers(1, 5), st.integers(1, 6), st.sampled_from([np.float32, np.float64])).flatmap(
        lambda sizes: st.tuples(
            hnp.arrays(sizes[2], sizes[:2], elements=st.floats(-100, 100, width=32)),
            hnp.arrays(np.int64, sizes[:1], elements=st.integers(0, sizes[1] - 1)),
        )
    )


@given(
    batch=batches(),
    smoothing=st.sampled_from([0.0, 0.2, 1.0]),
    weighted=st.booleans(),
    reduction=st.sampled_from(get_args(Reduction)),
)
def test_index_labels_are_one_hot_labels(
    batch: tuple[NDArray[Any], NDArray[np.int64]], smoothing: float, reduction: Reduction, *, weighted: bool
) -> None:
    logits, labels = batch
    num_rows, num_classes = logits.shape
    options: dict[str, Any] = {"label_smoothing": smoothing, "reduction": reduction}
    if weighted:
        options["sample_weight"] = np.arange(num_rows) + 0.5
        options["class_weight"] = np.arange(num_classes) + 0.5
        options["reduction"] = "sum" if reduction == "mean" else reduction  # the one difference on purpose
    rows = one_hot(labels, num_classes, -1, logits.dtype)
    by_index, by_row = cross_entropy(logits, labels, **options), cross_entropy(logits, rows, **options)
    assert by_index.losses.tobytes() == by_row.losses.tobytes()
    assert by_index.loss == by_row.loss
    normalised = normalise(logits)
    pair = Labels(labels, "index"), Labels(rows, "dense")
    assert accuracy(normalised, pair[0]) == accuracy(normalised, pair[1])
    for function in (brier, gradient):
        assert function(normalised, pair[0]).tobytes() == function(normalised, pair[1]).tobytes()


@given(batches(), st.floats(0, 1))
def test_losses_are_never_negative_and_grow_with_the_number_of_classes(
    batch: tuple[NDArray[Any], NDArray[np.int64]], smoothing: float
) -> None:
    logits, labels = batch
    found = cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none").losses
    assert np.all(found >= 0)
    wider = np.concatenate([logits, np.zeros_like(logits[:, :1])], axis=1)
    assert np.all(
        cross_entropy(wider, labels, reduction="none").losses >= cross_entropy(logits, labels).losses
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_classes", [3, 1000])
@pytest.mark.parametrize("dense", [True, False])
def test_a_row_has_the_same_loss_alone_and_wherever_the_class_axis_lies(
    dtype: type, num_classes: int, *, dense: bool
) -> None:
    rng = np.random.default_rng(num_classes)
    logits: NDArray[Any] = (rng.standard_normal((6, 7, num_classes)) * 30).astype(dtype)
    indices = rng.integers(num_classes, size=(6, 7))
    labels = rng.dirichlet(np.ones(num_classes), (6, 7)) if dense else indices
    smoothed = {"label_smoothing": 0.1, "class_weight": rng.random(num_classes)}
    every: list[dict[str, Any]] = [{}, smoothed]
    for options in every:
        whole = cross_entropy(logits, labels, reduction="none", **options).losses
        alone = [
            cross_entropy(logits[i, j], labels[i, j], reduction="none", **options).losses
            for i, j in np.ndindex(6, 7)
        ]
        assert np.array(alone).tobytes() == whole.tobytes()
        moved_labels = np.moveaxis(labels, -1, 1) if dense else labels
        moved = cross_entropy(np.moveaxis(logits, -1, 1), moved_labels, axis=1, reduction="none", **options)
        assert moved.losses.tobytes() == whole.tobytes()


# Accuracy, Brier score, gradient


def test_accuracy_counts_what_is_not_ignored() -> None:
    normalised = normalise(LOGITS)  # predicts 1 and 2
    assert accuracy(normalised, Labels(np.array([1, 0]), "index")) == 0.5
    assert accuracy(normalised, Labels(np.array([1, -1]), "index", ignore_index=-1)) == 1.0
    assert accuracy(normalised, Labels(np.array([-1, -1]), "index", ignore_index=-1)) is None
    assert accuracy(normalise(np.zeros((0, 3))), Labels(np.zeros((0, 3)), "dense")) is None


def test_the_label_of_a_row_is_its_largest_the_lowest_of_several() -> None:
    normalised = normalise(LOGITS)
    assert accuracy(normalised, Labels(np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]), "dense")) == 0.5
    moved = normalise(LOGITS.T, axis=0)
    assert accuracy(moved, Labels(np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5]]).T, "dense")) == 0.5


def test_brier_is_the_squared_distance_from_the_labels() -> None:
    normalised, p = normalise(LOGITS), np.array([[1, 2, 1], [0.5, 0.5, 3]]) / 4
    truth = np.array([[0, 1, 0], [1, 0, 0]])
    assert brier(normalised, Labels(LABELS, "index")) == approx(((p - truth) ** 2).sum(axis=-1))
    assert brier(normalised, Labels(ROWS, "dense")) == approx(((p - ROWS) ** 2).sum(axis=-1))
    weighted = Labels(LABELS, "index", "sum", 0.3, WEIGHT, SAMPLES)
    assert brier(normalised, weighted).tolist() == brier(normalised, Labels(LABELS, "index")).tolist()
    ignored = Labels(np.array([-1, 0]), "index", ignore_index=-1)
    assert brier(normalised, ignored)[0] == 0


def test_brier_of_a_confident_row_does_not_vanish() -> None:
    found = brier(normalise(np.array([[0.0, -50.0]])), Labels(np.array([0]), "index"))
    assert found == pytest.approx([2 * math.exp(-100)], rel=1e-12)


@pytest.mark.parametrize("reduction", get_args(Reduction))
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_gradient_is_the_slope_of_the_loss(
    reduction: Reduction, temperature: float, *, dense: bool
) -> None:
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((3, 4))
    values = rng.dirichlet(np.ones(4), 3) if dense else np.array([1, 9, 3])
    options: dict[str, Any] = {
        "reduction": reduction,
        "label_smoothing": 0.1,
        "class_weight": np.array([1.0, 0.5, 2.0, 1.5]),
        "sample_weight": np.array([0.5, 2.0, 3.0]),
        "ignore_index": None if dense else 9,
    }
    labels = Labels(values, "dense" if dense else "index", **options)

    def loss(at: NDArray[Any]) -> float:
        found: Losses = cross_entropy(at, values, temperature=temperature, **options)
        return float(found.losses.sum()) if found.loss is None else found.loss

    found = gradient(normalise(logits, temperature=temperature), labels)
    step = 1e-6
    for place in np.ndindex(3, 4):
        nudge = np.zeros((3, 4))
        nudge[place] = step
        slope = (loss(logits + nudge) - loss(logits - nudge)) / (2 * step)
        assert found[place] == pytest.approx(slope, abs=2e-9)
    if not dense:
        assert not found[1].any()


def test_the_gradient_has_the_shape_and_axis_of_the_logits() -> None:
    expected = gradient(normalise(LOGITS), Labels(LABELS, "index"))
    assert expected == approx(np.array([[0.25, -0.5, 0.25], [-0.875, 0.125, 0.75]]) / 2)
    found = gradient(normalise(LOGITS.T.astype(np.float32), axis=0), Labels(LABELS, "index"))
    assert found.dtype == np.float32
    assert found == pytest.approx(expected.T, rel=1e-6)
    assert gradient(normalise(np.zeros((0, 3))), Labels(np.zeros(0, np.int64), "index")).shape == (0, 3)


def test_the_gradient_of_the_mean_of_nothing_is_0() -> None:
    labels = Labels(LABELS, "index", class_weight=np.zeros(3))
    assert not gradient(normalise(LOGITS), labels).any()


def test_the_gradient_of_a_confident_row_keeps_its_digits() -> None:
    found = gradient(normalise(np.array([0.0, -50.0])), Labels(np.array(0), "index"))
    assert found == approx([-math.exp(-50), math.exp(-50)])


def test_the_gradient_at_a_masked_class_is_0_even_for_a_tiny_temperature() -> None:
    found = gradient(normalise(np.array([0.0, 0.0, -INF]), temperature=1e-320), Labels(np.array(0), "index"))
    assert found.tolist() == [-INF, INF, 0.0]


def test_weights_beyond_float64_together_leave_a_finite_gradient() -> None:
    labels = Labels(np.array([0, 1]), "index", class_weight=np.array([1.7e308, 1.7e308]))
    plain = gradient(normalise(LOGITS[:, :2]), Labels(np.array([0, 1]), "index"))
    assert gradient(normalise(LOGITS[:, :2]), labels) == approx(plain)


# Refusals


@pytest.mark.parametrize(
    ("labels", "options", "code", "path"),
    [
        (LABELS, {"reduction": "median"}, "unknown_reduction", "reduction"),
        (LABELS, {"label_smoothing": -0.1}, "label_smoothing_range", "label_smoothing"),
        (LABELS, {"temperature": -1.0}, "temperature_range", "temperature"),
        (LABELS, {"class_weight": WEIGHT[:2]}, "class_weight_shape", "class_weight"),
        (LABELS, {"class_weight": -WEIGHT}, "class_weight_value", "class_weight[0]"),
        (LABELS, {"sample_weight": SAMPLES[:1]}, "sample_weight_shape", "sample_weight"),
        (LABELS, {"sample_weight": -SAMPLES}, "sample_weight_value", "sample_weight[0]"),
        (ROWS, {"ignore_index": -100}, "ignore_index_with_dense", "ignore_index"),
        (ROWS * 2, {"validate_labels": True}, "labels_distribution", "labels[0]"),
        (ROWS[:1], {}, "labels_shape", "labels"),
        (np.array([1, 3]), {}, "label_out_of_range", "labels[1]"),
        (np.array([1, np.nan]), {}, "labels_type", "labels"),
        (np.array(1), {}, "labels_shape", "labels"),
    ],
)
def test_cross_entropy_refuses(labels: NDArray[Any], options: dict[str, Any], code: str, path: str) -> None:
    with pytest.raises(Invalid) as caught:
        cross_entropy(LOGITS, labels, **options)
    assert (caught.value.code, caught.value.offences[0].path) == (code, path)


def test_labels_and_weights_are_rounded_to_the_type_of_the_logits() -> None:
    logits = np.array([[0.0, 3.0]], np.float32)
    found = cross_entropy(logits, np.array([1]), class_weight=np.array([1.0, 0.1]), reduction="sum").losses
    exact = float(np.float32(0.1)) * -log_softmax(logits.astype(float))[0, 1]
    assert found[0] == np.float32(exact)
    assert softmax(logits).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_index_labels_take_the_cost_of_their_class_alone(
    dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spread_out(*_: object) -> None:
        raise AssertionError("a coefficient or a cost for every class")

    monkeypatch.setattr("service.numeric.losses._coefficients", spread_out)
    monkeypatch.setattr("service.numeric.softmax.Normalised.row_costs", spread_out)
    logits: NDArray[Any] = np.asarray(LOGITS, dtype)
    every: tuple[dict[str, Any], ...] = (
        {},
        {"ignore_index": 0},
        {"class_weight": WEIGHT},
        {"sample_weight": SAMPLES},
    )
    for options in every:
        assert cross_entropy(logits, LABELS, **options).count == (1 if "ignore_index" in options else 2)
    with pytest.raises(AssertionError):
        cross_entropy(logits, LABELS, label_smoothing=0.1)
