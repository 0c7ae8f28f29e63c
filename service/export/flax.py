"""Flax: what flax.serialization.to_bytes writes, read with msgpack alone.

Checkpoints of orbax are folders of another library's format; what it restores can be kept as npz.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from service.export.source import (
    ExportError,
    Options,
    Source,
    answer_linearly,
    not_installed,
    read_bounded,
)
from service.export.tensors import Shelf, as_float, find_linear, widen_bfloat16
from service.types import FloatArray

UNDERSTOOD = frozenset({"weight", "bias", "transpose", "as_scores"})
# Of the kinds of values that Flax adds to msgpack, the one that is an array.
ARRAY = 1
DTYPES = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
# A state of training has the same names once more in the optimizer's moments.
PARAMETERS = "params"


class Packed(NamedTuple):
    """An array as it lies in the file."""

    shape: tuple[int, ...]
    dtype: str
    data: bytes


def read(path: Path, options: Options) -> Source:
    """Read the only kernel, that of a layer named as heads are, or the arrays that are named."""
    arrays = dict(_flatten(_load(path), ()))
    own = {name: array for name, array in arrays.items() if name.split("/")[0] == PARAMETERS}
    arrays = own or arrays
    shelf = Shelf(
        {name: array.shape for name, array in arrays.items()},
        lambda name: _read_array(name, arrays[name]),
        classes_first=False,
    )
    linear, dtype, notes = find_linear(shelf, options)
    return Source(
        "flax",
        linear,
        dtype,
        answer_linearly(linear),
        file=path,
        notes=notes,
        calibrated=not options.as_scores,
    )


def _load(path: Path) -> Any:
    try:
        import msgpack  # noqa: PLC0415 - see the docstring of the package
    except ImportError as error:
        raise not_installed("msgpack", package="msgpack", what=path.name) from error

    def unpack(code: int, data: bytes) -> Packed | None:
        if code != ARRAY:
            return None  # a scalar or a complex number: no weights
        shape, dtype, body = msgpack.unpackb(data, strict_map_key=False)
        return Packed(tuple(map(int, shape)), str(dtype), bytes(body))

    try:
        return msgpack.unpackb(read_bounded(path), ext_hook=unpack, strict_map_key=False)
    except ExportError:
        raise
    except Exception as error:  # what damaged bytes make msgpack raise is not said
        reason = " ".join(f"{type(error).__name__} {error}".split())[:80]
        raise ExportError(f"{path}: expected what flax.serialization.to_bytes writes: {reason}") from error


def _flatten(tree: Any, names: tuple[str, ...]) -> Iterator[tuple[str, Packed]]:
    if isinstance(tree, Packed):
        yield "/".join(names), tree
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield from _flatten(value, (*names, str(name)))


def _read_array(name: str, packed: Packed) -> FloatArray:
    if packed.dtype not in DTYPES:
        raise ExportError(f"{name[:80]}: expected one of {', '.join(DTYPES)}, got {packed.dtype[:20]!r}")
    dtype = np.dtype(DTYPES[packed.dtype])
    expected_bytes = math.prod(packed.shape) * dtype.itemsize
    if len(packed.data) != expected_bytes:
        raise ExportError(f"{name[:80]}: expected {expected_bytes} bytes of data, got {len(packed.data)}")
    array = np.frombuffer(packed.data, dtype).reshape(packed.shape)
    return widen_bfloat16(array) if packed.dtype == "bfloat16" else as_float(array, name)
