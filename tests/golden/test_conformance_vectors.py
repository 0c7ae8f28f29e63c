"""The golden vectors as questions."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.conformance import vectors
from service.conformance.vectors import FAMILIES, PUBLISHED, Question, array, family_of, read

GOLDEN = Path(__file__).parents[1] / "golden" / "vectors.jsonl"


def named(vector: str, operation: str = "loss") -> Question:
    return next(q for q in read() if (q.vector, q.operation) == (vector, operation))


def test_every_vector_asks_something_and_those_of_losses_ask_twice() -> None:
    lines = [json.loads(line) for line in GOLDEN.read_text(encoding="utf-8").splitlines()]
    asked = Counter(question.vector for question in read())
    for line in lines:
        twice = line["op"] == "cross_entropy" and "error" not in line["expected"]
        assert asked[line["name"]] == 1 + twice, line["name"]
    assert len(asked) == len(lines) == 67


def test_there_is_one_copy_of_the_vectors() -> None:
    assert GOLDEN.resolve() == (Path(vectors.__file__).parent / "vectors.jsonl").resolve()


def test_a_refusal_has_a_code_and_an_answer_has_values() -> None:
    for question in read():
        assert bool(question.refusal) != bool(question.expected), question.vector
        assert question.logits.dtype == question.dtype


def test_every_family_has_a_question() -> None:
    assert {question.family for question in read()} == {PUBLISHED, *FAMILIES}


@pytest.mark.parametrize(
    ("tags", "family"),
    [
        (["error", "mask"], "bad input"),
        (["mask", "inf"], "infinite losses"),
        (["rank1", "large"], "huge logits"),
        (["keras"], PUBLISHED),
        ([], PUBLISHED),
    ],
)
def test_the_first_family_that_fits_is_taken(tags: list[str], family: str) -> None:
    assert family_of(tags) == family


def test_the_expected_values_are_those_of_the_file() -> None:
    of_loss, of_softmax = named("seed_ce_index_mean"), named("seed_ce_index_mean", "softmax")
    assert of_loss.expected.keys() == {"losses", "count", "loss"}
    np.testing.assert_array_equal(of_loss.expected["loss"], 0.8393433389787793)
    np.testing.assert_array_equal(of_loss.labels, [1, 2])
    assert of_softmax.expected.keys() == {"probabilities", "classes"}
    assert of_softmax.labels is None
    np.testing.assert_array_equal(of_softmax.expected["classes"], [1, 0])
    best = named("tie_first_index", "softmax").expected
    np.testing.assert_array_equal(best["top_classes"], [[1, 2, 0], [0, 1, 2]])
    assert named("seed_softmax_f64", "softmax").expected.keys() == {
        "probabilities",
        "classes",
        "log_probabilities",
    }


def test_without_a_reduction_no_loss_is_expected_and_the_mean_of_nothing_is_none() -> None:
    assert "loss" not in named("seed_ce_dense_none").expected
    assert named("ignore_all_mean_is_null").expected["loss"] is None


def test_an_empty_batch_keeps_its_shape() -> None:
    question = named("empty_batch")
    assert question.logits.shape == (0, 3)
    assert question.labels is not None
    assert question.labels.shape == (0,)
    probabilities = named("empty_batch", "softmax").expected["probabilities"]
    assert probabilities is not None
    assert probabilities.shape == (0, 3)


@pytest.mark.parametrize(
    ("vector", "output", "options"),
    [
        ("seed_ce_dense_none", "losses", set()),
        ("seed_ce_dense_mean", "loss", set()),  # the mean is what everybody takes unasked
        ("seed_ce_dense_sum", "loss", {"reduction"}),
        ("seed_ce_dense_sum", "losses", set()),
        ("weight_smoothing_index", "losses", {"class_weight", "label_smoothing"}),
        ("axis0", "losses", {"axis"}),
        ("smoothing_out_of_range", "refusal", {"label_smoothing"}),
    ],
)
def test_an_output_needs_the_options_that_change_it(vector: str, output: str, options: set[str]) -> None:
    assert named(vector).options_of(output) == options


def test_the_softmax_of_a_vector_of_losses_needs_no_options_of_losses() -> None:
    assert not named("weight_smoothing_index", "softmax").options
    assert named("tie_first_index", "softmax").options_of("top_classes") == {"top_k"}
    assert not named("tie_first_index", "softmax").options_of("probabilities")


@pytest.mark.parametrize(
    ("vector", "is_index"),
    [("seed_ce_index_mean", True), ("seed_ce_dense_mean", False), ("keras_scce_column_labels", True), ("label_float", True)],
)  # fmt: skip
def test_labels_are_indices_by_their_rank_or_because_it_is_said(vector: str, is_index: bool) -> None:  # noqa: FBT001 - a parameter
    assert named(vector).has_index_labels == is_index
    assert not named(vector)._replace(labels=None).has_index_labels


def test_dense_labels_have_the_type_of_the_logits() -> None:
    labels = named("tf_doc_xent").labels
    assert labels is not None
    assert labels.dtype == np.float32


def test_only_an_infinite_loss_may_be_refused() -> None:
    assert named("masked_label_is_infinite").may_be_refused
    assert not named("masked_label_is_infinite", "softmax").may_be_refused
    assert not named("masked_class_index_label").may_be_refused


@pytest.mark.parametrize(
    ("values", "expected", "kind"),
    [
        ([1, 2], [1, 2], "i"),
        ([1, "Infinity"], [1.0, np.inf], "f"),
        (["NaN", "-Infinity"], [np.nan, -np.inf], "f"),
        (3, 3, "i"),
    ],
)
def test_numbers_are_read_with_infinities_as_strings(values: Any, expected: Any, kind: str) -> None:
    found = array(values)
    assert found.dtype.kind == kind
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("values", [[None], ["one"], ["1"], [True], [[1], 2]])
def test_what_is_no_number_is_not_read(values: Any) -> None:
    with pytest.raises(ValueError, match="expected numbers"):
        array(values)
