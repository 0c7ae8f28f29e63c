"""Softmax along any axis, from logits that `checks` let pass; `kernel` does the arithmetic.

Knows axes, shapes and the type of the answer; knows no labels.
"""

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from service.numeric import checks
from service.numeric.float32 import FEW_CLASSES, normalise_float32
from service.numeric.float64 import normalise_float64
from service.numeric.kernel import (
    TINY_SCALE,
    TINY_SHIFT,
    Float64Array,
    Shifted,
    Wanted,
    blocks,
    exponentials,
    picked_twice,
    shift,
    shift_rows,
    tiny_sums,
)
from service.types import FloatArray, FloatType, IndexArray


class Normalised:
    """Logits with what softmax makes of them, each made once, when it is first asked for.

    Made by `normalise`. The methods without arguments answer in the logits' shape and type; those that take
    a slice of rows answer in float64 for some rows of the logits' flattened batch, classes last, for `losses`.

    Parameters
    ----------
    logits : float array [num_rows, num_classes]
        The logits, contiguous, with the class axis last and all other axes flattened into one.
    axis : int
        The class axis of the answers, counted from the front.
    batch_shape : tuple of int
        The shape of the answers without the class axis.
    temperature : float
    dtype : float32 or float64
        The type of the answers: the logits' own, or float32 where float64 ones have no more digits than that.
    with_logarithms, with_others : bool
        What is made on the way when the probabilities are.

    Attributes
    ----------
    largest : int64 array [num_rows]
        The index of the largest logit, the lowest of several.
    """

    __slots__ = (
        "_logarithms",
        "_others",
        "_probabilities",
        "_with_logarithms",
        "_with_others",
        "axis",
        "batch_shape",
        "dtype",
        "largest",
        "logits",
        "temperature",
    )

    def __init__(
        self,
        logits: FloatArray,
        axis: int,
        batch_shape: tuple[int, ...],
        temperature: float,
        dtype: FloatType,
        *,
        with_logarithms: bool = False,
        with_others: bool = False,
    ) -> None:
        self.logits = logits
        self.axis = axis
        self.batch_shape = batch_shape
        self.temperature = temperature
        self.dtype = dtype
        self.largest: IndexArray = logits.argmax(-1)
        self._with_logarithms = with_logarithms
        # Only where classes are few does their sum take more than the pass for the probabilities.
        self._with_others = with_others or self.carries or logits.shape[1] > FEW_CLASSES
        self._probabilities: FloatArray | None = None
        self._logarithms: FloatArray | None = None
        self._others: Float64Array | None = None

    @property
    def carries(self) -> bool:
        """Whether the answers are float64, so that float64 arithmetic has no bits to spare for them."""
        return self.dtype.itemsize == 8

    @property
    def classes(self) -> IndexArray:
        """The index of the largest logit, int64; the lowest of several, however probabilities round."""
        return self.largest.reshape(self.batch_shape)

    @property
    def others(self) -> Float64Array:
        """The sum of a row's e^((x - x_largest) / temperature) without the largest one, which is 1: [num_rows]."""
        if self._others is None:
            self._make(others=True)
        return cast("Float64Array", self._others)

    def probabilities(self) -> FloatArray:
        """The softmax, subnormal numbers included; 0 at a masked class. Made once: a view, to be read only."""
        if self._probabilities is None:
            self._make(probabilities=True, logarithms=self._with_logarithms, others=self._with_others)
        return self.restore(cast("FloatArray", self._probabilities))

    def log_probabilities(self) -> FloatArray:
        """The logarithm of the softmax; -infinity at a masked class. Made once: a view, to be read only."""
        if self._logarithms is None:
            self._make(logarithms=True)
        return self.restore(cast("FloatArray", self._logarithms))

    def entropy(self) -> FloatArray:
        """Entropy in nats, without the class axis; 0 log 0 = 0."""
        answer = np.empty(len(self.logits))
        for rows in self.blocks():
            answer[rows] = self._row_entropy(rows)
        return cast("FloatArray", answer.astype(self.dtype).reshape(self.batch_shape))

    def restore(self, answer: FloatArray) -> FloatArray:
        """Bring [num_rows, num_classes] back into the shape that the logits came in, contiguous."""
        if self.axis == len(self.batch_shape) == 1:
            return answer
        shaped = answer.reshape(*self.batch_shape, answer.shape[-1])
        if self.axis == len(self.batch_shape):
            return shaped
        return cast("FloatArray", np.ascontiguousarray(np.moveaxis(shaped, -1, self.axis)))

    def blocks(self) -> list[slice]:
        return blocks(*self.logits.shape)

    def row_exponentials(self, rows: slice) -> Float64Array:
        """e^d of every class. Made again for the few that ask: kept, they would double what a batch holds."""
        return exponentials(self._shift(rows))

    def row_costs(self, rows: slice) -> Float64Array:
        """-log p of every class."""
        return _cost(self._shift(rows), np.log1p(self.others[rows])[:, None])

    def label_costs(self, labels: IndexArray) -> Float64Array:
        """-log p of one class for each of all rows: `labels` and the answer are [num_rows]."""
        shifted = shift(*picked_twice(self.logits, labels, self.largest), self.temperature)
        return _cost(shifted, np.log1p(self.others))

    def _shift(self, rows: slice | IndexArray) -> Shifted:
        return shift_rows(self.logits[rows], self.largest[rows], self.temperature)

    def _make(self, *, probabilities: bool = False, logarithms: bool = False, others: bool = False) -> None:
        wanted = Wanted(
            np.empty(self.logits.shape, self.dtype) if probabilities else None,
            np.empty(self.logits.shape, self.dtype) if logarithms else None,
            np.empty(len(self.logits)) if others else None,
        )
        fill = normalise_float64 if self.carries else normalise_float32
        fill(self.logits, self.largest, self.temperature, wanted)
        if probabilities:
            self._probabilities = wanted.probabilities
        if logarithms:
            self._logarithms = wanted.logarithms
        if others:
            self._others = wanted.others

    def _row_entropy(self, rows: slice) -> Float64Array:
        # -log p = log(1 + s) - d, so the entropy is log(1 + s) - sum of p d: two numbers of one sign.
        shifted, others = self._shift(rows), self.others[rows]
        spread = _spread(shifted, exponentials(shifted))
        tiny = tiny_sums(others)
        if self.carries and tiny.size:  # to float32 such sums are 0
            shifted = self._shift(tiny + rows.start)
            spread[tiny] = _spread(shifted, exponentials(shifted, offset=TINY_SHIFT)) * TINY_SCALE
        return np.log1p(others) + spread / (1 + others)


def normalise(
    logits: FloatArray,
    axis: int = -1,
    temperature: float = 1.0,
    dtype: FloatType | None = None,
    *,
    with_logarithms: bool = False,
    with_others: bool = False,
) -> Normalised:
    """Take logits for softmax and whatever else is answered of them.

    Parameters
    ----------
    logits : float array [..., num_classes, ...]
        Checked by `checks.check_logits`.
    axis : int
        The class axis.
    temperature : float
        Logits are divided by it; checked by `checks.check_temperature`.
    dtype : float32 or float64, optional
        The type of the answers, which is the logits' own unless float64 logits stand for float32 ones.
    with_logarithms, with_others : bool
        Whether log-probabilities, or anything made of labels, will be asked for beside the probabilities: one
        pass then makes both. The answers are the same to the last bit.

    Returns
    -------
    Normalised
        Nothing of a row depends on the rows beside it nor on where the class axis lies, to the last bit.
    """
    axis %= logits.ndim
    moved = logits if axis == logits.ndim - 1 else np.moveaxis(logits, axis, -1)
    batch_shape, num_classes = moved.shape[:-1], moved.shape[-1]
    rows: NDArray[Any] = np.ascontiguousarray(moved)
    if rows.ndim != 2:
        rows = rows.reshape(math.prod(batch_shape), num_classes)
    return Normalised(
        rows,
        axis,
        batch_shape,
        temperature,
        rows.dtype if dtype is None else dtype,
        with_logarithms=with_logarithms,
        with_others=with_others,
    )


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
