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

# Elements worked on at a time: 256 KiB of float64, which stays in a core's own cache from pass to pass, and
# work enough that a pass costs more than the call that starts it.
BLOCK_ELEMENTS = 32_768

# Up to this many classes, arithmetic along the rows of a block beats arithmetic along the classes.
FEW_CLASSES = 32

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


_AS_IT_IS = nullcontext()


class Shifted(NamedTuple):
    """d = (x - x_k) / temperature as the unevaluated sum `high` + `low`; `low` is None where it is not needed."""

    high: Float64Array
    low: Float64Array | None


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
    with np.errstate():  # gives the buffer its size back at the end
        np.setbufsize(LONG_ROW)
        yield


def places(columns: IndexArray, num_classes: int) -> IndexArray:
    """Where the elements at `columns` [n], one a row, lie in the flattened rows: one index is faster than two."""
    return columns + np.arange(0, len(columns) * num_classes, num_classes)


def picked(rows: FloatArray, columns: IndexArray) -> FloatArray:
    """The element at `columns` [n] of each row, [n]."""
    return rows.reshape(-1)[places(columns, rows.shape[1])]


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
            _divide(high, temperature)
        return Shifted(high, None)
    values, top = logits.astype(np.float64, copy=False), largest.astype(np.float64, copy=False)
    # Overflow is a true -infinity; it and masks leave NaN in `low`, which the last line drops.
    with np.errstate(over="ignore", invalid="ignore"):
        high, low = _subtract(values, top) if temperature == 1 else _subtract_divide(values, top, temperature)
    np.copyto(low, 0.0, where=high < CARRY_LIMIT)
    return Shifted(high, low)


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


def normalise_float32(
    logits: NDArray[Any], largest: IndexArray, temperature: float, probabilities: NDArray[Any]
) -> Float64Array:
    """Write the probabilities [n, num_classes] of rows and return the sums of their others [n].

    All in one array of float64, and without what only float64 logits need: a carry beside d, a scale for sums
    that vanish, a division where a product has bits to spare.
    """
    values, flat, at = _shifted_columns(logits, largest, temperature)
    np.exp(values, out=values)
    flat[at] = 0.0
    others = _column_sums(values)
    flat[at] = 1.0
    values *= np.reciprocal(others + 1.0)
    probabilities.T[...] = values
    return others


def logarithms_float32(
    logits: NDArray[Any], largest: IndexArray, temperature: float, others: Float64Array
) -> Float64Array:
    """Take log p of rows [n, num_classes] from the sums that `normalise_float32` returned."""
    values, _, _ = _shifted_columns(logits, largest, temperature)
    values -= np.log1p(others)
    return values.T


def _shifted_columns(
    logits: NDArray[Any], largest: IndexArray, temperature: float
) -> tuple[Float64Array, Float64Array, IndexArray]:
    """Return d of rows as [num_classes, n], the same flattened, and where the largest lie in that.

    In memory each row stays together, unless classes are few: numpy is slow at many short rows.
    """
    num_rows, num_classes = logits.shape
    if num_classes <= FEW_CLASSES:
        values = logits.T.astype(np.float64, order="C")
        flat, at = values.reshape(-1), largest * num_rows + np.arange(num_rows)
    else:
        rows = logits.astype(np.float64)
        flat, at = rows.reshape(-1), places(largest, num_classes)
        values = rows.T
    values -= flat[at]
    if temperature != 1:
        _divide(values, temperature)
    return values, flat, at


def _column_sums(values: Float64Array) -> Float64Array:
    # Side by side, columns are added up from the top; a column alone would be added in another order.
    if len(values) <= FEW_CLASSES and values.shape[1] == 1:
        return np.asarray(np.add.accumulate(values[:, 0])[-1:])
    total: Float64Array = np.add.reduce(values, axis=0)
    return total


def normalise_float64(
    logits: NDArray[Any], largest: IndexArray, temperature: float, probabilities: NDArray[Any]
) -> Float64Array:
    """Do what `normalise_float32` does, with every digit of float64."""
    shifted = shift_rows(logits, largest, temperature)
    exps = exponentials(shifted, out=shifted.high)
    others = sum_without(exps, largest, carry=True)
    tiny = tiny_sums(others)
    if tiny.size:
        larger = exponentials(shift_rows(logits[tiny], largest[tiny], temperature), offset=TINY_SHIFT)
        others[tiny] = sum_without(larger, largest[tiny], carry=True) * TINY_SCALE
    np.divide(exps, (1 + others)[:, None], out=probabilities)
    return others


def tiny_sums(others: Float64Array) -> IndexArray:
    """The rows whose sum has to be taken at another scale."""
    return np.flatnonzero(others < TINY_SUM)


def _divide(high: Float64Array, temperature: float) -> None:
    with np.errstate(over="ignore"):  # a temperature below 1 may carry d beyond float64: p is 0 there
        high /= temperature


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
