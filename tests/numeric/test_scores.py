"""Scores: the contract's worked example, scikit-learn and plain loops, edges of bins, and sums that merge."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    brier_score_loss,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from service.numeric.scores import Scores, Sums, sum_up
from service.numeric.softmax import normalise

LOGITS = np.array(
    [
        [2.6, 4.4, -6.4],
        [-0.3, 2.5, 3.4],
        [1.6, 3.7, 0.7],
        [1.4, 0.4, -2.7],
        [-2.1, 0.9, -1.5],
        [3.2, 3.2, 4.5],
        [-0.1, 3.5, -2.3],
        [-2.0, 0.2, 0.7],
        [-4.0, -4.3, 0.9],
        [-2.2, 3.0, 1.0],
        [0.8, 0.5, 2.2],
        [-0.4, 2.7, -1.3],
    ]
)
LABELS = np.array([1, 0, 1, 0, 1, 2, 0, 2, 2, 1, 2, 1])


def scores_of(logits: NDArray[Any], labels: NDArray[Any], num_bins: int = 15, cut: int = 10**6) -> Scores:
    return Scores(sums_of(logits, labels, num_bins, cut))


def sums_of(logits: NDArray[Any], labels: NDArray[Any], num_bins: int, cut: int) -> list[Sums]:
    return [
        sum_up(normalise(logits[at : at + cut]), labels[at : at + cut], num_bins)
        for at in range(0, len(logits), cut)
    ]


def made_up(rows: int, classes: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, classes)) * 2
    return logits, (logits + generator.normal(size=logits.shape) * 2).argmax(axis=1)


def with_probability(p: float) -> list[float]:
    """Two logits whose first probability is p."""
    return [np.log(p), np.log1p(-p)]


def test_the_worked_example() -> None:
    scores = scores_of(LOGITS, LABELS, num_bins=5)
    assert scores.rows == 12
    assert scores.accuracy == 10 / 12
    found = [
        scores.log_loss,
        scores.brier.score,
        scores.ece_equal_width,
        scores.mce,
        scores.ece_equal_mass,
        scores.ece_classwise,
    ]
    expected = [
        0.830879687421,
        0.360268190210,
        0.083115067809,
        0.402534272451,
        0.182289640341,
        0.106424490826,
    ]
    assert found == pytest.approx(expected, abs=6e-13)


@pytest.mark.parametrize(("rows", "classes"), [(7, 2), (400, 3), (300, 12)])
def test_scikit_learn_agrees(rows: int, classes: int) -> None:
    logits, labels = made_up(rows, classes)
    every = list(range(classes))
    probabilities = normalise(logits).probabilities()
    scores = scores_of(logits, labels, cut=64)
    predicted = logits.argmax(axis=1)
    assert scores.log_loss == pytest.approx(log_loss(labels, probabilities, labels=every), rel=1e-12)
    ours = scores.brier.score / (2 if classes == 2 else 1)
    if classes == 2:
        assert ours == pytest.approx(brier_score_loss(labels, probabilities[:, 1]), rel=1e-12)
    np.testing.assert_array_equal(scores.confusion(), confusion_matrix(labels, predicted, labels=every))
    theirs = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=np.nan)
    per_class = scores.per_class
    for mine, other in zip((per_class.precision, per_class.recall, per_class.f1), theirs, strict=False):
        np.testing.assert_allclose(mine, other, rtol=1e-12)
    np.testing.assert_array_equal(per_class.rows, theirs[3])
    for k in range(1, classes):
        score = logits[:, 1] if classes == 2 else logits
        if classes > 2:
            assert scores.top_k_accuracy(k) == pytest.approx(
                top_k_accuracy_score(labels, score, k=k, labels=every)
            )
    assert scores.top_k_accuracy(classes) == 1


def test_calibration_errors_are_what_plain_loops_make_of_them() -> None:
    logits, labels = made_up(157, 4, seed=3)
    probabilities = np.asarray(normalise(logits).probabilities())
    confidences, hits = probabilities.max(axis=1), logits.argmax(axis=1) == labels
    num_bins = 7

    def error(groups: list[NDArray[Any]], p: NDArray[Any], hit: NDArray[Any]) -> tuple[float, float]:
        gaps = [(len(g), abs(hit[g].mean() - p[g].mean())) for g in groups if len(g)]
        return sum(n * gap for n, gap in gaps) / len(p), max(gap for _, gap in gaps)

    def by_width(p: NDArray[Any]) -> list[NDArray[Any]]:
        return [np.flatnonzero((p > m / num_bins) & (p <= (m + 1) / num_bins)) for m in range(num_bins)]

    scores = scores_of(logits, labels, num_bins, cut=10)
    ece, mce = error(by_width(confidences), confidences, hits)
    assert [scores.ece_equal_width, scores.mce] == pytest.approx([ece, mce])
    by_mass = np.array_split(np.argsort(confidences, kind="stable"), num_bins)
    assert scores.ece_equal_mass == pytest.approx(error(by_mass, confidences, hits)[0])
    by_class = [error(by_width(p), p, labels == c)[0] for c, p in enumerate(probabilities.T)]
    assert scores.ece_classwise == pytest.approx(np.mean(by_class))


def test_a_probability_on_an_edge_is_in_the_bin_below_it() -> None:
    logits = np.array([with_probability(0.5), [0.0, 0.0], [0.0, -np.inf]])
    scores = scores_of(logits, np.array([0, 0, 0]), num_bins=2)
    assert scores.equal_width.counts.tolist() == [2, 1]
    # The probability 0 of the masked class is in the first bin too.
    assert scores._sums.by_class.counts.tolist() == [[2, 1], [3, 0]]


@pytest.mark.parametrize("num_bins", [1, 3, 10, 15])
def test_equal_mass_bins_differ_by_one_row_at_most_larger_first(num_bins: int) -> None:
    logits, labels = made_up(32, 3)
    counts = scores_of(logits, labels, num_bins).equal_mass.counts.tolist()
    assert counts == sorted(counts, reverse=True)
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == 32


def test_equal_confidences_keep_the_order_of_the_rows() -> None:
    logits = np.tile(with_probability(0.75), (4, 1))
    bins = scores_of(logits, np.array([0, 0, 1, 1]), num_bins=2).equal_mass
    assert bins.hits.tolist() == [2, 0]


def test_fewer_rows_than_bins_leave_bins_empty() -> None:
    scores = scores_of(LOGITS[:2], LABELS[:2])
    assert scores.equal_mass.counts.sum() == 2
    for value in (scores.ece_equal_width, scores.ece_equal_mass, scores.ece_classwise, scores.mce):
        assert 0 <= value <= 1


def test_the_parts_of_the_brier_score_add_up_and_what_binning_leaves_out_is_its_own_formula() -> None:
    logits, labels = made_up(500, 3, seed=5)
    num_bins = 6
    parts = scores_of(logits, labels, num_bins).brier
    assert parts.score == pytest.approx(
        parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins, rel=1e-14
    )
    within = 0.0
    for c, p in enumerate(np.asarray(normalise(logits).probabilities()).T):
        y = (labels == c).astype(float)
        for m in range(num_bins):
            inside = (p > m / num_bins) & (p <= (m + 1) / num_bins)
            if inside.any():
                deviation = p[inside] - p[inside].mean()
                within += (deviation**2).sum() - 2 * (deviation * (y[inside] - y[inside].mean())).sum()
    assert parts.within_bins == pytest.approx(within / len(labels), rel=1e-9)


def test_where_all_probabilities_of_a_bin_are_equal_murphys_three_parts_are_all() -> None:
    logits = np.repeat([with_probability(0.8), with_probability(0.3)], [10, 20], axis=0)
    labels = np.repeat([0, 1, 0, 1], [8, 2, 4, 16])
    parts = scores_of(logits, labels, num_bins=10).brier
    assert parts.within_bins == pytest.approx(0, abs=1e-12)
    assert parts.reliability == pytest.approx(2 * 20 / 30 * (0.3 - 0.2) ** 2)
    assert parts.uncertainty == pytest.approx(2 * 0.4 * 0.6)


def test_labels_drawn_as_the_probabilities_say_are_calibrated() -> None:
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(200_000, 3))
    probabilities = np.asarray(normalise(logits).probabilities())
    labels = (probabilities.cumsum(axis=1) < generator.random((len(logits), 1))).sum(axis=1)
    scores = scores_of(logits, labels, cut=50_000)
    assert scores.ece_equal_width < 0.005
    assert scores.ece_classwise < 0.005
    assert scores.brier.reliability < 1e-4
    overconfident = scores_of(logits * 3, labels, cut=50_000)
    assert overconfident.ece_equal_width > 0.1
    assert overconfident.accuracy == scores.accuracy


def test_ties_go_to_the_lower_index() -> None:
    scores = scores_of(np.zeros((3, 3)), np.array([0, 1, 2]))
    assert [scores.top_k_accuracy(k) for k in (1, 2, 3)] == [1 / 3, 2 / 3, 1]
    assert scores.accuracy == 1 / 3


def test_masked_classes_come_last() -> None:
    scores = scores_of(np.array([[0.0, -np.inf, 1.0]]), np.array([0]))
    assert scores.top_k_accuracy(1) == 0
    assert scores.top_k_accuracy(2) == 1


def test_a_class_that_is_never_meant_or_never_predicted_has_no_quotient() -> None:
    per_class = scores_of(np.array([[1.0, 0, -1], [1, 0, -1]]), np.array([0, 1])).per_class
    assert per_class.precision.tolist()[0] == 0.5
    assert np.isnan(per_class.precision[1:]).all()
    assert per_class.recall.tolist()[:2] == [1, 0]
    assert np.isnan([per_class.recall[2], per_class.f1[2]]).all()
    assert per_class.f1.tolist()[1] == 0


def test_mistakes_are_listed_by_how_often_they_happen() -> None:
    logits = np.eye(3)[[0, 0, 0, 1, 2, 2]]
    scores = scores_of(logits, np.array([0, 1, 1, 0, 2, 0]))
    assert scores.confused() == [(1, 0, 2), (0, 1, 1), (0, 2, 1)]
    assert scores_of(np.eye(3), np.arange(3)).confused() == []


@given(
    st.integers(1, 40), st.integers(1, 5), st.integers(1, 20), st.integers(1, 41), st.integers(0, 2**31 - 1)
)
def test_sums_of_parts_merge_into_the_sums_of_all(
    rows: int, classes: int, num_bins: int, cut: int, seed: int
) -> None:
    logits, labels = made_up(rows, classes, seed)
    whole, parts = scores_of(logits, labels, num_bins), scores_of(logits, labels, num_bins, cut)
    backwards = Scores(reversed(sums_of(logits, labels, num_bins, cut)))
    for other in (parts, backwards):
        for name in ("log_loss", "ece_equal_width", "ece_classwise", "mce"):
            assert getattr(other, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-12), name
        assert other.brier == pytest.approx(whole.brier, rel=1e-9, abs=1e-12)
        assert other.accuracy == whole.accuracy
        np.testing.assert_array_equal(other.confusion(), whole.confusion())
    assert parts.ece_equal_mass == pytest.approx(whole.ece_equal_mass, rel=1e-9, abs=1e-12)


@given(st.floats(0.02, 50), st.integers(0, 100))
def test_a_temperature_changes_neither_classes_nor_ranks(temperature: float, seed: int) -> None:
    logits, labels = made_up(50, 4, seed)
    raw = scores_of(logits, labels)
    scaled = Scores([sum_up(normalise(logits, temperature=temperature), labels)])
    np.testing.assert_array_equal(scaled.confusion(), raw.confusion())
    assert [scaled.top_k_accuracy(k) for k in range(1, 5)] == [raw.top_k_accuracy(k) for k in range(1, 5)]


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 30), st.integers(0, 2**31 - 1))
def test_scores_stay_within_their_ranges(rows: int, classes: int, num_bins: int, seed: int) -> None:
    scores = scores_of(*made_up(rows, classes, seed), num_bins)
    for value in (scores.ece_equal_width, scores.ece_equal_mass, scores.ece_classwise, scores.mce):
        assert 0 <= value <= 1
    assert scores.ece_equal_width <= scores.mce + 1e-15
    assert 0 <= scores.brier.score <= 2
    assert scores.log_loss >= 0
    assert min(scores.brier.reliability, scores.brier.resolution, scores.brier.uncertainty) >= 0
