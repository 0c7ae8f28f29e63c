"""Answers -> JSON, without loss: orjson writes arrays, and what it would write as null becomes text.

The shortest digits that name a number are those of its own type, so float32 is never widened on the way. What
the values mean is not known here.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.numeric.checks import all_finite
from service.types import Output
from service.wire import nested

# Up to here one look for a null is cheaper than looks at arrays, each of which costs a microsecond or two.
SCANNED_BYTES = 2048


def write(answer: dict[str, Any], outputs: Iterable[Output]) -> bytes:
    """Write one answer.

    Parameters
    ----------
    answer : dict
        JSON values, arrays of one axis or more and numpy's numbers, in any nesting of dicts and lists.
    outputs : iterable of Output
        All that may hold a number that is not finite: it is written as the string that stands for it.
    """
    try:
        written = dumps(answer)
    except orjson.JSONEncodeError:  # text in an array, or a memory layout that orjson does not read
        return dumps(plain(answer))
    whole = b"null" not in written if len(written) < SCANNED_BYTES else _are_finite(outputs)
    return written if whole else dumps(plain(answer))


def dumps(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def plain(value: Any) -> Any:
    """Make a value what orjson writes without loss: it would write null for every infinity."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain_array(value) if value.ndim else plain(value[()])
    if isinstance(value, float | np.floating):
        return value if math.isfinite(value) else _word(float(value))
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def plain_leaves(flat: NDArray[Any]) -> Any:
    """Make a flat array what orjson writes without loss, as one array or as a list of its elements."""
    if flat.dtype.kind in "UO":
        return flat.tolist()
    if flat.dtype.kind != "f" or np.isfinite(flat).all():
        return np.ascontiguousarray(flat, flat.dtype.newbyteorder("="))
    leaves: list[Any] = list(flat)  # numpy's own scalars: Python's floats would lose float32's short digits
    for index in np.flatnonzero(~np.isfinite(flat)):
        leaves[index] = _word(float(flat[index]))
    return leaves


def _plain_array(array: NDArray[Any]) -> Any:
    if array.dtype.kind in "UO":
        return array.tolist()
    leaves = plain_leaves(array.ravel())
    if isinstance(leaves, np.ndarray):
        return leaves.reshape(array.shape)
    for length in reversed(array.shape[1:]):
        leaves = [leaves[start : start + length] for start in range(0, len(leaves), length)]
    return leaves


def _word(value: float) -> str:
    return next(word for word, number in nested.NON_FINITE.items() if str(number) == str(value))


def _are_finite(outputs: Iterable[Output]) -> bool:
    """Tell whether orjson writes every number: it writes null for what is not finite."""
    numbers = [np.asarray(value) for value in outputs if isinstance(value, np.ndarray | np.generic | float)]
    return all(all_finite(array) for array in numbers if array.dtype.kind == "f")
