"""safetensors: a file, or a folder as Hugging Face saves a model, with its config.json.

The format is read here, without a library: eight bytes that say how long a JSON object is, the object, and the
numbers. Only the arrays that are chosen are read, so that a head of a few kilobytes costs no more beside a backbone
of gigabytes.
"""

import math
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeGuard

import numpy as np

from service.export.source import (
    CONFIG_LIMIT_BYTES,
    ExportError,
    Options,
    Source,
    answer_linearly,
    listed,
    read_bounded,
    read_json,
)
from service.export.tensors import Shelf, as_float, find_linear, widen_bfloat16
from service.types import FloatArray

UNDERSTOOD = frozenset({"weight", "bias", "transpose", "as_scores"})
# The format's own bound on its JSON object.
HEADER_LIMIT_BYTES = 100_000_000
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"
# What Hugging Face's models are trained for, where softmax is not what makes probabilities of their logits.
NOT_SOFTMAX = {
    "multi_label_classification": "each class has a sigmoid of its own",
    "regression": "no classes",
}


class Entry(NamedTuple):
    """Where an array lies: counted from the beginning of its file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


def read(path: Path, options: Options) -> Source:
    """Read a file or a folder; weights lie as [num_classes, num_features], as torch keeps a Linear."""
    config: dict[str, Any] = {}
    if path.is_dir():
        if (path / CONFIG_FILE).is_file():
            config = read_json(read_bounded(path / CONFIG_FILE, CONFIG_LIMIT_BYTES), path / CONFIG_FILE)
        entries = _read_folder(path)
    else:
        entries = _read_header(path)
    _check_problem(config, options)
    shelf = Shelf(
        {name: entry.shape for name, entry in entries.items()},
        lambda name: _read_array(name, entries[name]),
        classes_first=True,
    )
    linear, dtype, notes = find_linear(shelf, options)
    used = {entry.path for name, entry in entries.items() if f"weights {name}" in notes}
    return Source(
        "safetensors",
        linear,
        dtype,
        answer_linearly(linear),
        file=next(iter(used), path if path.is_file() else None),
        class_names=_class_names(config, len(linear.bias)),
        notes=notes,
        calibrated=config.get("problem_type") != "multi_label_classification",
    )


def _read_folder(folder: Path) -> dict[str, Entry]:
    index = folder / INDEX_FILE
    if not index.is_file():
        if not (folder / WEIGHTS_FILE).is_file():
            raise ExportError(f"{folder}: expected {WEIGHTS_FILE} or {INDEX_FILE} in it, got neither")
        return _read_header(folder / WEIGHTS_FILE)
    parts = read_json(read_bounded(index, CONFIG_LIMIT_BYTES), index).get("weight_map")
    if not isinstance(parts, dict):
        raise ExportError(f"{index}: expected an object weight_map")
    names = sorted({str(part) for part in parts.values()})
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ExportError(f"{index}: expected files beside it, got {name[:80]!r}")
    return {key: entry for name in names for key, entry in _read_header(folder / name).items()}


def _read_header(path: Path) -> dict[str, Entry]:
    try:
        with path.open("rb") as file:
            return _entries(path, file)
    except OSError as error:
        raise ExportError(f"cannot read {path}: {error.strerror}") from error


def _entries(path: Path, file: BinaryIO) -> dict[str, Entry]:
    size_bytes = path.stat().st_size
    length = int.from_bytes(file.read(8), "little")
    if size_bytes < 8 or length > min(HEADER_LIMIT_BYTES, size_bytes - 8):
        raise ExportError(f"{path}: expected a header of at most {HEADER_LIMIT_BYTES} bytes, all of it there")
    header = read_json(file.read(length), path)
    header.pop("__metadata__", None)
    return {name: _entry(path, name, described, 8 + length, size_bytes) for name, described in header.items()}


def _entry(path: Path, name: str, described: Any, start: int, size_bytes: int) -> Entry:
    if not isinstance(described, dict):
        raise ExportError(f"{path}: {name[:80]}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = (described.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and _are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise ExportError(f"{path}: {name[:80]}: expected dtype, shape and data_offsets")
    begin, end = offsets
    if not begin <= end <= size_bytes - start:
        raise ExportError(f"{path}: {name[:80]}: expected data within the file, got bytes {begin} to {end}")
    return Entry(path, dtype, tuple(shape), start + begin, end - begin)


def _are_counts(value: Any) -> TypeGuard[list[int]]:
    # A bool is an int to Python; 32 axes are more than any array of a model has.
    return (
        isinstance(value, list) and len(value) <= 32 and all(type(v) is int and 0 <= v < 2**63 for v in value)
    )


def _read_array(name: str, entry: Entry) -> FloatArray:
    if entry.dtype not in DTYPES:
        raise ExportError(f"{name[:80]}: expected one of {', '.join(DTYPES)}, got {entry.dtype[:20]!r}")
    dtype = np.dtype(DTYPES[entry.dtype])
    expected_bytes = math.prod(entry.shape) * dtype.itemsize
    if entry.size_bytes != expected_bytes:
        raise ExportError(f"{name[:80]}: expected {expected_bytes} bytes of data, got {entry.size_bytes}")
    with entry.path.open("rb") as file:
        file.seek(entry.offset)
        array = np.frombuffer(file.read(expected_bytes), dtype).reshape(entry.shape)
    return widen_bfloat16(array) if entry.dtype == "BF16" else as_float(array, name)


def _check_problem(config: dict[str, Any], options: Options) -> None:
    problem = config.get("problem_type")
    if problem == "regression" or (problem in NOT_SOFTMAX and not options.as_scores):
        hint = "; --as-scores serves its scores all the same" if problem != "regression" else ""
        raise ExportError(
            f"{CONFIG_FILE}: problem_type: expected single_label_classification, got {problem}: "
            f"{NOT_SOFTMAX[problem]}{hint}"
        )


def _class_names(config: dict[str, Any], num_classes: int) -> tuple[str, ...] | None:
    names = config.get("id2label")
    if names is None:
        return None
    if not isinstance(names, dict) or set(names) != {str(index) for index in range(num_classes)}:
        got = listed(list(map(str, names))) if isinstance(names, dict) else "no object"
        raise ExportError(f"{CONFIG_FILE}: id2label: expected the keys 0 to {num_classes - 1}, got {got}")
    return tuple(str(names[str(index)]) for index in range(num_classes))
