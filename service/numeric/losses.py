"""Cross-entropy and what follows from it: reductions, accuracy, Brier score and the gradient.

Works on a `softmax.Normalised` and labels that `checks` let pass. Every loss is a sum of coefficients times
-log p:

    index labels   (1 - smoothing) w[y] (-log p_y) + (smoothing / C) sum of w_c (-log p_c)
    dense labels   sum of w_c ((1 - smoothing) Y_c + smoothing / C) (-log p_c)

A term whose coefficient is 0 is 0, even where -log p is infinite. Nothing is ever NaN: a row with terms of
both signs beyond all bounds, which takes negative labels, has the loss +infinity.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from service.numeric import checks
from service.numeric.kernel import Float64Array, complements, sum_rows, sum_without
from service.numeric.softmax import Normalised, normalise_checked
from service.types import FloatArray, IndexArray, Labels

# What sums beyond float64 are scaled by: room for 2^64 summands.
HEADROOM = 2.0**-64

FloatT = TypeVar("FloatT", bound=np.floating[Any])


@dataclass(frozen=True, slots=True, eq=False)
class Losses:
    """Cross-entropy per example and reduced.

    Parameters
    ----------
    losses : float array [...]
        One per example, in the logits' type: the logits' shape without the class axis. 0 where ignored,
        +infinity where the exact loss is infinite or beyond the type.
    loss : float or None
        The reduced loss, rounded to the logits' type. None with the reduction "none", and where nothing was
        there to be averaged.
    count : int
        How many examples counted: all that were not ignored.
    """

    losses: FloatArray
    loss: float | None
    count: int


def losses_of(normalised: Normalised, labels: Labels) -> Losses:
    """Take the cross-entropy of logits and labels that are already checked.

    Parameters
    ----------
    normalised : Normalised
    labels : Labels
        `values` [...] for indices, [..., num_classes, ...] for rows; weights in the logits' type.

    Returns
    -------
    Losses
        Each loss within 1 unit in the last place in float32 and 4 in float64. The reduced loss is made of the
        losses before they are rounded, summed exactly.
    """
    ignored = _ignored(labels)
    per_row = _row_losses(normalised, labels, ignored)
    count = len(per_row)
    if labels.sample_weight is not None:
        per_row = _product(_flat(labels.sample_weight), per_row)
    if ignored is not None:
        per_row[ignored] = 0.0
        count -= int(np.count_nonzero(ignored))
    dtype = normalised.dtype
    reduced: float | None = None
    if labels.reduction != "none":
        reduced = _quotient(per_row.tolist(), _denominator(labels, ignored, count))
    if not normalised.carries:
        with np.errstate(over="ignore"):  # a loss beyond the type is infinite in it
            per_row = per_row.astype(dtype)
            reduced = None if reduced is None else float(dtype.type(reduced))
    return Losses(per_row.reshape(normalised.batch_shape), reduced, count)


def accuracy(normalised: Normalised, labels: Labels) -> float | None:
    """Share of the counted examples whose largest logit is at the label.

    Parameters
    ----------
    normalised : Normalised
    labels : Labels
        Of a row of target probabilities the label is the largest, the lowest index of several.

    Returns
    -------
    float or None
        None where nothing counted. Weights have no part in it.
    """
    ignored = _ignored(labels)
    count = len(normalised.logits) - (0 if ignored is None else int(np.count_nonzero(ignored)))
    if not count:
        return None
    if labels.format == "index":
        truth = labels.values.reshape(-1)
    else:
        truth = _label_rows(normalised, labels).argmax(axis=-1)
    right = truth == normalised.largest
    if ignored is not None:
        right &= ~ignored
    return int(np.count_nonzero(right)) / count


def brier(normalised: Normalised, labels: Labels) -> FloatArray:
    """Brier score per example: the sum over the classes of (p_c - Y_c)².

    Parameters
    ----------
    normalised : Normalised
    labels : Labels
        Y is the row of target probabilities, or 1 at the index. Neither weights nor smoothing enter.

    Returns
    -------
    float array [...]
        From 0 to 2 for distributions, in the logits' type; 0 for ignored examples.

    References
    ----------
    G. W. Brier, "Verification of forecasts expressed in terms of probability", 1950: for several classes,
    without the halving that is usual for two.
    """
    plain = Labels(labels.values, labels.format, ignore_index=labels.ignore_index)
    ignored = _ignored(labels)
    scores = np.empty(len(normalised.logits))
    with np.errstate(over="ignore"):  # labels far beyond 1 may have scores beyond the type
        for rows, target in _coefficients(normalised, plain, ignored):
            e, others = normalised.row_exponentials(rows), normalised.others[rows]
            total = 1 + others[:, None]
            p, q = e / total, complements(e, normalised.largest[rows], others) / total
            # p - Y from p and q = 1 - p, so that neither a p near 1 nor one near 0 loses its digits.
            scores[rows] = np.square((1 - target) * p - target * q).sum(axis=-1)
        if ignored is not None:
            scores[ignored] = 0.0
        rounded = scores.astype(normalised.dtype)
    return cast("FloatArray", rounded.reshape(normalised.batch_shape))


def gradient(normalised: Normalised, labels: Labels) -> FloatArray:
    """Differentiate the reduced loss with respect to the logits as sent, before the temperature.

    With coefficients a_c as in this module's docstring, times the weight of the example and over the
    denominator of the reduction, the gradient at j is ((sum of a_c for c other than j) p_j - a_j (1 - p_j)) /
    temperature.

    Parameters
    ----------
    normalised : Normalised
    labels : Labels
        With the reduction "none" each loss is differentiated on its own.

    Returns
    -------
    float array, the shape and type of the logits
        Within 4 units in the last place, for soft labels in float64 of the larger of the two terms, which
        cancel where p is close to the labels. 0 for ignored examples and for the mean of nothing.
    """
    ignored = _ignored(labels)
    scale = _row_scale(normalised, labels, ignored)
    answer: NDArray[Any] = np.empty(normalised.logits.shape, normalised.dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # mended below
        for rows, a in _coefficients(normalised, labels, ignored):
            largest = a.argmax(axis=-1)
            other_a = complements(a, largest, sum_without(a, largest, carry=normalised.carries))
            e = normalised.row_exponentials(rows)
            other_e = complements(e, normalised.largest[rows], normalised.others[rows])
            slope = _product(e.astype(scale.dtype), other_a) - a.astype(scale.dtype) * other_e
            answer[rows] = _product(slope, scale[rows, None])
    answer[scale == 0 if ignored is None else ignored | (scale == 0)] = 0.0
    answer[np.isnan(answer)] = np.inf  # of weights and labels whose products are beyond float64
    answer += 0.0
    return normalised.restore(cast("FloatArray", answer))


def cross_entropy(
    logits: NDArray[Any],
    labels: NDArray[Any],
    *,
    axis: int = -1,
    label_format: Literal["auto", "index", "dense"] = "auto",
    reduction: str = "mean",
    class_weight: NDArray[Any] | None = None,
    sample_weight: NDArray[Any] | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    broadcast_labels: bool = False,
    validate_labels: bool = False,
) -> Losses:
    """Check logits and labels and take their cross-entropy.

    Parameters
    ----------
    logits : float array [..., num_classes, ...]
        float32 or float64; float16 is widened to float32, integers to float64. -infinity masks a class.
    labels : integer array [...] or array [..., num_classes, ...]
        Class indices, or one row of target probabilities per example, rounded to the logits' type.
    axis : int
        The class axis.
    label_format : "auto", "index" or "dense"
        "auto" tells the two by their rank. With "index" a class axis of size 1 is dropped.
    reduction : "mean", "sum", "none", "sum_over_batch_size" or "mean_with_sample_weight"
        "mean" divides by the class weights of the counted labels (index) or by the number of examples (dense),
        as PyTorch does; the two last, from Keras, by the number and by the sample weights of what counted.
    class_weight : array [num_classes], optional
    sample_weight : array [...], optional
    ignore_index : int, optional
        Examples with this label have the loss 0 and no part in the mean.
    label_smoothing : float
        The share, from 0 to 1, of each label that is spread evenly over all classes.
    temperature : float
        Logits are divided by it.
    broadcast_labels, validate_labels : bool
        See `checks.check_dense_labels`.

    Returns
    -------
    Losses

    Raises
    ------
    Invalid
        With the codes of `checks`.

    Examples
    --------
    >>> logits = np.array([[0.5, 1.5, 0.1], [2.2, 1.3, 1.7]])
    >>> found = cross_entropy(logits, np.array([1, 2]))
    >>> found.losses.round(8)
    array([0.4790107 , 1.19967598])
    >>> round(found.loss, 8)
    0.83934334
    """
    chosen_reduction = checks.check_reduction(reduction)
    checks.check_label_smoothing(label_smoothing)
    normalised = normalise_checked(logits, axis, temperature)
    shape, axis, dtype = logits.shape, normalised.axis, normalised.dtype
    chosen = checks.label_format(labels.ndim, logits.ndim, label_format)
    checks.check_ignore_index(ignore_index, chosen)
    values: IndexArray | FloatArray
    if chosen == "index":
        values = checks.check_index_labels(
            labels, shape, axis, ignore_index=ignore_index, squeeze=label_format == "index"
        )
    else:
        values = checks.check_dense_labels(
            labels, shape, axis, dtype, broadcast=broadcast_labels, validate=validate_labels
        )
    if class_weight is not None:
        class_weight = checks.check_class_weight(class_weight, shape[axis], dtype)
    if sample_weight is not None:
        sample_weight = checks.check_sample_weight(sample_weight, normalised.batch_shape, dtype)
    return losses_of(
        normalised,
        Labels(values, chosen, chosen_reduction, label_smoothing, class_weight, sample_weight, ignore_index),
    )


def _ignored(labels: Labels) -> NDArray[np.bool_] | None:
    """The examples that do not count, [num_rows], or None where there cannot be any."""
    if labels.format == "dense" or labels.ignore_index is None:
        return None
    ignored: NDArray[np.bool_] = labels.values.reshape(-1) == labels.ignore_index
    return ignored


def _safe_indices(labels: Labels, ignored: NDArray[np.bool_] | None) -> IndexArray:
    """The labels with 0, which is a class, in place of those ignored, which may be none."""
    indices = cast("IndexArray", labels.values.reshape(-1))
    return indices if ignored is None else np.where(ignored, 0, indices)


def _label_rows(normalised: Normalised, labels: Labels) -> FloatArray:
    rows = np.moveaxis(labels.values, normalised.axis, -1).reshape(normalised.logits.shape)
    return cast("FloatArray", rows)


def _row_losses(normalised: Normalised, labels: Labels, ignored: NDArray[np.bool_] | None) -> Float64Array:
    if labels.format == "index" and not labels.label_smoothing:
        indices = _safe_indices(labels, ignored)
        costs = normalised.label_costs(indices)
        return costs if labels.class_weight is None else _product(_flat(labels.class_weight)[indices], costs)
    per_row = np.empty(len(normalised.logits))
    with np.errstate(over="ignore", invalid="ignore"):  # NaN of opposite infinities is mended below
        for rows, a in _coefficients(normalised, labels, ignored):
            per_row[rows] = sum_rows(_product(a, normalised.row_costs(rows)), carry=normalised.carries)
    per_row[np.isnan(per_row)] = np.inf
    per_row += 0.0  # a loss of nothing is +0.0
    return per_row


def _coefficients(
    normalised: Normalised, labels: Labels, ignored: NDArray[np.bool_] | None
) -> Iterator[tuple[slice, Float64Array]]:
    """Yield blocks of rows with the coefficient of every class in them, float64 [n, num_classes]."""
    num_classes = normalised.logits.shape[1]
    dense = labels.format == "dense"
    values = _label_rows(normalised, labels) if dense else _safe_indices(labels, ignored)
    for rows in normalised.blocks():
        if dense:
            a = values[rows].astype(np.float64, order="C")
        else:
            a = np.zeros(normalised.logits[rows].shape)
            a[np.arange(len(a)), values[rows]] = 1.0
        if labels.label_smoothing:
            a *= 1 - labels.label_smoothing
            a += labels.label_smoothing / num_classes
        if labels.class_weight is not None:
            a *= labels.class_weight
        yield rows, a


def _denominator(labels: Labels, ignored: NDArray[np.bool_] | None, count: int) -> list[float]:
    """What the sum of the losses is divided by, as numbers still to be summed."""
    if labels.reduction == "sum":
        return [1.0]
    if labels.reduction == "mean_with_sample_weight" and labels.sample_weight is not None:
        weights = _flat(labels.sample_weight)
    elif labels.reduction == "mean" and labels.format == "index" and labels.class_weight is not None:
        weights = _flat(labels.class_weight)[_safe_indices(labels, ignored)]
    else:
        return [float(count)]
    return cast("list[float]", (weights if ignored is None else weights[~ignored]).tolist())


def _quotient(numerator: list[float], denominator: list[float]) -> float | None:
    """The one sum over the other, each summed exactly; None over 0."""
    divisor, divisor_scale = _exact_sum(denominator)
    if not divisor:
        return None
    try:
        total, scale = _exact_sum(numerator)
    except ValueError:  # infinities of both signs, which take negative labels
        return math.inf
    return total / divisor * (divisor_scale / scale)


def _row_scale(normalised: Normalised, labels: Labels, ignored: NDArray[np.bool_] | None) -> NDArray[Any]:
    """What the slope of each row is multiplied by: its weight over temperature, denominator and 1 + others.

    In the widest type of the machine where answers are float64, so that only their own rounding counts. Where
    float64 is the widest there is, the gradient may lose one or two units more in the last place.
    """
    widest = np.longdouble if normalised.carries else np.float64
    count = len(normalised.logits)
    scale: NDArray[Any] = np.ones(count, widest)
    if labels.sample_weight is not None:
        scale *= _flat(labels.sample_weight)
    if labels.reduction != "none":
        counted = count if ignored is None else count - int(np.count_nonzero(ignored))
        divisor, divisor_scale = _exact_sum(_denominator(labels, ignored, counted))
        if not divisor:
            return np.zeros_like(scale)
        scale *= divisor_scale
        scale /= divisor
    with np.errstate(over="ignore"):  # a tiny temperature may well have a gradient beyond the type
        scale /= normalised.temperature
        scale /= 1 + normalised.others.astype(scale.dtype)
    return scale


def _exact_sum(values: list[float]) -> tuple[float, float]:
    """The sum rounded once, times a power of two that keeps it within float64, and that power: nearly always 1."""
    try:
        return math.fsum(values), 1.0
    except OverflowError:
        return math.fsum([value * HEADROOM for value in values]), HEADROOM


def _flat(weight: FloatArray) -> Float64Array:
    return weight.astype(np.float64).reshape(-1)


def _product(coefficients: NDArray[FloatT], values: NDArray[Any]) -> NDArray[FloatT]:
    """The product, where a coefficient of 0 makes it 0 even of infinity."""
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is infinite; NaN is mended on the next line
        product: NDArray[FloatT] = coefficients * values
    np.copyto(product, 0.0, where=coefficients == 0)
    return product
