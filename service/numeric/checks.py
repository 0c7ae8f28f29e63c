"""What may enter the numeric core, and the error with code, path and expectation for what may not.

Works on arrays only: how a request spells them (JSON, npz, tensors) is the business of `wire`.
Every function raises `errors.Invalid`; paths count from the front, such as `logits[2][0]`, and a `:`
stands for the class axis where a whole row is meant and the class axis is not the last.
"""

import math
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid
from service.types import FloatArray, FloatType, IndexArray, LabelFormat, Reduction

# How far the sum of a row of labels may be from 1 under validate_labels, by the size of the type: room for
# the rounding of some thousand probabilities, far below any mistake worth reporting.
DISTRIBUTION_TOLERANCE = {4: 1e-3, 8: 1e-6}

# What may be copied for a faster look: a byte a number.
FEW_ELEMENTS = 8192


def normalise_axis(axis: int, rank: int) -> int:
    """Count the class axis from the front.

    Parameters
    ----------
    axis : int
        The class axis, from -rank to rank - 1.
    rank : int
        The rank of the logits.

    Returns
    -------
    int
        The same axis, from 0 to rank - 1.

    Raises
    ------
    Invalid
        `rank` where there is no axis at all, `axis_range` where it is not one of them.
    """
    if rank == 0:
        raise Invalid("rank", "expected an array with a class axis, got a single number", path="logits")
    if not -rank <= axis < rank:
        raise Invalid(
            "axis_range", f"expected an axis from {-rank} to {rank - 1}, got {_shown(axis)}", path="axis"
        )
    return axis % rank


def round_to(values: NDArray[Any], dtype: FloatType, *, path: str) -> FloatArray:
    """Round numbers to the type that everything is computed for.

    Parameters
    ----------
    values : array of floats or integers, any shape
    dtype : float32 or float64
    path : str
        The field's name, for the error.

    Returns
    -------
    float array, the shape of `values`
        Each number rounded to nearest, ties to even; `values` itself where it has the type already. NaN and
        infinities pass through.

    Raises
    ------
    Invalid
        `float32_overflow` at the first finite number that would become infinite: left alone, 1e39 would be
        refused as an infinity nobody sent, and -1e39 would silently mask a class.
    """
    rounded = _rounded(values, dtype)
    if dtype.itemsize < values.dtype.itemsize and not all_finite(rounded):
        overflowed = np.isinf(rounded) & np.isfinite(values)
        _refuse(values, overflowed, "float32_overflow", path, "a number of at most 3.4028235e38 in float32")
    return rounded


def check_logits(logits: FloatArray, axis: int) -> None:
    """Refuse logits without a softmax: no classes, NaN, +infinity, or rows of -infinity alone.

    Parameters
    ----------
    logits : float array [..., num_classes, ...]
        Already rounded to the request's type.
    axis : int
        The class axis, counted from the front.

    Raises
    ------
    Invalid
        `no_classes`, `non_finite_logits` at the first NaN or +infinity, `row_all_masked` at the first row
        that is masked throughout.
    """
    if logits.shape[axis] == 0:
        raise Invalid("no_classes", f"expected at least one class, got shape {_shape(logits)}", path="logits")
    if all_finite(logits):
        return
    largest = logits.max(axis=axis)  # NaN wins over every number, so one pass finds all three offences
    if all_finite(largest):
        return
    _refuse(logits, ~(logits < np.inf), "non_finite_logits", "logits", "a finite number or -Infinity")
    raise Invalid(
        "row_all_masked",
        "expected at least one class that is not -Infinity",
        path="logits" + _row_subscripts(_first(largest == -np.inf), axis, logits.ndim),
    )


def round_features(features: NDArray[Any], dtype: FloatType, *, path: str = "features") -> FloatArray:
    """Round features as `round_to` does, and refuse those that are NaN or infinite, in one look at them all.

    Parameters
    ----------
    features : array of floats or integers [..., num_features]
    dtype, path : as in `round_to`

    Raises
    ------
    Invalid
        `float32_overflow`, then `non_finite_features`, at the first of them.
    """
    rounded = _rounded(features, dtype)
    if not all_finite(rounded):
        round_to(features, dtype, path=path)
        _refuse(rounded, ~np.isfinite(rounded), "non_finite_features", path, "a finite number")
    return rounded


def check_top_k(k: int, num_classes: int) -> None:
    """Refuse (`top_k_range`) a number of best classes outside 1 to `num_classes`."""
    if not 1 <= k <= num_classes:
        message = f"expected a number from 1 to {num_classes}, got {_shown(k)}"
        raise Invalid("top_k_range", message, path="top_k")


def check_temperature(temperature: float) -> None:
    """Refuse (`temperature_range`) a temperature that is not a finite number above 0."""
    if not 0 < temperature < math.inf:
        message = f"expected a finite number above 0, got {_shown(temperature)}"
        raise Invalid("temperature_range", message, path="temperature")


def check_label_smoothing(value: float) -> None:
    """Refuse (`label_smoothing_range`) a share outside [0, 1]."""
    if not 0 <= value <= 1:
        message = f"expected a number from 0 to 1, got {_shown(value)}"
        raise Invalid("label_smoothing_range", message, path="label_smoothing")


def check_reduction(reduction: str) -> Reduction:
    """Return the reduction, or refuse it (`unknown_reduction`)."""
    if reduction not in get_args(Reduction):
        message = f"expected one of {', '.join(get_args(Reduction))}, got {_shown(reduction)}"
        raise Invalid("unknown_reduction", message, path="reduction")
    return cast("Reduction", reduction)


def check_ignore_index(ignore_index: int | None, label_format: LabelFormat) -> None:
    """Refuse (`ignore_index_with_dense`) an index to ignore among labels that are no indices."""
    if ignore_index is not None and label_format == "dense":
        message = "expected index labels, got rows of target probabilities"
        raise Invalid("ignore_index_with_dense", message, path="ignore_index")


def label_format(labels_rank: int, logits_rank: int, asked: Literal["auto", "index", "dense"]) -> LabelFormat:
    """Tell class indices from rows of target probabilities by rank alone, never by values.

    Parameters
    ----------
    labels_rank, logits_rank : int
    asked : "auto", "index" or "dense"
        Anything but "auto" is returned as it is.

    Returns
    -------
    "index" or "dense"
        One rank below the logits means indices, equal rank means rows.

    Raises
    ------
    Invalid
        `labels_shape` where the rank says neither.
    """
    if asked != "auto":
        return asked
    if labels_rank == logits_rank - 1:
        return "index"
    if labels_rank == logits_rank:
        return "dense"
    raise Invalid(
        "labels_shape",
        f"expected rank {logits_rank - 1} (class indices) or {logits_rank} (target rows), got {labels_rank}",
        path="labels",
    )


def check_index_labels(
    labels: NDArray[Any], shape: tuple[int, ...], axis: int, *, ignore_index: int | None, squeeze: bool
) -> IndexArray:
    """Check class indices and bring them to int64.

    Parameters
    ----------
    labels : integer array
        One class index per example.
    shape : tuple of int
        The shape of the logits.
    axis : int
        Their class axis, counted from the front.
    ignore_index : int or None
        A further value that is allowed; it may be a class too.
    squeeze : bool
        Whether a class axis of size 1 may be left in `labels`, as Keras users have it.

    Returns
    -------
    int64 array, the shape of the logits without the class axis

    Raises
    ------
    Invalid
        `labels_type` where they are not integers (1.0 and true are no indices), `labels_shape`,
        `label_out_of_range` at the first that is neither a class nor `ignore_index`.
    """
    if labels.size and labels.dtype.kind not in "iu":
        raise Invalid("labels_type", f"expected integers, got {_shown(labels.dtype)}", path="labels")
    expected = shape[:axis] + shape[axis + 1 :]
    column = (*shape[:axis], 1, *shape[axis + 1 :])
    if labels.shape != expected and not (squeeze and labels.shape == column):
        raise Invalid("labels_shape", f"expected shape {list(expected)}, got {_shape(labels)}", path="labels")
    num_classes = shape[axis]
    allowed = (labels >= 0) & (labels < num_classes)
    hint = " (set ignore_index to leave examples out)"
    if ignore_index is not None:
        allowed |= labels == ignore_index
        hint = " or ignore_index"
    _refuse(labels, ~allowed, "label_out_of_range", "labels", f"a class from 0 to {num_classes - 1}{hint}")
    return labels.reshape(expected).astype(np.int64, copy=False)


def check_dense_labels(
    labels: NDArray[Any],
    shape: tuple[int, ...],
    axis: int,
    dtype: FloatType,
    *,
    broadcast: bool,
    validate: bool,
) -> FloatArray:
    """Check rows of target probabilities and bring them to the logits' type and shape.

    Parameters
    ----------
    labels : array of floats or integers, the shape of the logits
        Any finite numbers; they are not renormalised.
    shape : tuple of int
        The shape of the logits.
    axis : int
        Their class axis, counted from the front.
    dtype : float32 or float64
        The logits' type, to which labels are rounded first.
    broadcast : bool
        Whether dimensions of size 1 stretch to the logits', as in TensorFlow.
    validate : bool
        Whether each row must be a distribution: nothing negative, and a sum of 1 within 1e-3 (float32) or
        1e-6 (float64).

    Returns
    -------
    float array, `shape` and `dtype`
        Possibly a read-only view where it was broadcast.

    Raises
    ------
    Invalid
        `labels_type`, `labels_shape`, `float32_overflow`, `non_finite_labels`, `labels_distribution`.
    """
    if labels.dtype.kind not in "iuf":
        raise Invalid("labels_type", f"expected numbers, got {_shown(labels.dtype)}", path="labels")
    stretched = tuple(
        wanted if broadcast and size == 1 else size for size, wanted in zip(labels.shape, shape, strict=False)
    )
    if labels.ndim != len(shape) or stretched != shape:
        raise Invalid("labels_shape", f"expected shape {list(shape)}, got {_shape(labels)}", path="labels")
    rounded = round_to(labels, dtype, path="labels")
    _refuse(rounded, ~np.isfinite(rounded), "non_finite_labels", "labels", "a finite number")
    target = cast("FloatArray", np.broadcast_to(rounded, shape))
    if validate:
        _check_distribution(target, axis)
    return target


def check_class_weight(weight: NDArray[Any], num_classes: int, dtype: FloatType) -> FloatArray:
    """Check the weights of the classes and round them to the logits' type.

    Parameters
    ----------
    weight : array of floats or integers [num_classes]
        Finite, none below 0.
    num_classes : int
    dtype : float32 or float64

    Returns
    -------
    float array [num_classes], `dtype`

    Raises
    ------
    Invalid
        `class_weight_shape`, `class_weight_value` at the first offender, `float32_overflow`.
    """
    return _checked_weight(weight, (num_classes,), dtype, "class_weight")


def check_sample_weight(weight: NDArray[Any], shape: tuple[int, ...], dtype: FloatType) -> FloatArray:
    """Check the weights of the examples and round them to the logits' type.

    As `check_class_weight`, with an array of `shape`: that of the logits without the class axis. The errors
    are `sample_weight_shape`, `sample_weight_value` and `float32_overflow`.
    """
    return _checked_weight(weight, shape, dtype, "sample_weight")


def _checked_weight(weight: NDArray[Any], shape: tuple[int, ...], dtype: FloatType, field: str) -> FloatArray:
    if weight.dtype.kind not in "iuf":
        raise Invalid(f"{field}_value", f"expected numbers, got {_shown(weight.dtype)}", path=field)
    if weight.shape != shape:
        raise Invalid(f"{field}_shape", f"expected shape {list(shape)}, got {_shape(weight)}", path=field)
    forbidden = ~((weight >= 0) & (weight < np.inf))
    _refuse(weight, forbidden, f"{field}_value", field, "a finite number of at least 0")
    return round_to(weight, dtype, path=field)


def _check_distribution(labels: FloatArray, axis: int) -> None:
    _refuse(labels, labels < 0, "labels_distribution", "labels", "a probability")
    sums = labels.sum(axis=axis, dtype=np.float64)
    far = np.abs(sums - 1) > DISTRIBUTION_TOLERANCE[labels.dtype.itemsize]
    if far.any():
        place = _first(far)
        raise Invalid(
            "labels_distribution",
            f"expected a sum of 1, got {_shown(sums[place])}",
            path="labels" + _row_subscripts(place, axis, labels.ndim),
        )


def all_finite(values: NDArray[Any]) -> bool:
    """Tell whether no number is NaN or infinite."""
    finite = np.isfinite(values)
    if values.size > FEW_ELEMENTS:
        return bool(np.count_nonzero(finite) == values.size)
    return 0 not in finite.tobytes()  # a third of the time of `all`


def _rounded(values: NDArray[Any], dtype: FloatType) -> FloatArray:
    if dtype.itemsize >= values.dtype.itemsize:
        return cast("FloatArray", values.astype(dtype, copy=False))
    with np.errstate(over="ignore"):  # whoever asks looks for it, with its place
        return cast("FloatArray", values.astype(dtype))


def _refuse(values: NDArray[Any], forbidden: NDArray[np.bool_], code: str, field: str, expected: str) -> None:
    if forbidden.any():
        place = _first(forbidden)
        raise Invalid(
            code, f"expected {expected}, got {_shown(values[place])}", path=field + _subscripts(place)
        )


def _first(offending: NDArray[np.bool_] | np.bool_) -> tuple[int, ...]:
    flat = int(np.argmax(offending))
    return tuple(int(index) for index in np.unravel_index(flat, np.shape(offending)))


def _subscripts(place: tuple[int, ...]) -> str:
    return "".join(f"[{index}]" for index in place)


def _row_subscripts(place: tuple[int, ...], axis: int, rank: int) -> str:
    if axis == rank - 1:
        return _subscripts(place)
    return _subscripts(place[:axis]) + "[:]" + _subscripts(place[axis:])


def _shape(array: NDArray[Any]) -> str:
    return str(list(array.shape))


def _shown(value: object) -> str:
    """Say a value of the caller's in at most 40 characters, infinities as JSON spells them here."""
    if isinstance(value, float | np.floating) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = str(value)
    return text if len(text) <= 40 else text[:39] + "…"
