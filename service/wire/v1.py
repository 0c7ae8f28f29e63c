"""TensorFlow Serving's REST API and KServe's V1 protocol, which share their routes; Vertex AI's bodies too.

How rows and tensors stand in JSON is known to `instances`, and what they and the options mean to `fields`.
A signature is a name for what is answered.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from service.errors import Invalid
from service.types import HeadInfo, Operation, ScoreRequest, ScoreResult
from service.wire import instances, json_writer
from service.wire.fields import HeadOf, assemble
from service.wire.inference import OPERATION_VERSION, OPERATIONS, operation_of
from service.wire.instances import TENSORS, Fields
from service.wire.json_reader import name_of, read_object
from service.wire.limits import Limits

DEFAULT_SIGNATURE = "serving_default"
# What each signature answers, the list that an exported Keras classifier gives first.
SIGNATURES: dict[Operation, dict[str, tuple[str, ...]]] = {
    "softmax": {
        DEFAULT_SIGNATURE: ("probabilities",),
        "classes": ("classes",),
        "log_probabilities": ("log_probabilities",),
        "all": ("probabilities", "classes", "log_probabilities"),
    },
    "loss": {DEFAULT_SIGNATURE: ("losses",)},
    "predict": {
        DEFAULT_SIGNATURE: ("probabilities",),
        "classes": ("classes",),
        "logits": ("logits",),
        "log_probabilities": ("log_probabilities",),
        "all": ("probabilities", "classes", "logits", "log_probabilities"),
    },
}

_DATATYPES = {np.dtype(np.float32): "DT_FLOAT", np.dtype(np.float64): "DT_DOUBLE"}
# Those without an axis for the classes.
_PER_ROW = {"classes", "losses", "labels"}
_INTEGERS = {"classes", "labels"}
# What a version's state is called here; one that does not serve has ended.
_STATES = {"ready": "AVAILABLE", "loading": "LOADING", "unloading": "UNLOADING"}


class Prediction(NamedTuple):
    """What to score, and how the answer is to look: its key, and whether it is row by row."""

    request: ScoreRequest
    key: str
    by_rows: bool


def decode(
    body: bytes, *, model: str | None, version: str | None, kserve: bool, limits: Limits, head_of: HeadOf
) -> Prediction:
    """Read a request to predict.

    Parameters
    ----------
    body : bytes
        Already decompressed. Beside instances or inputs: `signature_name`, one of `SIGNATURES`, and `parameters`,
        the options of the native routes; what else there is, is read over, as TensorFlow Serving does.
    model, version : str or None
        What the path says; "softmax" and "loss" are the operations on bare logits, whose version is
        `OPERATION_VERSION`.
    kserve : bool
        Whether "inputs" and "instances" mean the same and all is answered as "predictions".
    limits, head_of
        As in `fields.assemble`.

    Raises
    ------
    RequestError
        The first fault: of the JSON, of the form, then in the order of `fields.assemble`.
    """
    operation = operation_of(model, version)
    said = instances.read_body(body, limits)
    fields, by_rows = instances.read(operation, said, alike=kserve)
    fields |= instances.read_options(operation, said.get("parameters"), "parameters")
    signature = _signature_of(operation, said)
    if "outputs" not in fields:
        fields["outputs"] = _outputs(operation, signature, fields)
    named = _named(model, version)
    request = assemble(operation, fields, limits=limits, head_of=head_of, named=named)
    if by_rows:
        instances.check_rows(request.outputs)
    return Prediction(request, "predictions" if by_rows or kserve else "outputs", by_rows)


def encode(asked: Prediction, result: ScoreResult) -> bytes:
    """Write the answer to a request to predict."""
    outputs = result.outputs
    return json_writer.write({asked.key: instances.tabled(outputs, by_rows=asked.by_rows)}, outputs.values())


def decode_examples(
    body: bytes, *, model: str, version: str | None, limits: Limits, head_of: HeadOf
) -> ScoreRequest:
    """Read a request to classify: `examples`, each an object of features, and what they share as `context`.

    Parameters
    ----------
    As in `decode`. The feature is named as the model's input, `features` or `logits`; numbers of both kinds may mix.

    Raises
    ------
    RequestError
        As in `decode`.
    """
    operation = operation_of(model, version)
    name = TENSORS[operation][0]
    if operation == "loss":
        raise Invalid("unknown_output", "loss is no classifier: ask it to :predict")
    said = read_object(body, limits.json_depth)
    options = instances.read_options(operation, said.get("parameters"), "parameters")
    for option in ("outputs", "top_k"):
        if option in options:
            message = "expected no such option: the classes are answered all, with their probabilities"
            raise Invalid("unknown_field", message, path=f"parameters.{option}")
    if _signature_of(operation, said) != DEFAULT_SIGNATURE:
        message = f"expected {DEFAULT_SIGNATURE}, the one signature that classifies"
        raise Invalid("unknown_option_value", message, path="signature_name")
    rows = list(_read_examples(said, name))
    fields = {name: rows, "outputs": ["probabilities"]} | options
    named = _named(model, version)
    request = assemble(operation, fields, limits=limits, head_of=head_of, named=named)
    if request.values.ndim != 2:
        raise Invalid(
            "option_type", "expected a list of numbers, got lists in it", path=f"examples[0].{name}"
        )
    return request


def encode_examples(request: ScoreRequest, result: ScoreResult) -> bytes:
    """Write the answer to a request to classify: for each example all classes in order, with probabilities."""
    probabilities: Any = result.outputs["probabilities"]
    names = request.class_names or ("",) * probabilities.shape[-1]
    return json_writer.dumps({"results": [list(zip(names, row, strict=True)) for row in probabilities]})


def find_head(model: str, version: str | None, head_of: HeadOf) -> HeadInfo | None:
    """Find the head that a path names; an operation has none.

    Raises
    ------
    NotFound, NotReady
        Also where an operation is asked for in another version than `OPERATION_VERSION`.
    """
    return head_of(model, version) if operation_of(model, version) == "predict" else None


def write_status(model: str, versions: Iterable[Mapping[str, Any]]) -> bytes:
    """Say how the versions of a model are, in the keys of both protocols."""
    statuses = [
        {
            "version": version["version"],
            "state": _STATES.get(version["state"], "END"),
            "status": {
                "error_code": "OK" if version["reason"] is None else "UNKNOWN",
                "error_message": version["reason"] or "",
            },
        }
        for version in versions
    ]
    ready = any(status["state"] == "AVAILABLE" for status in statuses)
    return json_writer.dumps({"model_version_status": statuses, "name": model, "ready": ready})


def write_metadata(model: str, head: HeadInfo | None) -> bytes:
    """Say which signatures a head, or an operation where there is none, has; sizes that may vary are -1."""
    operation = OPERATIONS.get(model, "predict")
    inputs = {name: _tensor(name, head) for name in TENSORS[operation] if name != "sample_weight"}
    if operation == "predict":
        del inputs["labels"]  # it may be left out, which a signature cannot say
    signatures = {
        name: {
            "inputs": inputs,
            "outputs": {output: _tensor(output, head) for output in outputs},
            "method_name": "tensorflow/serving/predict",
        }
        for name, outputs in SIGNATURES[operation].items()
    }
    version = OPERATION_VERSION if head is None else head.version
    return json_writer.dumps(
        {
            "model_spec": {"name": model, "signature_name": "", "version": version},
            "metadata": {"signature_def": {"signature_def": signatures}},
        }
    )


def _named(model: str | None, version: str | None) -> tuple[str, str | None] | None:
    return None if model is None or model in OPERATIONS else (model, version)


def _signature_of(operation: Operation, said: Mapping[str, Any]) -> str:
    name = said.get("signature_name")
    if name is None or name == "":
        return DEFAULT_SIGNATURE
    if type(name) is not str:
        raise Invalid("option_type", f"expected a string, got {name_of(name)}", path="signature_name")
    known = SIGNATURES[operation]
    if name not in known:
        message = f'Serving signature name: "{name[:40]}" not found in signature def'
        raise Invalid("unknown_option_value", f"{message}; expected one of {', '.join(known)}")
    return name


def _outputs(operation: Operation, signature: str, fields: Fields) -> list[str]:
    outputs = list(SIGNATURES[operation][signature])
    if operation == "predict" and "labels" in fields:
        outputs.append("losses")
    if "top_k" in fields:
        outputs += ["top_classes", "top_probabilities"]
    return outputs


def _read_examples(said: Mapping[str, Any], name: str) -> Iterable[Any]:
    """Give each example's features; a number stands for a list of one."""
    examples, context = said.get("examples"), said.get("context") or {}
    if type(examples) is not list or not examples:
        got = "an empty list" if examples == [] else name_of(examples)
        raise Invalid("missing_field", f"expected a list of at least one example, got {got}", path="examples")
    _check_example(context, name, "context")
    for index, example in enumerate(examples):
        place = f"examples[{index}]"
        _check_example(example, name, place)
        if name not in example and name not in context:
            raise Invalid("missing_field", "the model needs it", path=f"{place}.{name}")
        value = example[name] if name in example else context[name]
        yield value if type(value) is list else [value]


def _check_example(example: Any, name: str, place: str) -> None:
    if type(example) is not dict:
        raise Invalid("option_type", f"expected an object, got {name_of(example)}", path=place)
    for other in example:
        if other != name:
            raise Invalid("unknown_field", f"expected {name} alone, got {other[:40]!r}", path=place)


def _tensor(name: str, head: HeadInfo | None) -> dict[str, Any]:
    """Describe a tensor as TensorFlow does."""
    datatype = "DT_DOUBLE" if head is None else _DATATYPES[head.dtype]
    sizes = [-1]
    if name == "features" and head is not None:
        sizes.append(head.num_features)
    elif name not in _PER_ROW:
        sizes.append(-1 if head is None else head.num_classes)
    return {
        "dtype": "DT_INT64" if name in _INTEGERS else datatype,
        "tensor_shape": {
            "dim": [{"size": str(size), "name": ""} for size in sizes],
            "unknown_rank": False,
        },
        "name": f"{name}:0",
    }
