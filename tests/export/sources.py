"""Sources for tests: weights of a small head, and files of a format that are written byte by byte."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.export.source import Source, answer_linearly
from service.heads.graphs import Linear

WEIGHTS = np.random.default_rng(3).normal(size=(4, 3))
BIAS = np.array([0.25, -0.5, 1.0])
LINEAR = Linear(WEIGHTS, BIAS)


def a_source(**changed: Any) -> Source:
    given = {
        "format": "test",
        "head": LINEAR,
        "dtype": np.dtype(np.float64),
        "answer": answer_linearly(LINEAR),
    }
    return Source(**{**given, **changed})


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, NDArray[Any]]], **changed: Any) -> Path:
    """Write arrays under their names, each with the dtype that the header says."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, (dtype, array) in tensors.items():
        data = array.tobytes()
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets, **changed}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path
