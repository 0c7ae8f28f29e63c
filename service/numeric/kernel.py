"""Differences, exponentials and sums in which nothing is lost: the arithmetic below `softmax` and `losses`.

Works on contiguous rows with the classes last, in float64 whatever the type of the logits. It knows neither
axes nor labels nor checks.

With k the largest logit of a row, d_j = (x_j - x_k) / temperature and s the sum of e^(d_j) over all j but k:

    p_j = e^(d_j) / (1 + s)        log p_j = d_j - log1p(s)        1 - p_k = s / (1 + s)

Every d_j is at most 0 and log1p(s) is at least 0, so nothing cancels, and a confident row keeps all digits
of its small loss s. What the subtraction and the division round away is carried beside d_j as a second
number, because an exponential magnifies it |d_j| times. float32 logits need no such carrying: in float64
their differences have 29 bits to spare.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.types import FloatArray, IndexArray

Float64Array: TypeAlias = NDArray[np.float64]

# Elements worked on at a time: 512 KiB of float64, half of what a core of a server has for itself, and work
# enough that a pass costs more than the call that starts it. Half as many cost 3 to 8 % more, twice as many
# save 2 to 5 % where cores have 1 MiB; a core with 256 KiB finds either in the cache that all share.
BLOCK_ELEMENTS = 65_536

# numpy copies a column that it broadcasts along rows into its buffer, at the cost of a pass, unless a row is
# longer than half of the buffer. So rows of at least this length get a buffer of this length, not of 8192.
LONG_ROW = 512

# e^d is 0 in float64 below -745.14. What is carried beside d matters to no digit of d itself, so beyond
# this it is dropped, and with it the NaN that it is where d is infinite.
CARRY_LIMIT = -800.0

# Below this sum of the others, e^-665, the exponentials come near the subnormal numbers, which have fewer
# digits. Adding 320 to d moves them away from there, and is exact for every d below -160.
TINY_SUM = 2.0**-960
TINY_SHIFT = 320.0
TINY_SCALE = math.exp(-TINY_SHIFT)

# Times the largest of a row, this leaves 26 bits of each number above the grid, and 26 for their count.
ANCHOR = 2.0**26

# Veltkamp's constant: multiplied by it, a float64 splits into two halves of 26 bits.
SPLITTER = 2.0**27 + 1


# What is freed in pieces below this stays with the process, and up to twice as much in all. glibc raises its
# limit to the largest piece that ever came back; at its first limit, 128 KiB, it returns the arrays of a batch
# to the system, and each 4 KiB of the next batch is a page fault, which costs more than the arithmetic on it.
# Other allocators do not notice.
KEPT_BYTES = 8 * 2**20
np.empty(KEPT_BYTES, np.uint8)  # never written, so no memory

_AS_IT_IS = nullcontext()


class Shifted(NamedTuple):
    """d = (x - x_k) / temperature as the unevaluated sum `high` + `low`; `low` is None where it is not needed."""

    high: Float64Array
    low: Float64Array | None


class Wanted(NamedTuple):
    """The arrays that a pass over rows fills; None for what nobody asked for.

    Parameters
    ----------
    probabilities : float array [n, num_classes] or None
        e^d / (1 + s), in the logits' type.
    logarithms : float array [n, num_classes] or None
        d - log1p(s), in the logits' type; the logarithm of 1 is +0.0.
    others : float64 array [n] or None
        s, the sum of a row's e^d without the largest one.
    """

    probabilities: NDArray[Any] | None = None
    logarithms: NDArray[Any] | None = None
    others: Float64Array | None = None

    def of(self, rows: slice) -> "Wanted":
        return Wanted(*(None if array is None else array[rows] for array in self))


def blocks(num_rows: int, num_classes: int) -> list[slice]:
    """Cut rows into blocks of about `BLOCK_ELEMENTS` elements, one row at least."""
    step = max(1, BLOCK_ELEMENTS // num_classes)
    if num_rows <= step:
        return [slice(0, num_rows)]
    return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def buffered_for(num_classes: int) -> AbstractContextManager[object]:
    """Within it, arithmetic of rows of this length is not held up by numpy's buffer."""
    return _short_buffer() if num_classes >= LONG_ROW else _AS_IT_IS


@contextmanager
def _short_buffer() -> Iterator[None]:
    before = np.setbufsize(LONG_ROW)
    try:
        yield
    finally:
        np.setbufsize(before)


def places(columns: IndexArray, num_classes: int) -> IndexArray:
    """Where the elements at `columns` [n], one a row, lie in the flattened rows: one index is faster than two."""
    return columns + np.arange(0, len(columns) * num_classes, num_classes)


def picked(rows: FloatArray, columns: IndexArray) -> FloatArray:
    """The element at `columns` [n] of each row, [n]."""
    return rows.reshape(-1)[places(columns, rows.shape[1])]


def picked_twice(rows: FloatArray, first: IndexArray, second: IndexArray) -> tuple[FloatArray, FloatArray]:
    """The elements at `first` and at `second` [n] of each row, each [n], for less than `picked` takes for two."""
    flat = rows.reshape(-1)
    starts = np.arange(0, rows.size, rows.shape[1])
    return flat[first + starts], flat[second + starts]


def shift_rows(logits: FloatArray, largest: IndexArray, temperature: float) -> Shifted:
    """`shift` whole rows by their logits at `largest` [n]."""
    return shift(logits, picked(logits, largest)[:, None], temperature)


def shift(logits: FloatArray, largest: FloatArray, temperature: float) -> Shifted:
    """Subtract the largest logit and divide by the temperature, keeping what both would round away.

    `largest` broadcasts against `logits`; -infinity stays -infinity. What is returned is new: whoever asked
    may overwrite it.
    """
    if logits.dtype == np.float32:
        # Widened in a pass of its own: numpy casts inside an operation at a quarter of the speed.
        high = logits.astype(np.float64)
        high -= largest.astype(np.float64)
        if temperature != 1:
            divide(high, temperature)
        return Shifted(high, None)
    values, top = logits.astype(np.float64, copy=False), largest.astype(np.float64, copy=False)
    # Overflow is a true -infinity; it and masks leave NaN in `low`, which the last line drops.
    with np.errstate(over="ignore", invalid="ignore"):
        high, low = _subtract(values, top) if temperature == 1 else _subtract_divide(values, top, temperature)
    np.copyto(low, 0.0, where=high < CARRY_LIMIT)
    return Shifted(high, low)


def divide(high: Float64Array, temperature: float) -> None:
    with np.errstate(over="ignore"):  # a temperature below 1 may carry d beyond float64: p is 0 there
        high /= temperature


def exponentials(shifted: Shifted, *, offset: float = 0.0, out: Float64Array | None = None) -> Float64Array:
    """e^(d + offset), in `out` where it is given, which may be `shifted.high` itself.

    The offset must be exact in the addition, as `TINY_SHIFT` is for tiny sums.
    """
    e = np.exp(shifted.high + offset if offset else shifted.high, out=out)
    if shifted.low is not None:
        e += e * shifted.low
    return e


def sum_rows(values: Float64Array, *, carry: bool) -> Float64Array:
    """Sum rows [n, num_classes] to [n]; with `carry` as if exactly, for rows without negative numbers.

    Adding and subtracting an anchor rounds each number to a grid so coarse that the sum of up to 2^26 such
    numbers is exact; what that leaves is so small that the error of its sum does not show.
    """
    if not carry:
        plain: Float64Array = np.add.reduce(values, axis=-1)
        return plain
    with np.errstate(invalid="ignore", over="ignore"):  # infinite terms, summed again below
        anchor = ANCHOR * values.max(axis=-1, keepdims=True)
        coarse = values + anchor
        coarse -= anchor
        total: Float64Array = coarse.sum(axis=-1) + np.subtract(values, coarse, out=coarse).sum(axis=-1)
        finite = np.isfinite(total)
        if not finite.all():
            total[~finite] = values[~finite].sum(axis=-1)
    return total


def sum_without(values: Float64Array, left_out: IndexArray, *, carry: bool) -> Float64Array:
    """Sum each row as `sum_rows`, without the element at `left_out` [n]."""
    flat, at = values.reshape(-1), places(left_out, values.shape[1])
    kept = flat[at]
    flat[at] = 0.0
    total = sum_rows(values, carry=carry)
    flat[at] = kept
    return total


def complements(values: Float64Array, largest: IndexArray, others: Float64Array) -> Float64Array:
    """Total of the row less each element, [n, num_classes], for rows without negative numbers.

    `others` [n] is the row's sum without its largest element, at `largest` [n]. Only the largest element can
    be most of the total, so only there would a subtraction from the total cancel.
    """
    rows = np.arange(len(values))
    remainder = others[:, None] - values + values[rows, largest][:, None]
    remainder[rows, largest] = others
    return remainder


def tiny_sums(others: Float64Array) -> IndexArray:
    """The rows whose sum has to be taken at another scale."""
    return np.flatnonzero(others < TINY_SUM)


def _subtract(values: Float64Array, top: Float64Array) -> tuple[Float64Array, Float64Array]:
    # Knuth's TwoSum of values and -top: high + low is the exact difference.
    high = values - top
    back = high - values
    low = (values - (high - back)) - (top + back)
    return high, low


def _subtract_divide(
    values: Float64Array, top: Float64Array, temperature: float
) -> tuple[Float64Array, Float64Array]:
    # Powers of two come off the temperature first: those that make the logits smaller before the subtraction
    # and those that make them larger after it, so that neither step overflows where the quotient does not.
    mantissa, exponent = math.frexp(temperature)
    if exponent > 0:
        values, top = np.ldexp(values, -exponent), np.ldexp(top, -exponent)
    high, low = _subtract(values, top)
    if exponent < 0:
        high, low = np.ldexp(high, -exponent), np.ldexp(low, -exponent)
    quotient = high / mantissa
    # Dekker's product: quotient * mantissa is exactly product + missing, so the remainder is exact too.
    product = quotient * mantissa
    left, right = _split(quotient), _split(np.float64(mantissa))
    missing = ((left[0] * right[0] - product) + left[0] * right[1] + left[1] * right[0]) + left[1] * right[1]
    return quotient, ((high - product) - missing + low) / mantissa


def _split(values: Float64Array | np.float64) -> tuple[Float64Array, Float64Array]:
    widened = values * SPLITTER
    front = np.asarray(widened - (widened - values))
    return front, np.asarray(values - front)
