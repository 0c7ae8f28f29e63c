"""PyTriton: the operations on bare logits in a real Triton, each a model whose batches are the caller's own."""
# The library is installed in the peer's own environment only.
# mypy: disable-error-code="import-not-found,misc"

import os
import sysconfig
from collections.abc import Callable
from typing import Any

import numpy as np
from head_session import PORT
from operation_session import FOLDER, Operation
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def function_of(operation: Operation) -> Callable[[list[Any]], list[Any]]:
    def infer(requests: list[Any]) -> list[Any]:
        answers = [operation.run({name: request[name] for name in operation.inputs}) for request in requests]
        # Triton has no tensor without an axis.
        return [{name: np.atleast_1d(tensor) for name, tensor in answer.items()} for answer in answers]

    return infer


def tensors(described: dict[str, tuple[type[np.generic], int]]) -> list[Any]:
    return [
        Tensor(name=name, dtype=dtype, shape=(-1,) * max(rank, 1))
        for name, (dtype, rank) in described.items()
    ]


if __name__ == "__main__":
    # Triton's stub links libpython, which only some interpreters put on the loader's path.
    os.environ["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    config = TritonConfig(http_port=PORT, grpc_port=PORT + 1, metrics_port=PORT + 2)
    with Triton(config=config) as triton:
        for path in sorted(FOLDER.glob("*.onnx")):
            operation = Operation(path.stem)
            triton.bind(
                model_name=path.stem,
                infer_func=function_of(operation),
                inputs=tensors(operation.inputs),
                outputs=tensors(operation.outputs),
                config=ModelConfig(batching=False),
            )
        triton.serve()
