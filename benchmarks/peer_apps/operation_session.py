"""The sessions of the operations on bare logits, which the model servers run; it knows no server.

`HEAD_MODEL` names the folder of the files.
"""

import os
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import that would send it

import numpy as np
import onnxruntime
from numpy.typing import NDArray

FOLDER = Path(os.environ["HEAD_MODEL"])
DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
}


class Operation:
    """Named tensors to named tensors: one file."""

    def __init__(self, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = str(FOLDER / f"{name}.onnx")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = {one.name: (DTYPES[one.type], len(one.shape)) for one in self._session.get_inputs()}
        self.outputs = {one.name: (DTYPES[one.type], len(one.shape)) for one in self._session.get_outputs()}

    def run(self, tensors: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        names = list(self.outputs)
        return dict(zip(names, map(np.asarray, self._session.run(names, tensors)), strict=True))
