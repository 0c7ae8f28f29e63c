"""The whole way, once: a source becomes a head that is opened, held against its source, and put in its place."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from service.errors import LogitserveError
from service.export.affine import product
from service.export.parity import TOLERANCES, Parity, ParityError, compare
from service.export.source import (
    ExportError,
    Float64Array,
    Graph,
    Source,
    check_size,
    rounded_to,
    sha256_of,
)
from service.heads.graphs import Linear, build_linear
from service.heads.handle import GOLDEN_TOLERANCE, Head
from service.heads.repository import Repository
from service.heads.writing import choose_version, staged
from service.types import FloatType

INPUT, OUTPUT = "features", "logits"
# Enough to meet the classes of a small head, few enough to read.
GOLDEN_ROWS = 12
DRAWN_ROWS = 256
# A golden row whose two best logits lie nearer than this could change its class by rounding alone.
GOLDEN_MARGIN = 1e-3
# Rows with fewer entries than one in so many are written without their zeros.
SPARSE_SHARE = 8
# Sums are off by some roundings of what is summed, the cancelled part of it too.
ROUNDINGS = 4
MOST_HALVINGS = 64
# Places after the point of golden logits below 10: a hundredth of what the self-test allows, and beyond what the
# order of summation changes.
DECIMALS = {"float32": 8, "float64": 13}
UNCALIBRATED = "uncalibrated: softmax of scores that were not fitted to be logits"


class Exported(NamedTuple):
    """A head in its place, and how it compares with its source."""

    folder: Path
    model: str
    version: int
    source: Source
    head: Head
    parity: Parity


def export(
    source: Source,
    to: Path | str,
    *,
    model: str,
    version: int | None = None,
    dtype: FloatType | None = None,
    class_names: tuple[str, ...] | None = None,
    rows: Float64Array | None = None,
    tolerance: float | None = None,
    shown: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Exported:
    """Write a source as version of a model; on any error nothing is left behind.

    Parameters
    ----------
    source : Source
    to : Path or str
        The folder of all models.
    model : str
    version : int or None
        Default the next one.
    dtype : float32 or float64, or None
        What the head computes in; default what the source does.
    class_names : tuple of str or None
        Default the source's own.
    rows : float64 array [rows, num_features] or None
        What head and source are compared on; default some that are drawn. They are not written anywhere.
    tolerance : float or None
        The largest difference of a probability, and of a logit relative to max(1, |logit|); default by dtype.
    shown : mapping of str to Any, or None
        The keys `examples` and `image` of head.json, as JSON values.
    force : bool
        Whether a version that is there is replaced.

    Raises
    ------
    ModelError
        Where `shown` breaks the rules of head.json.
    ExportError
        Also `ParityError`, where the head does not answer as its source does.
    StartError
        Where there is no place to write to.
    """
    location = Path(to)
    version = choose_version(location, model, version, force=force)
    dtype = source.dtype if dtype is None else np.dtype(dtype)
    names = _class_names(source, class_names)
    drawn = source.region.draw(DRAWN_ROWS, source.num_features)
    model_bytes, golden = _build(source, dtype, drawn)
    description = {**_describe(source, dtype, names, golden), **(shown or {})}
    with staged(location, model, version, model_bytes, description) as stage:
        head = _open(stage, model)
        asked = drawn if rows is None else rows
        parity = _compare(head, source, asked, TOLERANCES[dtype] if tolerance is None else tolerance)
        if not parity.holds:
            raise ParityError(parity)
    return Exported(location / model / str(version), model, version, source, head, parity)


class _Golden(NamedTuple):
    features: Float64Array
    logits: Float64Array


def _class_names(source: Source, asked: tuple[str, ...] | None) -> list[str] | None:
    names = source.class_names if asked is None else asked
    if names is None:
        return None
    if len(names) != source.num_classes or len(set(names)) != len(names) or not all(names):
        given = "class_names of the source" if asked is None else "--class-names"
        raise ExportError(
            f"{given}: expected {source.num_classes} distinct names, got {len(set(filter(None, names)))}"
        )
    return list(names)


def _build(source: Source, dtype: FloatType, drawn: Float64Array) -> tuple[bytes, _Golden]:
    if isinstance(source.head, Graph):
        if dtype != source.dtype:
            raise ExportError(f"--dtype: the graph computes in {source.dtype}, which cannot be changed here")
        return source.head.model, _golden(drawn, source.head.run(drawn).astype(np.float64), dtype)
    check_size(source.head.weights.size * dtype.itemsize, f"weights in {dtype}")
    linear = Linear(*(rounded_to(array, dtype) for array in source.head))
    if not all(np.isfinite(array).all() for array in linear):
        raise ExportError(
            f"weights: expected numbers that {dtype} can hold, got larger ones; try --dtype float64"
        )
    rounded = Linear(*(array.astype(np.float64) for array in linear))
    tame = _tame(drawn, rounded, dtype)
    features = _short(tame[_choose(tame, tame @ rounded.weights + rounded.bias)], dtype)
    logits = product(features, rounded.weights) + rounded.bias
    return build_linear(linear, input_name=INPUT, output_name=OUTPUT), _Golden(
        features, _round(logits, dtype)
    )


def _tame(drawn: Float64Array, linear: Linear, dtype: FloatType) -> Float64Array:
    """Keep rows whose logits any order of summation gives within the self-test; of smaller features if need be."""
    allowed = GOLDEN_TOLERANCE[dtype] / ROUNDINGS / float(np.finfo(dtype).eps)
    for _ in range(MOST_HALVINGS):
        summed = np.abs(drawn) @ np.abs(linear.weights) + np.abs(linear.bias)
        logits = drawn @ linear.weights + linear.bias
        tame = (summed <= allowed * np.maximum(1, np.abs(logits))).all(axis=1)
        if np.count_nonzero(tame) >= min(GOLDEN_ROWS, len(drawn)):
            return drawn[tame]
        drawn = drawn / 2
    return drawn


def _golden(drawn: Float64Array, logits: Float64Array, dtype: FloatType) -> _Golden:
    """Golden rows of a graph are what it says itself: there are no weights to compute them from."""
    rows = _choose(drawn, logits)
    return _Golden(drawn[rows], _round(logits[rows], dtype))


def _choose(drawn: Float64Array, logits: Float64Array) -> list[int]:
    """Choose rows of as many classes as there are, none of them near a tie if that can be had."""
    best = np.sort(logits, axis=1)
    clear = np.ones(len(drawn), bool)
    if logits.shape[1] > 1:
        clear = best[:, -1] - best[:, -2] > GOLDEN_MARGIN * np.maximum(1, np.abs(best[:, -1]))
    rows = np.flatnonzero(clear) if clear.any() else np.arange(len(drawn))
    _, first_of_class = np.unique(logits[rows].argmax(axis=1), return_index=True)
    order = dict.fromkeys([*np.sort(first_of_class).tolist(), *range(len(rows))])
    return [int(rows[index]) for index in list(order)[:GOLDEN_ROWS]]


def _short(features: Float64Array, dtype: FloatType) -> Float64Array:
    """Features in few digits, which head.json repeats: exact in the head's type once more."""
    rounded = np.array([[float(f"{value:.4g}") for value in row] for row in features.tolist()])
    return rounded_to(rounded, dtype).astype(np.float64)


def _round(logits: Float64Array, dtype: FloatType) -> Float64Array:
    digits = np.floor(np.log10(np.maximum(1, np.abs(logits)))).astype(int)
    places = DECIMALS[str(dtype)] - digits
    rounded = [
        [round(value, place) for value, place in zip(*pair, strict=True)]
        for pair in zip(logits.tolist(), places.tolist(), strict=True)
    ]
    return np.array(rounded, np.float64)


def _describe(
    source: Source, dtype: FloatType, class_names: list[str] | None, golden: _Golden
) -> dict[str, Any]:
    """What head.json says, but for its digest."""
    graph = source.head if isinstance(source.head, Graph) else None
    return {
        "class_names": class_names,
        "input": graph.input_name if graph else INPUT,
        "output": graph.output_name if graph else OUTPUT,
        "dtype": str(dtype),
        "calibration": None,
        "decision": None,
        "golden": {
            "features": _rows_of(golden.features, dtype),
            "logits": golden.logits.tolist(),
        },
        "source": dict(_about(source)),
    }


def _rows_of(features: Float64Array, dtype: FloatType) -> list[list[float]] | dict[str, Any]:
    """Golden features as head.json has them: without their zeros where these are most of them."""
    entries = features != 0
    if np.count_nonzero(entries) * SPARSE_SHARE > features.size:
        return [[_number(value, dtype) for value in row] for row in features]
    return {
        "indptr": [0, *np.cumsum(np.count_nonzero(entries, axis=1)).tolist()],
        "indices": np.nonzero(entries)[1].tolist(),
        "data": [_number(value, dtype) for value in features[entries]],
        "num_features": features.shape[1],
    }


def _number(value: np.float64, dtype: FloatType) -> float:
    """The shortest decimal number that is this value in the head's type."""
    return float(str(dtype.type(value)))


def _about(source: Source) -> Iterator[tuple[str, str]]:
    yield "format", source.format
    if source.file is not None:
        yield "file", source.file.name
        yield "sha256", sha256_of(source.file)
    if source.notes:
        yield "notes", "; ".join(source.notes)
    if not source.calibrated:
        yield "probabilities", UNCALIBRATED


def _open(stage: Path, model: str) -> Head:
    """Open the head as `serve` does, golden rows included."""
    repository = Repository(stage, provider="cpu")
    try:
        repository.load()
        return repository.head(repository.info(model, None))
    except LogitserveError as error:
        hint = "; try --dtype float64" if "self-test failed" in str(error) else ""
        raise ExportError(f"the head cannot be served: {error}{hint}") from error
    finally:
        repository.close()


def _compare(head: Head, source: Source, rows: Float64Array, tolerance: float) -> Parity:
    try:
        logits = head.run(rounded_to(rows, head.info.dtype))
    except LogitserveError as error:
        raise ExportError(f"the head does not run on the rows: {error}") from error
    return compare(logits, source.answer(rows), tolerance=tolerance, calibrated=source.calibrated)
