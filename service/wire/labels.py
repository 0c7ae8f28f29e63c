"""Labels and weights, as JSON values or arrays -> what a loss is made of.

Labels are class indices, class names or target rows; their rank alone says which of the first two or the
last. What they are measured against is a `Scale`; where it comes from is not known here.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid
from service.numeric import checks
from service.types import FloatArray, FloatType, IndexArray, Labels
from service.wire import nested
from service.wire.json_reader import name_of
from service.wire.limits import Limits, check_elements
from service.wire.options import INT64, Options


class Scale(NamedTuple):
    """The logits that labels belong to: their shape, class axis and dtype."""

    shape: tuple[int, ...]
    axis: int
    dtype: FloatType

    @property
    def num_classes(self) -> int:
        return self.shape[self.axis]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]


def read_labels(
    fields: Mapping[str, Any],
    options: Options,
    scale: Scale,
    class_names: tuple[str, ...] | None,
    limits: Limits,
) -> Labels:
    """Read `labels`, then `class_weight` and `sample_weight`, and check them against the logits.

    Raises
    ------
    Invalid
        `ragged`, `labels_shape`, `ignore_index_with_dense`, `labels_type`, `unknown_class_name`,
        `label_out_of_range`, `non_finite_labels`, `labels_distribution`, `float32_overflow`, and the shapes
        and values of the weights.
    TooLarge
        `elements_too_many`.
    """
    sent = _flatten(fields["labels"], limits)
    label_format = checks.label_format(len(sent.shape), len(scale.shape), options.label_format)
    checks.check_ignore_index(options.ignore_index, label_format)
    values: IndexArray | FloatArray
    if label_format == "index":
        values = checks.check_index_labels(
            _read_indices(sent, scale.num_classes, class_names),
            scale.shape,
            scale.axis,
            ignore_index=options.ignore_index,
            squeeze=options.label_format == "index",
        )
    else:
        values = checks.check_dense_labels(
            _read_targets(sent),
            scale.shape,
            scale.axis,
            scale.dtype,
            broadcast=options.broadcast_labels,
            validate=options.validate_labels,
        )
    return Labels(
        values=values,
        format=label_format,
        reduction=options.reduction,
        label_smoothing=options.label_smoothing,
        class_weight=_read_class_weight(fields, scale, limits),
        sample_weight=_read_sample_weight(fields, scale, limits),
        ignore_index=options.ignore_index,
        non_finite=options.non_finite,
    )


def read_numbers(
    value: Any, limits: Limits, *, path: str, code: str, dtype: FloatType = nested.FLOAT64
) -> NDArray[Any]:
    """Read a field of numbers: nested lists become `dtype` as `nested.read_floats` says, an array stays what it is.

    Raises
    ------
    Invalid
        `code` where they are no numbers, `ragged`, `rank`.
    TooLarge
        `elements_too_many`.
    """
    if not isinstance(value, np.ndarray):
        return nested.read_floats(value, limits, path=path, code=code, dtype=dtype)
    if value.dtype.kind not in "iuf":
        raise Invalid(code, f"expected numbers, got an array of {value.dtype}", path=path)
    check_elements(value.shape, limits, path=path)
    return value


def _read_class_weight(fields: Mapping[str, Any], scale: Scale, limits: Limits) -> FloatArray | None:
    if "class_weight" not in fields:
        return None
    weight = read_numbers(fields["class_weight"], limits, path="class_weight", code="class_weight_value")
    return checks.check_class_weight(weight, scale.num_classes, scale.dtype)


def _read_sample_weight(fields: Mapping[str, Any], scale: Scale, limits: Limits) -> FloatArray | None:
    if "sample_weight" not in fields:
        return None
    weight = read_numbers(fields["sample_weight"], limits, path="sample_weight", code="sample_weight_value")
    return checks.check_sample_weight(weight, scale.batch_shape, scale.dtype)


def _flatten(value: Any, limits: Limits) -> nested.Flat | NDArray[Any]:
    """Lay open what came, as far as its rank; an array of names is no different from a list of them."""
    if not isinstance(value, np.ndarray):
        return nested.flatten(value, limits, path="labels")
    check_elements(value.shape, limits, path="labels")
    if value.dtype.kind == "U":
        return nested.Flat(value.ravel().tolist(), value.shape, {str})
    return value


def _read_targets(sent: nested.Flat | NDArray[Any]) -> NDArray[Any]:
    if isinstance(sent, np.ndarray):
        return sent
    return nested.floats(sent, path="labels", code="labels_type")


def _read_indices(
    sent: nested.Flat | NDArray[Any], num_classes: int, class_names: tuple[str, ...] | None
) -> NDArray[Any]:
    if isinstance(sent, np.ndarray):
        return sent
    leaves = sent.leaves
    if sent.types == {str} and class_names is not None:
        leaves = _indices_of(sent, class_names)
    elif not sent.types <= {int}:
        _refuse_index(sent, num_classes, named=class_names is not None)
    try:
        return np.fromiter(leaves, np.int64, len(leaves)).reshape(sent.shape)
    except OverflowError:
        _refuse_index(sent, num_classes, named=class_names is not None)


def _indices_of(sent: nested.Flat, class_names: tuple[str, ...]) -> list[int]:
    index_of = {name: index for index, name in enumerate(class_names)}
    indices = [index_of.get(name, -1) for name in sent.leaves]
    if -1 in indices:
        place, name = nested.first_offender(sent, lambda leaf: leaf not in index_of)
        message = f"expected one of {len(class_names)} class names, got {name[:40]!r}"
        raise Invalid("unknown_class_name", message, path="labels" + place)
    return indices


def _refuse_index(sent: nested.Flat, num_classes: int, *, named: bool) -> NoReturn:
    """Name the first leaf that is no integer of 64 bits.

    JSON integers beyond 64 bits arrive as floats: whatever a float of that size was, it is no class.
    """
    place, got = nested.first_offender(sent, lambda leaf: type(leaf) is not int or not _in_int64(leaf))
    path = "labels" + place
    if type(got) in {int, float} and not _in_int64(got):
        message = f"expected a class from 0 to {num_classes - 1}, got {name_of(got)}"
        raise Invalid("label_out_of_range", message, path=path)
    message = f"expected an integer, the index of a class, got {name_of(got)}"
    if type(got) is str:
        mixed = "names and indices do not mix" if named else "names need class_names"
        message = f"{message}; {mixed}"
    raise Invalid("labels_type", message, path=path)


def _in_int64(number: float) -> bool:
    return INT64.min <= number <= INT64.max
