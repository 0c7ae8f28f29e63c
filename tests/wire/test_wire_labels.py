"""Labels and weights, as JSON values or arrays."""

from typing import Any

import numpy as np
import pytest

from service.errors import Invalid, TooLarge
from service.types import Labels
from service.wire.labels import Scale, read_labels, read_numbers
from service.wire.limits import Limits
from service.wire.options import Options

LIMITS = Limits(body_bytes=1 << 20, rows=100, elements=100, json_depth=32)
FLOAT64 = np.dtype(np.float64)
FLOAT32 = np.dtype(np.float32)
ROWS = Scale((2, 3), 1, FLOAT64)  # two examples of three classes
NAMES = ("cat", "dog", "bird")


def read(
    labels: Any,
    *,
    scale: Scale = ROWS,
    options: Options | None = None,
    names: tuple[str, ...] | None = None,
    **weights: Any,
) -> Labels:
    return read_labels({"labels": labels, **weights}, options or Options(), scale, names, LIMITS)


def refused(labels: Any, **more: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        read(labels, **more)
    assert len(caught.value.message) < 150
    return caught.value.code, caught.value.offences[0].path


def test_a_scale_knows_its_classes_and_examples() -> None:
    scale = Scale((4, 3, 5), 1, FLOAT32)
    assert scale.num_classes == 3
    assert scale.batch_shape == (4, 5)


@pytest.mark.parametrize(
    "labels", [[1, 2], np.array([1, 2]), np.array([1, 2], np.uint8), np.array([1, 2], ">i4")]
)
def test_integers_of_one_rank_less_are_indices(labels: Any) -> None:
    found = read(labels)
    assert found.format == "index"
    assert found.values.dtype == np.int64
    assert found.values.tolist() == [1, 2]


@pytest.mark.parametrize(
    "labels",
    [
        [[0, 1, 0], [0, 0.25, 0.75]],
        np.array([[0, 1, 0], [0, 0.25, 0.75]]),
        np.array([[0, 1, 0], [0, 0.25, 0.75]], np.float16),
    ],
)
def test_numbers_of_equal_rank_are_target_rows(labels: Any) -> None:
    found = read(labels)
    assert found.format == "dense"
    assert found.values.dtype == np.float64
    assert found.values.tolist() == [[0, 1, 0], [0, 0.25, 0.75]]


def test_target_rows_may_be_integers_and_take_the_logits_type() -> None:
    found = read([[0, 1, 0], [0, 0, 1]], scale=Scale((2, 3), 1, FLOAT32))
    assert found.values.dtype == np.float32
    assert read(np.array([[0, 1, 0], [0, 0, 1]])).values.dtype == np.float64


@pytest.mark.parametrize("labels", [["dog", "bird"], np.array(["dog", "bird"])])
def test_names_stand_for_indices_where_they_are_known(labels: Any) -> None:
    assert read(labels, names=NAMES).values.tolist() == [1, 2]


def test_names_of_any_rank_and_of_any_word_stand_for_indices() -> None:
    assert read("dog", scale=Scale((3,), 0, FLOAT64), names=NAMES).values.tolist() == 1
    assert read(["NaN", "b"], scale=Scale((2, 2), 1, FLOAT64), names=("b", "NaN")).values.tolist() == [1, 0]
    grid = read(np.array([["dog"], ["cat"]]), scale=Scale((2, 1, 3), 2, FLOAT64), names=NAMES)
    assert grid.values.tolist() == [[1], [0]]


@pytest.mark.parametrize("labels", [["dog", "cow"], np.array(["dog", "cow"]), ["dog", "x" * 10_000]])
def test_an_unknown_name_is_refused_at_its_place(labels: Any) -> None:
    assert refused(labels, names=NAMES) == ("unknown_class_name", "labels[1]")


@pytest.mark.parametrize(
    ("labels", "names", "path"),
    [
        (["dog", "cat"], None, "labels[0]"),
        (np.array(["dog", "cat"]), None, "labels[0]"),
        ([1, "dog"], NAMES, "labels[1]"),
        (["dog", 1], NAMES, "labels[0]"),
        ([1.0, 2], None, "labels[0]"),
        ([1, 2.5], None, "labels[1]"),
        ([0, True], None, "labels[1]"),
        ([None, 0], None, "labels[0]"),
        ([0, {"a": 1}], None, "labels[1]"),
        (["NaN", 0], None, "labels[0]"),
        (np.array([1.0, 2.0]), None, "labels"),
        (np.array([True, False]), None, "labels"),
        (np.array([b"dog", b"cat"]), NAMES, "labels"),
        (np.array([1j, 2]), None, "labels"),
    ],
)
def test_what_is_no_index_is_refused_at_its_place(
    labels: Any, names: tuple[str, ...] | None, path: str
) -> None:
    assert refused(labels, names=names) == ("labels_type", path)


@pytest.mark.parametrize(
    ("labels", "path"),
    [
        ([[0, 1, 0], [0, True, 0]], "labels[1][1]"),
        ([[0, 1, 0], [0, None, 0]], "labels[1][1]"),
        ([["cat", 1, 0], [0, 0, 1]], "labels[0][0]"),
        ([["cat", "dog", "dog"], ["cat", "cat", "cat"]], "labels[0][0]"),
        (np.full((2, 3), "cat"), "labels[0][0]"),
        (np.ones((2, 3), bool), "labels"),
    ],
)
def test_what_is_no_target_row_is_refused_at_its_place(labels: Any, path: str) -> None:
    assert refused(labels, names=NAMES) == ("labels_type", path)


@pytest.mark.parametrize(
    ("labels", "path"),
    [
        ([0, 3], "labels[1]"),
        ([-1, 0], "labels[0]"),
        ([0, 2**63], "labels[1]"),
        ([0, 2.0**64], "labels[1]"),
        ([-(2.0**64), 0], "labels[0]"),
        ([1e300, 0], "labels[0]"),
        (np.array([0, 2**64 - 1], np.uint64), "labels[1]"),
        (np.array([0, 9]), "labels[1]"),
    ],
)
def test_an_index_that_is_no_class_is_out_of_range(labels: Any, path: str) -> None:
    assert refused(labels) == ("label_out_of_range", path)


def test_a_large_index_does_not_hide_an_earlier_mistake() -> None:
    assert refused([1.5, 2**63]) == ("labels_type", "labels[0]")


def test_the_ignored_index_is_allowed_and_only_it() -> None:
    options = Options(ignore_index=-100)
    found = read([-100, 2], options=options)
    assert found.values.tolist() == [-100, 2]
    assert found.ignore_index == -100
    assert refused([-1, 2], options=options) == ("label_out_of_range", "labels[0]")
    dense = [[0, 1, 0], [0, 0, 1]]
    assert refused(dense, options=options) == ("ignore_index_with_dense", "ignore_index")


@pytest.mark.parametrize(
    "labels", [[1], [1, 2, 0], [], 1, [[[1, 2]]], [[0, 1, 0]], [[1], [2]], np.zeros((2, 3, 1))]
)
def test_labels_of_another_shape_are_refused(labels: Any) -> None:
    assert refused(labels) == ("labels_shape", "labels")


def test_a_column_of_indices_is_squeezed_where_it_is_said_to_be_one() -> None:
    assert read([[1], [2]], options=Options(label_format="index")).values.tolist() == [1, 2]


def test_the_said_format_goes_before_the_rank() -> None:
    assert refused([1, 2], options=Options(label_format="dense")) == ("labels_shape", "labels")
    rows = [[0, 1, 0], [0, 0, 1]]
    assert refused(rows, options=Options(label_format="index")) == ("labels_shape", "labels")


def test_uneven_labels_are_ragged() -> None:
    assert refused([[0, 1, 0], [0, 1]]) == ("ragged", "labels[1]")
    assert refused([0, [1]]) == ("ragged", "labels[1]")


def test_target_rows_must_be_finite_and_broadcast_or_validate_only_when_asked() -> None:
    assert refused([[0, "NaN", 0], [0, 0, 1]]) == ("non_finite_labels", "labels[0][1]")
    assert read([[0, 1, 0]], options=Options(broadcast_labels=True)).values.shape == (2, 3)
    doubled = [[0, 2, 0], [0, 0, 1]]
    assert read(doubled).values.tolist() == doubled
    assert refused(doubled, options=Options(validate_labels=True)) == ("labels_distribution", "labels[0]")


def test_weights_are_read_and_take_the_logits_type() -> None:
    found = read(
        [1, 2], class_weight=[1, 2.5, 0], sample_weight=np.array([1, 2]), scale=Scale((2, 3), 1, FLOAT32)
    )
    assert found.class_weight is not None
    assert found.sample_weight is not None
    assert found.class_weight.dtype == found.sample_weight.dtype == np.float32
    assert found.class_weight.tolist() == [1, 2.5, 0]
    assert found.sample_weight.tolist() == [1, 2]
    assert read([1, 2]).class_weight is None
    assert read([1, 2]).sample_weight is None


def test_the_weight_of_a_single_example_is_a_number() -> None:
    found = read(0, scale=Scale((3,), 0, FLOAT64), sample_weight=2)
    assert found.sample_weight is not None
    assert found.sample_weight.tolist() == 2


@pytest.mark.parametrize("name", ["class_weight", "sample_weight"])
@pytest.mark.parametrize(
    ("value", "code", "place"),
    [
        ([1, 2, 3, 4], "shape", ""),
        (1, "shape", ""),
        ([[1, 2, 3]], "shape", ""),
        ([1, -2, 3], "value", "[1]"),
        ([1, "NaN", 3], "value", "[1]"),
        ([1, "Infinity", 3], "value", "[1]"),
        ([1, None, 3], "value", "[1]"),
        ([1, 2, True], "value", "[2]"),
        (np.array(["a", "b", "c"]), "value", ""),
        (np.array([True, True, True]), "value", ""),
    ],
)
def test_weights_that_do_not_fit_are_refused(name: str, value: Any, code: str, place: str) -> None:
    three = Scale((3, 3), 1, FLOAT64)
    found = refused([0, 1, 2], scale=three, **{name: value})
    assert found == (f"{name}_{code}", name + place)


def test_labels_come_before_weights_and_class_weight_before_sample_weight() -> None:
    assert refused([0, 9], class_weight=[1])[0] == "label_out_of_range"
    assert refused([0, 1], class_weight=[1], sample_weight=[-1])[0] == "class_weight_shape"


def test_options_of_the_loss_are_kept() -> None:
    options = Options(reduction="sum", label_smoothing=0.1, non_finite="string")
    found = read([0, 1], options=options)
    assert (found.reduction, found.label_smoothing, found.non_finite) == ("sum", 0.1, "string")


@pytest.mark.parametrize("labels", [[0] * 101, np.zeros(101), np.full(101, "cat")])
def test_more_labels_than_the_limit_are_refused(labels: Any) -> None:
    with pytest.raises(TooLarge):
        read(labels)


def test_numbers_of_an_array_are_left_as_they_are() -> None:
    array = np.array([1, 2], np.int16)
    assert read_numbers(array, LIMITS, path="logits", code="logits_type") is array
    assert read_numbers([1, 2], LIMITS, path="logits", code="logits_type").dtype == np.float64
    with pytest.raises(TooLarge):
        read_numbers(np.zeros(101), LIMITS, path="logits", code="logits_type")
