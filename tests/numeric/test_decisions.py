"""Decisions, by cases worked by hand and by the definitions themselves."""

import doctest
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.numeric import decisions
from service.numeric.decisions import ABSTAINED, adjusted_logits, decide
from service.numeric.softmax import softmax
from service.types import Abstention, Decision

Floats = NDArray[np.float64]

ROWS = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.34, 0.33, 0.33]])


def classes(decision: Decision, rows: Floats = ROWS) -> list[int]:
    found: list[int] = decide(rows, decision).classes.tolist()
    return found


def test_without_any_rule_it_is_the_most_probable_class() -> None:
    assert classes(Decision()) == [0, 2, 0]
    assert decide(ROWS, Decision()).expected_costs is None


def test_ties_go_to_the_lower_index() -> None:
    assert classes(Decision(), np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4]])) == [0, 1]
    alike = np.ones((3, 3)) - np.eye(3)
    assert classes(Decision(costs=alike), np.array([[0.4, 0.4, 0.2]])) == [0]


def test_any_rank_is_decided_row_by_row() -> None:
    assert decide(ROWS[None, :, None], Decision()).classes.tolist() == [[[0], [2], [0]]]
    assert decide(ROWS[0], Decision()).classes.tolist() == 0
    assert decide(np.empty((0, 3)), Decision()).classes.shape == (0,)


# Priors and masks


def test_a_prior_shift_worked_by_hand() -> None:
    # Fitted on as many of each, used where the second is nine times as frequent: 0.6 * 1 against 0.4 * 9.
    decision = Decision(prior_ratio=np.array([0.2, 1.8]))
    found = softmax(adjusted_logits(np.log(np.array([0.6, 0.4])), decision))
    np.testing.assert_allclose(found, [0.6 / 4.2, 3.6 / 4.2], rtol=1e-15)


@given(
    hnp.arrays(np.float64, (4, 5), elements=st.floats(-20, 20)),
    hnp.arrays(np.float64, (5,), elements=st.floats(0.01, 100)),
    hnp.arrays(np.bool_, (5,)),
)
def test_the_adjusted_probabilities_are_the_definition(
    logits: Floats, ratio: Floats, masked: NDArray[np.bool_]
) -> None:
    adjusted = adjusted_logits(logits, Decision(masked=masked, prior_ratio=ratio))
    if masked.all():
        assert (adjusted == -np.inf).all()
        return
    weighed = np.exp(logits - logits.max(-1, keepdims=True)) * ratio * ~masked
    np.testing.assert_allclose(softmax(adjusted), weighed / weighed.sum(-1, keepdims=True), rtol=1e-12)


def test_a_masked_class_is_never_decided_on_and_the_others_keep_their_proportions() -> None:
    decision = Decision(masked=np.array([True, False, False]))
    found = np.asarray(softmax(adjusted_logits(np.log(ROWS), decision)), np.float64)
    np.testing.assert_allclose(found[0], [0, 0.6, 0.4], rtol=1e-15)
    assert decide(found, decision).classes.tolist() == [1, 2, 1]


def test_of_a_row_of_which_nothing_is_left_nothing_is_decided() -> None:
    assert classes(Decision(), np.zeros((1, 3))) == [ABSTAINED]
    assert classes(Decision(costs=np.ones((3, 3))), np.zeros((1, 3))) == [ABSTAINED]


# Costs


def test_costs_worked_by_hand() -> None:
    # Deciding on 0 costs 0.3*4 + 0.2*9 = 3.0, on 1 costs 0.5*1 + 0.2*2 = 0.9, on 2 costs 0.5*5 + 0.3*6 = 4.3.
    costs = np.array([[0.0, 1.0, 5.0], [4.0, 0.0, 6.0], [9.0, 2.0, 0.0]])
    found = decide(ROWS[:1], Decision(costs=costs))
    assert found.classes.tolist() == [1]
    assert found.expected_costs is not None
    np.testing.assert_allclose(found.expected_costs, [0.9])


def test_where_all_mistakes_cost_alike_it_is_the_most_probable_class() -> None:
    assert classes(Decision(costs=1.0 - np.eye(3))) == classes(Decision())


@given(
    hnp.arrays(np.float64, (3, 4), elements=st.floats(0.001, 1)),
    hnp.arrays(np.float64, (4, 4), elements=st.floats(-10, 10)),
)
def test_no_other_class_is_expected_to_cost_less(weights: Floats, costs: Floats) -> None:
    rows = weights / weights.sum(-1, keepdims=True)
    found = decide(rows, Decision(costs=costs))
    assert found.expected_costs is not None
    for row, least in zip(rows, found.expected_costs, strict=True):
        assert all(math.fsum(row * costs[:, j]) >= least - 1e-9 for j in range(4))


def test_a_class_that_cannot_be_is_not_decided_on_however_cheap() -> None:
    costs = np.array([[0.0, 1.0], [1.0, -5.0]])
    assert classes(Decision(costs=costs), np.array([[1.0, 0.0]])) == [0]


# Thresholds


def test_only_classes_that_reach_their_threshold_are_decided_on() -> None:
    decision = Decision(thresholds=np.array([0.6, 0.25, 0.7]))
    assert classes(decision) == [1, 2, 1]
    assert classes(Decision(thresholds=np.array([0.6, 0.4, 0.75]))) == [ABSTAINED] * 3


# Abstaining


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        (Abstention(below=0.5), [False, False, True]),
        (Abstention(below=0.7), [True, False, True]),
        (Abstention(margin=0.25), [True, False, True]),
        (Abstention(margin=0.01), [False, False, False]),
        (Abstention(entropy_above=1.05), [False, False, True]),
        (Abstention(entropy_above=0.9), [True, False, True]),
        (Abstention(below=0.4, margin=0.3), [True, False, True]),
        (Abstention(cost=0.1), [False, False, False]),  # without costs there is none to compare
    ],
)
def test_a_row_is_left_where_any_reason_holds(rules: Abstention, left: list[bool]) -> None:
    found = decide(ROWS, Decision(abstention=rules)).classes
    assert (found == ABSTAINED).tolist() == left


def test_a_row_is_left_where_asking_costs_less() -> None:
    found = decide(ROWS, Decision(costs=1.0 - np.eye(3), abstention=Abstention(cost=0.5)))
    assert found.classes.tolist() == [0, 2, ABSTAINED]
    assert found.expected_costs is not None
    np.testing.assert_allclose(found.expected_costs, [0.5, 0.3, 0.5])


def test_the_only_class_has_no_next_best() -> None:
    assert classes(Decision(abstention=Abstention(margin=0.9)), np.ones((2, 1))) == [0, 0]


def test_chows_rule_is_that_of_the_least_probability() -> None:
    # Where all mistakes cost 1 and asking costs t, the rule is to ask where the best probability is below 1 - t.
    by_cost = Decision(costs=1.0 - np.eye(3), abstention=Abstention(cost=0.4))
    assert classes(by_cost) == classes(Decision(abstention=Abstention(below=0.6)))


def test_the_examples_of_the_docstrings() -> None:
    assert doctest.testmod(decisions).failed == 0
