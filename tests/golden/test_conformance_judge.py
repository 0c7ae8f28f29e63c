"""Whether answers hold."""

from typing import Any

import numpy as np
import pytest
from test_conformance_vectors import named

from service.conformance.judge import Answer, compare, judge, judge_refusal
from service.conformance.vectors import Question, Tolerance

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
STRICT = Tolerance(1.2e-7, 1.5e-45, 2.4e-7, 1, 1e-5, 1e-6)
MEAN = named("seed_ce_index_mean")
SOFTMAX = named("seed_softmax_f32", "softmax")


def right(question: Question) -> dict[str, Any]:
    return {name: None if value is None else value.copy() for name, value in question.expected.items()}


@pytest.mark.parametrize(
    "vector", ["seed_ce_index_mean", "ignore_all_mean_is_null", "masked_label_is_infinite"]
)
def test_the_exact_answer_holds(vector: str) -> None:
    question = named(vector)
    for output in question.expected:
        verdict = judge(question, output, Answer(200, right(question)))
        assert verdict.held, verdict
        assert not verdict.instead


@pytest.mark.parametrize(
    ("found", "held", "near", "ulp"),
    [
        (1.0, True, False, 0.0),
        (1.0 + 2**-23, True, False, 1.0),
        (1.0 + 2**-22, False, True, 2.0),
        (1.001, False, False, pytest.approx(8389, rel=1e-3)),
        (np.nan, False, False, None),
        (np.inf, False, False, None),
    ],
)
def test_a_number_is_held_to_its_ulps(found: float, held: bool, near: bool, ulp: Any) -> None:  # noqa: FBT001 - parameters
    verdict = compare("probabilities", np.array([0.5, found]), np.array([0.5, 1.0]), FLOAT32, STRICT)
    assert (verdict.held, verdict.near, verdict.ulp) == (held, near, ulp)
    assert verdict.instead.startswith("" if held else "[1] ")


def test_digits_that_suffice_for_float32_are_enough() -> None:
    exact = np.array([0.227863002471])
    assert compare("probabilities", np.array([0.227863]), exact, FLOAT32, STRICT).held
    assert not compare("probabilities", np.array([0.227863]), exact, FLOAT64, STRICT).held


@pytest.mark.parametrize(
    ("found", "exact", "held"),
    [
        (np.inf, np.inf, True),
        (-np.inf, np.inf, False),
        (np.nan, np.inf, False),
        (1e30, np.inf, False),
        (-np.inf, -np.inf, True),
    ],
)
def test_an_infinity_is_only_itself(found: float, exact: float, held: bool) -> None:  # noqa: FBT001 - a parameter
    verdict = compare("log_probabilities", np.array([found]), np.array([exact]), FLOAT64, STRICT)
    assert verdict.held == held
    assert not verdict.near


def test_a_zero_loss_has_no_minus() -> None:
    minus, zero = np.array([-0.0]), np.array([0.0])
    verdict = compare("losses", minus, zero, FLOAT32, STRICT)
    assert (verdict.held, verdict.near) == (False, True)
    assert verdict.instead == "[0] -0.0 in place of 0.0"
    assert compare("log_probabilities", minus, zero, FLOAT32, STRICT).held


def test_the_reduced_loss_has_a_tolerance_of_its_own() -> None:
    exact = np.array(1.0)
    assert compare("loss", np.array(1.0 + 2.0e-7), exact, FLOAT32, STRICT).held
    assert not compare("losses", np.array(1.0 + 2.0e-7), exact, FLOAT32, STRICT).held
    assert not compare("loss", np.array(1.0 + 4.0e-7), exact, FLOAT32, STRICT).held


def test_classes_are_equal_or_wrong() -> None:
    verdict = compare("classes", np.array([1, 1]), np.array([1, 0]), FLOAT32, STRICT)
    assert (verdict.held, verdict.near, verdict.ulp) == (False, False, None)
    assert verdict.instead == "[1] 1 in place of 0"


def test_nothing_is_near_nothing() -> None:
    nothing = np.empty((0, 3))
    assert compare("probabilities", nothing, nothing, FLOAT32, STRICT).held


def test_a_shape_must_be_the_inputs_unless_it_was_asked_in_rows() -> None:
    outputs = right(SOFTMAX) | {"classes": np.array([[1], [0]])}
    strict = judge(SOFTMAX, "classes", Answer(200, outputs))
    assert strict.instead == "shape [2, 1] in place of [2]"
    assert judge(SOFTMAX, "classes", Answer(200, outputs, keeps_shape=False)).held
    short = right(SOFTMAX) | {"classes": np.array([1])}
    assert not judge(SOFTMAX, "classes", Answer(200, short, keeps_shape=False)).held


@pytest.mark.parametrize(
    ("outputs", "faults", "instead"),
    [
        ({}, {}, "no loss in the answer"),
        ({"loss": None}, {}, "null"),
        ({}, {"loss": "loss: expected a number, got null"}, "loss: expected a number, got null"),
        ({"loss": np.array(0.8393433389787793)}, {"": "no JSON"}, "no JSON"),
    ],
)
def test_what_came_instead_is_said(outputs: Any, faults: Any, instead: str) -> None:
    verdict = judge(MEAN, "loss", Answer(200, outputs, faults))
    assert (verdict.held, verdict.instead) == (False, instead)


@pytest.mark.parametrize(("found", "held"), [(None, True), (np.empty(0), True), (np.array(0.0), False), (np.array(np.nan), False)])  # fmt: skip
def test_the_mean_of_nothing_is_nothing(found: Any, held: bool) -> None:  # noqa: FBT001 - a parameter
    verdict = judge(named("ignore_all_mean_is_null"), "loss", Answer(200, {"loss": found}))
    assert verdict.held == held
    assert verdict.instead.endswith("" if held else "in place of null")


@pytest.mark.parametrize(
    ("answer", "instead"),
    [
        (Answer(500, text="a stack\n  of lines"), "HTTP 500: a stack of lines"),
        (Answer(422, text="no"), "HTTP 422: no"),
        (Answer(503), "HTTP 503"),
        (Answer(0, text="no answer: ReadTimeout"), "no answer: ReadTimeout"),
    ],
)
def test_an_error_is_no_answer(answer: Answer, instead: str) -> None:
    assert judge(MEAN, "losses", answer).instead == instead


def test_an_infinite_loss_may_be_refused_but_not_its_count_nor_with_a_fault_of_the_server() -> None:
    question = named("masked_label_is_infinite")
    assert judge(question, "losses", Answer(422)).held
    assert not judge(question, "count", Answer(422)).held
    assert not judge(question, "losses", Answer(500)).held


@pytest.mark.parametrize(
    ("answer", "by_code", "held"),
    [
        (Answer(422, code="label_out_of_range"), True, True),
        (Answer(400), True, True),
        (Answer(422, code="labels_type"), True, False),
        (Answer(400, code="malformed_json"), False, True),
        (Answer(404), True, False),
        (Answer(500), True, False),
        (Answer(200, {"loss": np.array(1.0)}), True, False),
    ],
)
def test_bad_input_is_refused_by_its_code_where_there_is_one(
    answer: Answer,
    by_code: bool,  # noqa: FBT001 - a parameter
    held: bool,  # noqa: FBT001 - a parameter
) -> None:
    assert judge_refusal(named("label_negative"), answer, by_code=by_code).held == held


@pytest.mark.parametrize(
    ("answer", "instead"),
    [
        (Answer(200, {"loss": np.array([np.nan]), "count": None}), "it was answered: loss [nan], count null"),
        (Answer(200, {}, {"losses": "losses[0]: got null"}), "it was answered: losses[0]: got null"),
        (Answer(200), "it was answered: nothing that is known here"),
        (Answer(422, code="other"), "the code other in place of label_out_of_range"),
        (Answer(500, text="x" * 1000), f"HTTP 500: {'x' * 120}"),
    ],
)
def test_what_bad_input_got_is_said(answer: Answer, instead: str) -> None:
    assert judge_refusal(named("label_negative"), answer).instead == instead
