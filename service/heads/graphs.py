"""ONNX graphs of linear heads: built from weights, and read back into weights.

Knows arrays and the bytes of a model; knows no file, no session and no head.json. `onnx` costs a process
12 MB and 0.1 s, so it is imported where it is needed: serving a head does not need it, only building one
and explaining a linear one do.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from service.types import FloatArray

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Opset 17 with its IR version 8 is read by every onnxruntime since 1.12; a linear head needs nothing newer.
OPSET = 17
IR_VERSION = 8
PRODUCER = "logitserve"


class Linear(NamedTuple):
    """A linear head: logits = features @ weights + bias."""

    weights: FloatArray
    bias: FloatArray


def build_linear(linear: Linear, *, input_name: str = "features", output_name: str = "logits") -> bytes:
    """Build the ONNX model of a linear head.

    The same arrays give the same bytes: versions, names and the producer are fixed, and the protocol buffer
    is written in its deterministic form.

    Parameters
    ----------
    linear : Linear
        `weights` [num_features, num_classes] and `bias` [num_classes], both float32 or both float64; the head
        computes in that type.
    input_name, output_name : str
        Names of the tensors [rows, num_features] and [rows, num_classes]; `rows` is dynamic.

    Returns
    -------
    bytes
        A model of one `Gemm` node, opset 17.

    Raises
    ------
    ValueError
        If the shapes do not fit each other, or the types are not one of float32 and float64.
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - see the module's docstring

    weights, bias = np.ascontiguousarray(linear.weights), np.ascontiguousarray(linear.bias)
    if weights.ndim != 2 or bias.shape != weights.shape[1:]:
        raise ValueError(f"expected weights [F, C] and bias [C], got {weights.shape} and {bias.shape}")
    if weights.dtype != bias.dtype or weights.dtype not in (np.float32, np.float64):
        raise ValueError(f"expected both float32 or both float64, got {weights.dtype} and {bias.dtype}")
    element = TensorProto.FLOAT if weights.dtype == np.float32 else TensorProto.DOUBLE
    num_features, num_classes = weights.shape
    graph = helper.make_graph(
        nodes=[helper.make_node("Gemm", [input_name, "weights", "bias"], [output_name], name="head")],
        name="linear_head",
        inputs=[helper.make_tensor_value_info(input_name, element, ["rows", num_features])],
        outputs=[helper.make_tensor_value_info(output_name, element, ["rows", num_classes])],
        initializer=[numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(
        graph,
        producer_name=PRODUCER,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    serialised: bytes = model.SerializeToString(deterministic=True)
    return serialised


def read_linear(model: bytes, *, input_name: str, output_name: str) -> Linear | None:
    """Read the weights out of a linear head.

    Understood are `Gemm` (with `transB`, `alpha` and `beta`) and `MatMul`, alone or followed by an `Add` of
    the bias, whose weights and bias are constants of the graph. Exporters write linear layers in these forms,
    and weights stored as float16 with a `Cast` behind them; anything else between or around them, even a `Cast`
    of the features, makes the head not linear here.

    Parameters
    ----------
    model : bytes
        A model that onnxruntime has opened.
    input_name, output_name : str
        The tensors of features [rows, num_features] and of logits [rows, num_classes].

    Returns
    -------
    Linear or None
        `weights` [num_features, num_classes], contiguous, and `bias` [num_classes], zeros where there is
        none, both of the type that the model computes in; None if the head is not linear.
    """
    graph = _parse(model).graph
    node = _producer(graph, output_name)
    if node is None:
        return None
    if node.op_type == "Gemm":
        return _read_gemm(graph, node, input_name)
    if node.op_type == "MatMul":
        return _read_matmul(graph, node, None, input_name)
    if node.op_type == "Add":
        return _read_add(graph, node, input_name)
    return None


def has_external_data(model: bytes) -> bool:
    """Whether a tensor's numbers lie outside the model, in a file that the model names.

    Every such tensor has the key `location`, so a model without these letters need not be parsed.
    """
    return b"location" in model and _names_a_file(_parse(model))


def _parse(model: bytes) -> "ModelProto":
    from onnx import ModelProto  # noqa: PLC0415 - see the module's docstring

    parsed: ModelProto = ModelProto.FromString(model)
    return parsed


def _names_a_file(message: Any) -> bool:
    """Look through a message and all messages inside it: constants hide in attributes and subgraphs too."""
    from onnx import TensorProto  # noqa: PLC0415 - see the module's docstring

    if isinstance(message, TensorProto):
        return message.data_location == TensorProto.EXTERNAL
    parts = (value for field, value in message.ListFields() if field.message_type is not None)
    return any(
        _names_a_file(inner) for part in parts for inner in ([part] if hasattr(part, "ListFields") else part)
    )


def _read_gemm(graph: "GraphProto", node: "NodeProto", input_name: str) -> Linear | None:
    from onnx import helper  # noqa: PLC0415 - see the module's docstring

    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    weights = _constant(graph, node.input[1])
    # With transA the rows of the logits would be the features' columns.
    if node.input[0] != input_name or weights is None or options.get("transA", 0):
        return None
    if options.get("transB", 0):
        weights = weights.T
    weights = weights * weights.dtype.type(options.get("alpha", 1.0))
    if len(node.input) < 3 or not node.input[2]:
        return _linear(weights, None)
    bias = _constant(graph, node.input[2])
    return None if bias is None else _linear(weights, bias * bias.dtype.type(options.get("beta", 1.0)))


def _read_add(graph: "GraphProto", node: "NodeProto", input_name: str) -> Linear | None:
    for product, other in (tuple(node.input), tuple(node.input)[::-1]):
        producer, bias = _producer(graph, product), _constant(graph, other)
        if producer is not None and producer.op_type == "MatMul" and bias is not None:
            return _read_matmul(graph, producer, bias, input_name)
    return None


def _read_matmul(
    graph: "GraphProto", node: "NodeProto", bias: FloatArray | None, input_name: str
) -> Linear | None:
    weights = _constant(graph, node.input[1])
    return None if node.input[0] != input_name or weights is None else _linear(weights, bias)


def _linear(weights: FloatArray, bias: FloatArray | None) -> Linear | None:
    """Both in their one shape, or None if they are not those of a linear head."""
    if weights.ndim != 2:
        return None
    num_classes = weights.shape[1]
    if bias is None:
        bias = np.zeros(num_classes, weights.dtype)
    # A bias may come as [C], [1, C], [1] or a scalar; one that differs from row to row is another function.
    if bias.size not in (1, num_classes) or bias.shape[-1:] not in ((), (bias.size,)):
        return None
    each_class = cast("FloatArray", np.broadcast_to(bias.reshape(-1), (num_classes,)))
    return Linear(cast("FloatArray", np.ascontiguousarray(weights)), each_class)


def _producer(graph: "GraphProto", tensor: str) -> "NodeProto | None":
    return next((node for node in graph.node if node.domain == "" and tensor in node.output), None)


def _constant(graph: "GraphProto", name: str) -> FloatArray | None:
    """The numbers of a constant in the type that the graph computes with; float16 is widened, which is exact.

    To keep float16 would halve the memory, but numpy takes five times as long to widen what it gathers.
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - see the module's docstring

    types = {TensorProto.FLOAT, TensorProto.DOUBLE}
    cast_to = None
    node = _producer(graph, name)
    if node is not None and node.op_type == "Cast":
        name, types = node.input[0], types | {TensorProto.FLOAT16}
        cast_to = helper.tensor_dtype_to_np_dtype(helper.get_node_attr_value(node, "to"))
    for tensor in graph.initializer:
        if tensor.name == name and tensor.data_type in types:
            array: FloatArray = numpy_helper.to_array(tensor)
            return array if cast_to is None else array.astype(cast_to)
    return None
