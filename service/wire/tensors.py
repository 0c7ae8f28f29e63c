"""Tensors of the Open Inference Protocol: raw bytes or JSON data -> arrays, and back.

Raw bytes are little-endian, row by row. They are not copied on the way in unless they lie unaligned, and once
on the way out. Which tensors a message has, and what they mean, is not known here.
"""

import math
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import Invalid, Malformed
from service.numeric import checks
from service.wire import nested
from service.wire.json_reader import name_of
from service.wire.limits import Limits

FP32, FP64, INT64 = np.dtype("<f4"), np.dtype("<f8"), np.dtype("<i8")
DATATYPES: dict[str, np.dtype[Any]] = {"FP32": FP32, "FP64": FP64, "INT64": INT64}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}

# So many descriptions of answers are remembered, some 300 bytes each.
REMEMBERED = 256

# What differs from message to message, or is no plain text.
_VARYING = {"id", "parameters", "outputs"}
_NO_BYTES = {"binary_data_size": 0}
IS_LITTLE = sys.byteorder == "little"

# JSON is filled up with spaces to a multiple of this, so that the tensors behind it lie aligned.
ALIGNMENT_BYTES = 8


class Body(NamedTuple):
    """The bytes of a message, and the length of its JSON part where raw tensors follow it."""

    content: bytes
    json_bytes: int | None


def view(body: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int) -> NDArray[Any]:
    """Lay a read-only array over bytes of the body; copied where unaligned, which kernels do not take."""
    count = math.prod(shape)
    # frombuffer has no word for "nothing"
    flat = np.frombuffer(body, dtype, count, offset) if count else np.empty(0, dtype)
    array: NDArray[Any] = flat.reshape(shape)
    return array if array.flags.aligned else array.copy()


def read_data(
    data: Any, dtype: np.dtype[Any], shape: tuple[int, ...], limits: Limits, *, name: str, code: str
) -> NDArray[Any]:
    """Read JSON data, nested as the shape says or flat.

    Parameters
    ----------
    data : number or lists of numbers
        The strings "NaN", "Infinity" and "-Infinity" are the floats that JSON lacks.
    dtype : one of `DATATYPES`
        Floats are rounded to it; integers must be that in JSON too.
    name, code : str
        The tensor, and the error of one that holds something else.

    Raises
    ------
    Malformed
        `malformed_tensor`: as many numbers as the shape says, but in another; or not as many.
    Invalid
        `code`, `ragged`, `rank`, `float32_overflow`.
    TooLarge
        `elements_too_many`.
    """
    array: NDArray[Any]
    if dtype == INT64:
        array = _read_integers(data, limits, name=name, code=code)
    else:
        array = nested.read_floats(data, limits, path=name, code=code)
    if array.shape not in {shape, (math.prod(shape),)}:
        message = f"expected data of shape {_shown(shape)} or all of it flat, got shape {_shown(array.shape)}"
        raise Malformed("malformed_tensor", message, path=name)
    array = array.reshape(shape)
    return checks.round_to(array, FP32, path=name) if dtype == FP32 else array


def write(
    said: Mapping[str, Any],
    key: str,
    arrays: Mapping[str, NDArray[Any]],
    binary: frozenset[str],
    *,
    all_digits: bool = False,
) -> Body:
    """Write a message.

    Parameters
    ----------
    said : mapping
        What stands beside the tensors.
    key : str
        Where the tensors are described: "inputs" or "outputs".
    arrays : mapping of name to float32, float64 or int64 array
    binary : frozenset of str
        Those that follow the JSON as raw bytes; the others are flat data in it.
    all_digits : bool
        Whether float32 data get all their digits: those that suffice may round to a neighbour by way of the
        float64 that JSON is read as.
    """
    if binary.issuperset(arrays) and not said.keys() & _VARYING:
        shapes = tuple([(name, array.dtype.char, array.shape) for name, array in arrays.items()])
        text, json_bytes = _remembered(tuple(said.items()), key, shapes)
        raws = list(arrays.values())
    else:
        raws = [array for name, array in arrays.items() if name in binary]
        entries = [
            _entry(name, array.dtype, array.shape, raw=name in binary) for name, array in arrays.items()
        ]
        for entry, (name, array) in zip(entries, arrays.items(), strict=True):
            if name not in binary:
                widened = all_digits and array.dtype == FP32
                entry["data"] = _data(array.astype(np.float64) if widened else array)
        text, json_bytes = _text(said, key, entries)
    if json_bytes is None:
        return Body(text, None)
    tensors: list[Any] = [_raw(array) for array in raws]
    return Body(b"".join([text, *tensors]), json_bytes)


def _entry(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], *, raw: bool) -> dict[str, Any]:
    """Describe a tensor; the number of its bytes says that they follow."""
    little = dtype.newbyteorder("<")
    entry: dict[str, Any] = {"name": name, "datatype": _NAMES[little], "shape": shape}
    if raw:
        entry["parameters"] = {"binary_data_size": math.prod(shape) * dtype.itemsize}
    return entry


def _text(said: Mapping[str, Any], key: str, entries: list[dict[str, Any]]) -> Body:
    """Write the JSON of a message; its length is none where no bytes follow."""
    text = orjson.dumps({**said, key: entries}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not any(entry.get("parameters", _NO_BYTES)["binary_data_size"] for entry in entries):
        return Body(text, None)
    text = text.ljust(-(-len(text) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
    return Body(text, len(text))


@lru_cache(REMEMBERED)
def _remembered(
    said: tuple[tuple[str, Any], ...], key: str, shapes: tuple[tuple[str, str, tuple[int, ...]], ...]
) -> Body:
    """Write the JSON of a message whose tensors are all raw: callers ask for the same few shapes again and again."""
    entries = [_entry(name, np.dtype(char), shape, raw=True) for name, char, shape in shapes]
    return _text(dict(said), key, entries)


def _raw(array: NDArray[Any]) -> NDArray[Any]:
    """Lay an array out as the protocol sends it; one that lies so is not copied."""
    if IS_LITTLE and array.flags.c_contiguous and array.dtype.isnative:
        return array
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _data(array: NDArray[Any]) -> Any:
    """Make flat data that orjson writes without loss: it would write null for every infinity."""
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("=")).ravel()
    if flat.dtype.kind != "f" or np.isfinite(flat).all():
        return flat
    leaves: list[Any] = list(flat)  # numpy's own scalars: Python's floats would lose float32's short digits
    for index in np.flatnonzero(~np.isfinite(flat)):
        leaves[index] = _word(float(flat[index]))
    return leaves


def _read_integers(data: Any, limits: Limits, *, name: str, code: str) -> NDArray[np.int64]:
    flat = nested.flatten(data, limits, path=name)
    try:
        if flat.types <= {int}:
            return np.fromiter(flat.leaves, np.int64, len(flat.leaves)).reshape(flat.shape)
    except OverflowError:
        pass  # orjson has integers of 64 bits without a sign
    place, got = nested.first_offender(flat, lambda leaf: type(leaf) is not int or leaf >= 1 << 63)
    raise Invalid(code, f"expected an integer of 64 bits, got {name_of(got)}", path=name + place)


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"[:80]


def _word(value: float) -> str:
    return next(word for word, number in nested.NON_FINITE.items() if str(number) == str(value))
