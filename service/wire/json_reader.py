"""Bytes -> one JSON object, strictly.

orjson parses; what it lets pass (a key twice, any nesting up to 1024) is found here without reading the body
a second time unless there is reason to. What the fields mean is not known here.
"""

import json
import re
from typing import Any

import orjson

from service.errors import Invalid, Malformed
from service.wire.limits import nested_too_deep

# Deletes all but what decides about nesting: brackets, and the quotes that may hide them.
_ALL_BUT_STRUCTURE = bytes(set(range(256)) - set(b'[]{}"\\'))
_AS_LISTS = bytes.maketrans(b"{}", b"[]")  # both nest alike
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_CONTAINERS = {"list": "a list", "dict": "an object"}
_NON_FINITE = re.compile(r"-?(?:NaN|Infinity|inf|nan)")


def read_object(body: bytes, depth_limit: int) -> dict[str, Any]:
    """Read a body that must be one JSON object.

    Raises
    ------
    Malformed
        `malformed_json`: no JSON by RFC 8259, a number beyond float64, a key twice, or nesting deeper than
        `depth_limit`.
    Invalid
        `body_type`: JSON, but no object.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed("malformed_json", _explained(error)) from None
    if body.count(b"[") + body.count(b"{") > depth_limit:
        _check_depth(body, depth_limit)
    if body.count(b":") != (len(value) if type(value) is dict else 0):
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
