"""Every refusal of the numeric core: its code, its path, and that it says what was expected and what came."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import Invalid
from service.numeric import checks
from service.types import FloatType

FLOAT32: FloatType = np.dtype(np.float32)
FLOAT64: FloatType = np.dtype(np.float64)
INF, NAN = np.inf, np.nan


def refusal(caught: pytest.ExceptionInfo[Invalid]) -> tuple[str, str]:
    assert caught.value.status == 422
    (offence,) = caught.value.offences
    assert offence.message.startswith("expected ")
    assert ", got " in offence.message or caught.value.code == "row_all_masked"
    return caught.value.code, offence.path


@given(st.integers(1, 6).flatmap(lambda rank: st.tuples(st.just(rank), st.integers(-rank, rank - 1))))
def test_an_axis_counts_from_either_end(rank_and_axis: tuple[int, int]) -> None:
    rank, axis = rank_and_axis
    assert range(rank)[checks.normalise_axis(axis, rank)] == range(rank)[axis]


@pytest.mark.parametrize("axis", [2, -3, 10**60])
def test_an_axis_that_is_none_of_the_array_is_refused(axis: int) -> None:
    with pytest.raises(Invalid) as caught:
        checks.normalise_axis(axis, 2)
    assert refusal(caught) == ("axis_range", "axis")
    assert len(caught.value.message) < 90


def test_a_single_number_has_no_class_axis() -> None:
    with pytest.raises(Invalid) as caught:
        checks.normalise_axis(-1, 0)
    assert refusal(caught) == ("rank", "logits")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([1, 2], np.int32), FLOAT64),
        (np.array([0.1], np.float16), FLOAT32),
        (np.array([0.1, -INF, INF, NAN, 3.4028235e38]), FLOAT32),
        (np.array([1.0], ">f8"), FLOAT64),
        (np.array(2.5), FLOAT32),
    ],
)
def test_numbers_are_rounded_to_nearest_and_specials_pass(values: NDArray[Any], dtype: FloatType) -> None:
    rounded = checks.round_to(values, dtype, path="logits")
    assert rounded.dtype == dtype
    assert rounded.dtype.isnative
    assert np.array_equal(rounded, np.array(values.tolist(), dtype), equal_nan=True)


def test_an_array_that_has_the_type_is_not_copied() -> None:
    values = np.ones((2, 3), np.float32)
    assert checks.round_to(values, FLOAT32, path="logits") is values


@pytest.mark.parametrize("value", [1e39, -1e39, 3.4028236e38])
def test_a_finite_number_beyond_float32_is_refused_at_its_place(value: float) -> None:
    with pytest.raises(Invalid) as caught:
        checks.round_to(np.array([[INF, 1.0], [value, 2.0]]), FLOAT32, path="logits")
    assert refusal(caught) == ("float32_overflow", "logits[1][0]")
    assert str(value) in caught.value.message


def test_logits_with_masks_and_empty_batches_pass() -> None:
    checks.check_logits(np.array([[-INF, 0.0], [1.0, -INF]]), 1)
    checks.check_logits(np.zeros((0, 3)), 1)
    checks.check_logits(np.zeros((2, 0, 3)), 2)


@pytest.mark.parametrize(("shape", "axis"), [((0,), 0), ((2, 0), 1), ((0, 2), 0), ((0, 0), 1)])
def test_no_classes_are_refused(shape: tuple[int, ...], axis: int) -> None:
    with pytest.raises(Invalid) as caught:
        checks.check_logits(np.zeros(shape), axis)
    assert refusal(caught) == ("no_classes", "logits")


@pytest.mark.parametrize(("value", "said"), [(NAN, "got nan"), (INF, "got Infinity")])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_logit_that_is_nan_or_infinite_is_refused_before_masked_rows(
    value: float, said: str, axis: int
) -> None:
    logits = np.full((2, 3, 2), -INF)
    logits[1, 0, 1] = value
    logits[1, 2, 1] = value
    with pytest.raises(Invalid, match=said) as caught:
        checks.check_logits(logits, axis)
    assert refusal(caught) == ("non_finite_logits", "logits[1][0][1]")


@pytest.mark.parametrize(
    ("axis", "index", "path"),
    [
        (2, (1, 0, slice(None)), "logits[1][0]"),
        (1, (1, slice(None), 1), "logits[1][:][1]"),
        (0, (slice(None), 2, 1), "logits[:][2][1]"),
    ],
)
def test_a_row_that_is_masked_throughout_is_refused(axis: int, index: Any, path: str) -> None:
    logits = np.zeros((2, 3, 2), np.float32)
    logits[index] = -INF
    with pytest.raises(Invalid) as caught:
        checks.check_logits(logits, axis)
    assert refusal(caught) == ("row_all_masked", path)


def test_a_single_masked_row_is_refused_as_the_whole() -> None:
    with pytest.raises(Invalid) as caught:
        checks.check_logits(np.array([-INF, -INF]), 0)
    assert refusal(caught) == ("row_all_masked", "logits")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_features_must_be_finite(value: float) -> None:
    checks.round_features(np.zeros((2, 2)), np.dtype(np.float64))
    with pytest.raises(Invalid) as caught:
        checks.round_features(np.array([[0.0, 1.0], [0.0, value]]), np.dtype(np.float64))
    assert refusal(caught) == ("non_finite_features", "features[1][1]")


@pytest.mark.parametrize("k", [0, -1, 4])
def test_top_k_is_from_1_to_the_number_of_classes(k: int) -> None:
    checks.check_top_k(1, 3)
    checks.check_top_k(3, 3)
    with pytest.raises(Invalid) as caught:
        checks.check_top_k(k, 3)
    assert refusal(caught) == ("top_k_range", "top_k")


@pytest.mark.parametrize("temperature", [0.0, -1.0, INF, NAN, -0.0])
def test_a_temperature_is_finite_and_above_0(temperature: float) -> None:
    checks.check_temperature(5e-324)
    with pytest.raises(Invalid) as caught:
        checks.check_temperature(temperature)
    assert refusal(caught) == ("temperature_range", "temperature")


@pytest.mark.parametrize("share", [-1e-9, 1.0000001, INF, NAN])
def test_label_smoothing_is_a_share(share: float) -> None:
    checks.check_label_smoothing(0)
    checks.check_label_smoothing(1)
    with pytest.raises(Invalid) as caught:
        checks.check_label_smoothing(share)
    assert refusal(caught) == ("label_smoothing_range", "label_smoothing")


def test_a_reduction_is_one_of_five() -> None:
    assert checks.check_reduction("mean_with_sample_weight") == "mean_with_sample_weight"
    with pytest.raises(Invalid, match="sum_over_batch_size") as caught:
        checks.check_reduction("median" * 20)
    assert refusal(caught) == ("unknown_reduction", "reduction")
    assert "median" * 7 not in caught.value.message


def test_an_index_to_ignore_needs_index_labels() -> None:
    checks.check_ignore_index(-100, "index")
    checks.check_ignore_index(None, "dense")
    with pytest.raises(Invalid) as caught:
        checks.check_ignore_index(-100, "dense")
    assert refusal(caught) == ("ignore_index_with_dense", "ignore_index")


@pytest.mark.parametrize(
    ("labels_rank", "logits_rank", "asked", "expected"),
    [
        (1, 2, "auto", "index"),
        (0, 1, "auto", "index"),
        (2, 2, "auto", "dense"),
        (2, 2, "index", "index"),
        (1, 2, "dense", "dense"),
    ],
)
def test_the_label_format_goes_by_rank_unless_it_is_said(
    labels_rank: int, logits_rank: int, asked: Literal["auto", "index", "dense"], expected: str
) -> None:
    assert checks.label_format(labels_rank, logits_rank, asked) == expected


@pytest.mark.parametrize("labels_rank", [0, 3])
def test_a_rank_that_says_neither_is_refused(labels_rank: int) -> None:
    with pytest.raises(Invalid) as caught:
        checks.label_format(labels_rank, 2, "auto")
    assert refusal(caught) == ("labels_shape", "labels")


def indices(
    labels: NDArray[Any], shape: tuple[int, ...] = (2, 3), axis: int = 1, **options: Any
) -> NDArray[Any]:
    return checks.check_index_labels(
        labels, shape, axis, **{"ignore_index": None, "squeeze": False, **options}
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, ">i4"])
def test_index_labels_of_any_integer_type_become_int64(dtype: str) -> None:
    found = indices(np.array([0, 2], dtype))
    assert found.dtype == np.int64
    assert found.dtype.isnative
    assert found.tolist() == [0, 2]


def test_an_index_label_of_one_example_has_no_axis() -> None:
    assert indices(np.array(2), (3,), 0).shape == ()
    with pytest.raises(Invalid) as caught:
        indices(np.array(3), (3,), 0)
    assert refusal(caught) == ("label_out_of_range", "labels")


def test_an_empty_batch_of_labels_passes_whatever_its_type() -> None:
    assert indices(np.array([]), (0, 3)).dtype == np.int64


@pytest.mark.parametrize("labels", [np.array([1.0, 2.0]), np.array([True, False]), np.array(["a", "b"])])
def test_what_is_no_integer_is_no_index(labels: NDArray[Any]) -> None:
    with pytest.raises(Invalid, match="expected integers") as caught:
        indices(labels)
    assert refusal(caught) == ("labels_type", "labels")


@pytest.mark.parametrize("shape", [(3,), (2, 1), (1, 2), ()])
def test_index_labels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(Invalid, match=r"expected shape \[2\], got") as caught:
        indices(np.zeros(shape, int))
    assert refusal(caught) == ("labels_shape", "labels")


def test_a_class_axis_of_size_1_is_dropped_on_request_only() -> None:
    assert indices(np.array([[1], [2]]), squeeze=True).tolist() == [1, 2]
    assert indices(np.array([[1, 2, 0]]), (2, 3), 0, ignore_index=2, squeeze=True).tolist() == [1, 2, 0]
    with pytest.raises(Invalid) as caught:
        indices(np.array([[1, 2]]), squeeze=True)
    assert refusal(caught) == ("labels_shape", "labels")
    with pytest.raises(Invalid) as caught:
        indices(np.array([[1], [3]]), squeeze=True)
    assert refusal(caught) == ("label_out_of_range", "labels[1][0]")


@pytest.mark.parametrize("label", [3, -1, -100, 2**63 - 1])
def test_a_label_out_of_range_is_refused_at_its_place(label: int) -> None:
    with pytest.raises(
        Invalid, match=f"expected a class from 0 to 2 .*ignore_index.*, got {label}"
    ) as caught:
        indices(np.array([0, label]))
    assert refusal(caught) == ("label_out_of_range", "labels[1]")


def test_an_unsigned_label_beyond_int64_does_not_wrap() -> None:
    with pytest.raises(Invalid, match="18446744073709551615") as caught:
        indices(np.array([0, 2**64 - 1], np.uint64), ignore_index=-1)
    assert refusal(caught) == ("label_out_of_range", "labels[1]")


@pytest.mark.parametrize("ignored", [-100, 1, 2**40])
def test_the_index_to_ignore_is_allowed_whether_it_is_a_class_or_not(ignored: int) -> None:
    assert indices(np.array([ignored, 0]), ignore_index=ignored).tolist() == [ignored, 0]
    with pytest.raises(Invalid, match="or ignore_index, got 7"):
        indices(np.array([ignored, 7]), ignore_index=ignored)


def test_an_index_to_ignore_that_no_label_can_be_changes_nothing() -> None:
    assert indices(np.array([0, 1], np.uint8), ignore_index=-100).tolist() == [0, 1]
    assert indices(np.array([0, 1]), ignore_index=10**30).tolist() == [0, 1]


def dense(
    labels: Any, shape: tuple[int, ...] = (2, 3), dtype: FloatType = FLOAT64, **options: Any
) -> NDArray[Any]:
    return checks.check_dense_labels(
        np.array(labels), shape, 1, dtype, **{"broadcast": False, "validate": False, **options}
    )


def test_dense_labels_are_rounded_to_the_type_of_the_logits() -> None:
    found = dense([[0, 1, 0], [2, -1, 5]], dtype=FLOAT32)
    assert found.dtype == np.float32
    assert dense([[0.1] * 3] * 2, dtype=FLOAT32)[0, 0] == np.float32(0.1)


@pytest.mark.parametrize("labels", [[[True, False, True]] * 2, [["a", "b", "c"]] * 2, [[1j, 0, 0]] * 2])
def test_dense_labels_must_be_numbers(labels: Any) -> None:
    with pytest.raises(Invalid, match="expected numbers") as caught:
        dense(labels)
    assert refusal(caught) == ("labels_type", "labels")


@pytest.mark.parametrize("labels", [[[0.0, 1.0, 0.0]], [[1.0], [1.0]], [1.0, 2.0, 3.0], 1.0])
def test_dense_labels_stretch_on_request_only(labels: Any) -> None:
    with pytest.raises(Invalid, match=r"expected shape \[2, 3\], got") as caught:
        dense(labels)
    assert refusal(caught) == ("labels_shape", "labels")
    if np.ndim(labels) == 2:
        assert np.array_equal(dense(labels, broadcast=True), np.broadcast_to(labels, (2, 3)))
    else:
        with pytest.raises(Invalid):
            dense(labels, broadcast=True)


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (1, 2)])
def test_only_a_size_of_1_stretches(shape: tuple[int, int]) -> None:
    with pytest.raises(Invalid) as caught:
        dense(np.ones(shape), broadcast=True)
    assert refusal(caught) == ("labels_shape", "labels")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_dense_labels_must_be_finite(value: float) -> None:
    with pytest.raises(Invalid) as caught:
        dense([[0.0, 1.0, 0.0], [0.0, 0.0, value]])
    assert refusal(caught) == ("non_finite_labels", "labels[1][2]")


def test_dense_labels_beyond_float32_are_refused_as_such() -> None:
    with pytest.raises(Invalid) as caught:
        dense([[0.0, 1e39, 0.0]] * 2, dtype=FLOAT32)
    assert refusal(caught) == ("float32_overflow", "labels[0][1]")


@pytest.mark.parametrize(("dtype", "off"), [(FLOAT32, 2e-3), (FLOAT64, 2e-6)])
def test_rows_that_are_no_distribution_are_refused_on_request_only(dtype: FloatType, off: float) -> None:
    good, wrong = [0.2, 0.3, 0.5 + off / 4], [0.2, 0.3, 0.5 + off]
    assert dense([good, wrong], dtype=dtype).shape == (2, 3)
    assert dense([good, good], dtype=dtype, validate=True).shape == (2, 3)
    with pytest.raises(Invalid, match="expected a sum of 1") as caught:
        dense([good, wrong], dtype=dtype, validate=True)
    assert refusal(caught) == ("labels_distribution", "labels[1]")


def test_a_negative_label_is_no_probability() -> None:
    with pytest.raises(Invalid) as caught:
        dense([[0.5, 0.5, 0.0], [1.5, -0.5, 0.0]], validate=True)
    assert refusal(caught) == ("labels_distribution", "labels[1][1]")


def test_a_stretched_row_is_judged_as_stretched() -> None:
    assert dense([[1 / 3], [1 / 3]], broadcast=True, validate=True).shape == (2, 3)
    with pytest.raises(Invalid) as caught:
        dense([[1.0], [1.0]], broadcast=True, validate=True)
    assert refusal(caught) == ("labels_distribution", "labels[0]")


WEIGHTS = [
    ([1.0, 2.0], "shape", ""),
    ([[1.0, 2.0, 3.0]], "shape", ""),
    (1.0, "shape", ""),
    ([1.0, -1e-9, 1.0], "value", "[1]"),
    ([1.0, NAN, 1.0], "value", "[1]"),
    ([1.0, 1.0, INF], "value", "[2]"),
    ([True, False, True], "value", ""),
    (["a", "b", "c"], "value", ""),
]


@pytest.mark.parametrize(("weight", "kind", "place"), WEIGHTS)
def test_a_class_weight_that_is_none_is_refused(weight: Any, kind: str, place: str) -> None:
    with pytest.raises(Invalid) as caught:
        checks.check_class_weight(np.array(weight), 3, FLOAT64)
    assert refusal(caught) == (f"class_weight_{kind}", f"class_weight{place}")


@pytest.mark.parametrize(("weight", "kind", "place"), WEIGHTS)
def test_a_sample_weight_that_is_none_is_refused(weight: Any, kind: str, place: str) -> None:
    with pytest.raises(Invalid) as caught:
        checks.check_sample_weight(np.array(weight), (3,), FLOAT64)
    assert refusal(caught) == (f"sample_weight_{kind}", f"sample_weight{place}")


def test_weights_are_rounded_to_the_type_of_the_logits() -> None:
    assert checks.check_class_weight(np.array([0.1, 2]), 2, FLOAT32).dtype == np.float32
    assert checks.check_sample_weight(np.array([[1], [0]]), (2, 1), FLOAT64).tolist() == [[1.0], [0.0]]
    assert checks.check_sample_weight(np.array(3), (), FLOAT64).shape == ()
    with pytest.raises(Invalid) as caught:
        checks.check_class_weight(np.array([1e39]), 1, FLOAT32)
    assert refusal(caught) == ("float32_overflow", "class_weight[0]")
