"""The arithmetic below softmax: differences that are exact, sums that lose nothing, blocks that cover all."""

from contextlib import suppress
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.numeric import kernel


@given(st.integers(0, 5000), st.integers(1, 40_000))
def test_blocks_cover_every_row_once_and_in_order(num_rows: int, num_classes: int) -> None:
    cut = list(kernel.blocks(num_rows, num_classes))
    assert [row for block in cut[:3] for row in range(block.start, block.stop)] == list(
        range(min(num_rows, cut[:3][-1].stop if cut else 0))
    )
    assert sum(block.stop - block.start for block in cut) == num_rows
    step = max((block.stop - block.start for block in cut), default=1)
    assert step == 1 or step * num_classes <= kernel.BLOCK_ELEMENTS


def test_an_empty_batch_is_one_empty_block() -> None:
    assert kernel.blocks(0, 10) == [slice(0, 0)]


@given(st.integers(0, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_picked_is_one_element_of_each_row(num_rows: int, num_classes: int, random: Random) -> None:
    values = np.arange(num_rows * num_classes, dtype=np.float64).reshape(num_rows, num_classes)
    columns = np.array([random.randrange(num_classes) for _ in range(num_rows)], np.int64)
    assert kernel.picked(values, columns).tolist() == [
        row[column] for row, column in zip(values.tolist(), columns.tolist(), strict=True)
    ]


@given(st.integers(0, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_two_can_be_picked_at_once(num_rows: int, num_classes: int, random: Random) -> None:
    values = np.arange(num_rows * num_classes, dtype=np.float64).reshape(num_rows, num_classes)
    first, second = (
        np.array([random.randrange(num_classes) for _ in range(num_rows)], np.int64) for _ in range(2)
    )
    found = kernel.picked_twice(values, first, second)
    for columns, chosen in zip((first, second), found, strict=True):
        assert chosen.tobytes() == kernel.picked(values, columns).tobytes()


@pytest.mark.parametrize("num_classes", [10, kernel.LONG_ROW - 1, kernel.LONG_ROW, 50_000])
def test_the_buffer_is_shorter_for_long_rows_alone_and_given_back(num_classes: int) -> None:
    before = np.getbufsize()
    with suppress(ZeroDivisionError), kernel.buffered_for(num_classes):
        assert np.getbufsize() == (kernel.LONG_ROW if num_classes >= kernel.LONG_ROW else before)
        _ = 1 / 0
    assert np.getbufsize() == before


@given(st.floats(-1e9, 1e9), st.floats(0, 799))
def test_a_shift_at_temperature_1_is_exact(top: float, distance: float) -> None:
    x = top - distance
    high, low = kernel.shift(np.array([x]), np.array([top]), 1.0)
    assert low is not None
    assert Fraction(high[0]) + Fraction(low[0]) == Fraction(x) - Fraction(top)


@given(st.floats(-700, -1e-200), st.floats(1e-6, 1e6), st.floats(-1, 1))
def test_a_shift_by_a_temperature_keeps_twice_the_digits(d: float, temperature: float, top: float) -> None:
    x = top + d * temperature
    high, low = kernel.shift(np.array([x]), np.array([top]), temperature)
    assert low is not None
    exact = (Fraction(x) - Fraction(top)) / Fraction(temperature)
    if exact < kernel.CARRY_LIMIT:
        assert low[0] == 0
    else:
        assert abs(Fraction(high[0]) + Fraction(low[0]) - exact) <= abs(exact) * Fraction(2) ** -98


def test_a_mask_stays_minus_infinity_and_carries_nothing() -> None:
    for temperature in (1.0, 0.3, 1e-320, 1e300):
        high, low = kernel.shift(np.array([-np.inf, 1.0]), np.array([1.0]), temperature)
        assert low is not None
        assert high.tolist() == [-np.inf, 0.0]
        assert low.tolist() == [0.0, 0.0]


def test_float32_needs_no_carry() -> None:
    high, low = kernel.shift(np.array([1, 2], np.float32), np.array([2], np.float32), 0.5)
    assert low is None
    assert high.dtype == np.float64
    assert high.tolist() == [-2.0, 0.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300))
def test_a_carried_sum_is_within_one_rounding(values: list[float]) -> None:
    found = kernel.sum_rows(np.array([values]), carry=True)[0]
    exact = sum(map(Fraction, values))
    assert abs(Fraction(found) - exact) <= Fraction(float(np.spacing(float(exact)))) * Fraction(51, 100)


def test_a_plain_sum_of_these_numbers_is_worse() -> None:
    values = np.random.default_rng(1).uniform(0, 1, (200, 127))
    exact = [sum(map(Fraction, row)) for row in values.tolist()]

    def worst(found: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        return max(
            float(abs(Fraction(a) - b) / Fraction(float(np.spacing(a))))
            for a, b in zip(found, exact, strict=True)
        )

    assert worst(kernel.sum_rows(values, carry=True)) <= 0.5001
    assert worst(kernel.sum_rows(values, carry=False)) > 0.6


@pytest.mark.parametrize(
    ("row", "total"),
    [
        ([np.inf, 1.0], np.inf),
        ([-np.inf, -1.0], -np.inf),
        ([1.7e308, 1.7e308], np.inf),
        ([1e305, 1e305], 2e305),
        ([0.0, 0.0], 0.0),
        ([5e-324, 5e-324], 1e-323),
    ],
)
def test_a_carried_sum_reaches_to_the_ends_of_the_type(row: list[float], total: float) -> None:
    assert kernel.sum_rows(np.array([row, [1.0, 2.0]]), carry=True).tolist() == [total, 3.0]


@given(st.lists(st.floats(1e-300, 1), min_size=1, max_size=40), st.data())
def test_complements_are_the_sums_of_the_others(values: list[float], data: st.DataObject) -> None:
    values[data.draw(st.integers(0, len(values) - 1))] = 1.0
    row, largest = np.array([values]), np.array([int(np.argmax(values))])
    others = kernel.sum_without(row, largest, carry=True)
    assert row.tolist() == [values]
    found = kernel.complements(row, largest, others)[0]
    total = sum(map(Fraction, values))
    for value, rest in zip(values, found, strict=True):
        exact = total - Fraction(value)
        assert abs(Fraction(float(rest)) - exact) <= exact * Fraction(2) ** -50
