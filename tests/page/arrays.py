"""Writes `arrays.json`: files as numpy makes them, in base64, for `files.test.js`."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

ROWS = [[1, 2, 3], [4, 5, 100]]
FLOATS = [[0.5, -2.0, 0.1], [np.nan, np.inf, -np.inf]]
INTEGERS = ["i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", ">i2", ">u2", ">i4", ">u4", ">i8", ">u8"]


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version=version)
    return file.getvalue()


def npz(*, packed: bool = False, **arrays: Any) -> bytes:
    file = io.BytesIO()
    if packed:
        np.savez_compressed(file, allow_pickle=True, **arrays)
    else:
        np.savez(file, allow_pickle=True, **arrays)
    return file.getvalue()


def files() -> dict[str, bytes]:
    logits = np.array(ROWS, np.float32)
    words = np.array(["cat", None], object)
    made = {code: npy(np.array(ROWS, code)) for code in INTEGERS}
    made |= {code: npy(np.array(FLOATS, code)) for code in ("<f2", "<f4", "<f8", ">f2", ">f4", ">f8")}
    return made | {
        "extremes": npy(np.array([[-(2**31), 2**31 - 1]], "<i4")),
        "tiny": npy(np.array([[2**-24, -(2**-14), 65504.0, -0.0]], "<f2")),
        "bool": npy(np.array([[True, False]])),
        "scalar": npy(np.float64(1.5)),
        "vector": npy(np.array([1.0, 2.0])),
        "cube": npy(np.arange(8.0).reshape(2, 2, 2)),
        "empty": npy(np.empty((0, 3))),
        "version 2": npy(logits, (2, 0)),
        "version 3": npy(logits, (3, 0)),
        "fortran": npy(np.asfortranarray(logits)),
        "object": npy(words),
        "text": npy(np.array(["cat", "dog"])),
        "structure": npy(np.array([(1.0, 2)], [("x", "<f4"), ("y", "<i4")])),
        "complex": npy(np.array([1j])),
        "stored.npz": npz(logits=logits, labels=np.array([2, 0])),
        "deflated.npz": npz(packed=True, logits=logits, labels=np.array([2, 0])),
        "one-hot.npz": npz(logits=logits, labels=np.array([[0.0, 1, 0], [0, 0, 1]])),
        "features.npz": npz(features=logits, class_names=np.array(["a", "b"]), ids=words),
        "only.npz": npz(packed=True, arr_0=logits),
        "two.npz": npz(left=logits, right=logits),
    }


if __name__ == "__main__":
    written = {name: base64.b64encode(made).decode() for name, made in files().items()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(written, indent=1) + "\n")
