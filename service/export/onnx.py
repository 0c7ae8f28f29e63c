"""ONNX: any model of one input whose output is logits, or becomes so once its last softmax is cut off.

Knows graphs; what they answer is asked of the engine, as it will be when the head is served.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from service.errors import LogitserveError
from service.export.source import (
    FLOAT32,
    FLOAT64,
    Answers,
    ExportError,
    Float64Array,
    Graph,
    Options,
    Region,
    Source,
    check_size,
    listed,
    not_installed,
    read_bounded,
    rounded_to,
)
from service.heads.engine import Engine
from service.heads.graphs import Linear, has_external_data, read_linear
from service.numeric.softmax import softmax
from service.types import FloatArray

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

UNDERSTOOD = frozenset({"output", "as_scores"})
# What onnxruntime has operators for without libraries of others.
DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
ENDS = {"Softmax", "LogSoftmax", "Sigmoid"}
# Operators that a tensor's numbers pass through as they are.
SHAPES = {"Identity", "Reshape", "Expand", "Squeeze", "Unsqueeze"}
# Rows on which an output that looks like probabilities is recognised, and how near to 1 they sum up.
PROBE_ROWS = 16
PROBE_TOLERANCE = 1e-4
# Features that are indices are drawn from 0 to about 8: few vocabularies have fewer words.
INTEGER_SPREAD = 3.0


class _End(NamedTuple):
    """The tensor of the logits, and the operator that was cut off behind it, if any."""

    logits: str
    operator: str | None


def read(path: Path, options: Options) -> Source:
    """Read a graph, find its logits, and make weights of it where it is one linear layer."""
    model = _load(path)
    _check_operators(model, path)
    output, notes = _choose_output(model, path, options)
    integers = _take_floats(model, notes)
    whole = _open(model.SerializeToString(deterministic=True), path, output)
    end = _find_end(model, output)
    calibrated = _check_end(end, whole, options)
    if end.operator is not None:
        notes.append(f"{end.operator} at the end was cut off: the head gives logits")
    logits = end.logits
    if whole.num_classes == 1:
        logits = _add_column(model, end.logits, whole)
        notes.append("one score z became the logits [0, z] of two classes: their softmax is its sigmoid")
    _end_with(model, logits, whole)
    cut = model.SerializeToString(deterministic=True)
    engine = _open(cut, path, logits)
    linear = read_linear(cut, input_name=engine.input_name, output_name=logits)

    def run(rows: Float64Array) -> FloatArray:
        return engine.run(rounded_to(rows, engine.dtype))

    graph = Graph(cut, engine.input_name, logits, engine.num_features, engine.num_classes, run)
    return Source(
        "onnx",
        graph if linear is None else Linear(*(rounded_to(array, FLOAT64) for array in linear)),
        engine.dtype,
        lambda rows: _answer(whole, end.operator, rows),
        file=path,
        region=Region(spread=INTEGER_SPREAD, lowest=0.0, integers=True) if integers else Region(),
        notes=tuple(notes),
        calibrated=calibrated,
    )


def _load(path: Path) -> "ModelProto":
    try:
        from onnx import ModelProto  # noqa: PLC0415 - see the docstring of the package
        from onnx.external_data_helper import load_external_data_for_model  # noqa: PLC0415
    except ImportError as error:
        raise not_installed("onnx", package="onnx", what=path.name) from error
    body = read_bounded(path)
    try:
        model: ModelProto = ModelProto.FromString(body)
    except Exception as error:  # protobuf's errors share no base class
        raise ExportError(f"{path}: expected an ONNX model: {_reason(error)}") from error
    if not has_external_data(body):
        return model
    _check_external(model, path)
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # its errors share no base class
        raise ExportError(
            f"{path}: its weights lie in other files, which cannot be read: {_reason(error)}"
        ) from error
    return model


def _check_external(model: "ModelProto", path: Path) -> None:
    """Files that weights lie in must stand beside the model, and all fit into one."""
    names = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in names:
        if Path(name).name != name or not (path.parent / name).is_file():
            raise ExportError(f"{path}: expected weights in files beside it, got {name[:80]!r}")
    check_size(sum((path.parent / name).stat().st_size for name in names), f"{path} with its weights")


def _check_operators(model: "ModelProto", path: Path) -> None:
    known = DOMAINS | {function.domain for function in model.functions}
    strange = sorted(
        {f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in known}
    )
    if strange:
        raise ExportError(f"{path}: expected operators of ONNX and onnxruntime, got {listed(strange)}")


def _choose_output(model: "ModelProto", path: Path, options: Options) -> tuple[str, list[str]]:
    outputs = {output.name: output for output in model.graph.output}
    if options.output is not None:
        if options.output not in outputs:
            raise ExportError(f"--output {options.output[:80]}: expected one of {listed(list(outputs))}")
        return options.output, []
    if "logits" in outputs or len(outputs) == 1:
        return ("logits" if "logits" in outputs else next(iter(outputs))), []
    floats = [name for name, output in outputs.items() if _is_matrix(output)]
    if len(floats) == 1:
        return floats[0], [f"output {floats[0]}, the only one of floats [rows, classes]"]
    raise ExportError(f"{path}: which output are the logits? name one with --output: {listed(list(outputs))}")


def _take_floats(model: "ModelProto", notes: list[str]) -> bool:
    """Let a graph of integers take their values as float32, exact to 2^24: features are of one kind for all heads."""
    from onnx import TensorProto, helper  # noqa: PLC0415 - see the docstring of the package

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in constants]
    kinds = (TensorProto.INT32, TensorProto.INT64, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16)
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type not in kinds:
        return False
    name, kind = inputs[0].name, inputs[0].type.tensor_type.elem_type
    integers = f"logitserve_{name}"
    for node in model.graph.node:
        _rename(node, name, integers)
    inputs[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model.graph.node.insert(0, helper.make_node("Cast", [name], [integers], to=kind))
    notes.append(f"input {name} takes {TensorProto.DataType.Name(kind)}: features are cut to whole numbers")
    return True


def _rename(node: "NodeProto", name: str, other: str) -> None:
    node.input[:] = [other if each == name else each for each in node.input]
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                _rename(inner, name, other)


def _is_matrix(output: Any) -> bool:
    from onnx import TensorProto  # noqa: PLC0415 - see the docstring of the package

    tensor = output.type.tensor_type
    return tensor.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE) and len(tensor.shape.dim) == 2


def _find_end(model: "ModelProto", output: str) -> _End:
    producers = {name: node for node in model.graph.node for name in node.output}
    place = output
    while (node := producers.get(place)) is not None and node.op_type == "Identity":
        place = node.input[0]
    if node is not None and (logits := _written_out(node, producers)):
        return _End(logits, "Softmax")
    if node is None or node.domain not in {"", "ai.onnx"} or node.op_type not in ENDS:
        return _End(output, None)
    if node.op_type != "Sigmoid" and _axis(node) not in {-1, 1}:
        raise ExportError(
            f"output {output[:80]}: expected {node.op_type} over the classes, got axis {_axis(node)}"
        )
    return _End(node.input[0], node.op_type)


def _written_out(node: "NodeProto", producers: dict[str, "NodeProto"]) -> str | None:
    """The logits z of exp(z - max) / sum, as jax2tf has a softmax: taken at its word, and held against the whole."""

    def before(name: str) -> "NodeProto | None":
        while (found := producers.get(name)) is not None and found.op_type in SHAPES:
            name = found.input[0]
        return found

    if node.op_type != "Div":
        return None
    power, total = before(node.input[0]), before(node.input[1])
    if power is None or total is None or power.op_type != "Exp" or total.op_type != "ReduceSum":
        return None
    if before(total.input[0]) is not power:
        return None
    shifted = before(power.input[0])
    return str(shifted.input[0] if shifted is not None and shifted.op_type == "Sub" else power.input[0])


def _axis(node: "NodeProto") -> int:
    # Before opset 13 the default is 1, of two axes the same as -1.
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), -1)


def _check_end(end: _End, whole: Engine, options: Options) -> bool:
    """Whether softmax of the logits is what the model answers; `ExportError` where nobody asked for less."""
    several = end.operator == "Sigmoid" and whole.num_classes > 1
    if several and not options.as_scores:
        raise ExportError(
            f"each of the {whole.num_classes} classes has a sigmoid of its own, and their softmax is no probability; "
            "--as-scores serves the model all the same"
        )
    if end.operator is None and not options.as_scores:
        rows = Region().draw(PROBE_ROWS, whole.num_features)
        answers = whole.run(rounded_to(rows, whole.dtype))
        if (
            whole.num_classes > 1
            and answers.min() >= 0
            and np.ptp([*answers.sum(axis=1), 1.0]) < PROBE_TOLERANCE
        ):
            raise ExportError(
                f"output {end.logits[:80]} looks like probabilities, not logits, and does not end with a Softmax that "
                "could be cut off: name another with --output, or export the model without it"
            )
    return not (several or (end.operator is None and options.as_scores))


def _add_column(model: "ModelProto", score: str, engine: Engine) -> str:
    """Put the score z of two classes behind a column of zeros."""
    from onnx import helper, numpy_helper  # noqa: PLC0415 - see the docstring of the package

    columns = np.array([[0, 1]], engine.dtype)
    model.graph.initializer.append(numpy_helper.from_array(columns, "logitserve_columns"))
    name = "logitserve_logits"
    model.graph.node.append(helper.make_node("MatMul", [score, "logitserve_columns"], [name]))
    return name


def _end_with(model: "ModelProto", logits: str, engine: Engine) -> None:
    """Let the logits be the only output, and drop what nothing needs any more."""
    from onnx import TensorProto, helper  # noqa: PLC0415 - see the docstring of the package

    element = TensorProto.FLOAT if engine.dtype == FLOAT32 else TensorProto.DOUBLE
    num_classes = max(engine.num_classes, 2)
    graph = model.graph
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(logits, element, ["rows", num_classes]))
    needed, kept = {logits}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(_names_in(node))
            kept.append(node)
    nodes = kept[::-1]
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)


def _names_in(node: "NodeProto") -> Iterator[str]:
    """What a node reads, in its own graphs too: those see the names of the graph around them."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _names_in(inner)


def _open(model: bytes, path: Path, output: str) -> Engine:
    try:
        return Engine(model, provider="cpu", output_name=output)
    except LogitserveError as error:
        raise ExportError(f"{path}: {error}") from error


def _answer(whole: Engine, operator: str | None, rows: Float64Array) -> Answers:
    """What the model says as it came, its end included."""
    said = whole.run(rounded_to(rows, whole.dtype)).astype(np.float64)
    if operator is None:
        logits = said if said.shape[1] > 1 else np.hstack([np.zeros_like(said), said])
        return Answers(logits, softmax(logits).astype(np.float64), logits.argmax(axis=1))
    probabilities = np.exp(said) if operator == "LogSoftmax" else said
    if probabilities.shape[1] == 1:
        probabilities = np.hstack([1 - probabilities, probabilities])
    return Answers(None, probabilities, probabilities.argmax(axis=1))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
