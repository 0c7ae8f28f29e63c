"""assemble: the fields of a request, whatever dialect brought them -> a checked ScoreRequest.

A field is a JSON value or an array. Errors are found in the contract's order: unknown and missing fields,
options, logits or features, labels, weights. How bytes became fields is not known here.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid
from service.numeric import checks
from service.types import FloatArray, FloatType, HeadInfo, Operation, ScoreRequest
from service.wire.labels import Scale, read_labels, read_numbers
from service.wire.limits import Limits, check_elements, check_rows
from service.wire.options import Options, check_names, read_options
from service.wire.outputs import check_outputs, choose_outputs

HeadOf: TypeAlias = Callable[[str | None, str | None], HeadInfo]

FLOAT32: FloatType = np.dtype(np.float32)
FLOAT64: FloatType = np.dtype(np.float64)


def assemble(
    operation: Operation,
    fields: Mapping[str, Any],
    *,
    limits: Limits,
    head_of: HeadOf | None = None,
    named: tuple[str, str | None] | None = None,
) -> ScoreRequest:
    """Check the fields of one request and make it a `ScoreRequest`.

    Parameters
    ----------
    operation : "softmax", "loss" or "predict"
    fields : mapping of field name to JSON value or array
        Nested lists are read as float64; arrays of float32 stay that, of float16 become it, and all other
        numbers become float64.
    limits : Limits
    head_of : function of model and version, either None where not said
        Finds the head that "predict" asks for, or raises `NotFound` or `NotReady`; it is called after the
        options are checked and before features are.
    named : tuple of model and version, or None
        What the path says already.

    Raises
    ------
    RequestError
        The first fault in the contract's order, with its place.
    """
    check_names(operation, fields, named)
    options = read_options(operation, fields)
    labelled = "labels" in fields
    check_outputs(operation, options, labelled=labelled)
    if not labelled:
        _check_no_weights(fields)
    head = None
    class_names = options.class_names
    if operation == "predict":
        if head_of is None:
            raise TypeError("predict needs head_of")
        model, version = named or (None, None)
        head = head_of(model or options.model, version or options.version)
        class_names = head.class_names if class_names is None else class_names
    outputs = choose_outputs(operation, options, labelled=labelled, named=class_names is not None)
    if head is None:
        values, scale = _read_logits(fields["logits"], options, limits)
    else:
        values, scale = _read_features(fields["features"], options, head, limits)
    return ScoreRequest(
        operation=operation,
        values=values,
        axis=scale.axis,
        dtype=scale.dtype,
        outputs=outputs,
        temperature=options.temperature,
        top_k=options.top_k,
        class_names=class_names,
        labels=read_labels(fields, options, scale, class_names, limits) if labelled else None,
        head=head,
        # A head of fewer features has fewer contributions, not an error: the default is not the caller's.
        top_contributions=min(options.top_contributions, head.num_features if head else 10),
    )


def own_dtype(numbers: NDArray[Any]) -> FloatType:
    """Return the type that numbers are computed in unless another is asked for."""
    return FLOAT32 if numbers.dtype.kind == "f" and numbers.dtype.itemsize <= 4 else FLOAT64


def _check_no_weights(fields: Mapping[str, Any]) -> None:
    for name in ("class_weight", "sample_weight"):
        if name in fields:
            message = f"{name} weighs losses, and without labels there are none"
            raise Invalid("missing_field", message, path="labels")


def _read_logits(value: Any, options: Options, limits: Limits) -> tuple[FloatArray, Scale]:
    numbers = read_numbers(value, limits, path="logits", code="logits_type")
    axis = checks.normalise_axis(options.axis, numbers.ndim)
    scale = Scale(numbers.shape, axis, _dtype(options, own_dtype(numbers)))
    check_rows(math.prod(scale.batch_shape), limits, path="logits")
    if not scale.num_classes:
        message = f"expected at least one class, got shape {list(numbers.shape)}"
        raise Invalid("no_classes", message, path="logits")
    _check_classes(options, scale.num_classes)
    logits = checks.round_to(numbers, scale.dtype, path="logits")
    checks.check_logits(logits, axis)
    return logits, scale


def _read_features(value: Any, options: Options, head: HeadInfo, limits: Limits) -> tuple[FloatArray, Scale]:
    numbers = read_numbers(value, limits, path="features", code="features_type")
    if numbers.shape[-1:] != (head.num_features,):
        message = f"expected shape [..., {head.num_features}], got {list(numbers.shape)}"
        raise Invalid("features_shape", message, path="features")
    batch_shape = numbers.shape[:-1]
    shape = (*batch_shape, head.num_classes)
    scale = Scale(shape, len(batch_shape), _dtype(options, head.dtype))
    check_rows(math.prod(batch_shape), limits, path="features")
    check_elements(shape, limits, path="features")  # few features may become many logits
    _check_classes(options, head.num_classes)
    features = checks.round_to(numbers, head.dtype, path="features")
    checks.check_features(features)
    return features, scale


def _dtype(options: Options, default: FloatType) -> FloatType:
    if options.dtype is None:
        return default
    return FLOAT32 if options.dtype == "float32" else FLOAT64


def _check_classes(options: Options, num_classes: int) -> None:
    if options.top_k is not None:
        checks.check_top_k(options.top_k, num_classes)
    names = options.class_names
    if names is None:
        return
    if len(names) != num_classes:
        message = f"expected {num_classes} names, got {len(names)}"
        raise Invalid("class_names_shape", message, path="class_names")
    if len(set(names)) < num_classes:
        first_index: dict[str, int] = {}
        index = next(i for i, name in enumerate(names) if first_index.setdefault(name, i) != i)
        message = f"expected distinct names, got {names[index][:40]!r} again"
        raise Invalid("class_names_value", message, path=f"class_names[{index}]")
