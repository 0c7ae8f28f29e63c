"""assemble: the fields of a request, whatever dialect brought them -> a checked ScoreRequest.

A field is a JSON value or an array. Errors are found in the contract's order: unknown and missing fields,
options, logits or features, labels, weights. How bytes became fields is not known here.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import Invalid, NotFound
from service.numeric import checks
from service.rules import read_decision
from service.types import Features, FloatArray, FloatType, HeadInfo, Operation, ScoreRequest, SparseRows
from service.wire import nested, sparse
from service.wire.labels import Scale, read_labels, read_numbers
from service.wire.limits import Limits, check_elements, check_rows
from service.wire.options import TENSORS, Options, check_names, read_options
from service.wire.outputs import (
    NEED_CLASS_NAMES,
    NEED_DECISION,
    check_outputs,
    choose_outputs,
    with_decision,
)
from service.wire.row_ids import read_row_ids

HeadOf: TypeAlias = Callable[[str | None, str | None], HeadInfo]

FLOAT32: FloatType = np.dtype(np.float32)
FLOAT64: FloatType = np.dtype(np.float64)

# So many plans of at most so many bytes of options are remembered: half a MB at worst.
REMEMBERED, REMEMBERED_BYTES = 256, 2048


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
        numbers become float64. Features may be a mapping, the parts of CSR rows that `sparse` names.
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
    plan = _plan_of(operation, fields, named)
    options = plan.options
    if options.models is not None:
        raise Invalid("unknown_field", "expected one model: several are asked at /predict", path="models")
    if operation != "predict":
        return _assemble(operation, fields, plan, None, limits)
    if head_of is None:
        raise TypeError("predict needs head_of")
    model, version = named or (None, None)
    return _assemble(
        operation, fields, plan, head_of(model or options.model, version or options.version), limits
    )


def assemble_each(fields: Mapping[str, Any], *, limits: Limits, head_of: HeadOf) -> tuple[ScoreRequest, ...]:
    """Check the fields of a request to "predict" that asks several heads, `models`, about the same features.

    Returns
    -------
    tuple of ScoreRequest
        One for each head, in the order of `models`; those of one dtype share their features.

    Raises
    ------
    RequestError
        As `assemble`: the first fault, of the first head that it is one for. A head that is not there, or whose
        features are as many as no other's, is named by its place (`models[1]`).
    """
    plan = _plan_of("predict", fields, None)
    if "row_ids" in fields:
        raise Invalid(
            "unknown_field", "expected one model: an id stands for a row of one head", path="row_ids"
        )
    heads = _find_each(plan.options, head_of)
    read: dict[FloatType, Features] = {}
    requests = []
    for head in heads:
        shared = {**fields, "features": read.get(head.dtype, fields["features"])}
        request = _assemble("predict", shared, plan, head, limits)
        read[head.dtype] = request.values
        requests.append(request)
    rows = math.prod(requests[0].values.shape[:-1])
    check_elements((rows, sum(head.num_classes for head in heads)), limits, path="features")
    return tuple(requests)


def _find_each(options: Options, head_of: HeadOf) -> list[HeadInfo]:
    heads: list[HeadInfo] = []
    for index, name in enumerate(options.models or ()):
        place = f"models[{index}]"
        try:
            head = head_of(name, options.version)
        except NotFound as error:
            if error.code == "unknown_model":
                raise NotFound(error.code, error.message, path=place) from None
            raise
        if heads and head.num_features != heads[0].num_features:
            message = f"expected {heads[0].num_features} features as models[0] has, got {head.num_features}"
            raise Invalid("features_shape", message, path=place)
        heads.append(head)
    return heads


def _assemble(
    operation: Operation, fields: Mapping[str, Any], plan: "_Plan", head: HeadInfo | None, limits: Limits
) -> ScoreRequest:
    """Read the tensors as the plan and the head say."""
    options, labelled = plan.options, plan.labelled
    class_names = options.class_names
    if head is not None and class_names is None:
        class_names = head.class_names
    outputs = plan.outputs if class_names is None else plan.named_outputs
    if outputs is None:  # which says what is wrong
        outputs = choose_outputs(operation, options, labelled=labelled, named=False)
    decision = None
    if head is not None and (head.decision is not None or options.decision is not None or not plan.is_plain):
        decision = head.decision
        if options.decision is not None:
            decision = read_decision(options.decision, head.num_classes, class_names)
        outputs = with_decision(outputs, decision, options, named=class_names is not None)
    values: Features
    if head is None:
        values, scale = _read_logits(fields["logits"], options, limits)
    else:
        values, scale = _read_features(fields["features"], options, head, limits)
    return ScoreRequest(
        operation,
        values,
        scale.axis,
        scale.dtype,
        outputs,
        options.temperature,
        options.top_k,
        class_names,
        read_labels(fields, options, scale, class_names, limits) if labelled else None,
        head,
        # A head of fewer features has fewer contributions, not an error: the default is not the caller's.
        min(options.top_contributions, head.num_features if head else 10),
        decision,
        head.calibration if head and options.calibration == "model" else None,
        read_row_ids(fields["row_ids"], math.prod(scale.batch_shape)) if "row_ids" in fields else None,
    )


class _Plan(NamedTuple):
    """What the names of the fields and the options say, checked as far as it goes without tensors.

    `outputs` are answered where no class names are known, None where they need some; `named_outputs` where they are.
    `is_plain` says that none of them is made by a decision.
    """

    options: Options
    labelled: bool
    outputs: tuple[str, ...] | None
    named_outputs: tuple[str, ...]
    is_plain: bool


def _plan_of(operation: Operation, fields: Mapping[str, Any], named: tuple[str, str | None] | None) -> _Plan:
    """Plan a request; callers say the same few options again and again, and reading them costs 10 µs."""
    if fields.keys() <= TENSORS:
        return _remembered(operation, tuple(fields), b"", named)
    said = {name: value for name, value in fields.items() if name not in TENSORS}
    if type(said.get("row_ids")) is list:  # which no other request has
        return _plan(operation, fields, named)
    try:
        options = orjson.dumps(said)  # tells 1, 1.0 and true apart, which are equal
    except orjson.JSONEncodeError:  # arrays, and what no option can be
        return _plan(operation, fields, named)
    if len(options) > REMEMBERED_BYTES:
        return _plan(operation, fields, named)
    return _remembered(operation, tuple(fields), options, named)


def _plan(operation: Operation, fields: Mapping[str, Any], named: tuple[str, str | None] | None) -> _Plan:
    check_names(operation, fields, named)
    options = read_options(operation, fields)
    labelled = "labels" in fields
    check_outputs(operation, options, labelled=labelled)
    if not labelled:
        _check_no_weights(fields)
    named_outputs = choose_outputs(operation, options, labelled=labelled, named=True)
    asks_for_names = options.outputs is not None and not NEED_CLASS_NAMES.isdisjoint(options.outputs)
    outputs = None
    if not asks_for_names:
        outputs = choose_outputs(operation, options, labelled=labelled, named=False)
    return _Plan(options, labelled, outputs, named_outputs, NEED_DECISION.isdisjoint(named_outputs))


@lru_cache(REMEMBERED)
def _remembered(
    operation: Operation, names: tuple[str, ...], options: bytes, named: tuple[str, str | None] | None
) -> _Plan:
    said = orjson.loads(options) if options else {}
    return _plan(operation, {name: said.get(name) for name in names}, named)


def own_dtype(numbers: NDArray[Any]) -> FloatType:
    """Return the type that numbers are computed in unless another is asked for."""
    return FLOAT32 if numbers.dtype.kind == "f" and numbers.dtype.itemsize <= 4 else FLOAT64


def _check_no_weights(fields: Mapping[str, Any]) -> None:
    for name in ("class_weight", "sample_weight"):
        if name in fields:
            message = f"{name} weighs losses, and without labels there are none"
            raise Invalid("missing_field", message, path="labels")


def _read_logits(value: Any, options: Options, limits: Limits) -> tuple[FloatArray, Scale]:
    dtype = FLOAT32 if options.dtype == "float32" else FLOAT64
    numbers = read_numbers(value, limits, path="logits", code="logits_type", dtype=dtype)
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


def _read_features(value: Any, options: Options, head: HeadInfo, limits: Limits) -> tuple[Features, Scale]:
    is_list = type(value) is list
    numbers: NDArray[Any] | SparseRows
    if isinstance(value, SparseRows):  # which another head of the same dtype has read
        numbers = value
    elif type(value) is dict:
        numbers = sparse.read(value, head.num_features, head.dtype, limits)
    else:
        read = nested.read_floats if is_list else read_numbers
        numbers = read(value, limits, path="features", code="features_type", dtype=head.dtype)
    batch_shape = numbers.shape[:-1]
    if numbers.shape != (*batch_shape, head.num_features):
        message = f"expected shape [..., {head.num_features}], got {list(numbers.shape)}"
        raise Invalid("features_shape", message, path="features")
    shape = (*batch_shape, head.num_classes)
    rows = math.prod(batch_shape)
    if rows * head.num_classes > limits.elements or rows > limits.rows or not rows:
        check_rows(rows, limits, path="features")
        check_elements(shape, limits, path="features")  # few features may become many logits
    if isinstance(numbers, SparseRows) and "contributions" in (options.outputs or ()):
        # Dense rows have as many numbers at least.
        check_elements((rows, min(options.top_contributions, head.num_features)), limits, path="features")
    if options.top_k is not None or options.class_names is not None:
        _check_classes(options, head.num_classes)
    features: Features
    # What is sparse, or was read from lists as float32, is rounded and finite already.
    if isinstance(numbers, SparseRows) or (is_list and numbers.dtype == FLOAT32):
        features = cast("Features", numbers)
    else:
        features = checks.round_features(numbers, head.dtype)
    dtype = head.dtype if options.dtype is None else _dtype(options, head.dtype)
    return features, Scale(shape, len(batch_shape), dtype)


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
