"""npz: weights and a bias under the names that people give them."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import RequestError
from service.export.source import (
    FLOAT32,
    WEIGHTS_LIMIT_BYTES,
    ExportError,
    Options,
    Source,
    answer_linearly,
    read_bounded,
)
from service.export.tensors import Shelf, find_linear
from service.types import FloatArray
from service.wire import arrays
from service.wire.limits import Limits

UNDERSTOOD = frozenset({"weight", "bias", "transpose"})
LIMITS = Limits(
    body_bytes=WEIGHTS_LIMIT_BYTES,
    rows=WEIGHTS_LIMIT_BYTES,
    elements=WEIGHTS_LIMIT_BYTES // 4,
    json_depth=0,  # there is no JSON in it
)


def read(path: Path, options: Options) -> Source:
    """Read an npz; which way round the weights lie shows by the length of the bias."""
    try:
        found = arrays.read_npz(read_bounded(path), LIMITS)
    except RequestError as error:
        raise ExportError(f"{path}: {error.detail}") from error
    shelf = Shelf(
        {name: array.shape for name, array in found.items()},
        lambda name: as_float(found[name], name),
    )
    linear, dtype, notes = find_linear(shelf, options)
    return Source("npz", linear, dtype, answer_linearly(linear), file=path, notes=notes)


def as_float(array: NDArray[Any], name: str) -> FloatArray:
    """Make float32 of what is narrower, and float64 of whole numbers; `ExportError` for other types."""
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    if array.dtype not in (FLOAT32, np.float64):
        raise ExportError(f"{name[:80]}: expected numbers of at most 64 bits, got {array.dtype}")
    return array
