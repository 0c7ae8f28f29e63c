"""A head's answers against those of its source, row by row.

Knows arrays and how rows are read from a file; knows neither how the source answers nor where the head lies.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.errors import RequestError
from service.export.source import (
    FLOAT32,
    FLOAT64,
    Answers,
    ExportError,
    Float64Array,
    read_bounded,
)
from service.numeric.softmax import softmax
from service.types import FloatArray, FloatType
from service.wire import arrays, csv_rows
from service.wire.limits import Limits

# How far a head may lie from its source: as far as its golden rows may in float32; in float64 the source has other
# orders of summation, and steps of its own that the head has folded away.
TOLERANCES: dict[FloatType, float] = {FLOAT32: 1e-5, FLOAT64: 1e-9}
# Rows are for a comparison; a million of them would only take longer.
LIMITS = Limits(body_bytes=2**30, rows=2**17, elements=2**27, json_depth=8)


class Parity(NamedTuple):
    """How far a head lies from its source; None where the source does not say.

    Parameters
    ----------
    rows : int
        How many were compared.
    logits : float or None
        The largest |Δlogit| by the largest |logit| of its row, or by 1 if that is less.
    probabilities : float or None
        |Δp| where it is most beyond what is allowed, or nearest to that.
    classes : int
        Rows of which the two say another class, though the source's logits (or probabilities) of these two differ by
        more than the tolerance.
    tolerance : float
        Of logits.
    probability_tolerance : float
        Of that row's probabilities: as much as its logits may differ, times the largest of them if that is above 1.
    """

    rows: int
    logits: float | None
    probabilities: float | None
    classes: int
    tolerance: float
    probability_tolerance: float

    @property
    def differences(self) -> tuple[tuple[str, float | None, float], ...]:
        """What is compared, how far it lies from the source, and how far it may."""
        return (
            ("logits, relative", self.logits, self.tolerance),
            ("probabilities", self.probabilities, self.probability_tolerance),
        )

    @property
    def holds(self) -> bool:
        # A difference that is NaN is not within anything.
        return not self.classes and all(d is None or d <= most for _, d, most in self.differences)


class ParityError(ExportError):
    """The head does not answer as its source does."""

    def __init__(self, parity: Parity) -> None:
        self.parity = parity
        told = [
            f"{name.split(',')[0]} differ by {value:.3g}, allowed is {most:.3g}"
            for name, value, most in parity.differences
            if value is not None and not value <= most
        ]
        if parity.classes:
            told.append(f"{parity.classes} of {parity.rows} rows get another class")
        super().__init__(
            f"the head does not answer as its source does: {'; '.join(told)}; nothing was written. "
            "--dtype float64 or a larger --tolerance may be what you want"
        )


def compare(logits: FloatArray, source: Answers, *, tolerance: float, calibrated: bool) -> Parity:
    """Compare a head's logits [rows, num_classes] with what the source says of the same rows."""
    of_head = logits.astype(np.float64)
    expected = source.logits if source.logits is not None else source.probabilities
    logit_difference = probability_difference = None
    allowed = tolerance
    if source.logits is not None:
        scale = np.maximum(1, np.abs(source.logits).max(axis=1, keepdims=True))
        logit_difference = float((np.abs(of_head - source.logits) / scale).max())
    if source.probabilities is not None and calibrated:
        differences = np.abs(softmax(of_head) - source.probabilities).max(axis=1)
        tolerances = tolerance * np.maximum(1, np.abs(of_head).max(axis=1))
        worst = int(np.argmax(differences / tolerances if tolerance else differences))
        probability_difference, allowed = float(differences[worst]), float(tolerances[worst])
    classes = of_head.argmax(axis=1)
    others = classes != source.classes
    if expected is not None:
        rows = np.arange(len(classes))
        others &= expected[rows, source.classes] - expected[rows, classes] > tolerance
    return Parity(
        len(logits), logit_difference, probability_difference, int(others.sum()), tolerance, allowed
    )


def read_rows(path: Path, num_features: int) -> Float64Array:
    """Read rows of features from npy, npz (the array `features`, or the only one) or CSV."""
    body = read_bounded(path, LIMITS.body_bytes)
    try:
        array = _read(path, body)
    except RequestError as error:
        raise ExportError(f"{path}: {error.detail}") from error
    if array.dtype.kind not in "iuf" or array.ndim != 2 or array.shape[1] != num_features or not len(array):
        raise ExportError(
            f"{path}: expected rows of numbers [rows, {num_features}], got {array.dtype} of shape {list(array.shape)}"
        )
    rows = array.astype(np.float64)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise ExportError(f"{path}: [{row}][{column}]: expected a finite number, got {rows[row, column]}")
    return rows


def _read(path: Path, body: bytes) -> NDArray[Any]:
    if path.suffix == ".npy":
        return arrays.read_npy(body, LIMITS, path="features")
    if path.suffix == ".npz":
        found = arrays.read_npz(body, LIMITS)
        name = "features" if "features" in found else next(iter(found), None)
        if name is None or (name != "features" and len(found) > 1):
            raise ExportError(
                f"{path}: expected an array named features, got {', '.join(found)[:200] or 'none'}"
            )
        return found[name]
    if path.suffix == ".csv":
        rows = csv_rows.read(body, LIMITS, path="features", code="features_type")
        if isinstance(rows, list) and len({len(row) for row in rows}) > 1:
            raise ExportError(f"{path}: expected lines of one length")
        array: NDArray[Any] = np.asarray(rows, dtype=np.float64)
        return array
    raise ExportError(f"{path}: expected rows in .npy, .npz or .csv")
