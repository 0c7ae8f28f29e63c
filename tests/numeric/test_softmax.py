"""Softmax and its relatives: properties, extremes, ties, shapes, and independence of rows to the last bit."""

import doctest
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from service.errors import Invalid
from service.numeric import losses as losses_module
from service.numeric import softmax as softmax_module
from service.numeric.softmax import log_softmax, normalise, one_hot, softmax, top_k

INF = np.inf
DTYPES = st.sampled_from([np.float32, np.float64])


def logits(reach: float = 50.0, **shape: int) -> st.SearchStrategy[NDArray[Any]]:
    """Logits of any rank from 1 to 3, of either type, a few of them masked but none of the first class."""
    shapes = hnp.array_shapes(**{"min_dims": 1, "max_dims": 3, "max_side": 6, **shape})
    return DTYPES.flatmap(
        lambda dtype: hnp.arrays(dtype, shapes, elements=st.floats(-reach, reach, width=32))
    )


@given(logits())
def test_probabilities_sum_to_1_over_the_class_axis(x: NDArray[Any]) -> None:
    for axis in range(x.ndim):
        p = softmax(x, axis)
        assert p.shape == x.shape
        assert p.dtype == x.dtype
        assert np.all(p >= 0)
        ulp = np.finfo(x.dtype).eps
        assert np.all(np.abs(p.sum(axis, np.longdouble) - 1) <= (1 if x.dtype == np.float32 else 4) * ulp)


@given(logits(), st.integers(-1000, 1000))
def test_a_shift_of_all_logits_changes_nothing(x: NDArray[Any], shift: int) -> None:
    x = np.round(x)  # whole numbers, so that adding the shift is exact
    shifted = x + x.dtype.type(shift)
    assert np.array_equal(softmax(shifted), softmax(x))
    assert np.array_equal(log_softmax(shifted), log_softmax(x))


@given(logits(min_dims=2), st.randoms(use_true_random=False))
def test_a_permutation_of_the_classes_permutes_the_answer(x: NDArray[Any], random: Any) -> None:
    order = list(range(x.shape[-1]))
    random.shuffle(order)
    rtol = 3e-7 if x.dtype == np.float32 else 1.5e-15
    for whole, permuted in zip(outputs(x), outputs(x[..., order]), strict=True):
        expected = whole if whole.shape[-1] == 1 else whole[..., order]
        np.testing.assert_allclose(permuted, expected, rtol=rtol)


@given(logits(reach=700))
def test_logarithms_are_those_of_the_probabilities(x: NDArray[Any]) -> None:
    p, log_p = softmax(x).astype(float), log_softmax(x)
    assert np.all(log_p <= 0)
    assert not np.signbit(log_p[log_p == 0]).any()
    np.testing.assert_allclose(p, np.exp(log_p.astype(float)), rtol=3e-5, atol=1e-40)


def outputs(x: NDArray[Any], axis: int = -1, temperature: float = 1.0) -> list[NDArray[Any]]:
    normalised = normalise(x, axis, temperature)
    entropy = np.expand_dims(normalised.entropy(), axis)
    return [normalised.probabilities(), normalised.log_probabilities(), entropy]


def mixed_rows(num_rows: int, num_classes: int, dtype: type) -> NDArray[Any]:
    """Rows of every nature side by side: ordinary, wide, confident, masked, with vanishing others."""
    rng = np.random.default_rng(num_classes)
    x = rng.standard_normal((num_rows, num_classes)) * rng.choice([1, 30, 300], (num_rows, 1))
    x[::5, 0] += 740
    x[1::5, -1] = -INF
    x[1::5, 0] = 0
    return np.asarray(x, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("num_rows", "num_classes"),
    [
        (41, 3),
        (37, 10),
        (35, 32),
        (35, 33),
        (2200, 31),
        (37, 1000),
        (5, 17_000),
    ],  # below and above each limit
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(
    dtype: type, num_rows: int, num_classes: int, temperature: float
) -> None:
    x = mixed_rows(num_rows, num_classes, dtype)
    together = outputs(x, temperature=temperature)
    for start, stop in [(row, row + 1) for row in range(min(num_rows, 41))] + [(1, num_rows), (2, 5)]:
        for whole, part in zip(together, outputs(x[start:stop], temperature=temperature), strict=True):
            assert whole[start:stop].tobytes() == part.tobytes()
    for whole, alone in zip(together, outputs(x[3], temperature=temperature), strict=True):
        assert whole[3].tobytes() == alone.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1, 2, -2])
def test_a_row_has_the_same_bits_wherever_the_class_axis_lies(dtype: type, axis: int) -> None:
    x = mixed_rows(6 * 70, 100, dtype).reshape(6, 70, 100)
    moved = np.moveaxis(x, -1, axis)
    for expected, found in zip(outputs(x), outputs(moved, axis), strict=True):
        assert found.flags.c_contiguous
        assert np.ascontiguousarray(np.moveaxis(found, axis, -1)).tobytes() == expected.tobytes()


def test_the_memory_layout_and_order_of_bytes_leave_no_trace() -> None:
    x = mixed_rows(9, 50, np.float64)
    expected = softmax(x).tobytes()
    assert softmax(np.asfortranarray(x)).tobytes() == expected
    assert softmax(np.repeat(x, 2, axis=1)[:, ::2]).tobytes() == expected
    assert softmax(x.astype(">f8")).tobytes() == expected
    assert softmax(x[::-1])[::-1].tobytes() == expected


def test_logits_are_left_as_they_are() -> None:
    x = mixed_rows(9, 50, np.float64)
    before = x.tobytes()
    outputs(x, temperature=3.0)
    top_k(x, 4)
    assert x.tobytes() == before


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_worked_example_of_the_field(dtype: type) -> None:
    x: NDArray[Any] = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]], dtype)
    expected = [[0.227863, 0.61939586, 0.15274114], [0.49674623, 0.20196195, 0.30129182]]
    np.testing.assert_allclose(softmax(x), expected, rtol=0, atol=5e-9 if dtype == np.float64 else 5e-8)


def test_a_mask_has_probability_0_and_no_part_in_the_others() -> None:
    normalised = normalise(np.array([1.0, -INF, 2.0]))
    assert normalised.probabilities().tolist() == [
        *softmax(np.array([1.0, 2.0]))[:1],
        0.0,
        softmax(np.array([1.0, 2.0]))[1],
    ]
    assert normalised.log_probabilities()[1] == -INF
    assert normalised.entropy() == normalise(np.array([1.0, 2.0])).entropy()


def test_one_class_is_certain() -> None:
    normalised = normalise(np.array([[3.0], [-1e300]]))
    assert normalised.probabilities().tolist() == [[1.0], [1.0]]
    assert normalised.classes.tolist() == [0, 0]
    for zeros in (normalised.log_probabilities(), normalised.entropy()):
        assert not zeros.any()
        assert not np.signbit(zeros).any()


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (0, 0, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_empty_batch_has_empty_answers(shape: tuple[int, ...], dtype: type) -> None:
    x: NDArray[Any] = np.zeros(shape, dtype)
    normalised = normalise(x, temperature=2.0)
    assert normalised.probabilities().shape == normalised.log_probabilities().shape == shape
    assert normalised.entropy().shape == normalised.classes.shape == shape[:-1]
    assert normalised.entropy().dtype == dtype
    assert top_k(x, 1).shape == (*shape[:-1], 1)
    assert one_hot(normalised.classes, 3, -1, x.dtype).shape == (*shape[:-1], 3)
    assert softmax(np.zeros((3, 0)), axis=0).shape == (3, 0)


def test_a_single_row_has_answers_without_a_batch_axis() -> None:
    normalised = normalise(np.array([0.0, 2.0, 1.0]))
    assert normalised.classes.shape == normalised.entropy().shape == ()
    assert int(normalised.classes) == 1


def test_entropy_is_largest_for_equal_logits_and_has_the_limits() -> None:
    assert normalise(np.zeros(10)).entropy() == pytest.approx(np.log(10), rel=1e-15)
    assert float(normalise(np.array([0.0, -800.0])).entropy()) == 0.0
    # 750 e^-750: a number, though the probability e^-750 is none.
    assert float(normalise(np.array([0.0, -750.0])).entropy()) == 1.5e-323
    # -p log p of the vanishing class alone: 700 e^-700, and the class that is certain adds e^-700.
    assert float(normalise(np.array([0.0, -700.0])).entropy()) == pytest.approx(701 * np.exp(-700), rel=1e-12)


def test_classes_are_those_of_the_logits_where_probabilities_round_alike() -> None:
    x: NDArray[Any] = np.array([0.0, 1e-9], np.float32)
    assert softmax(x)[0] == softmax(x)[1]
    assert normalise(x).classes == 1
    assert normalise(np.array([-0.0, 0.0, 0.0])).classes == 0


@settings(max_examples=200)
@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=7), elements=st.integers(-3, 3)),
    st.data(),
)
def test_top_k_is_the_head_of_a_stable_sort(x: NDArray[Any], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    k = data.draw(st.integers(1, x.shape[axis]))
    found = top_k(x, k, axis)
    expected = np.take(np.argsort(-x, axis=axis, kind="stable"), np.arange(k), axis)
    assert found.dtype == np.int64
    assert np.array_equal(found, expected)


def test_top_k_keeps_the_lower_index_of_a_tie_and_zero_has_no_sign() -> None:
    assert top_k(np.array([-0.0, 0.0, -0.0, 1.0]), 3).tolist() == [3, 0, 1]
    assert top_k(np.array([[5.0] * 5, [1.0, 2.0, 2.0, 2.0, -INF]]), 3).tolist() == [[0, 1, 2], [1, 2, 3]]
    assert top_k(np.array([-INF, -INF, 1.0]), 3).tolist() == [2, 0, 1]


@pytest.mark.parametrize("axis", [0, 1, -1, 2])
def test_one_hot_writes_a_1_at_the_class_along_any_axis(axis: int) -> None:
    classes = np.array([[0, 2], [1, 1]])
    rows = one_hot(classes, 3, axis, np.dtype(np.float32))
    assert rows.dtype == np.float32
    assert np.array_equal(rows.argmax(axis), classes)
    assert np.array_equal(rows.sum(axis), np.ones((2, 2)))
    assert one_hot(np.array(1), 2, -1, np.dtype(np.float64)).tolist() == [0.0, 1.0]


def test_float16_is_widened_to_float32_and_integers_to_float64() -> None:
    assert softmax(np.array([1, 2], np.float16)).dtype == np.float32
    assert softmax(np.array([1, 2])).dtype == np.float64
    assert np.array_equal(softmax(np.array([1, 2])), softmax(np.array([1.0, 2.0])))


@pytest.mark.parametrize(
    ("values", "options", "code", "path"),
    [
        (1.0, {}, "rank", "logits"),
        ([1.0], {"axis": 1}, "axis_range", "axis"),
        ([1.0], {"temperature": 0.0}, "temperature_range", "temperature"),
        ([1.0, np.nan], {}, "non_finite_logits", "logits[1]"),
        ([[0.0, -INF], [1.0, -INF]], {"axis": 0}, "row_all_masked", "logits[:][1]"),
        ([], {}, "no_classes", "logits"),
    ],
)
def test_the_public_functions_check_what_they_are_given(
    values: Any, options: dict[str, Any], code: str, path: str
) -> None:
    for function in (softmax, log_softmax):
        with pytest.raises(Invalid) as caught:
            function(np.array(values), **options)
        assert (caught.value.code, caught.value.offences[0].path) == (code, path)


@pytest.mark.parametrize("module", [softmax_module, losses_module])
def test_the_examples_of_the_docstrings_are_true(module: Any) -> None:
    failed, attempted = doctest.testmod(module)
    assert attempted >= 3
    assert failed == 0
