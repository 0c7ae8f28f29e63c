"""`instances` and `inputs`: the JSON forms that TensorFlow Serving, KServe V1, Vertex AI and MLflow share.

Row form is a list with an element for each row, column form a tensor or an object of them; what is answered has
the form of what was asked. Around it each dialect says what is its own: where options stand, which outputs are
meant, and under which key they are answered.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn, TypeAlias

import numpy as np

from service.errors import Invalid
from service.types import Operation, Output
from service.wire.json_reader import name_of, read_object
from service.wire.limits import Limits
from service.wire.options import FIELDS, REQUIRED, unknown_name

Fields: TypeAlias = dict[str, Any]

ROWS, COLUMNS = "instances", "inputs"

# What each operation takes as tensors, the one that a single input stands for first.
TENSORS: dict[Operation, tuple[str, ...]] = {
    "softmax": ("logits",),
    "loss": ("logits", "labels", "sample_weight"),
    "predict": ("features", "labels", "sample_weight"),
}
# Rows come first, classes last, and one head answers.
_NO_OPTIONS = {name for names in TENSORS.values() for name in names} | {"axis", "models", "row_ids"}

# One number for the whole request, so that there is none for a row.
_WITHOUT_ROWS = ("loss", "count", "accuracy")


class Inputs(NamedTuple):
    """The tensors of a request as `fields.assemble` takes them, and whether they came row by row."""

    fields: Fields
    by_rows: bool


def read_body(body: bytes, limits: Limits) -> Fields:
    """Read the JSON object; a single tensor in it may come as an array, as in `json_reader.read_object`."""
    return read_object(body, limits.json_depth, tensor=ROWS if b'"instances"' in body else COLUMNS)


def read(operation: Operation, said: Mapping[str, Any], *, alike: bool = False) -> Inputs:
    """Read the tensors of a request.

    Parameters
    ----------
    operation : "softmax", "loss" or "predict"
    said : mapping
        What `read_body` found: exactly one of "instances" and "inputs" in it is not null. Row form is a list of
        rows of the first of `TENSORS`, or of objects that have the same names; column form is that tensor
        `[..., num_features]` (or num_classes), or an object of tensors by name.
    alike : bool
        Whether a list is in row form under either name.

    Returns
    -------
    Inputs
        In row form each tensor has one element for each row; nothing else is checked of it.

    Raises
    ------
    Invalid
        `missing_field`, `unknown_field`, `option_type` and, in row form, `ragged`.
    """
    keys = [key for key in (ROWS, COLUMNS) if said.get(key) is not None]
    if not keys:
        message = "Missing 'inputs' or 'instances' key: expected rows at instances, or tensors at inputs"
        raise Invalid("missing_field", message)
    if len(keys) > 1:
        raise Invalid("unknown_field", "expected exactly one of inputs and instances, got both", path=COLUMNS)
    (key,) = keys
    value = said[key]
    if key == ROWS or (alike and type(value) is not dict):
        return Inputs(_read_rows(operation, value, key), by_rows=True)
    if type(value) is dict:
        _check_names(operation, value, key)
        return Inputs(dict(value), by_rows=False)
    return Inputs({TENSORS[operation][0]: value}, by_rows=False)


def read_options(operation: Operation, options: object, path: str) -> Fields:
    """Read an object of options; None, where a request has none, is an empty one.

    Raises
    ------
    Invalid
        `option_type` where it is no object, `unknown_field` for what is no option of the operation. What the
        options may be is the business of `fields.assemble`.
    """
    if options is None:
        return {}
    if type(options) is not dict:
        raise Invalid("option_type", f"expected an object, got {name_of(options)}", path=path)
    known = [name for name in FIELDS[operation] if name not in _NO_OPTIONS]
    for name in options:
        if name not in known:
            raise Invalid("unknown_field", unknown_name(name, known), path=f"{path}.{name[:40]}")
    return dict(options)


def check_rows(outputs: Iterable[str]) -> None:
    """Refuse outputs that no row has one of; they can be asked for in column form.

    Raises
    ------
    Invalid
        `unknown_output`.
    """
    for name in outputs:
        if name in _WITHOUT_ROWS:
            message = f"{name} is one number for the whole request: ask for it with inputs, not instances"
            raise Invalid("unknown_output", message, path="outputs")


def tabled(outputs: Mapping[str, Output], *, by_rows: bool) -> Any:
    """Lay out an answer for `json_writer.write`.

    Parameters
    ----------
    outputs : mapping of output name to value
        By rows: arrays or lists with one element for each row.
    by_rows : bool
        The form of the request.

    Returns
    -------
    JSON value
        One output alone is its value; several are an object for each row, or one of all values.
    """
    if len(outputs) == 1:
        (value,) = outputs.values()
        return _number(value)
    if not by_rows:
        return {name: _number(value) for name, value in outputs.items()}
    names = tuple(outputs)
    columns: Any = outputs.values()
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _read_rows(operation: Operation, rows: Any, key: str) -> Fields:
    if isinstance(rows, np.ndarray):  # of numbers: the elements have no objects to look at
        if rows.ndim < 2:
            _refuse_row(rows[0].item(), f"{key}[0]")
        return {TENSORS[operation][0]: rows}
    if type(rows) is not list or not rows:
        got = "an empty list" if rows == [] else name_of(rows)
        raise Invalid("option_type", f"expected a list of at least one row, got {got}", path=key)
    if type(rows[0]) is dict:
        return _read_objects(operation, rows, key)
    if type(rows[0]) is not list:
        _refuse_row(rows[0], f"{key}[0]")
    return {TENSORS[operation][0]: rows}


def _read_objects(operation: Operation, rows: list[Any], key: str) -> Fields:
    names = rows[0].keys()
    _check_names(operation, names, f"{key}[0]")
    for index, row in enumerate(rows):
        if type(row) is not dict or row.keys() != names:
            got = f"one with {', '.join(row)[:80]}" if type(row) is dict else name_of(row)
            message = f"expected an object with exactly {', '.join(names)} as at {key}[0], got {got}"
            raise Invalid("ragged", message, path=f"{key}[{index}]")
    first = TENSORS[operation][0]
    if type(rows[0][first]) is not list:
        _refuse_row(rows[0][first], f"{key}[0].{first}")
    return {name: [row[name] for row in rows] for name in names}


def _check_names(operation: Operation, names: Iterable[str], path: str) -> None:
    known = TENSORS[operation]
    for name in names:
        if name not in known:
            raise Invalid("unknown_field", unknown_name(name, known), path=f"{path}.{name[:40]}")
    for name in REQUIRED[operation]:
        if name not in names:
            raise Invalid("missing_field", "the model needs it", path=f"{path}.{name}")


def _refuse_row(got: object, path: str) -> NoReturn:
    raise Invalid("option_type", f"expected a row, a list of numbers, got {name_of(got)}", path=path)


def _number(value: Output) -> Any:
    """Give an array without axes as numpy's number, which orjson writes."""
    return value[()] if isinstance(value, np.ndarray) and not value.ndim else value
