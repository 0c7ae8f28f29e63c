"""The table of fields, and the options among them: names, types, values.

An option is every field that is no tensor. What is known here is what each field may be by itself; what the
fields mean together is known to `fields`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import orjson

from service.errors import Invalid
from service.numeric import checks
from service.types import Operation, Reduction
from service.wire.json_reader import name_of

INT64 = np.iinfo(np.int64)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one request, each with its default; None is what was not said."""

    axis: int = -1
    dtype: Literal["float32", "float64"] | None = None
    temperature: float = 1.0
    top_k: int | None = None
    class_names: tuple[str, ...] | None = None
    outputs: tuple[str, ...] | None = None
    label_format: Literal["auto", "index", "dense"] = "auto"
    reduction: Reduction = "mean"
    label_smoothing: float = 0.0
    ignore_index: int | None = None
    broadcast_labels: bool = False
    validate_labels: bool = False
    non_finite: Literal["error", "string"] = "error"
    model: str | None = None
    models: tuple[str, ...] | None = None
    version: str | None = None
    top_contributions: int = 10
    decision: Mapping[str, Any] | None = None
    calibration: Literal["model", "none"] = "model"


class Kind(NamedTuple):
    """What a field holds: how that is called, how it is read from JSON, and how from a query string."""

    name: str
    read: Callable[[Any], Any]
    parse: Callable[[Sequence[str]], Any]


class _Mismatch(Exception):
    """A value that is not of its field's kind."""


def _integer(value: Any) -> int:
    if type(value) is not int or not INT64.min <= value <= INT64.max:
        raise _Mismatch
    return value


def _number(value: Any) -> float:
    if type(value) is not int and type(value) is not float:
        raise _Mismatch
    return float(value)


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise _Mismatch
    return value


def _string(value: Any) -> str:
    if type(value) is not str:
        raise _Mismatch
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, np.ndarray) and value.dtype.kind == "U" and value.ndim == 1:
        value = value.tolist()
    if type(value) is not list or not set(map(type, value)) <= {str}:
        raise _Mismatch
    return tuple(value)


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise _Mismatch
    return value


def _row_ids(value: Any) -> Any:
    if value is not True and type(value) not in {list, np.ndarray}:
        raise _Mismatch
    return value


def _array(value: Any) -> Any:
    if type(value) not in {list, int, float, np.ndarray}:
        raise _Mismatch
    return value


def _single(texts: Sequence[str]) -> str:
    if len(texts) != 1:
        raise _Mismatch
    return texts[0]


def _parse_integer(texts: Sequence[str]) -> int:
    text = _single(texts)
    if not text.removeprefix("-").isdecimal() or len(text) > len(str(INT64.min)):
        raise _Mismatch
    return int(text)


def _parse_number(texts: Sequence[str]) -> float:
    try:
        return float(_single(texts))
    except ValueError:
        raise _Mismatch from None


def _parse_boolean(texts: Sequence[str]) -> bool:
    try:
        return {"true": True, "false": False}[_single(texts)]
    except KeyError:
        raise _Mismatch from None


def _parse_strings(texts: Sequence[str]) -> list[str]:
    return [name for text in texts for name in text.split(",")]


def _parse_object(texts: Sequence[str]) -> Any:
    try:
        return orjson.loads(_single(texts))
    except orjson.JSONDecodeError:
        raise _Mismatch from None


def _parse_row_ids(texts: Sequence[str]) -> Any:
    return True if texts == ["true"] else _parse_strings(texts)


def _parse_array(_texts: Sequence[str]) -> NoReturn:
    raise _Mismatch


INTEGER = Kind("an integer", _integer, _parse_integer)
NUMBER = Kind("a number", _number, _parse_number)
BOOLEAN = Kind("true or false", _boolean, _parse_boolean)
STRING = Kind("a string", _string, _single)
STRINGS = Kind("a list of strings", _strings, _parse_strings)
OBJECT = Kind("an object", _object, _parse_object)
ARRAY = Kind("an array in the body", _array, _parse_array)
ROW_IDS = Kind("true or a list of strings", _row_ids, _parse_row_ids)
# Read by `fields`, whose errors name the place in the tensor.
TENSOR = Kind(ARRAY.name, lambda value: value, _parse_array)

_SHARED = {
    "axis": INTEGER,
    "dtype": STRING,
    "temperature": NUMBER,
    "top_k": INTEGER,
    "class_names": STRINGS,
    "outputs": STRINGS,
}
_LOSS = _SHARED | {
    "labels": TENSOR,
    "label_format": STRING,
    "reduction": STRING,
    "label_smoothing": NUMBER,
    "class_weight": ARRAY,
    "sample_weight": ARRAY,
    "ignore_index": INTEGER,
    "broadcast_labels": BOOLEAN,
    "validate_labels": BOOLEAN,
    "non_finite": STRING,
}
_PREDICT = {
    "features": TENSOR,
    "model": STRING,
    "models": STRINGS,
    "version": STRING,
    "calibration": STRING,
    "top_contributions": INTEGER,
    "decision": OBJECT,
    "row_ids": ROW_IDS,
}

FIELDS: dict[Operation, dict[str, Kind]] = {
    "softmax": {"logits": TENSOR} | _SHARED,
    "loss": {"logits": TENSOR} | _LOSS,
    "predict": _PREDICT | _LOSS,
}
REQUIRED: dict[Operation, tuple[str, ...]] = {
    "softmax": ("logits",),
    "loss": ("logits", "labels"),
    "predict": ("features",),
}
CHOICES = {
    "dtype": ("float32", "float64"),
    "label_format": ("auto", "index", "dense"),
    "non_finite": ("error", "string"),
    "calibration": ("model", "none"),
}

_DEFAULTS = Options()
TENSORS = frozenset({"logits", "features", "labels"})
_NO_OPTIONS = TENSORS | {"class_weight", "sample_weight", "row_ids"}


def check_names(
    operation: Operation, names: Collection[str], named: tuple[str, str | None] | None = None
) -> None:
    """Refuse unknown fields first, missing ones next; `named` is what the path says of model and version.

    Raises
    ------
    Invalid
        `unknown_field`, `missing_field`.
    """
    known = FIELDS[operation]
    if named is not None:
        for name, in_path in zip(("model", "models", "version"), (named[0], *named), strict=True):
            if in_path is not None and name in names:
                raise Invalid("unknown_field", "expected it once, and the path says it already", path=name)
    for name in names:
        if name not in known:
            raise Invalid("unknown_field", unknown_name(name, tuple(known)), path=name[:40])
    for name in REQUIRED[operation]:
        if name not in names:
            raise Invalid("missing_field", f"/{operation} needs it", path=name)


def unknown_name(name: str, known: Sequence[str]) -> str:
    """Say which names are known, and which of them was probably meant."""
    near = get_close_matches(name[:40], known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"expected one of {', '.join(known)}; got {name[:40]!r}{hint}"


def parse_query(operation: Operation, query: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Read options from a query string; lists are comma-separated, or said several times.

    Raises
    ------
    Invalid
        `option_type`. Names are not checked: an unknown one keeps its text.
    """
    texts: dict[str, list[str]] = {}
    for name, text in query:
        texts.setdefault(name, []).append(text)
    known = FIELDS[operation]
    return {name: _parsed(name, said, known[name]) if name in known else said for name, said in texts.items()}


def _parsed(name: str, said: list[str], kind: Kind) -> Any:
    try:
        return kind.parse(said)
    except _Mismatch:
        got = repr(said[0][:40]) if len(said) == 1 else f"{len(said)} values"
        raise Invalid("option_type", f"expected {kind.name}, got {got}", path=name) from None


def read_options(operation: Operation, fields: Mapping[str, Any]) -> Options:
    """Read the options among fields whose names are checked: all types first, then all values.

    Raises
    ------
    Invalid
        `option_type`, `unknown_option_value`, `unknown_reduction`, `temperature_range`,
        `label_smoothing_range`, `axis_range` (predict has its classes last), `ignore_index_with_dense`.
    """
    if TENSORS.issuperset(fields):
        return _DEFAULTS
    known = FIELDS[operation]
    read: dict[str, Any] = {}
    for name, value in fields.items():
        try:
            read[name] = known[name].read(value)
        except _Mismatch:
            message = f"expected {known[name].name}, got {name_of(value)}"
            raise Invalid("option_type", message, path=name) from None
    said = {name: value for name, value in read.items() if name not in _NO_OPTIONS}
    if not said:
        return _DEFAULTS
    options = Options(**said)
    _check_values(operation, options)
    # A temperature stands in place of the head's calibration.
    return replace(options, calibration="none") if "temperature" in said else options


def _check_values(operation: Operation, options: Options) -> None:
    for name, choices in CHOICES.items():
        value = getattr(options, name)
        if value is not None and value not in choices:
            message = f"expected one of {', '.join(choices)}; got {value[:40]!r}"
            raise Invalid("unknown_option_value", message, path=name)
    checks.check_reduction(options.reduction)
    checks.check_temperature(options.temperature)
    checks.check_label_smoothing(options.label_smoothing)
    if options.label_format == "dense":
        checks.check_ignore_index(options.ignore_index, "dense")
    if options.top_contributions < 1:
        message = f"expected at least 1, got {options.top_contributions}"
        raise Invalid("unknown_option_value", message, path="top_contributions")
    if options.models is not None:
        _check_models(options.models, options.model)
    if operation == "predict" and options.axis != -1:
        message = f"expected -1, since the classes of a head come last, got {options.axis}"
        raise Invalid("axis_range", message, path="axis")


def _check_models(models: tuple[str, ...], model: str | None) -> None:
    if model is not None:
        raise Invalid("unknown_field", "expected model or models, got both", path="model")
    if not models:
        message = "expected at least one name, got an empty list"
        raise Invalid("unknown_option_value", message, path="models")
    if len(set(models)) < len(models):
        index = next(index for index, name in enumerate(models) if name in models[:index])
        message = f"expected each name once, got {models[index][:40]!r} again"
        raise Invalid("unknown_option_value", message, path=f"models[{index}]")
