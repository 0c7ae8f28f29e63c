"""Sparse features: compressed sparse rows (CSR), from JSON or npz -> checked `SparseRows`.

The four parts are named as scipy names them. A feature that a row has twice counts as the sum, as there; which
order a row's features have means nothing. What a head is, is known here only by its number of features.
"""

import contextlib
from collections.abc import Mapping
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid
from service.numeric import checks
from service.types import FloatArray, FloatType, IndexArray, SparseRows
from service.wire import nested
from service.wire.json_reader import name_of
from service.wire.labels import read_numbers
from service.wire.limits import Limits, check_rows
from service.wire.options import unknown_name

FIELD = "features"
PARTS = ("indptr", "indices", "data", "num_features")

_INT64 = np.iinfo(np.int64)


def read(parts: Mapping[str, Any], num_features: int, dtype: FloatType, limits: Limits) -> SparseRows:
    """Read CSR features.

    Parameters
    ----------
    parts : mapping of the names in `PARTS` to JSON value or array
        `indptr` [rows + 1], `indices` and `data` [entries], `num_features` one number.
    num_features : int
        The head's own.
    dtype : float32 or float64
        What the data are rounded to; the sum of entries that a row has twice is rounded once.
    limits : Limits
        `elements` bounds the entries; the zeros between them are not counted.

    Raises
    ------
    Invalid
        `unknown_field`, `missing_field`, `features_type`, `features_shape`, `ragged`, `float32_overflow`,
        `non_finite_features`; all at the part (`features.indptr[3]`).
    TooLarge
        `rows_too_many`, `elements_too_many`.
    """
    for name in parts:
        if name not in PARTS:
            raise Invalid("unknown_field", unknown_name(name, PARTS), path=_place(name[:40]))
    for name in PARTS:
        if name not in parts:
            raise Invalid("missing_field", f"sparse features need {', '.join(PARTS)}", path=_place(name))
    indptr = _read_integers(parts["indptr"], "indptr", limits)
    indices = _read_integers(parts["indices"], "indices", limits)
    data = read_numbers(
        parts["data"], limits, path=_place("data"), code="features_type", dtype=nested.FLOAT64
    )
    _check_width(parts["num_features"], num_features, limits)
    _check_shape(indptr, indices, data, limits)
    _check_indices(indices, num_features)
    rows = SparseRows(indptr, indices, checks.round_features(data, dtype, path=_place("data")), num_features)
    return rows if _is_sorted(rows) else _sorted(rows, data)


def _read_integers(value: Any, name: str, limits: Limits) -> NDArray[Any]:
    """Read integers that int64 can hold; an array must have them already."""
    path = _place(name)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iu":
            raise Invalid("features_type", f"expected integers, got an array of {value.dtype}", path=path)
        beyond = value.dtype == np.uint64 and value > _INT64.max
        if np.any(beyond):
            place = nested.subscripts_at(int(np.argmax(beyond)), value.shape)
            message = f"expected at most {_INT64.max}, got {value.ravel()[np.argmax(beyond)]}"
            raise Invalid("features_type", message, path=path + place)
        return value.astype(np.int64, copy=False)
    flat = nested.flatten(value, limits, path=path)
    if flat.types <= {int}:
        with contextlib.suppress(OverflowError):
            return np.fromiter(flat.leaves, np.int64, len(flat.leaves)).reshape(flat.shape)

    def offends(leaf: Any) -> bool:
        return type(leaf) is not int or not _INT64.min <= leaf <= _INT64.max

    place, got = nested.first_offender(flat, offends)
    message = f"expected an integer of 64 bits, got {name_of(got)}"
    raise Invalid("features_type", message, path=path + place)


def _check_width(value: Any, num_features: int, limits: Limits) -> None:
    said = _read_integers(value, "num_features", limits)
    if said.ndim:
        _refuse_shape("num_features", f"expected one number, got shape {list(said.shape)}")
    if said != num_features:
        _refuse_shape("num_features", f"expected the head's {num_features}, got {said}")


def _check_shape(indptr: IndexArray, indices: IndexArray, data: NDArray[Any], limits: Limits) -> None:
    for name, part in (("indptr", indptr), ("indices", indices), ("data", data)):
        if part.ndim != 1:
            _refuse_shape(name, f"expected one axis, got shape {list(part.shape)}")
    if len(data) != len(indices):
        _refuse_shape("data", f"expected one number for each of {len(indices)} indices, got {len(data)}")
    if not len(indptr):
        _refuse_shape("indptr", "expected at least one number, the 0 that it begins with, got none")
    check_rows(len(indptr) - 1, limits, path=_place("indptr"))
    if indptr[0]:
        _refuse_shape("indptr[0]", f"expected 0, got {indptr[0]}")
    # Not their differences, which may be beyond int64.
    falling = indptr[1:] < indptr[:-1]
    if falling.any():
        index = int(np.argmax(falling)) + 1
        _refuse_shape(f"indptr[{index}]", f"expected at least {indptr[index - 1]}, got {indptr[index]}")
    if indptr[-1] != len(indices):
        last = len(indptr) - 1
        _refuse_shape(f"indptr[{last}]", f"expected {len(indices)}, as many as indices, got {indptr[-1]}")


def _check_indices(indices: IndexArray, num_features: int) -> None:
    outside = (indices < 0) | (indices >= num_features)
    if outside.any():
        index = int(np.argmax(outside))
        _refuse_shape(
            f"indices[{index}]", f"expected a feature from 0 to {num_features - 1}, got {indices[index]}"
        )


def _is_sorted(rows: SparseRows) -> bool:
    """Whether each row's features ascend: they may fall only where a row begins."""
    begins = np.zeros(len(rows.indices) + 1, np.bool_)
    begins[rows.indptr] = True
    return bool((begins[1:-1] | (rows.indices[1:] > rows.indices[:-1])).all())


def _sorted(rows: SparseRows, sent: NDArray[Any]) -> SparseRows:
    """Sort each row's features and add up those that it has twice, as they were sent."""
    row_of = np.repeat(np.arange(len(rows)), np.diff(rows.indptr))
    order = np.lexsort((rows.indices, row_of))
    row_of, indices = row_of[order], rows.indices[order]
    first = np.ones(len(indices), np.bool_)
    first[1:] = (indices[1:] != indices[:-1]) | (row_of[1:] != row_of[:-1])
    data = rows.data[order]
    if not first.all():
        with np.errstate(over="ignore", invalid="ignore"):  # looked for below
            sums = np.add.reduceat(sent[order].astype(np.float64), np.flatnonzero(first))
            data = cast("FloatArray", sums.astype(data.dtype))
        if not checks.all_finite(data):
            wrong = int(np.argmin(np.isfinite(data)))
            code = "float32_overflow" if np.isfinite(sums[wrong]) else "non_finite_features"
            message = "expected a finite sum of the numbers that a row has for one feature"
            raise Invalid(code, message, path=_place("data") + f"[{order[first][wrong]}]")
    counts = np.bincount(row_of[first], minlength=len(rows))
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    return SparseRows(indptr, indices[first], data, rows.num_features)


def _place(part: str) -> str:
    return f"{FIELD}.{part}"


def _refuse_shape(part: str, message: str) -> NoReturn:
    raise Invalid("features_shape", message, path=_place(part))
