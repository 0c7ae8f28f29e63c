"""Tensors of the Open Inference Protocol: raw bytes or JSON data -> arrays, and back.

Raw bytes are little-endian, row by row. They are not copied on the way in unless they lie unaligned, and once
on the way out. Which tensors a message has, and what they mean, is not known here.
"""

import contextlib
import math
import struct
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
from service.wire.json_writer import plain_leaves
from service.wire.limits import Limits

FP16, FP32, FP64, INT64 = np.dtype("<f2"), np.dtype("<f4"), np.dtype("<f8"), np.dtype("<i8")
# How the elements of each datatype lie. numpy has no type for BF16, which is the upper half of a float32, nor for
# BYTES, each element of which is its length and as many bytes.
BF16, BYTES = np.dtype("<u2"), np.dtype(np.object_)
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": INT64,
    "FP16": FP16,
    "BF16": BF16,
    "FP32": FP32,
    "FP64": FP64,
    "BYTES": BYTES,
}
# What answers are written in.
_NAMES = {FP32: "FP32", FP64: "FP64", INT64: "INT64", BYTES: "BYTES"}
# The length of an element of BYTES.
_LENGTH = struct.Struct("<I")

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


def check_size(datatype: str, shape: tuple[int, ...], size_bytes: int, *, name: str) -> None:
    """Check how many raw bytes a tensor is said to have; each element of BYTES has a length of its own."""
    count = math.prod(shape)
    if datatype == "BYTES":
        fits, expected = size_bytes >= count * _LENGTH.size, f"at least {count * _LENGTH.size}"
    else:
        expected_bytes = count * DATATYPES[datatype].itemsize
        fits, expected = size_bytes == expected_bytes, str(expected_bytes)
    if not fits:
        message = f"expected {expected} raw bytes by datatype and shape, got {size_bytes}"
        raise Malformed("malformed_tensor", message, path=name)


def read_raw(
    body: bytes, datatype: str, shape: tuple[int, ...], offset: int, size_bytes: int, *, name: str
) -> NDArray[Any] | list[Any]:
    """Read a tensor from bytes of the body, of a size that `check_size` has passed.

    Returns
    -------
    array of `shape`, or nested lists of str
        The array lies over the body where it can: BF16 becomes float32, and BYTES text.

    Raises
    ------
    Malformed
        `malformed_tensor`: elements of BYTES that do not end with it, or are no UTF-8.
    """
    if datatype == "BYTES":
        texts = _read_texts(body, math.prod(shape), offset, size_bytes, name=name)
        return _as_lists(np.fromiter(texts, BYTES, len(texts)).reshape(shape))
    array = view(body, DATATYPES[datatype], shape, offset)
    return _widen(array) if datatype == "BF16" else array


def read_data(
    data: Any, datatype: str, shape: tuple[int, ...], limits: Limits, *, name: str, code: str
) -> NDArray[Any] | list[Any]:
    """Read JSON data, nested as the shape says or flat.

    Parameters
    ----------
    data : number, true or false, str, or lists of them
        The strings "NaN", "Infinity" and "-Infinity" are the floats that JSON lacks.
    datatype : one of `DATATYPES`
        Floats are rounded to it; integers must be within it. BF16 becomes float32.
    name, code : str
        The tensor, and the error of one that holds something else.

    Returns
    -------
    array of `shape`, or for BYTES nested lists of str

    Raises
    ------
    Malformed
        `malformed_tensor`: as many numbers as the shape says, but in another; or not as many.
    Invalid
        `code`, `ragged`, `rank`, `float32_overflow`.
    TooLarge
        `elements_too_many`.
    """
    is_float = datatype == "BF16" or DATATYPES[datatype].kind == "f"
    if is_float:
        found = nested.read_floats(data, limits, path=name, code=code)
    else:
        found = _read_elements(nested.flatten(data, limits, path=name), datatype, name=name, code=code)
    if found.shape not in {shape, (math.prod(shape),)}:
        message = f"expected data of shape {_shown(shape)} or all of it flat, got shape {_shown(found.shape)}"
        raise Malformed("malformed_tensor", message, path=name)
    array = found.reshape(shape)
    if is_float:
        return _round(array, datatype, name=name, code=code)
    return _as_lists(array) if datatype == "BYTES" else array


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
    arrays : mapping of name to array of float32, float64 or int64, or object array of str
    binary : frozenset of str
        Those that follow the JSON as raw bytes; the others are flat data in it.
    all_digits : bool
        Whether float32 data get all their digits: those that suffice may round to a neighbour by way of the
        float64 that JSON is read as.
    """
    shapes = tuple([(name, array.dtype.char, array.shape) for name, array in arrays.items()])
    is_plain = binary.issuperset(arrays) and not said.keys() & _VARYING
    if is_plain and BYTES.char not in [char for _, char, _ in shapes]:
        text, json_bytes = _remembered(tuple(said.items()), key, shapes)
        raws = [raw_of(array) for array in arrays.values()]
    else:
        raws, entries = [], []
        for name, array in arrays.items():
            if name in binary:
                raws.append(raw_of(array))
                entries.append(_entry(name, array.dtype, array.shape, memoryview(raws[-1]).nbytes))
            else:
                widened = all_digits and array.dtype == FP32
                data = plain_leaves((array.astype(np.float64) if widened else array).ravel())
                entries.append(_entry(name, array.dtype, array.shape) | {"data": data})
        text, json_bytes = _text(said, key, entries)
    if json_bytes is None:
        return Body(text, None)
    return Body(b"".join([text, *raws]), json_bytes)


def _entry(
    name: str, dtype: np.dtype[Any], shape: tuple[int, ...], size_bytes: int | None = None
) -> dict[str, Any]:
    """Describe a tensor; the number of its bytes says that they follow."""
    entry: dict[str, Any] = {"name": name, "datatype": datatype_of(dtype), "shape": shape}
    if size_bytes is not None:
        entry["parameters"] = {"binary_data_size": size_bytes}
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
    entries = []
    for name, char, shape in shapes:
        dtype = np.dtype(char)
        entries.append(_entry(name, dtype, shape, math.prod(shape) * dtype.itemsize))
    return _text(dict(said), key, entries)


def datatype_of(dtype: np.dtype[Any]) -> str:
    return _NAMES[dtype.newbyteorder("<")]


def raw_of(array: NDArray[Any]) -> Any:
    """Lay an array out as the protocol sends it; one that lies so is not copied."""
    if array.dtype.char == BYTES.char:
        texts = [text.encode() for text in array.ravel().tolist()]
        return b"".join([part for text in texts for part in (_LENGTH.pack(len(text)), text)])
    if IS_LITTLE and array.flags.c_contiguous and array.dtype.isnative:
        return array
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _read_elements(flat: nested.Flat, datatype: str, *, name: str, code: str) -> NDArray[Any]:
    """Read what has no fractions: integers within their datatype, true and false, or text."""
    dtype = DATATYPES[datatype]
    kind: type = {"b": bool, "O": str}.get(dtype.kind, int)
    if flat.types <= {kind}:
        with contextlib.suppress(OverflowError):
            return np.fromiter(flat.leaves, dtype, len(flat.leaves)).reshape(flat.shape)
    least, most = _span(dtype)

    def offends(leaf: Any) -> bool:
        return type(leaf) is not kind or (type(leaf) is int and not least <= leaf <= most)

    place, got = nested.first_offender(flat, offends)
    expected = {bool: "true or false", str: "a string"}.get(kind, f"an integer of {dtype.itemsize * 8} bits")
    raise Invalid(code, f"expected {expected} ({datatype}), got {name_of(got)}", path=name + place)


def _span(dtype: np.dtype[Any]) -> tuple[int, int]:
    if dtype.kind not in "iu":
        return 0, 0
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _round(array: NDArray[Any], datatype: str, *, name: str, code: str) -> NDArray[Any]:
    """Round floats to a datatype; the two short ones are for callers who had them so, and lose nothing."""
    if datatype == "FP64":
        return array
    rounded: NDArray[Any] = checks.round_to(array, FP32, path=name)
    if datatype == "FP16":
        with np.errstate(over="ignore"):
            rounded = array.astype(FP16)
    elif datatype == "BF16":
        bits = rounded.view(np.uint32)
        to_even = (bits + (0x7FFF + (bits >> 16 & 1))) & 0xFFFF0000
        rounded = np.where(np.isnan(rounded), rounded, to_even.view(np.float32))
    beyond = np.isinf(rounded) & np.isfinite(array)
    if beyond.any():
        index = int(np.argmax(beyond))
        place = nested.subscripts_at(index, array.shape)
        message = f"expected a number within {datatype}, got {array.ravel()[index]:.9g}"
        raise Invalid(code, message, path=name + place)
    return rounded


def _widen(halves: NDArray[Any]) -> NDArray[np.float32]:
    """Make float32 of BF16, each of which is its upper half."""
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _read_texts(body: bytes, count: int, offset: int, size_bytes: int, *, name: str) -> list[str]:
    texts: list[str] = []
    end = offset + size_bytes
    try:
        for _ in range(count):
            start = offset + _LENGTH.size
            offset = start + _LENGTH.unpack_from(body, offset)[0]
            if offset > end:
                break
            texts.append(body[start:offset].decode())
    except struct.error:  # the body ends within a length
        pass
    except UnicodeDecodeError:
        place = nested.subscripts([len(texts)])
        raise Malformed("malformed_tensor", "expected text in UTF-8", path=name + place) from None
    if len(texts) == count and offset == end:
        return texts
    message = f"expected {count} elements, each behind its length in 4 bytes, to be {size_bytes} bytes"
    raise Malformed("malformed_tensor", message, path=name)


def _as_lists(texts: NDArray[Any]) -> list[Any]:
    """Nest text as JSON would bring it."""
    lists: list[Any] = texts.tolist()
    return lists


def _shown(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"[:80]
