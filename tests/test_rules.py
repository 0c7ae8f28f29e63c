"""The rules of a decision as data: what is read, and what is refused with its place."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import RequestError
from service.rules import read_decision
from service.types import Abstention, Decision

NAMES = ("cat", "dog", "eel")


def read(**said: Any) -> Decision:
    return read_decision(said, 3, NAMES)


def refused(said: Any, class_names: tuple[str, ...] | None = NAMES) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        read_decision(said, 3, class_names)
    assert len(caught.value.detail) < 300
    return caught.value.code, caught.value.offences[0].path


def test_no_rule_is_a_decision_too() -> None:
    assert read() == Decision()


def test_each_rule_is_read() -> None:
    found = read(
        mask=["dog", 2],
        priors={"fitted": [0.5, 0.25, 0.25], "used": [0.25, 0.25, 0.5]},
        costs=[[0, 1, 5], [4, 0, 6.5], [9, 2, 0]],
        abstain={"below": 0.5, "margin": 0, "entropy_above": 3, "cost": -1},
    )
    assert found.masked is not None
    assert found.masked.tolist() == [False, True, True]
    assert found.prior_ratio is not None
    assert found.prior_ratio.tolist() == [0.5, 1, 2]
    assert found.costs is not None
    assert found.costs.dtype == np.float64
    assert found.costs.tolist() == [[0, 1, 5], [4, 0, 6.5], [9, 2, 0]]
    assert found.abstention == Abstention(0.5, 0, 3, -1)
    for said in (0.25, [0.25, 0.25, 0.25]):
        thresholds = read(thresholds=said).thresholds
        assert thresholds is not None
        assert thresholds.tolist() == [0.25] * 3


@pytest.mark.parametrize(
    ("said", "code", "path"),
    [
        ([], "decision_type", "decision"),
        ({"threshold": 1}, "unknown_field", "decision.threshold"),
        ({"mask": "dog"}, "decision_type", "decision.mask"),
        ({"mask": ["cow"]}, "unknown_class_name", "decision.mask[0]"),
        ({"mask": [0, 3]}, "decision_value", "decision.mask[1]"),
        ({"mask": [True]}, "decision_value", "decision.mask[0]"),
        ({"mask": [0, 1, "eel"]}, "decision_value", "decision.mask"),
        ({"priors": [1, 1, 1]}, "decision_type", "decision.priors"),
        ({"priors": {"fitted": [1, 0, 0]}}, "decision_value", "decision.priors.fitted[1]"),
        ({"priors": {"fitted": [0.5, 0.25, 0.25]}}, "missing_field", "decision.priors.used"),
        ({"priors": {"fitted": [0.5, 0.5, 0.5]}}, "decision_value", "decision.priors.fitted"),
        ({"priors": {"fitted": [0.5, 0.5]}}, "decision_shape", "decision.priors.fitted"),
        ({"priors": {"trained": [1]}}, "unknown_field", "decision.priors.trained"),
        ({"costs": [[0, 1, 1]]}, "decision_shape", "decision.costs"),
        ({"costs": [[0, 1, 1], [0, 1], [1, 1, 0]]}, "decision_shape", "decision.costs[1]"),
        ({"costs": [[0, 1, 1], [0, "1", 0], [1, 1, 0]]}, "decision_type", "decision.costs[1][1]"),
        ({"costs": [0, 1, 1]}, "decision_type", "decision.costs[0]"),
        ({"thresholds": 1.5}, "decision_value", "decision.thresholds[0]"),
        ({"thresholds": [0, 0, -0.5]}, "decision_value", "decision.thresholds[2]"),
        ({"thresholds": [0, 0]}, "decision_shape", "decision.thresholds"),
        ({"thresholds": None}, "decision_type", "decision.thresholds"),
        ({"costs": np.eye(3).tolist(), "thresholds": 0.5}, "decision_value", "decision.thresholds"),
        ({"abstain": 0.5}, "decision_type", "decision.abstain"),
        ({"abstain": {"under": 0.5}}, "unknown_field", "decision.abstain.under"),
        ({"abstain": {"below": True}}, "decision_type", "decision.abstain.below"),
        ({"abstain": {"below": 1.5}}, "decision_value", "decision.abstain.below"),
        ({"abstain": {"margin": -0.1}}, "decision_value", "decision.abstain.margin"),
        ({"abstain": {"cost": 1}}, "decision_value", "decision.abstain.cost"),
        ({"abstain": {"entropy_above": float("nan")}}, "decision_type", "decision.abstain.entropy_above"),
        ({"abstain": {"entropy_above": 10**400}}, "decision_type", "decision.abstain.entropy_above"),
    ],
)
def test_a_rule_that_cannot_hold_is_refused_at_its_place(said: Any, code: str, path: str) -> None:
    assert refused(said) == (code, path)


def test_names_need_names() -> None:
    assert refused({"mask": ["dog"]}, class_names=None) == ("unknown_class_name", "decision.mask[0]")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["fitted", "used", "below", "cost", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["mask", "priors", "costs", "thresholds", "abstain", "x"]), VALUES))
def test_any_json_is_read_or_refused(said: dict[str, Any]) -> None:
    try:
        read_decision(said, 3, NAMES)
    except RequestError as error:
        assert error.status == 422  # noqa: PT017 - any other exception fails the test
