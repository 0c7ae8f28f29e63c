"""Nested JSON lists -> arrays, with the place of the first value that is out of line."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import Invalid, TooLarge
from service.wire.limits import Limits
from service.wire.nested import first_offender, flatten, floats, read_floats, subscripts_at

LIMITS = Limits(body_bytes=1 << 20, rows=1000, elements=1000, json_depth=1000)


def read(value: Any) -> np.ndarray[Any, Any]:
    return read_floats(value, LIMITS, path="logits", code="logits_type")


def refused(value: Any) -> tuple[str, str, str]:
    with pytest.raises(Invalid) as caught:
        read(value)
    return caught.value.code, caught.value.offences[0].path, caught.value.message


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (3, ()),
        ([], (0,)),
        ([[], []], (2, 0)),
        ([[[]], [[]]], (2, 1, 0)),
        ([1, 2, 3], (3,)),
        ([[1, 2.5, 3]], (1, 3)),
        ([[1], [2], [3]], (3, 1)),
        ([[[1, 2], [3, 4]]], (1, 2, 2)),
    ],
)
def test_the_nesting_is_the_shape(value: Any, shape: tuple[int, ...]) -> None:
    array = read(value)
    assert array.shape == shape
    assert array.dtype == np.float64
    assert array.flags.c_contiguous
    assert array.tolist() == value


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
def test_every_array_comes_back_from_its_lists(array: np.ndarray[Any, Any]) -> None:
    if 0 not in array.shape[:-1]:  # [] has no further axes
        words = spelt(array.tolist())
        np.testing.assert_array_equal(read(words), array)


def spelt(value: Any) -> Any:
    """Spell what JSON lacks as the contract does."""
    if isinstance(value, list):
        return [spelt(item) for item in value]
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def test_integers_and_floats_mix_and_integers_of_any_size_are_numbers() -> None:
    assert read([1, 2.5, 2**64, -(2**63)]).tolist() == [1.0, 2.5, 2.0**64, -(2.0**63)]


def test_the_words_for_non_finite_numbers_are_understood() -> None:
    array = read([["-Infinity", 1], ["Infinity", "NaN"]])
    assert array[0].tolist() == [-math.inf, 1.0]
    assert array[1, 0] == math.inf
    assert math.isnan(array[1, 1])
    assert read("NaN").shape == ()


@pytest.mark.parametrize(
    ("value", "path", "got"),
    [
        (None, "logits", "null"),
        ("abc", "logits", "the string 'abc'"),
        ({}, "logits", "an object"),
        (True, "logits", "true"),
        ([1, None], "logits[1]", "null"),
        ([[1, 2], [3, True]], "logits[1][1]", "true"),
        ([[1, 2], [False, None]], "logits[1][0]", "false"),
        ([["1.0", 2]], "logits[0][0]", "the string '1.0'"),
        (["-infinity"], "logits[0]", "the string '-infinity'"),
        (["inf", 1], "logits[0]", "the string 'inf'"),
        ([["-Infinity", "nan"]], "logits[0][1]", "the string 'nan'"),
        ([[[1, {"a": 1}]]], "logits[0][0][1]", "an object"),
    ],
)
def test_the_first_value_that_is_no_number_is_named_by_its_place(value: Any, path: str, got: str) -> None:
    assert refused(value) == ("logits_type", path, f"expected a number, got {got}")


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ([[1, 2], [3]], "logits[1]", "expected a list of 2 as at logits[0], got a list of 1"),
        ([[1, 2], [3, 4], [5, 6, 7]], "logits[2]", "expected a list of 2 as at logits[0], got a list of 3"),
        ([[1, 2], 3], "logits[1]", "expected a list of 2 as at logits[0], got a single value"),
        ([1, [2]], "logits[1]", "expected a single value as at logits[0], got a list of 1"),
        ([[], [1]], "logits[1]", "expected a list of 0 as at logits[0], got a list of 1"),
        ([[1], []], "logits[1]", "expected a list of 1 as at logits[0], got a list of 0"),
        (
            [[[1, 2], [3, 4]], [[5, 6], [7]]],
            "logits[1][1]",
            "expected a list of 2 as at logits[0][0], got a list of 1",
        ),
        (
            [[[1], [2]], [[3], 4]],
            "logits[1][1]",
            "expected a list of 1 as at logits[0][0], got a single value",
        ),
    ],
)
def test_the_first_uneven_place_is_named(value: Any, path: str, message: str) -> None:
    assert refused(value) == ("ragged", path, message)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([[1, "x"], [2]], "logits[0][1]"),
        ([None, [1, 2]], "logits[0]"),
        ([[1, 2], None], "logits[1]"),
        ([[1, 2], [[[[None]]]]], "logits[1][0][0][0][0]"),
        ([[1], [], [2, [3, [True]]]], "logits[2][1][1][0]"),
    ],
)
def test_a_wrong_type_comes_before_uneven_nesting(value: Any, path: str) -> None:
    code, found, _ = refused(value)
    assert (code, found) == ("logits_type", path)


def test_more_numbers_than_the_limit_are_refused_before_they_are_gathered() -> None:
    with pytest.raises(TooLarge) as caught:
        read([[0.0] * 500, [None] * 500, [0.0] * 500])
    assert caught.value.code == "elements_too_many"
    assert caught.value.offences[0].path == "logits"
    assert read([[0.0] * 500, [0.0] * 500]).shape == (2, 500)


@pytest.mark.parametrize("leaf", [1, None])
def test_nesting_beyond_what_an_array_can_have_is_refused_without_recursion(leaf: Any) -> None:
    value = leaf
    for _ in range(5000):
        value = [value]
    code, path, _ = refused(value)
    assert code == ("rank" if leaf else "logits_type")
    assert path.startswith("logits")


def test_flatten_keeps_leaves_of_any_type_in_order() -> None:
    flat = flatten([["a", 1], [None, 2.5]], LIMITS, path="labels")
    assert flat.leaves == ["a", 1, None, 2.5]
    assert flat.shape == (2, 2)
    assert flat.types == {str, int, type(None), float}
    assert flatten("a", LIMITS, path="labels") == (["a"], (), {str})


def test_flatten_leaves_the_callers_lists_alone() -> None:
    value = [[1, 2], [3, 4]]
    flatten(value, LIMITS, path="labels")
    read(value)
    assert value == [[1, 2], [3, 4]]


def test_floats_names_its_own_code_and_path() -> None:
    flat = flatten([[0.0, "cat"]], LIMITS, path="labels")
    with pytest.raises(Invalid) as caught:
        floats(flat, path="labels", code="labels_type")
    assert caught.value.code == "labels_type"
    assert caught.value.offences[0].path == "labels[0][1]"


def test_first_offender_finds_the_place_in_reading_order() -> None:
    flat = flatten([[1, 2, 3], [4, 5, 6]], LIMITS, path="labels")
    assert first_offender(flat, lambda leaf: leaf > 4) == ("[1][1]", 5)
    assert subscripts_at(5, (2, 3)) == "[1][2]"
    assert subscripts_at(0, ()) == ""


RAGGED = st.recursive(
    st.sampled_from([1, 2.5, None, True, "x", "NaN"]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=12,
)


@given(RAGGED)
def test_any_nesting_has_numpys_shape_or_is_refused_for_a_reason_that_holds(value: Any) -> None:
    try:
        assert read(value).shape == np.asarray(value).shape
    except Invalid as error:
        code = error.code
    else:
        return
    leaves = repr(value)
    has_no_number = any(word in leaves for word in ("None", "True", "'x'"))
    assert code == ("logits_type" if has_no_number else "ragged")
