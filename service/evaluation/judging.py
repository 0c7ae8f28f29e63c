"""A head run over its features, and the scores of logits: both in blocks of rows, so that data need not fit into memory.

Logits are kept in a file that has no name and goes with the array.
"""

import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid, StartError
from service.heads.engine import NonFiniteLogits, Provider
from service.heads.handle import Files, Head, open_head, read_files
from service.heads.storage import Storage, StoredVersion
from service.numeric import calibration, checks, quality, scores, softmax
from service.types import Calibration, FloatArray, FloatType, IndexArray

# So many numbers are worked on at a time: 32 MB of float64, of which several copies live at once.
BLOCK_ELEMENTS = 1 << 22

# Hears how many rows are done.
Watch = Callable[[int], None]


class Opened(NamedTuple):
    """One version: where it lies, its files and the head made of them."""

    stored: StoredVersion
    files: Files
    head: Head


def open_version(
    storage: Storage, model: str | None, version: int | None, *, provider: Provider = "auto", threads: int = 1
) -> Opened:
    """Open one version: by default of the only model the newest. Errors are those of `repository` and `handle`."""
    found = storage.versions()
    models = sorted({stored.model for stored in found})
    if model is None and len(models) > 1:
        raise StartError(f"which model? name one with --model: {', '.join(models)[:200]}")
    name = models[0] if model is None else model
    versions = {stored.version: stored for stored in found if stored.model == name}
    if not versions:
        raise StartError(f"no model {name[:40]!r}: there are {', '.join(models)[:200]}")
    number = max(versions) if version is None else version
    if number not in versions:
        raise StartError(f"no version {number} of {name}: there are {', '.join(map(str, versions))[:200]}")
    storage.fetch(versions[number])
    files = read_files(versions[number])
    return Opened(
        versions[number], files, open_head(versions[number], files, provider=provider, threads=threads)
    )


def logits_of(head: Head, features: NDArray[Any], watch: Watch = lambda _rows: None) -> FloatArray:
    """Run a head over rows of features.

    Parameters
    ----------
    head : Head
    features : array [rows, num_features]
        Numbers, perhaps mapped into memory.
    watch : callable

    Returns
    -------
    float array [rows, num_classes]
        Of the head's dtype.

    Raises
    ------
    Invalid
        `features_shape`, `non_finite_features`, `float32_overflow` or `non_finite_logits`, with the place.
    """
    info = head.info
    if features.shape[1] != info.num_features:
        message = f"expected {info.num_features} features, got {features.shape[1]}"
        raise Invalid("features_shape", message, path="features")
    logits = _unnamed((len(features), info.num_classes), info.dtype)
    for rows in _blocks(len(features), max(info.num_features, info.num_classes)):
        try:
            logits[rows] = head.run(checks.round_features(np.asarray(features[rows]), info.dtype))
        except NonFiniteLogits as error:
            raise NonFiniteLogits(rows.start + error.row, (len(features),)) from None
        except Invalid:
            checks.round_features(np.asarray(features[: rows.stop]), info.dtype)  # counts rows from the first
            raise
        watch(rows.stop)
    return logits


def logits_as_they_are(values: NDArray[Any]) -> FloatArray:
    """Check logits of a file, of any numeric type; float32 and float64 stay what they are."""
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32 if values.dtype == np.float16 else np.float64)
    for rows in _blocks(*values.shape):
        try:
            checks.check_logits(cast("FloatArray", values[rows]), 1)
        except Invalid:
            checks.check_logits(cast("FloatArray", values[: rows.stop]), 1)  # counts rows from the first
            raise
    return cast("FloatArray", values)


def judge(
    logits: FloatArray,
    labels: IndexArray,
    by: Calibration | None = None,
    *,
    chosen: NDArray[np.bool_] | None = None,
    num_bins: int = scores.DEFAULT_BINS,
    watch: Watch = lambda _rows: None,
) -> scores.Scores:
    """Score labelled logits, calibrated where a calibration is given.

    Parameters
    ----------
    logits : float array [rows, num_classes]
    labels : int64 array [rows]
    by : Calibration, optional
    chosen : bool array [rows], optional
        Which rows are scored; all where it is absent, one at least.
    num_bins : int
    watch : callable

    Raises
    ------
    Invalid
        `infinite_loss` where a label is masked.
    """

    def sums() -> Iterator[scores.Sums]:
        for rows in _blocks(*logits.shape):
            mask = slice(None) if chosen is None else chosen[rows]
            block = np.asarray(logits[rows], np.float64)[mask]
            if len(block):
                calibrated, temperature = calibration.apply(block, by)
                summed = scores.sum_up(
                    softmax.normalise(calibrated, temperature=temperature), labels[rows][mask], num_bins
                )
                if not np.isfinite(summed.loss):
                    raise Invalid(
                        "infinite_loss", "expected finite losses, but a label is masked", path="labels"
                    )
                yield summed
            watch(rows.stop)

    return scores.Scores(sums())


def reference_of(
    logits: FloatArray, by: Calibration | None, watch: Watch = lambda _rows: None
) -> dict[str, Any]:
    """Count logits [rows, num_classes] as the traffic that a head is made for: `reference` of its head.json."""
    layout = quality.layout_of(logits.shape[1])
    total = np.zeros(layout.size)
    for rows in _blocks(*logits.shape):
        calibrated, temperature = calibration.apply(np.asarray(logits[rows], np.float64), by)
        total += quality.observed(layout, cast("FloatArray", calibrated / temperature))
        watch(rows.stop)
    parts = ("predicted", "confidence", "margin", "entropy", "energy")
    return {
        "rows": len(logits),
        **{name: layout.of(total, name).astype(np.int64).tolist() for name in parts},
    }


def _blocks(num_rows: int, width: int) -> Iterator[slice]:
    step = max(1, BLOCK_ELEMENTS // width)
    for start in range(0, num_rows, step):
        yield slice(start, min(start + step, num_rows))


def _unnamed(shape: tuple[int, int], dtype: FloatType) -> FloatArray:
    """An array in a file that nobody else sees; what was written last stays in memory where there is room."""
    with tempfile.TemporaryFile(prefix="logitserve-") as file:  # the map keeps it open
        return cast("FloatArray", np.memmap(file, dtype, "w+", shape=shape))
