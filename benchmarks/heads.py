"""The heads that are measured: their weights, and the files that servers are given.

`a` stands for a small head on a small embedding, `b` for a large one; the weights are random, since a dense
product takes the same time for any. It knows nothing of requests.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from service.heads.graphs import Linear, build_linear

SHAPES = {"a": (64, 10), "b": (768, 1000)}


def linear(name: str) -> Linear:
    """The same weights each time, scaled so that logits have a spread of about 1."""
    num_features, num_classes = SHAPES[name]
    rng = np.random.default_rng([num_features, num_classes])
    weights = rng.standard_normal((num_features, num_classes), np.float32) / np.float32(num_features**0.5)
    return Linear(weights, rng.standard_normal(num_classes, np.float32))


def with_softmax(model: bytes) -> bytes:
    """Add Softmax and ArgMax to a head, with the outputs `probabilities` and `classes` in place of logits.

    This is the file that peers serve: they have no finishing step of their own, and nodes of the graph are
    the fastest they could have.
    """
    graph = onnx.load_from_string(model)
    logits = graph.graph.output[0].name
    graph.graph.node.extend(
        [
            helper.make_node("Softmax", [logits], ["probabilities"], axis=-1),
            helper.make_node("ArgMax", [logits], ["classes"], axis=-1, keepdims=0),
        ]
    )
    num_classes = graph.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    del graph.graph.output[:]
    graph.graph.output.extend(
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", num_classes]),
            helper.make_tensor_value_info("classes", TensorProto.INT64, ["rows"]),
        ]
    )
    onnx.checker.check_model(graph)
    serialised: bytes = graph.SerializeToString(deterministic=True)
    return serialised


def write(folder: Path) -> None:
    """Write `repository/<head>/1/model.onnx` for us, and `<head>.onnx` with Softmax for peers."""
    for name in SHAPES:
        model = build_linear(linear(name))
        version = folder / "repository" / name / "1"
        version.mkdir(parents=True)
        (version / "model.onnx").write_bytes(model)
        (folder / f"{name}.onnx").write_bytes(with_softmax(model))
