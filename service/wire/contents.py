"""Tensors of the Open Inference Protocol that are written out in a protobuf message, number by number.

Which field they are in goes by their datatype. Protobuf packs the numbers of a field together, or writes each in a
field of its own; both are read. Which tensors a message has, and what they mean, is not known here.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid, Malformed
from service.wire import protobuf
from service.wire.limits import Limits
from service.wire.protobuf import FIXED32, FIXED64, LENGTH, VARINT, Field, key_of, read_fields
from service.wire.tensors import BYTES, DATATYPES

# The field of each datatype, its number, and how one element lies in it alone. Those that are not here, the two short
# floats, travel as raw bytes only.
FIELDS = {
    "BOOL": ("bool_contents", 1, VARINT),
    **dict.fromkeys(("INT8", "INT16", "INT32"), ("int_contents", 2, VARINT)),
    "INT64": ("int64_contents", 3, VARINT),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), ("uint_contents", 4, VARINT)),
    "UINT64": ("uint64_contents", 5, VARINT),
    "FP32": ("fp32_contents", 6, FIXED32),
    "FP64": ("fp64_contents", 7, FIXED64),
    "BYTES": ("bytes_contents", 8, LENGTH),
}


def read(
    message: bytes,
    pieces: Iterable[Field],
    datatype: str,
    shape: tuple[int, ...],
    limits: Limits,
    *,
    name: str,
    code: str,
    place: str,
) -> NDArray[Any] | list[Any]:
    """Read a tensor of a shape that is within the limits.

    Parameters
    ----------
    message, pieces : bytes, iterable of Field
        Where its InferTensorContents lie; protobuf takes several for one in pieces.
    datatype : one of `tensors.DATATYPES`
    name, code, place : str
        The tensor, the error of one that holds something else, and where in the message it is.

    Returns
    -------
    array of `shape`, or for BYTES nested lists of str

    Raises
    ------
    Malformed
        `malformed_protobuf`; `malformed_tensor`: not as many elements as the shape says, or text that is no UTF-8.
    Invalid
        `missing_field`: a datatype that is not written out; `option_type`: the field of another; `code`.
    """
    if datatype not in FIELDS:
        raise Invalid("missing_field", f"{datatype} travels in raw_input_contents", path=place)
    elements = _elements(message, pieces, datatype, limits, place)
    if datatype == "BYTES":
        return _read_texts(elements, shape, name)
    return _read_numbers(elements, datatype, shape, name, code)


def _elements(
    message: bytes, pieces: Iterable[Field], datatype: str, limits: Limits, place: str
) -> Iterator[bytes]:
    """Find the elements, one or many in each part."""
    field, number, kind = FIELDS[datatype]
    keys = {key_of(number, kind), key_of(number, LENGTH)}
    for piece in pieces:
        for part in read_fields(message, piece.start, piece.end, most=limits.elements):
            if part.key not in keys:
                expected = f"expected {field} only, by the datatype {datatype}"
                raise Invalid("option_type", expected, path=place)
            yield message[part.start : part.end]


def _read_texts(elements: Iterable[bytes], shape: tuple[int, ...], name: str) -> list[Any]:
    try:
        found = [element.decode() for element in elements]
    except UnicodeDecodeError:
        raise Malformed("malformed_tensor", "expected text in UTF-8", path=name) from None
    _check_count(len(found), shape, name)
    texts = np.empty(len(found), BYTES)
    texts[:] = found
    lists: list[Any] = texts.reshape(shape).tolist()
    return lists


def _read_numbers(
    elements: Iterable[bytes], datatype: str, shape: tuple[int, ...], name: str, code: str
) -> NDArray[Any]:
    packed = bytearray()
    for part in elements:
        packed += part
    dtype = DATATYPES[datatype]
    if dtype.kind == "f":
        _check_count(len(packed) / dtype.itemsize, shape, name)
        return np.frombuffer(packed, dtype).reshape(shape)
    _check_count(protobuf.count_integers(packed), shape, name)
    integers = protobuf.read_integers(packed).reshape(shape)
    if dtype.kind == "b":
        return integers.astype(np.bool_)
    values = integers if dtype.kind == "u" else integers.view(np.int64)
    span = np.iinfo(dtype)
    if values.size and not span.min <= values.min() <= values.max() <= span.max:
        message = f"expected integers of {dtype.itemsize * 8} bits ({datatype}), got one beyond"
        raise Invalid(code, message, path=name)
    return values.astype(dtype)


def _check_count(got: float, shape: tuple[int, ...], name: str) -> None:
    if got != math.prod(shape):
        message = f"expected {math.prod(shape)} elements by its shape, got {got:.9g}"
        raise Malformed("malformed_tensor", message, path=name)
