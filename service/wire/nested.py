"""Nested JSON lists -> arrays, with the place of the first value that is out of line.

Regular lists of numbers take the fast path: a level is flattened at a time, and one set of types tells
whether all is well. Only when it does not is the first offender looked for. Which field is read is known
here only by its name.
"""

import math
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid
from service.types import FloatType
from service.wire.json_reader import name_of
from service.wire.limits import MAX_RANK, Limits, check_elements

FLOAT64: FloatType = np.dtype(np.float64)
BYTE_ORDER = "<" if sys.byteorder == "little" else ">"

# Rows of so many lengths keep their packers, a few hundred bytes each.
REMEMBERED = 64

# JSON has no such numbers; these strings are understood wherever a float is expected.
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_LISTS = frozenset({list})
_NUMBERS = frozenset({int, float})
_NUMBERS_OR_TEXT = frozenset({int, float, str})


class Flat(NamedTuple):
    """The leaves of regular nested lists in order, their shape, and the types among them."""

    leaves: list[Any]
    shape: tuple[int, ...]
    types: AbstractSet[type]


def flatten(value: object, limits: Limits, *, path: str) -> Flat:
    """Flatten nested lists of one shape; a bare value has the shape ().

    Raises
    ------
    Invalid
        `ragged` at the first uneven place, `rank` for more axes than an array can have.
    TooLarge
        `elements_too_many`.
    """
    shape: list[int] = []
    level: list[Any] = [value]
    types = {type(value)}
    while types == _LISTS:
        shape.append(len(level[0]))
        if len(level) == 1:
            level = level[0]
        else:
            if set(map(len, level)) != {shape[-1]}:
                _refuse_ragged(level, shape[:-1], path)
            if len(shape) > MAX_RANK or len(level) * shape[-1] > limits.elements:
                break  # before the level is laid out
            level = list(chain.from_iterable(level))
        types = set(map(type, level))
    check_elements(tuple(shape), limits, path=path)
    if list in types:
        _refuse_ragged(level, shape, path)
    return Flat(level, tuple(shape), types)


def read_floats(
    value: object, limits: Limits, *, path: str, code: str, dtype: FloatType = FLOAT64
) -> NDArray[Any]:
    """Read numbers, and the strings that stand for numbers JSON does not have.

    Parameters
    ----------
    value : number or nested lists of them
    path, code : str
        The field, and the error of a value that is no number.
    dtype : float32 or float64
        What the numbers are rounded to, as they are read.

    Returns
    -------
    float array of `dtype`
        In the shape that the nesting says. float64 after all where a number is beyond float32 or a string stands
        for one: what comes as float32 is finite.

    Raises
    ------
    Invalid
        `code` at the first value that is no number, else as `flatten`.
    """
    row = value[0] if type(value) is list and len(value) == 1 else value
    if type(row) is list and row and set(map(type, row)) <= _NUMBERS and len(row) <= limits.elements:
        shape = (len(row),) if row is value else (1, len(row))
        return floats(Flat(row, shape, _NUMBERS), path=path, code=code, dtype=dtype)
    try:
        flat = flatten(value, limits, path=path)
    except Invalid:
        # A null in place of a row is a wrong type first, uneven second.
        if (found := _first_leaf(value, _is_no_number)) is not None:
            _refuse_type(code, path + subscripts(found[0]), found[1])
        raise
    return floats(flat, path=path, code=code, dtype=dtype)


def floats(flat: Flat, *, path: str, code: str, dtype: FloatType = FLOAT64) -> NDArray[Any]:
    leaves = flat.leaves
    if not flat.types <= _NUMBERS:
        if not flat.types <= _NUMBERS_OR_TEXT or any(map(_is_no_number, leaves)):
            place, offender = first_offender(flat, _is_no_number)
            _refuse_type(code, path + place, offender)
        leaves = [NON_FINITE[leaf] if type(leaf) is str else leaf for leaf in leaves]
        dtype = FLOAT64
    # At twice the speed of numpy's own ways. With a byte order named, a number beyond float32 is an error.
    array = np.empty(flat.shape, dtype)
    try:
        _packer(len(leaves), dtype.char)(array.data, 0, *leaves)
    except OverflowError:
        return floats(flat, path=path, code=code)
    return array


@lru_cache(REMEMBERED)
def _packer(count: int, char: str) -> Callable[..., None]:
    return struct.Struct(f"{BYTE_ORDER}{count}{char}").pack_into


def first_offender(flat: Flat, offends: Callable[[Any], bool]) -> tuple[str, Any]:
    """Return the subscripts (`[2][0]`) and the value of the first leaf that offends; there must be one."""
    index = next(index for index, leaf in enumerate(flat.leaves) if offends(leaf))
    return subscripts_at(index, flat.shape), flat.leaves[index]


def subscripts_at(index: int, shape: Sequence[int]) -> str:
    """Return the subscripts of the `index`-th leaf in the order of the leaves."""
    return subscripts(int(i) for i in np.unravel_index(index, tuple(shape)))


def subscripts(place: Iterator[int] | Sequence[int]) -> str:
    return "".join(f"[{index}]" for index in place)


def _is_no_number(leaf: object) -> bool:
    kind = type(leaf)
    return kind not in _NUMBERS and (kind is not str or leaf not in NON_FINITE)


def _first_leaf(value: object, offends: Callable[[Any], bool]) -> tuple[list[int], object] | None:
    """Walk lists of any shape in reading order, without recursion: nesting is the caller's choice."""
    place: list[int] = [0]
    levels = [enumerate([value])]
    while levels:
        for index, item in levels[-1]:
            place[-1] = index
            if type(item) is list:
                levels.append(enumerate(item))
                place.append(0)
                break
            if offends(item):
                return place[1:], item
        else:
            levels.pop()
            place.pop()
    return None


def _refuse_type(code: str, path: str, got: object) -> NoReturn:
    raise Invalid(code, f"expected a number, got {name_of(got)}", path=path)


def _refuse_ragged(level: list[Any], shape: list[int], path: str) -> NoReturn:
    expected = _form(level[0])
    index = next(index for index, item in enumerate(level) if _form(item) != expected)
    first = path + subscripts_at(0, shape)
    message = f"expected {expected} as at {first}, got {_form(level[index])}"
    raise Invalid("ragged", message, path=path + subscripts_at(index, shape))


def _form(item: object) -> str:
    return f"a list of {len(item)}" if isinstance(item, list) else "a single value"
