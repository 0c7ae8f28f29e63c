"""An inference of the Open Inference Protocol, whichever transport brings it: what it asks, what it answers.

The models' names, their inputs and outputs, and what parameters mean are known here; how they are written down,
as JSON or as protobuf, is not.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid, NotFound
from service.types import Operation, Output, ScoreRequest, ScoreResult
from service.wire.fields import HeadOf, assemble
from service.wire.json_reader import name_of
from service.wire.limits import Limits
from service.wire.options import FIELDS, unknown_name

# The models that need no head; a head of the same name is reached by the native routes.
OPERATIONS: dict[str, Operation] = {"softmax": "softmax", "loss": "loss"}
# Clients that ask for a version, or expect a number in one's place, find this one.
OPERATION_VERSION = "1"

# What may be sent as a tensor, and the error of one that holds something else.
TYPE_CODES = {
    "features": "features_type",
    "logits": "logits_type",
    "labels": "labels_type",
    "class_weight": "class_weight_value",
    "sample_weight": "sample_weight_value",
}
# What the protocol or the path says already, so that it is no option here, and what is the native routes' own.
_NO_OPTIONS = {*TYPE_CODES, "model", "models", "version", "outputs", "row_ids"}
# The protocol's own words that change no number: they are read over.
_RESERVED = {
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "priority",
    "timeout",
    "headers",
    "binary_data_output",
    "triton_enable_empty_final_response",
}
# This would change where an output goes: to read over it would be to answer somewhere else.
_UNSUPPORTED = ("shared_memory_region",)

# Unasked, a model answers all the outputs that it names as its own: the protocol says so.
DEFAULTS: dict[Operation, tuple[str, ...]] = {
    "softmax": ("probabilities", "classes", "log_probabilities"),
    "loss": ("loss", "losses", "count"),
    "predict": ("probabilities", "classes", "log_probabilities", "logits"),
}
# What has a number for each class, so that the highest of them can be told.
_BY_CLASS = frozenset({"probabilities", "log_probabilities", "logits"})
# One output of ours that travels as two tensors.
_PARTS = {"contributions": ("contributions.features", "contributions.values")}

# As Triton: more is no answer that anybody reads.
CLASSIFIED_LIMIT = 1_000_000


class Wanted(NamedTuple):
    """How one output is to be answered: as raw bytes or not, None where it does not say; its best classes only."""

    binary: bool | None = None
    classification: int | None = None


class Inference(NamedTuple):
    """One request of the protocol: what to score, and how the answer is to look.

    `model` and `id` are echoed; `binary` are the tensors to be answered as raw bytes; of the outputs in
    `classified` only so many classes are answered, as text.
    """

    request: ScoreRequest
    model: str
    id: str | None = None
    binary: frozenset[str] = frozenset()
    classified: Mapping[str, int] = {}


class Asked(NamedTuple):
    """All that a request says beside its tensors; nothing in it may be changed, since it is remembered.

    `outputs` are those that it lists, all that the model has where there are none; then `all_binary` says whether
    they are raw bytes. `binary` and `classified` are as in `Inference`.
    """

    options: Mapping[str, Any] = {}
    outputs: tuple[str, ...] = ()
    binary: frozenset[str] = frozenset()
    classified: Mapping[str, int] = {}
    all_binary: bool = False
    id: str | None = None


def asked_of(
    options: Mapping[str, Any], wanted: Mapping[str, Wanted], *, all_binary: bool, request_id: str | None
) -> Asked:
    """Sum up what a request says; `wanted` are the outputs that it lists, `all_binary` is for those that do not say."""
    binary = [
        part
        for name, how in wanted.items()
        if (all_binary if how.binary is None else how.binary)
        for part in _PARTS.get(name, (name,))
    ]
    classified = {name: how.classification for name, how in wanted.items() if how.classification}
    return Asked(options, tuple(wanted), frozenset(binary), classified, all_binary, request_id)


def operation_of(model: str | None, version: str | None) -> Operation:
    """Return what a model does.

    Raises
    ------
    NotFound
        An operation on bare logits in another version than `OPERATION_VERSION`.
    """
    operation = OPERATIONS.get(model or "", "predict")
    if operation != "predict" and version not in {None, OPERATION_VERSION}:
        message = f"{model} is an operation, whose only version is {OPERATION_VERSION}"
        raise NotFound("unknown_version", message, path="version")
    return operation


def check_input(operation: Operation, name: str, before: Iterable[str], place: str) -> None:
    """Refuse a tensor that the operation does not know, or that has come before."""
    if name not in TYPE_CODES or name not in FIELDS[operation]:
        known = [known for known in TYPE_CODES if known in FIELDS[operation]]
        raise Invalid("unknown_field", unknown_name(name, known), path=f"{place}name")
    if name in before:
        raise Invalid("unknown_field", f"expected {name!r} once", path=f"{place}name")


def read_options(operation: Operation, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Find our options among the parameters of a request."""
    known = FIELDS[operation].keys() - _NO_OPTIONS
    options: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in known:
            options[name] = value
        elif name not in _RESERVED:
            raise Invalid("unknown_field", unknown_name(name, sorted(known)), path=f"parameters.{name[:40]}")
    return options


def read_wanted(parameters: Mapping[str, Any], place: str) -> Wanted:
    """Read the parameters of one output."""
    for unsupported in _UNSUPPORTED:
        if unsupported in parameters:
            raise Invalid("unknown_field", "it is not supported", path=f"{place}parameters.{unsupported}")
    binary, classes = parameters.get("binary_data"), parameters.get("classification")
    if binary is not None and type(binary) is not bool:
        message = f"expected true or false, got {name_of(binary)}"
        raise Invalid("option_type", message, path=f"{place}parameters.binary_data")
    if classes is not None and (type(classes) is not int or classes < 0):
        message = f"expected how many classes, got {name_of(classes)}"
        raise Invalid("option_type", message, path=f"{place}parameters.classification")
    return Wanted(binary, classes or None)


def check_wanted(name: str, wanted: Wanted, before: Iterable[str], place: str) -> None:
    """Refuse an output that has come before, and the best classes of one that has none."""
    if name in before:
        raise Invalid("unknown_output", f"expected it once, got {name[:40]!r}", path=f"{place}name")
    if wanted.classification is not None and name not in _BY_CLASS:
        message = f"expected one of {', '.join(sorted(_BY_CLASS))}, got {name[:40]!r}"
        raise Invalid("unknown_output", message, path=f"{place}parameters.classification")


def compose(
    operation: Operation,
    model: str,
    version: str | None,
    asked: Asked,
    tensors: Mapping[str, Any],
    *,
    limits: Limits,
    head_of: HeadOf,
) -> Inference:
    """Make an inference of what was asked and of its tensors, arrays or lists by name.

    Raises
    ------
    RequestError
        The first fault, in the order of `fields.assemble`.
    """
    fields = {**tensors, **asked.options}
    fields["outputs"] = list(asked.outputs or _default_outputs(operation, fields))
    named = (model, version) if operation == "predict" else None
    request = assemble(operation, fields, limits=limits, head_of=head_of, named=named)
    binary = asked.binary
    if asked.all_binary and not asked.outputs:
        binary = frozenset(request.outputs)
    return Inference(request, model, asked.id, binary, asked.classified)


def answer_of(asked: Inference, result: ScoreResult) -> dict[str, NDArray[Any]]:
    """Give each output as a tensor: of float32, float64 or int64, or an object array of text.

    Clients of the protocol know no tensor without an axis, so every one has one; the mean of nothing is a tensor
    of nothing.
    """
    arrays = {name: _as_tensor(value, asked.request) for name, value in result.outputs.items()}
    for name, k in asked.classified.items():
        arrays[name] = _classify(arrays[name], k, asked.request)
    return arrays


def _default_outputs(operation: Operation, fields: Mapping[str, Any]) -> tuple[str, ...]:
    names = DEFAULTS[operation]
    if operation == "loss" and fields.get("reduction") == "none":
        names = names[1:]
    if operation == "predict" and "labels" in fields:
        names += ("losses",)
    return (*names, "top_classes", "top_probabilities") if "top_k" in fields else names


def _as_tensor(value: Output, request: ScoreRequest) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value if value.ndim else value.reshape(1)
    if value is None:
        return np.empty(0, request.dtype)
    # Not as numpy's text, which gives every name the room of the longest.
    kind = np.object_ if isinstance(value, str | list) else None
    return np.atleast_1d(np.asarray(value, kind))


def _classify(values: NDArray[Any], k: int, request: ScoreRequest) -> NDArray[Any]:
    """Write the k highest of each row, highest first, as `value:index:name`, or without a name where none is known."""
    values = np.moveaxis(values, request.axis, -1)
    k = min(k, values.shape[-1])
    if values.size // values.shape[-1] * k > CLASSIFIED_LIMIT:
        message = f"expected at most {CLASSIFIED_LIMIT} classes in all"
        raise Invalid("top_k_range", message, path="parameters.classification")
    best = np.argsort(-values, axis=-1, kind="stable")[..., :k]
    names = request.class_names
    endings = [f":{index}" for index in range(values.shape[-1])]
    if names is not None:
        endings = [f"{ending}:{name}" for ending, name in zip(endings, names, strict=True)]
    pairs = zip(np.take_along_axis(values, best, -1).ravel().tolist(), best.ravel().tolist(), strict=True)
    texts = np.empty(best.size, np.object_)
    texts[:] = [f"{value:f}{endings[index]}" for value, index in pairs]
    return texts.reshape(best.shape)
