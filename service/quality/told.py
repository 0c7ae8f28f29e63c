"""The counts as they are read: by people and programs as JSON, by Prometheus as series."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import add
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from service import instruments
from service.instruments import SUM
from service.instruments import Labels as Series
from service.numeric import quality
from service.numeric.kernel import Float64Array
from service.numeric.quality import Layout, layout_of
from service.numeric.scores import DEFAULT_BINS
from service.quality.online import Counts, Key

Values: TypeAlias = dict[str, dict[Series, float]]
# The distribution that traffic is compared with, of one version; None where it has none.
Reference: TypeAlias = Callable[[Key], Float64Array | None]

# What Prometheus keeps for ever is bounded; JSON tells more.
MOST_SERIES_CLASSES = 100
MOST_SERIES_CONFUSED = 32
# Of fewer rows a share says more of chance than of drift.
LEAST_ROWS_OF_DRIFT = 100
# Of wider heads the most frequent kinds only; of the others all, so that a confusion matrix can be drawn.
MOST_MISTAKES = 100


def values(life: Counts, window: Counts, reference: Reference) -> Values:
    """Write the counts since start, and the drift of the window, as series of `instruments.QUALITY`."""
    told: Values = {instrument.name: {} for instrument in instruments.QUALITY}
    for key, vector in life.items():
        layout, labels = layout_of(key.num_classes), (key.model, key.version)
        for instrument, series in _series(layout, vector):
            for more, value in series.items():
                place = (*labels, *more)
                told[instrument.name][place] = told[instrument.name].get(place, 0.0) + value
    for key, vector in window.items():
        for of, psi, ks in drifted(key, vector, reference):
            told[instruments.DRIFT_PSI.name][key.model, key.version, of] = psi
            if ks is not None:
                told[instruments.DRIFT_KS.name][key.model, key.version, of] = ks
    return told


class Sums(NamedTuple):
    """Labelled rows, their summed log loss (nats), and those predicted right."""

    rows: float
    loss: float
    correct: float


def sums(life: Counts) -> dict[tuple[str, str], Sums]:
    """Add up labelled rows by model and version; files that took each other's place count together."""
    found: dict[tuple[str, str], Sums] = {}
    for key, vector in life.items():
        layout = layout_of(key.num_classes)
        ours = (float(layout.of(vector, name)[0]) for name in ("rows", "loss", "correct"))
        before = found.get((key.model, key.version), Sums(0, 0, 0))
        found[key.model, key.version] = Sums(*map(add, before, ours))
    return found


def drifted(key: Key, vector: Float64Array, reference: Reference) -> list[tuple[str, float, float | None]]:
    """Of what, how stable, how far: nothing where there is no reference or too little traffic."""
    expected, layout = reference(key), layout_of(key.num_classes)
    if expected is None or layout.of(vector, "looked")[0] < LEAST_ROWS_OF_DRIFT:
        return []
    names = {"predicted": "classes"}
    return [(names.get(of, of), psi, ks) for of, psi, ks in quality.drift(layout, expected, vector)]


def _series(
    layout: Layout, vector: Float64Array
) -> Iterable[tuple[instruments.Instrument, dict[Series, float]]]:
    def numbered(name: str, labels: Sequence[object]) -> dict[Series, float]:
        part = layout.of(vector, name).tolist()
        return {(str(label),): value for label, value in zip(labels, part, strict=True)} if part else {}

    if layout.of(vector, "rows")[0]:
        for instrument, name in (
            (instruments.QUALITY_ROWS, "rows"),
            (instruments.QUALITY_LOSS, "loss"),
            (instruments.QUALITY_BRIER, "brier"),
        ):
            yield instrument, {(): float(layout.of(vector, name)[0])}
        yield instruments.QUALITY_CORRECT, numbered("correct", quality.RANKS)
        bins = range(1, DEFAULT_BINS + 1)
        yield instruments.QUALITY_BIN_ROWS, numbered("bin_rows", bins)
        yield instruments.QUALITY_BIN_CONFIDENCE, numbered("bin_confidence", bins)
        yield instruments.QUALITY_BIN_CORRECT, numbered("bin_correct", bins)
        if 0 < layout.num_classes <= MOST_SERIES_CLASSES:
            classes = range(layout.num_classes)
            yield instruments.QUALITY_CLASS_ROWS, numbered("class_rows", classes)
            yield instruments.QUALITY_CLASS_PREDICTED, numbered("class_predicted", classes)
            yield instruments.QUALITY_CLASS_CORRECT, numbered("class_correct", classes)
        if 0 < layout.num_classes <= MOST_SERIES_CONFUSED:
            mistakes: dict[Series, float] = {
                (str(a), str(b)): float(rows) for a, b, rows in _mistakes(layout, vector)
            }
            yield instruments.QUALITY_CONFUSIONS, mistakes
    if layout.of(vector, "seen")[0]:
        if layout.num_classes <= MOST_SERIES_CLASSES:
            yield instruments.PREDICTIONS, numbered("predicted", range(layout.num_classes))
        for place, (instrument, name) in enumerate(_HISTOGRAMS):
            counts = layout.of(vector, name).tolist()
            total = float(layout.of(vector, "sums")[place])
            series: dict[Series, float] = {(str(at),): count for at, count in enumerate(counts) if count}
            yield instrument, {**series, (SUM,): total}


_HISTOGRAMS = (
    (instruments.CONFIDENCE, "confidence"),
    (instruments.MARGIN, "margin"),
    (instruments.ENTROPY, "entropy"),
    (instruments.ENERGY, "energy"),
)


def describe(
    counts: tuple[Counts, Counts],
    model: str,
    *,
    window_s: float,
    class_names: Mapping[Key, Sequence[str] | None],
    reference: Reference,
) -> dict[str, Any]:
    """Tell of each version of a model how good it was since start and within the window."""
    life, window = counts
    versions = []
    for key in sorted((key for key in life if key.model == model), key=_order):
        names = class_names.get(key)
        told = {
            name: _told(key, part[key], names, reference) if key in part else None
            for name, part in (("since_start", life), ("window", window))
        }
        versions.append({"version": key.version, "digest": key.digest, **told})
    return {"name": model, "window_s": window_s, "versions": versions}


def _order(key: Key) -> tuple[int, str]:
    return (int(key.version) if key.version.isdecimal() else 0, key.digest)


def _told(
    key: Key, vector: Float64Array, names: Sequence[str] | None, reference: Reference
) -> dict[str, Any]:
    layout = layout_of(key.num_classes)
    drift = {of: {"psi": psi, "ks": ks} for of, psi, ks in drifted(key, vector, reference)}
    return {
        "labelled": _labelled(layout, vector, names),
        "traffic": _traffic(layout, vector, names),
        "drift": drift or None,
    }


def _labelled(layout: Layout, vector: Float64Array, names: Sequence[str] | None) -> dict[str, Any]:
    rows = float(layout.of(vector, "rows")[0])
    counts, confidence, right = (
        layout.of(vector, name) for name in ("bin_rows", "bin_confidence", "bin_correct")
    )
    gaps = np.abs(right - confidence)
    told: dict[str, Any] = {
        "rows": int(rows),
        "log_loss": _ratio(layout.of(vector, "loss")[0], rows),
        "brier": {"score": _ratio(layout.of(vector, "brier")[0], rows)},
        "accuracy": _ratio(layout.of(vector, "correct")[0], rows),
        "top_k_accuracy": {
            str(k): _ratio(value, rows)
            for k, value in zip(quality.RANKS, layout.of(vector, "correct"), strict=True)
            if not layout.num_classes or k <= layout.num_classes
        },
        "ece_equal_width": _ratio(gaps.sum(), rows),
        "mce": float((gaps / np.maximum(counts, 1)).max()) if rows else None,
        "equal_width_bins": [
            {
                "above": place / DEFAULT_BINS,
                "up_to": (place + 1) / DEFAULT_BINS,
                "rows": int(counts[place]),
                "confidence": _ratio(confidence[place], counts[place]),
                "accuracy": _ratio(right[place], counts[place]),
            }
            for place in range(DEFAULT_BINS)
        ],
    }
    if layout.of(vector, "class_rows").size:
        told["classes"] = _classes(layout, vector, names)
    if layout.of(vector, "confusion").size:
        most = None if layout.num_classes <= MOST_SERIES_CONFUSED else MOST_MISTAKES
        told["mistakes"] = [
            {"label": _named(label, names), "predicted": _named(predicted, names), "rows": rows}
            for label, predicted, rows in _mistakes(layout, vector)[:most]
        ]
    return told


def _classes(layout: Layout, vector: Float64Array, names: Sequence[str] | None) -> list[dict[str, Any]]:
    rows, predicted, right = (
        layout.of(vector, name).tolist() for name in ("class_rows", "class_predicted", "class_correct")
    )
    return [
        {
            "name": _named(place, names),
            "rows": int(rows[place]),
            "predicted": int(predicted[place]),
            "correct": int(right[place]),
            "precision": _ratio(right[place], predicted[place]),
            "recall": _ratio(right[place], rows[place]),
            "f1": _ratio(2 * right[place], rows[place] + predicted[place]),
        }
        for place in range(layout.num_classes)
        if rows[place] or predicted[place]
    ]


def _traffic(layout: Layout, vector: Float64Array, names: Sequence[str] | None) -> dict[str, Any]:
    seen = float(layout.of(vector, "seen")[0])
    told: dict[str, Any] = {"rows": round(seen), "looked_at": int(layout.of(vector, "looked")[0])}
    predicted = layout.of(vector, "predicted").tolist()
    told["classes"] = {
        str(_named(place, names)): count / seen for place, count in enumerate(predicted) if count
    }
    for place, (instrument, name) in enumerate(_HISTOGRAMS):
        told[name] = {
            "mean": _ratio(layout.of(vector, "sums")[place], seen),
            "up_to": list(instruments.BUCKETS[instrument.name]),
            "rows": [round(count) for count in layout.of(vector, name).tolist()],
        }
    return told


def _mistakes(layout: Layout, vector: Float64Array) -> list[tuple[int, int, int]]:
    """Label, predicted class and rows of each kind of mistake, the most frequent first."""
    matrix = layout.of(vector, "confusion").reshape(layout.num_classes, -1)
    found = [(int(a), int(b), int(matrix[a, b])) for a, b in np.argwhere(matrix) if a != b]
    return sorted(found, key=lambda mistake: (-mistake[2], mistake[:2]))


def _named(place: int, names: Sequence[str] | None) -> str | int:
    return names[place] if names else place


def _ratio(part: float, whole: float) -> float | None:
    ratio = float(part) / float(whole) if whole else math.nan
    return None if math.isnan(ratio) else ratio
