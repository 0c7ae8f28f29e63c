"""Bytes -> one JSON object, strictly.

orjson parses; what it lets pass (a key twice, any nesting up to 1024) is found here without reading the body
a second time unless there is reason to. Where simdjson is installed, a tensor becomes an array without a
Python object for each number; a body that it cannot be trusted with goes to orjson, which makes every error.
What the fields mean is not known here.
"""

import json
import re
from importlib.util import find_spec
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import Invalid, Malformed
from service.wire.limits import nested_too_deep

HAS_SIMDJSON = find_spec("simdjson") is not None  # it has no wheels for Python 3.14
if HAS_SIMDJSON:
    import simdjson  # type: ignore[import-not-found,unused-ignore]

# A shorter body is read as fast by orjson, whose way is warm in the caches: it reads all the others.
SIMDJSON_BYTES = 1024
# simdjson looks a key up by walking over all of them; no operation has more fields.
MAX_PLAIN_FIELDS = 64
# From here on numpy counts bytes faster.
NUMPY_COUNTS_BYTES = 8192
# What it compares at once stays in the cache.
BLOCK_BYTES = 1 << 16

# What simdjson raises: other JSON errors are ValueErrors, an index that is none, a text among numbers.
_SIMDJSON_ERRORS = (ValueError, TypeError, LookupError, RuntimeError, MemoryError)

# Deletes all but what decides about nesting: brackets, and the quotes that may hide them.
_ALL_BUT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"\\'))
_AS_LISTS = bytes.maketrans(b"{}", b"[]")  # both nest alike
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_CONTAINER_TYPES = {dict, list}
_CONTAINERS = {"list": "a list", "dict": "an object"}
_NON_FINITE = re.compile(r"-?(?:NaN|Infinity|inf|nan)")


def read_object(body: bytes, depth_limit: int, *, tensor: str | None = None) -> dict[str, Any]:
    """Read a body that must be one JSON object.

    Parameters
    ----------
    body : bytes
    depth_limit : int
        The most levels of nesting.
    tensor : str or None
        The field that may come as a float64 array in place of lists of numbers, where that is faster; "frame.data"
        is the field "data" of the object at "frame".

    Raises
    ------
    Malformed
        `malformed_json`: no JSON by RFC 8259, a number beyond float64, a key twice, or nesting deeper than
        `depth_limit`.
    Invalid
        `body_type`: JSON, but no object.
    """
    if tensor is not None and HAS_SIMDJSON and len(body) >= SIMDJSON_BYTES:
        fields = _read_plain(body, depth_limit, tensor)
        if fields is not None:
            return fields
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed("malformed_json", _explained(error)) from None
    names = len(value) if type(value) is dict else 0
    plain = count_byte(body, b":", names + 1) == names
    # Without a colon to spare there is an object around the lists and at most an empty one in the last.
    objects = 2 if plain else count_byte(body, b"{", depth_limit + 1)
    if count_byte(body, b"[", depth_limit + 1) + objects > depth_limit:
        _check_depth(body, depth_limit)
    if not plain:
        keys = _count_keys(value)
        if count_byte(body, b":", keys + 1) != keys:
            _check_keys(body, depth_limit)
    if type(value) is not dict:
        raise Invalid("body_type", f"expected a JSON object, got {name_of(value)}")
    return value


def name_of(value: object) -> str:
    """Say in JSON's words what came, quoting at most 40 characters of it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"the string {value[:40]!r}"
        case int() | float():
            return f"the number {value}"[:40]
        case _:
            return _CONTAINERS.get(type(value).__name__, "an array")


def _read_plain(body: bytes, depth_limit: int, tensor: str) -> dict[str, Any] | None:
    """Read a plain object with a tensor of one or two axes by simdjson; None leaves any other to orjson.

    simdjson takes a byte order mark and a key twice, cuts a key at a NUL, and flattens any nesting in
    silence. The first shows at once, a key twice in the names, and nesting in how many brackets there are; a NUL
    needs a backslash, as does whatever could spell a bracket otherwise.
    """
    if not body.startswith(b"{") or b"\\" in body:
        return None
    outer, _, inner = tensor.rpartition(".")
    try:
        # A parser of its own: one with a document alive, or in two threads, fails.
        document: Any = simdjson.Parser().parse(body)
        fields, levels, lists = _read_fields(document, outer or inner, depth_limit)
        holder = fields
        if outer:
            holder, more_levels, more_lists = _read_fields(fields[outer], inner, depth_limit)
            fields[outer] = holder
            levels, lists = levels + more_levels + 1, lists + more_lists
        if max(levels + 1, 2) + 1 > depth_limit:  # as if each were in the one before, and a {} in the last
            return None
        holder[inner] = _read_rows(holder[inner], count_byte(body, b"[", len(body)) - lists)
    except _SIMDJSON_ERRORS:
        return None
    return fields


def _read_fields(document: Any, tensor: str, depth_limit: int) -> tuple[dict[str, Any], int, int]:
    """Take all but the tensor out of simdjson's hands; raise where there is more to look at.

    Also counts the levels that the other fields may have, and the brackets in them that begin lists, or look so.
    """
    if type(document) is not simdjson.Object:
        raise TypeError
    names = list(document)
    if len(names) > MAX_PLAIN_FIELDS or len(set(names)) < len(names):
        raise TypeError
    fields: dict[str, Any] = {}
    levels = lists = 0
    for name in names:
        value: Any = document[name]
        if name == tensor:
            fields[name] = value
            continue
        written = b""
        if type(value) is simdjson.Array:
            value = value.as_list()
            written = orjson.dumps(value)
            if b"{" in written:  # which may hold a key twice
                raise TypeError
        elif type(value) is simdjson.Object:
            written = bytes(value.mini)  # type: ignore[arg-type,unused-ignore] # its types say str
            value = read_object(written, depth_limit)
        elif type(value) is str:
            lists += value.count("[")
        lists += written.count(b"[")
        levels += written.count(b"[") + written.count(b"{")
        fields[name] = value
    return fields, levels, lists


def _read_rows(rows: Any, lists: int) -> NDArray[np.float64]:
    """Make an array of `[1, 2]` or `[[1, 2], [3, 4]]`, which hold so many lists; raise where they do not."""
    if type(rows) is not simdjson.Array:
        raise TypeError
    flat: NDArray[np.float64] = np.frombuffer(rows.as_buffer(of_type="d"))  # TypeError unless all are numbers
    if type(rows[0]) is not simdjson.Array:
        if lists != 1:
            raise ValueError
        return flat
    count = len(rows)
    if lists != 1 + count:
        raise ValueError
    if count == 1:
        return flat.reshape(1, -1)
    (length,) = {len(row) for row in rows}  # type: ignore[arg-type] # each is a list; ValueError where they are uneven
    return flat.reshape(count, length)


def _count_keys(value: object) -> int:
    """Count the keys that are cheap to find: of objects in objects, and of lists that begin with one.

    Too few only cost a slow look; too many there cannot be.
    """
    if type(value) is dict:
        return len(value) + sum(map(_count_keys, value.values()))
    if type(value) is not list or not value or type(value[0]) is not dict:
        return 0
    if _CONTAINER_TYPES.isdisjoint(map(type, value[0].values())) and set(map(type, value)) == {dict}:
        return sum(map(len, value))  # rows of a table
    return sum(map(_count_keys, value))


def count_byte(body: bytes, byte: bytes, most: int) -> int:
    """Count a byte, at least up to `most`: to cut at the few that there are is faster than `count`."""
    if len(body) < NUMPY_COUNTS_BYTES:
        return len(body.split(byte, most)) - 1
    numbers, wanted = np.frombuffer(body, np.uint8), ord(byte)
    blocks = range(0, len(body), BLOCK_BYTES)
    return sum([int(np.count_nonzero(numbers[at : at + BLOCK_BYTES] == wanted)) for at in blocks])


def _explained(error: orjson.JSONDecodeError) -> str:
    place = error.doc[error.pos : error.pos + 9] if isinstance(error.doc, str) else ""
    if _NON_FINITE.match(place):
        return f'{error}; JSON has no such number, send the string "-Infinity" to mask a class'
    return str(error)


def _check_depth(body: bytes, depth_limit: int) -> None:
    """Peel well-formed brackets off in pairs, a level at a time."""
    skeleton = body.translate(_AS_LISTS, _ALL_BUT_STRUCTURE).replace(b'""', b"")
    if b'"' in skeleton:  # a string holds a bracket or an escape: take the strings out before looking
        skeleton = _STRING.sub(b"", body).translate(_AS_LISTS, _ALL_BUT_BRACKETS)
    for _ in range(depth_limit):
        skeleton = skeleton.replace(b"[]", b"")
        if not skeleton:
            return
    raise nested_too_deep(depth_limit)


def _check_keys(body: bytes, depth_limit: int) -> None:
    """Look for a key twice; colons outnumber the keys where one is, or where a string holds a colon."""
    try:
        # Numbers are not what is looked for: left as text, they cost little and cannot fail.
        json.loads(body, object_pairs_hook=_distinct, parse_int=str, parse_float=str)
    except RecursionError:  # a limit near Python's own, and a caller who went to it
        raise nested_too_deep(depth_limit) from None


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise Malformed("malformed_json", f"expected each key once, got {key[:40]!r} twice")
        seen.add(key)
