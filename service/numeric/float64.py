"""One pass over rows of float64 logits, with every digit: what `float32` does where it may be leaner."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.numeric.kernel import (
    TINY_SCALE,
    TINY_SHIFT,
    Wanted,
    blocks,
    buffered_for,
    exponentials,
    shift_rows,
    sum_without,
    tiny_sums,
)
from service.types import IndexArray


def normalise_float64(logits: NDArray[Any], largest: IndexArray, temperature: float, wanted: Wanted) -> None:
    """Fill what is wanted of rows, within the units in the last place that `softmax` promises.

    The parameters and what they may not depend on are those of `normalise_float32`.
    """
    with buffered_for(logits.shape[1]):
        for rows in blocks(*logits.shape):
            _fill(logits[rows], largest[rows], temperature, wanted.of(rows))


def _fill(logits: NDArray[Any], largest: IndexArray, temperature: float, wanted: Wanted) -> None:
    shifted = shift_rows(logits, largest, temperature)
    e = exponentials(shifted, out=shifted.high if wanted.logarithms is None else None)
    others = sum_without(e, largest, carry=True)
    tiny = tiny_sums(others)
    if tiny.size:
        larger = exponentials(shift_rows(logits[tiny], largest[tiny], temperature), offset=TINY_SHIFT)
        others[tiny] = sum_without(larger, largest[tiny], carry=True) * TINY_SCALE
    if wanted.others is not None:
        wanted.others[...] = others
    if wanted.probabilities is not None:
        np.divide(e, (1 + others)[:, None], out=wanted.probabilities)
    if wanted.logarithms is not None:
        logarithms = np.subtract(shifted.high, np.log1p(others)[:, None], out=wanted.logarithms)
        if shifted.low is not None:
            logarithms += shifted.low
        logarithms += 0.0  # the logarithm of 1 is +0.0
