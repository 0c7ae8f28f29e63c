"""Softmax along any axis, from logits that `checks` let pass; `kernel` does the arithmetic.

Knows axes, shapes and the type of the answer; knows no labels.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from service.numeric import checks
from service.numeric.kernel import (
    TINY_SCALE,
    TINY_SHIFT,
    TINY_SUM,
    Float64Array,
    Shifted,
    blocks,
    complements,
    exponentials,
    shift,
    sum_without,
)
from service.types import FloatArray, FloatType, IndexArray


@dataclass(frozen=True, slots=True, eq=False)
class Normalised:
    """Logits with the sum of their exponentials: all that probabilities and losses are made of.

    Made by `normalise`. The methods without arguments answer in the logits' shape and type; those that take
    `rows` answer in float64 for some rows of the logits' flattened batch, classes last, for `losses`.

    Parameters
    ----------
    logits : float array [num_rows, num_classes]
        The logits, contiguous, with the class axis last and all other axes flattened into one.
    axis : int
        The class axis of the answers, counted from the front.
    batch_shape : tuple of int
        The shape of the answers without the class axis.
    temperature : float
    largest : int64 array [num_rows]
        The index of the largest logit, the lowest of several.
    exponentials : float64 array [num_rows, num_classes]
        e^((x - x_largest) / temperature).
    others : float64 array [num_rows]
        The sum of a row's exponentials without the largest one, which is 1.
    log_totals : float64 array [num_rows]
        log(1 + others).
    """

    logits: FloatArray
    axis: int
    batch_shape: tuple[int, ...]
    temperature: float
    largest: IndexArray
    exponentials: Float64Array
    others: Float64Array
    log_totals: Float64Array

    @property
    def carries(self) -> bool:
        """Whether the answers are float64, so that float64 arithmetic has no bits to spare for them."""
        return self.logits.dtype == np.float64

    @property
    def classes(self) -> IndexArray:
        """The index of the largest logit, int64; the lowest of several, however probabilities round."""
        return self.largest.reshape(self.batch_shape)

    def probabilities(self) -> FloatArray:
        """The softmax, subnormal numbers included; 0 at a masked class."""
        answer = np.empty_like(self.logits)
        for rows in self.blocks():
            answer[rows] = self.row_probabilities(rows)
        return self.restore(answer)

    def log_probabilities(self) -> FloatArray:
        """The logarithm of the softmax; -infinity at a masked class."""
        answer = np.empty_like(self.logits)
        with np.errstate(over="ignore"):  # a difference beyond the type is a logarithm of -infinity
            for rows in self.blocks():
                answer[rows] = -self.row_costs(rows)
        answer += 0.0  # the logarithm of 1 is +0.0
        return self.restore(answer)

    def entropy(self) -> FloatArray:
        """Entropy in nats, without the class axis; 0 log 0 = 0."""
        answer = np.empty(len(self.logits))
        for rows in self.blocks():
            answer[rows] = self._row_entropy(rows)
        return cast("FloatArray", answer.astype(self.logits.dtype).reshape(self.batch_shape))

    def restore(self, answer: FloatArray) -> FloatArray:
        """Bring [num_rows, num_classes] back into the shape that the logits came in, contiguous."""
        shaped = answer.reshape(*self.batch_shape, answer.shape[-1])
        return cast("FloatArray", np.ascontiguousarray(np.moveaxis(shaped, -1, self.axis)))

    def blocks(self) -> list[slice]:
        return list(blocks(*self.logits.shape))

    def row_probabilities(self, rows: slice) -> Float64Array:
        return self.exponentials[rows] / (1 + self.others[rows, None])

    def row_others(self, rows: slice) -> Float64Array:
        """The sum of the exponentials of all other classes, for every class: 1 - p is this over 1 + others."""
        return complements(self.exponentials[rows], self.largest[rows], self.others[rows])

    def row_costs(self, rows: slice) -> Float64Array:
        """-log p of every class."""
        return _cost(self._shift(rows), self.log_totals[rows, None])

    def label_costs(self, labels: IndexArray) -> Float64Array:
        """-log p of one class for each of all rows: `labels` and the answer are [num_rows]."""
        every = np.arange(len(self.logits))
        shifted = shift(self.logits[every, labels], self.logits[every, self.largest], self.temperature)
        return _cost(shifted, self.log_totals)

    def _shift(self, rows: slice | IndexArray) -> Shifted:
        return _shift_rows(self.logits[rows], self.largest[rows], self.temperature)

    def _row_entropy(self, rows: slice) -> Float64Array:
        # -log p = log(1 + s) - d, so the entropy is log(1 + s) - sum of p d: two numbers of one sign.
        others, spread = self.others[rows], _spread(self._shift(rows), self.exponentials[rows])
        tiny = _tiny(others, self.logits.dtype)
        if tiny.size:
            shifted = self._shift(tiny + rows.start)
            spread[tiny] = _spread(shifted, exponentials(shifted, TINY_SHIFT)) * TINY_SCALE
        return self.log_totals[rows] + spread / (1 + others)


def normalise(logits: FloatArray, axis: int = -1, temperature: float = 1.0) -> Normalised:
    """Shift, exponentiate and sum logits, once for whatever is answered of them.

    Parameters
    ----------
    logits : float array [..., num_classes, ...]
        Checked by `checks.check_logits`.
    axis : int
        The class axis.
    temperature : float
        Logits are divided by it; checked by `checks.check_temperature`.

    Returns
    -------
    Normalised
        Nothing of a row depends on the rows beside it nor on where the class axis lies, to the last bit.
    """
    axis %= logits.ndim
    moved = np.moveaxis(logits, axis, -1)
    batch_shape, num_classes = moved.shape[:-1], moved.shape[-1]
    flat = np.ascontiguousarray(moved).reshape(math.prod(batch_shape), num_classes)
    rows = cast("FloatArray", flat)
    largest = rows.argmax(axis=-1)
    exps, others = np.empty(rows.shape), np.empty(len(rows))
    for block in blocks(*rows.shape):
        exps[block], others[block] = _exponentiate(rows[block], largest[block], temperature)
    return Normalised(rows, axis, batch_shape, temperature, largest, exps, others, np.log1p(others))


def top_k(logits: FloatArray, k: int, axis: int = -1) -> IndexArray:
    """Find the k largest logits of each row.

    Parameters
    ----------
    logits : float array [..., num_classes, ...]
    k : int
        From 1 to num_classes.
    axis : int
        The class axis.

    Returns
    -------
    int64 array [..., k, ...]
        Class indices, best first; of equal logits the lower index comes first, and -0.0 equals 0.0. Made for
        `numpy.take_along_axis`.

    Examples
    --------
    >>> top_k(np.array([2.0, 7.0, 7.0, 1.0]), 3)
    array([1, 2, 0])
    """
    moved = np.moveaxis(logits, axis, -1)
    keys = np.negative(moved).reshape(math.prod(moved.shape[:-1]), moved.shape[-1])
    # All that reach the k-th place are candidates: more than k of them in a row that has a tie there.
    threshold = np.partition(keys, k - 1, axis=-1)[:, k - 1 : k]
    rows, columns = np.nonzero(keys <= threshold)
    order = np.lexsort((keys[rows, columns], rows))  # stable, so that a tie keeps the order of the columns
    first_of_row = np.searchsorted(rows, np.arange(len(keys)))
    place = np.arange(len(rows)) - first_of_row[rows]
    best = columns[order][place < k].reshape(*moved.shape[:-1], k)
    return np.ascontiguousarray(np.moveaxis(best, -1, axis))


def one_hot(classes: IndexArray, num_classes: int, axis: int, dtype: FloatType) -> FloatArray:
    """Write classes as rows of 0 with a 1 at the class.

    Parameters
    ----------
    classes : int64 array [...]
    num_classes : int
    axis : int
        Where the class axis goes in the answer.
    dtype : float32 or float64

    Returns
    -------
    float array [..., num_classes, ...]
    """
    rows = np.expand_dims(classes, axis)
    answer = np.zeros(
        tuple(
            num_classes if size == 1 and place == axis % rows.ndim else size
            for place, size in enumerate(rows.shape)
        ),
        dtype,
    )
    np.put_along_axis(answer, rows, 1, axis)
    return cast("FloatArray", answer)


def softmax(logits: NDArray[Any], axis: int = -1, temperature: float = 1.0) -> FloatArray:
    """Turn logits into probabilities, each the exact value rounded once.

    Parameters
    ----------
    logits : float array [..., num_classes, ...]
        float32 or float64; float16 and integers are widened to float32 and float64. -infinity masks a class.
    axis : int
        The class axis.
    temperature : float
        Logits are divided by it.

    Returns
    -------
    float array, the shape of `logits`
        Within 1 unit in the last place in float32 and 4 in float64, subnormal numbers included.

    Raises
    ------
    Invalid
        `rank`, `axis_range`, `temperature_range` and what `checks.check_logits` refuses.

    See Also
    --------
    log_softmax : does not lose the probabilities that round to 0 or 1.

    Examples
    --------
    >>> softmax(np.array([0.5, 1.5, 0.1])).round(8)
    array([0.227863  , 0.61939586, 0.15274114])
    """
    return normalise_checked(logits, axis, temperature).probabilities()


def log_softmax(logits: NDArray[Any], axis: int = -1, temperature: float = 1.0) -> FloatArray:
    """Turn logits into logarithms of probabilities, each the exact value rounded once.

    Parameters, errors and accuracy are those of `softmax`.

    Examples
    --------
    A confident row: the usual formula answers 0 for the first class, the exact value is -8.5e-18.

    >>> log_softmax(np.array([40.0, 0.0, 0.0]))
    array([-8.49670851e-18, -4.00000000e+01, -4.00000000e+01])
    """
    return normalise_checked(logits, axis, temperature).log_probabilities()


def normalise_checked(logits: NDArray[Any], axis: int, temperature: float) -> Normalised:
    """Check what `normalise` takes for granted, and widen float16 to float32 and integers to float64."""
    axis = checks.normalise_axis(axis, logits.ndim)
    checks.check_temperature(temperature)
    narrow = logits.dtype.kind == "f" and logits.dtype.itemsize <= 4
    dtype: FloatType = np.dtype(np.float32) if narrow else np.dtype(np.float64)
    rounded = checks.round_to(logits, dtype, path="logits")
    checks.check_logits(rounded, axis)
    return normalise(rounded, axis, temperature)


def _exponentiate(
    logits: FloatArray, largest: IndexArray, temperature: float
) -> tuple[Float64Array, Float64Array]:
    shifted = _shift_rows(logits, largest, temperature)
    exps = exponentials(shifted)
    others = sum_without(exps, largest, carry=logits.dtype == np.float64)
    tiny = _tiny(others, logits.dtype)
    if tiny.size:
        larger = exponentials(_shift_rows(logits[tiny], largest[tiny], temperature), TINY_SHIFT)
        others[tiny] = sum_without(larger, largest[tiny], carry=True) * TINY_SCALE
    return exps, others


def _shift_rows(logits: FloatArray, largest: IndexArray, temperature: float) -> Shifted:
    top = cast("FloatArray", np.take_along_axis(logits, largest[:, None], axis=-1))
    return shift(logits, top, temperature)


def _tiny(others: Float64Array, dtype: FloatType) -> IndexArray:
    # To float32 such sums are 0.
    return np.flatnonzero(others < TINY_SUM if dtype == np.float64 else np.zeros(0, bool))


def _cost(shifted: Shifted, log_total: Float64Array) -> Float64Array:
    cost = log_total - shifted.high
    if shifted.low is not None:
        cost -= shifted.low
    return cost


def _spread(shifted: Shifted, exps: Float64Array) -> Float64Array:
    """The sum of -d e^d over each row, where 0 times infinity is 0."""
    with np.errstate(invalid="ignore"):  # mended on the next line
        terms = exps * -shifted.high
    np.copyto(terms, 0.0, where=exps == 0)
    total: Float64Array = terms.sum(axis=-1)
    return total
