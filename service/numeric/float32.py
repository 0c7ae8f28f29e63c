"""One pass over rows of float32 logits: what nearly every request waits for.

In float64 throughout, and without what only float64 logits need: a carry beside d, a scale for sums that
vanish. A block of rows is gone over while it is in a core's cache, and only for what is wanted. The formulas
and the names in them are those of `kernel`.

A small batch costs calls of numpy, not arithmetic, and a call that pairs or reduces arrays of several shapes
costs three times what one on a single array does. So there are as few of those as the formulas allow.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.numeric.kernel import (
    LONG_ROW,
    Float64Array,
    Wanted,
    blocks,
    buffered_for,
    divide,
    places,
)
from service.types import IndexArray

# Up to this many classes, arithmetic along the rows of a block beats arithmetic along the classes.
FEW_CLASSES = 32


def normalise_float32(logits: NDArray[Any], largest: IndexArray, temperature: float, wanted: Wanted) -> None:
    """Fill what is wanted of rows, each number rounded once.

    What one array gets depends neither on which others are wanted nor, for a row, on the rows beside it: not
    in the last bit.

    Parameters
    ----------
    logits : float array [n, num_classes]
        Contiguous; float64 where they are calibrated float32 ones.
    largest : int64 array [n]
        Where the largest logit of each row is.
    temperature : float
    wanted : Wanted
    """
    num_rows, num_classes = logits.shape
    fill = _fill_columns if num_classes <= FEW_CLASSES else _fill_rows
    if num_rows == 1 or logits.size < LONG_ROW:  # nothing to cut, and no buffer is in the way
        fill(logits, largest, temperature, wanted)
        return
    cut = blocks(num_rows, num_classes)
    with buffered_for(num_classes):
        if len(cut) == 1:
            fill(logits, largest, temperature, wanted)
            return
        for rows in cut:
            fill(logits[rows], largest[rows], temperature, wanted.of(rows))


def _fill_rows(logits: NDArray[Any], largest: IndexArray, temperature: float, wanted: Wanted) -> None:
    """A single row is worked on as [num_classes], since what broadcasts costs more."""
    one = len(logits) == 1
    # Widened in a pass of its own: numpy casts inside an operation at half of the speed.
    d = (logits[0] if one else logits).astype(np.float64)
    at = largest[0] if one else places(largest, logits.shape[1])
    d -= _beside_rows(d.reshape(-1)[at])
    if temperature != 1:
        divide(d, temperature)
    e = np.exp(d, out=d if wanted.logarithms is None else None)
    flat = e.reshape(-1)
    flat[at] = 0.0
    others = np.add.reduce(e, axis=-1)
    if wanted.others is not None:
        wanted.others[...] = others
    if wanted.probabilities is not None:
        flat[at] = 1.0
        e *= _beside_rows(np.reciprocal(others + 1.0))  # half of what a quotient costs
        wanted.probabilities[...] = e
    if wanted.logarithms is not None:
        d -= _beside_rows(np.log1p(others))
        _store_logarithms(d, wanted.logarithms)


def _fill_columns(logits: NDArray[Any], largest: IndexArray, temperature: float, wanted: Wanted) -> None:
    """Do what `_fill_rows` does on [num_classes, n], or [num_classes] of a single row.

    numpy is slow at many short rows, but not at a few long ones.
    """
    num_rows = len(logits)
    d = _columns(logits).astype(np.float64, order="C")
    d -= d[largest[0]] if num_rows == 1 else np.maximum.reduce(d, axis=0)
    if temperature != 1:
        divide(d, temperature)
    e = np.exp(d, out=d if wanted.logarithms is None else None)
    if wanted.probabilities is not None:
        if num_rows == 1:
            wanted.probabilities[0] = e / _sums(e)
        else:  # cast on the way, which one row is too short for
            np.divide(e, _sums(e), out=wanted.probabilities.T, casting="same_kind")
    if wanted.others is None and wanted.logarithms is None:
        return
    e.reshape(-1)[largest if num_rows == 1 else largest * num_rows + np.arange(num_rows)] = 0.0
    others = _sums(e)
    if wanted.others is not None:
        wanted.others[...] = others
    if wanted.logarithms is not None:
        d -= np.log1p(others)
        _store_logarithms(d, _columns(wanted.logarithms))


def _beside_rows(numbers: Any) -> Any:
    return numbers[:, None] if numbers.ndim else numbers


def _columns(rows: NDArray[Any]) -> NDArray[Any]:
    return rows[0] if len(rows) == 1 else rows.T


def _sums(e: Float64Array) -> Any:
    # Side by side, columns are added up from the top; a column alone would be added in another order.
    return np.add.accumulate(e)[-1] if e.ndim == 1 else np.add.reduce(e, axis=0)


def _store_logarithms(values: Float64Array, logarithms: NDArray[Any]) -> None:
    with np.errstate(over="ignore"):  # a difference beyond the type is a logarithm of -infinity
        logarithms[...] = values
    logarithms += 0.0  # of nearly 1 it was rounded to -0.0
