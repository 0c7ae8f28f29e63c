"""Quality as sums: the same numbers as the scores of the rows, and sums of parts are those of the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from service.instruments import BUCKETS_NATS, BUCKETS_SHARE
from service.numeric.quality import (
    ENERGY_BINS,
    MOST_CLASSES,
    MOST_CONFUSED,
    RANKS,
    SHARE_BINS,
    Layout,
    drift,
    judged,
    kolmogorov_smirnov,
    layout_of,
    observed,
    stability_index,
)
from service.numeric.scores import DEFAULT_BINS, Scores, sum_up
from service.numeric.softmax import normalise


def drawn(rows: int, classes: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    return random.normal(0, 3, (rows, classes)), random.integers(0, classes, rows)


def judge(
    logits: NDArray[np.float64], labels: NDArray[np.int64], classes: int | None = None
) -> NDArray[np.float64]:
    layout = layout_of(logits.shape[1] if classes is None else classes)
    return judged(layout, normalise(logits, with_others=True), labels)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000))
def test_labelled_rows_give_the_numbers_of_their_scores(rows: int, classes: int, seed: int) -> None:
    logits, labels = drawn(rows, classes, seed)
    layout, vector = layout_of(classes), judge(logits, labels)
    scores = Scores([sum_up(normalise(logits), labels)])

    def part(name: str) -> NDArray[np.float64]:
        return layout.of(vector, name)

    assert part("rows")[0] == rows
    assert part("loss")[0] / rows == pytest.approx(scores.log_loss, rel=1e-13, abs=1e-15)
    assert part("brier")[0] / rows == pytest.approx(scores.brier.score, rel=1e-13, abs=1e-15)
    for count, k in zip(part("correct"), RANKS, strict=True):
        assert count / rows == scores.top_k_accuracy(k)
    np.testing.assert_array_equal(part("bin_rows"), scores.equal_width.counts)
    np.testing.assert_array_equal(part("bin_correct"), scores.equal_width.hits)
    np.testing.assert_array_equal(part("bin_confidence"), scores.equal_width.probabilities)
    np.testing.assert_array_equal(part("class_rows"), scores.per_class.rows)
    np.testing.assert_array_equal(part("class_predicted"), scores.per_class.predicted)
    np.testing.assert_array_equal(part("confusion").reshape(classes, classes), scores.confusion())
    np.testing.assert_array_equal(part("class_correct"), scores.confusion().diagonal())
    assert part("seen")[0] == 0


def test_parts_add_up_to_the_whole() -> None:
    logits, labels = drawn(60, 5)
    whole = judge(logits, labels)
    parts = judge(logits[:17], labels[:17]) + judge(logits[17:], labels[17:])
    np.testing.assert_allclose(parts, whole, rtol=1e-13)
    layout = layout_of(5)
    for name in ("rows", "correct", "bin_rows", "bin_correct", "class_rows", "confusion"):
        np.testing.assert_array_equal(layout.of(parts, name), layout.of(whole, name))


def test_a_row_whose_loss_is_infinite_is_left_out() -> None:
    logits = np.array([[0.0, -np.inf, 1.0], [0.0, 1.0, 2.0]])
    vector = judge(logits, np.array([1, 1]))
    np.testing.assert_array_equal(vector, judge(logits[1:], np.array([1])))


def test_requests_of_any_number_of_classes_have_no_counts_by_class() -> None:
    layout = layout_of(0)
    logits, labels = drawn(10, 7)
    vector = judge(logits, labels, 0) + judge(*drawn(10, 3), 0)
    assert layout.of(vector, "rows")[0] == 20
    assert all(layout.length(name) == 0 for name in ("class_rows", "confusion", "predicted"))


def test_what_is_kept_of_a_head_is_bounded() -> None:
    small, large, huge = (Layout(n) for n in (MOST_CONFUSED, MOST_CONFUSED + 1, MOST_CLASSES + 1))
    assert small.length("confusion") == MOST_CONFUSED**2
    assert (large.length("confusion"), large.length("class_rows")) == (0, MOST_CONFUSED + 1)
    assert (huge.length("class_rows"), huge.length("predicted")) == (0, 0)
    assert huge.size < 300
    logits, labels = drawn(4, MOST_CLASSES + 1)
    assert huge.of(judge(logits, labels), "rows")[0] == 4
    assert huge.of(observed(huge, logits), "seen")[0] == 4


# Traffic


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 1000))
def test_traffic_is_counted_by_its_definitions(rows: int, classes: int, seed: int) -> None:
    logits, _ = drawn(rows, classes, seed)
    layout = layout_of(classes)
    vector = observed(layout, logits)
    probabilities = special.softmax(logits, axis=1)
    best = np.sort(np.hstack([probabilities, np.zeros((rows, 1))]), axis=1)
    values = {
        "confidence": best[:, -1],
        "margin": best[:, -1] - best[:, -2],
        "entropy": stats.entropy(probabilities, axis=1) / (np.log(classes) or 1),
        "energy": -special.logsumexp(logits, axis=1),
    }
    np.testing.assert_allclose(
        layout.of(vector, "sums"), [v.sum() for v in values.values()], rtol=1e-9, atol=1e-9
    )
    assert layout.of(vector, "seen")[0] == rows
    np.testing.assert_array_equal(
        layout.of(vector, "predicted"), np.bincount(logits.argmax(1), minlength=classes)
    )
    for name, edges in (
        *((name, [-1, *BUCKETS_SHARE]) for name in ("confidence", "margin", "entropy")),
        ("energy", [-np.inf, *BUCKETS_NATS, np.inf]),
    ):
        near = np.abs(np.subtract.outer(values[name], edges[1:])) < 1e-9
        if not near.any():  # a value on an edge may fall to either side by rounding
            found = layout.of(vector, name)
            places = np.searchsorted(edges[1:], values[name])
            np.testing.assert_array_equal(found, np.bincount(places, minlength=len(found)), err_msg=name)
        assert layout.of(vector, name).sum() == rows


def test_masked_classes_and_ties_have_their_place() -> None:
    layout = layout_of(3)
    vector = observed(layout, np.array([[0.0, 0.0, 0.0], [5.0, -np.inf, -np.inf]]))
    np.testing.assert_allclose(layout.of(vector, "sums"), [4 / 3, 1.0, 1.0, -np.log(3) - 5], atol=1e-15)
    assert layout.of(vector, "margin")[[0, -1]].tolist() == [1, 1]
    assert layout.of(vector, "entropy")[[0, -1]].tolist() == [1, 1]


def test_rows_that_stand_for_others_count_so_often() -> None:
    layout, (logits, _) = layout_of(4), drawn(6, 4)
    found, once = observed(layout, logits, np.full(6, 2.5)), observed(layout, logits)
    assert layout.of(found, "looked")[0] == 6
    found[layout.parts["looked"]] *= 2.5
    np.testing.assert_allclose(found, 2.5 * once, rtol=1e-15)


def test_a_vector_has_the_parts_that_it_is_made_of() -> None:
    layout = layout_of(2)
    vector = layout.filled({"rows": 3, "predicted": [1, 2]})
    assert layout.of(vector, "predicted").tolist() == [1, 2]
    assert vector.sum() == 6
    assert layout.length("confidence") == SHARE_BINS
    assert layout.length("energy") == ENERGY_BINS
    assert layout.length("bin_rows") == DEFAULT_BINS


# Drift


def test_the_stability_index_by_hand() -> None:
    reference, counts = np.array([60.0, 30, 10]), np.array([5.0, 3, 2])
    expected = -0.1 * np.log(0.5 / 0.6) + 0.0 + 0.1 * np.log(0.2 / 0.1)
    assert stability_index(reference, counts) == pytest.approx(expected)
    assert stability_index(reference, 7 * reference) == 0


def test_one_row_in_a_bin_that_was_empty_does_not_decide_alone() -> None:
    reference, counts = np.array([1e6, 0.0]), np.array([1e6, 1.0])
    assert stability_index(reference, counts) < 1e-3


def test_the_distance_of_kolmogorov_and_smirnov_by_hand() -> None:
    assert kolmogorov_smirnov(np.array([1.0, 1, 2]), np.array([2.0, 0, 2])) == 0.25
    assert kolmogorov_smirnov(np.array([1.0, 0]), np.array([0.0, 3])) == 1


def test_the_distance_is_at_most_that_of_the_rows() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(size=(500, 4)), random.normal(0.5, 2, size=(400, 4))
    layout = layout_of(4)
    found = {of: ks for of, _, ks in drift(layout, observed(layout, one), observed(layout, other))}
    rows = [special.softmax(logits, axis=1).max(axis=1) for logits in (one, other)]
    assert found["predicted"] is None
    assert found["confidence"] is not None
    assert 0.02 < found["confidence"] <= stats.ks_2samp(*rows).statistic


def test_what_was_not_counted_does_not_drift() -> None:
    layout = layout_of(MOST_CLASSES + 1)
    vector = observed(layout, drawn(5, MOST_CLASSES + 1)[0])
    assert [of for of, _, _ in drift(layout, vector, vector)] == ["confidence", "margin", "entropy", "energy"]
