"""The operations on bare logits as ONNX files, as one would export them for a model server.

Softmax and its relatives are nodes of the standard, and so is the loss against indices; against rows of
probabilities there is none, so that loss is written out. Each file exists in float32 and float64.
"""

from pathlib import Path
from typing import NamedTuple

import onnx
from onnx import TensorProto, helper

# Where the peers look for the files: `<operation><bits>.onnx`.
SOFTMAX, LOSS, SOFT_LOSS = "softmax", "loss", "soft_loss"
TYPES = {"32": TensorProto.FLOAT, "64": TensorProto.DOUBLE}
# ReduceSum takes its axes as an input from opset 13 on, and Softmax reads one axis.
OPSET = 17
# Of the file format: onnxruntime 1.20 reads up to this.
IR_VERSION = 10


class Operation(NamedTuple):
    """Nodes, the shape of the labels where there are any, and the outputs with their shapes."""

    nodes: tuple[onnx.NodeProto, ...]
    labels: tuple[str, ...] | None
    outputs: dict[str, tuple[str, ...]]


def operations() -> dict[str, Operation]:
    log = helper.make_node("LogSoftmax", ["logits"], ["log_probabilities"], axis=-1)
    losses, loss = (
        helper.make_node("SoftmaxCrossEntropyLoss", ["logits", "labels"], [output], reduction=reduction)
        for output, reduction in (("losses", "none"), ("loss", "mean"))
    )
    soft = (
        log,
        helper.make_node("Mul", ["labels", "log_probabilities"], ["terms"]),
        helper.make_node("Constant", [], ["last"], value_ints=[-1]),
        helper.make_node("ReduceSum", ["terms", "last"], ["likelihoods"], keepdims=0),
        helper.make_node("Neg", ["likelihoods"], ["losses"]),
        helper.make_node("ReduceMean", ["losses"], ["loss"], keepdims=0),
    )
    softmax = (
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        helper.make_node("ArgMax", ["logits"], ["classes"], axis=-1, keepdims=0),
        log,
    )
    matrix, row = ("rows", "classes"), ("rows",)
    distributions = {"probabilities": matrix, "classes": row, "log_probabilities": matrix}
    return {
        SOFTMAX: Operation(softmax, None, distributions),
        LOSS: Operation((losses, loss), row, {"losses": row, "loss": ()}),
        SOFT_LOSS: Operation(soft, matrix, {"losses": row, "loss": ()}),
    }


def build(name: str, bits: str) -> bytes:
    """Build one file; the same bytes each time."""
    operation, kind = operations()[name], TYPES[bits]
    inputs = [helper.make_tensor_value_info("logits", kind, ["rows", "classes"])]
    if operation.labels is not None:
        label_kind = TensorProto.INT64 if len(operation.labels) == 1 else kind
        inputs.append(helper.make_tensor_value_info("labels", label_kind, operation.labels))
    outputs = [
        helper.make_tensor_value_info(output, TensorProto.INT64 if output == "classes" else kind, shape)
        for output, shape in operation.outputs.items()
    ]
    graph = helper.make_graph(operation.nodes, name, inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


def write(folder: Path) -> tuple[str, ...]:
    """Write all files; return their names without the suffix."""
    names = tuple(f"{name}{bits}" for name in operations() for bits in TYPES)
    for name in names:
        (folder / f"{name}.onnx").write_bytes(build(name[:-2], name[-2:]))
    return names
