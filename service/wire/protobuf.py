"""How protobuf lays out a message: fields by their numbers, found within bounds, and written from plain values.

Its own library makes objects of all that a message holds before anybody can look at it: 64 MiB of empty messages
become 3 GB. Here fields are found one after the other where they lie, no more than the caller allows, and tensors
stay there. What a field means is not known here; groups, which proto3 does not have, are refused.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.errors import Malformed

# How a field's value is laid out: the last three bits of its key.
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}

# A varint holds seven bits a byte and says by the eighth whether another follows; 64 bits need so many.
_MORE = 0x80
_VARINT_BYTES = 10

# More than any request to us has, whose lists are of a handful of tensors and options; tensors written out number by
# number have limits of their own.
MOST_FIELDS = 1000


class Field(NamedTuple):
    """One field: its key, where its value lies in the message, and where its key begins."""

    key: int
    start: int
    end: int
    at: int


# What the fields of a message are called, with their numbers: alone, or with the schema of the message or the numbers
# of the enumeration in it; None is not sent.
Schema: TypeAlias = Mapping[str, Any]


def key_of(number: int, kind: int) -> int:
    return number << 3 | kind


def read_fields(message: bytes, start: int, end: int, *, most: int = MOST_FIELDS) -> Iterator[Field]:
    """Find the fields of a message that lies in `message` from `start` to `end`.

    A field of an unknown key, by number or by how it is laid out, is the reader's to skip.

    Raises
    ------
    Malformed
        `malformed_protobuf`: what is no message, or has more than `most` fields.
    """
    at = start
    for _ in range(most):
        if at == end:
            return
        begun = at
        key, at = _read_varint(message, at, end)
        kind, value = key & 7, at
        if kind == LENGTH:
            size, value = _read_varint(message, at, end)
            at = value + size
        elif kind == VARINT:
            _, at = _read_varint(message, at, end)
        elif kind in _FIXED_BYTES:
            at += _FIXED_BYTES[kind]
        else:
            raise _malformed(f"expected a field at byte {begun}, got one of kind {kind}")
        if at > end or key <= 7:
            raise _malformed(f"expected a field that ends before byte {end}, got one at byte {begun}")
        yield Field(key, value, at, begun)
    if at != end:
        raise _malformed(f"expected at most {most} fields in one message, got more")


def read_text(message: bytes, field: Field) -> str:
    try:
        return message[field.start : field.end].decode()
    except UnicodeDecodeError:
        raise _malformed(f"expected text in UTF-8 at byte {field.start}") from None


def read_integer(message: bytes, field: Field, *, signed: bool = False) -> int:
    value, _ = _read_varint(message, field.start, field.end)
    return value - (1 << 64) if signed and value >> 63 else value


def read_integers(packed: bytes | bytearray) -> NDArray[np.uint64]:
    """Read integers that lie one after the other; negative ones as their two's complement.

    Raises
    ------
    Malformed
        `malformed_protobuf`
    """
    octets = np.frombuffer(packed, np.uint8)
    if not octets.size or octets.max() < _MORE:
        return octets.astype(np.uint64)
    ends = np.flatnonzero(octets < _MORE) + 1
    starts = np.concatenate([[0], ends[:-1]])
    sizes = ends - starts
    longest = sizes.max(initial=0)
    if octets[-1] >= _MORE or longest > _VARINT_BYTES:
        raise _malformed("expected integers of at most 64 bits")
    values = np.zeros(ends.size, np.uint64)
    for place in range(longest):
        longer = sizes > place
        sevens = (octets[starts[longer] + place] & np.uint8(_MORE - 1)).astype(np.uint64)
        values[longer] |= sevens << np.uint64(7 * place)
    return values


def count_integers(packed: bytes | bytearray) -> int:
    return int(np.count_nonzero(np.frombuffer(packed, np.uint8) < _MORE))


def write(values: Mapping[str, Any], schema: Schema) -> bytes:
    """Write a message of plain values: text, integers, true and false, messages, and lists of these.

    What a field holds when it is not there - nothing, nought, false - is not written, but an empty message is.
    """
    parts: list[bytes] = []
    for name, value in values.items():
        place = schema[name]
        if place is None:
            continue
        number, inner = place if isinstance(place, tuple) else (place, None)
        if type(value) is list and value and type(value[0]) is int:
            parts.append(write_bytes(number, b"".join(map(_varint, value))))
            continue
        if type(value) is list:
            parts.extend(_written(number, one, inner) for one in value)
        elif value or isinstance(value, Mapping):
            parts.append(_written(number, value, inner))
    return b"".join(parts)


def write_bytes(number: int, value: bytes) -> bytes:
    return write_head(number, len(value)) + value


def write_head(number: int, size: int) -> bytes:
    """Write what stands before bytes of this size."""
    return _varint(key_of(number, LENGTH)) + _varint(size)


def _written(number: int, value: Any, inner: Any) -> bytes:
    if isinstance(value, Mapping):
        return write_bytes(number, write(value, inner))
    if isinstance(value, str) and inner is None:
        return write_bytes(number, value.encode())
    return _varint(key_of(number, VARINT)) + _varint(value if inner is None else inner[value])


def _read_varint(message: bytes, at: int, end: int) -> tuple[int, int]:
    """Read an integer, and return where it ends."""
    value = 0
    for place in range(min(end - at, _VARINT_BYTES)):
        octet = message[at + place]
        value |= (octet & (_MORE - 1)) << 7 * place
        if octet < _MORE:
            return value & (1 << 64) - 1, at + place + 1
    raise _malformed(f"expected an integer of at most 64 bits at byte {at}")


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    octets = bytearray()
    while value >= _MORE:
        octets.append(value & (_MORE - 1) | _MORE)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _malformed(message: str) -> Malformed:
    return Malformed("malformed_protobuf", message)
