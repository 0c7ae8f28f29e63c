"""Labelled data: files of features or logits, with a label for each row, and the split into two parts.

Three kinds of files are read, told by their suffix:

    .npz    arrays `features` or `logits` [rows, columns], and `labels` [rows]
    .npy    features or logits alone, mapped into memory rather than read; labels are in another .npy
    .csv    a row a line; a header names the column `label` or `labels`, without one it is the last

Labels are class indices, or names where class names are known. Nothing is ever unpickled.
"""

import csv
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import StartError
from service.numeric import checks
from service.types import IndexArray

SUFFIXES = (".npz", ".npy", ".csv")
LABEL_COLUMNS = {"label", "labels"}
# Of each class every so many-th row, in the order of the data, is held out.
HELD_OUT_EVERY = 5

_INDEX = re.compile("-?[0-9]{1,18}")
_NUMBER = re.compile(
    r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*|\s*[+-]?(nan|inf(inity)?)\s*", re.IGNORECASE
)
# What numpy and zipfile raise on files that are no arrays, or damaged ones.
_DAMAGES = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


class Labelled(NamedTuple):
    """Rows of features or logits [rows, columns] as the file has them, and their labels [rows], numbers or text."""

    values: NDArray[Any]
    labels: NDArray[Any]


def read(path: Path, labels_path: Path | None = None, *, logits: bool = False) -> Labelled:
    """Read labelled rows; `StartError` says in one line what is wrong with a file."""
    if (path.suffix == ".npy") != (labels_path is not None):
        raise StartError("--labels FILE.npy goes with --data FILE.npy, and with nothing else")
    with _told(path):
        if path.suffix == ".npz":
            data = _read_npz(path, "logits" if logits else "features")
        elif path.suffix == ".npy":
            assert labels_path is not None  # noqa: S101 - as checked above
            with _told(labels_path):
                labels = _load(labels_path)
            data = Labelled(np.lib.format.open_memmap(path, mode="r"), labels)
        elif path.suffix == ".csv":
            data = _read_csv(path)
        else:
            raise StartError(f"cannot read {path}: expected a file {' or '.join(SUFFIXES)}")
    _check(data, path)
    return data


def indices_of(
    labels: NDArray[Any], num_classes: int, class_names: Sequence[str] | None = None
) -> IndexArray:
    """Turn labels into class indices.

    Text is a name where all of it is, else an index as it is written in a CSV file.

    Raises
    ------
    Invalid
        `labels_type`, `label_out_of_range`.
    StartError
        Where text is neither.
    """
    if labels.dtype.kind == "U":
        labels = _indices_of_text(labels, class_names)
    return checks.check_index_labels(labels, (len(labels), num_classes), 1, ignore_index=None, squeeze=False)


def held_out(labels: IndexArray) -> NDArray[np.bool_]:
    """Choose every fifth row of each class, in the order of the data: [rows]."""
    chosen = np.zeros(len(labels), np.bool_)
    order = np.argsort(labels, kind="stable")
    firsts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    places = np.arange(len(labels)) - np.repeat(firsts, np.diff(firsts, append=len(labels)))
    chosen[order] = places % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return chosen


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGES as error:
        reason = " ".join(str(error).split())[:200]
        raise StartError(f"cannot read {path}: {reason}") from error


def _check(data: Labelled, path: Path) -> None:
    values, labels = data
    if values.dtype.kind not in "iuf":
        raise StartError(f"{path}: expected numbers, got an array of {values.dtype}")
    if values.ndim != 2 or not values.size:
        raise StartError(f"{path}: expected rows [rows, columns], got shape {list(values.shape)}")
    if labels.shape != values.shape[:1]:
        raise StartError(
            f"{path}: expected a label for each of {len(values)} rows, got labels of shape {list(labels.shape)}"
        )


def _load(path: Path) -> NDArray[Any]:
    with path.open("rb") as file:  # numpy leaves open what it opened and cannot read
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _read_npz(path: Path, name: str) -> Labelled:
    with path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise StartError(f"cannot read {path}: expected several arrays, as numpy.savez writes them")
        for needed in (name, "labels"):
            if needed not in arrays:
                hint = "; --logits reads logits" if needed == "features" and "logits" in arrays else ""
                listed = ", ".join(arrays.files)[:100] or "none"
                raise StartError(f"{path}: expected an array {needed}, got {listed}{hint}")
        return Labelled(arrays[name], arrays["labels"])


def _read_csv(path: Path) -> Labelled:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = (cells for cells in csv.reader(file) if cells)
        first, second = next(lines, None), next(lines, None)
    if first is None:
        raise StartError(f"{path}: expected a line for each row, got none")
    named = [column for column, cell in enumerate(first) if cell.strip().lower() in LABEL_COLUMNS]
    has_header = bool(named) or not all(map(_NUMBER.fullmatch, first[:-1]))
    if has_header and (len(named) != 1 or second is None):
        raise StartError(f"{path}: expected rows below a header with one column called label")
    at = named[0] if has_header else len(first) - 1
    if len(first) < 2:
        raise StartError(f"{path}: expected a label beside the other columns, got one column")
    form: dict[str, Any] = {
        "delimiter": ",", "skiprows": int(has_header), "quotechar": '"', "comments": None,
    }  # fmt: skip
    columns = [column for column in range(len(first)) if column != at]
    with path.open(encoding="utf-8-sig") as file:
        values = np.loadtxt(filter(str.strip, file), np.float64, usecols=columns, ndmin=2, **form)
        file.seek(0)
        labels = np.loadtxt(filter(str.strip, file), np.str_, usecols=at, ndmin=1, **form)
    return Labelled(values, np.char.strip(labels))


def _indices_of_text(labels: NDArray[Any], class_names: Sequence[str] | None) -> IndexArray:
    different, inverse = np.unique(labels, return_inverse=True)
    texts = different.tolist()
    index_of = {name: index for index, name in enumerate(class_names or ())}
    if all(text in index_of for text in texts):
        indices = [index_of[text] for text in texts]
    elif all(map(_INDEX.fullmatch, texts)):
        indices = [int(text) for text in texts]
    else:
        strange = next(text for text in texts if text not in index_of and not _INDEX.fullmatch(text))
        known = f"one of {len(index_of)} class names or " if index_of else ""
        raise StartError(f"labels: expected {known}the index of a class, got {strange[:40]!r}")
    return np.array(indices, np.int64)[inverse]
