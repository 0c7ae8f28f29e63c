"""The one session that every peer runs: the same file, the same options; it knows no server.

`HEAD_MODEL` names the file, `HEAD_PORT` the port that the application listens on.
"""

import os
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import that would send it

import numpy as np
import onnxruntime
from numpy.typing import NDArray

PORT = int(os.environ.get("HEAD_PORT", "0"))


class Session:
    """Features [rows, F] to probabilities [rows, C] and classes [rows]."""

    def __init__(self, model: str | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # a peer has one core
        path = model or os.environ["HEAD_MODEL"]
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, features: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rows = np.asarray(features, np.float32)
        probabilities, classes = self._session.run(["probabilities", "classes"], {"features": rows})
        return probabilities, classes

    def run_to_lists(self, features: Any) -> dict[str, Any]:
        probabilities, classes = self.run(features)
        return {"probabilities": probabilities.tolist(), "classes": classes.tolist()}
