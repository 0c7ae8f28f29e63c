"""What the service has done over the last minutes: counts at equal distances in time, and what came between them.

Counts only grow, so what happened in an interval is a difference of two samples: nothing is reset, whoever asks changes
nothing, and a sample that is missing makes a longer interval, not a wrong one. Knows counts and a time; knows no clock,
no worker and no request.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.instruments import (
    BATCH_ROWS,
    BUCKETS,
    DURATION,
    ERRORS,
    INFLIGHT,
    MEMORY,
    MODEL_INFO,
    QUEUE_ROWS,
    REQUESTS,
    ROWS,
    STAGE_NAMES,
    STAGES,
    SUM,
    WORKERS,
    Labels,
)
from service.metrics import Values

Float64Array: TypeAlias = NDArray[np.float64]
K = TypeVar("K", bound=Hashable)

# An eye sees what moves every two seconds; ten minutes are what an incident takes to begin.
INTERVAL_S = 2
KEPT_S = 600
# Means of labelled rows need more of them than two seconds bring.
QUALITY_STEP_S = 10
# What is said as one number: long enough not to flicker.
SUMMARY_S = 60
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
# Each has a series of its own in the answer: those with the most rows, where there are more.
MOST_MODELS = 50


class Tally(NamedTuple):
    """What is counted of one model and version: all rows, and of those with labels their summed loss and the right ones."""

    rows: float = 0.0
    labelled: float = 0.0
    loss: float = 0.0
    correct: float = 0.0


# (model, version) -> labelled rows, their summed loss (nats), and those predicted right.
Judged: TypeAlias = Mapping[tuple[str, str], tuple[float, float, float]]


class Sample(NamedTuple):
    """What was counted up to one moment.

    Histograms are counts by bucket: `durations` [buckets] of requests that score, `stages` [stage, bucket], `batches`
    [bucket] with `batch_rows` in all of them. `gauges` are rows that wait, requests being answered, workers and memory.
    """

    time_s: float
    durations: Float64Array
    stages: Float64Array
    batches: Float64Array
    batch_rows: float
    gauges: tuple[float, float, float, float]
    statuses: dict[str, float]
    errors: dict[str, float]
    models: dict[tuple[str, str], Tally]


class Activity:
    """The samples of the last minutes.

    Parameters
    ----------
    scoring : collection of str
        Path templates whose requests are the service's work: times and requests are of these.
    quiet : collection of str
        Those that only tell of the service; their errors are no errors of its work.
    """

    def __init__(self, scoring: Collection[str], quiet: Collection[str]) -> None:
        self._scoring = frozenset(scoring)
        self._quiet = frozenset(quiet)
        self._samples: tuple[Sample, ...] = ()
        self._providers: list[str] = []

    def add(self, time_s: float, values: Values, judged: Judged) -> None:
        """Take the counts of all workers at a time, which lies after all before unless the clock was set back."""
        before = self._samples
        if before and before[-1].time_s >= time_s:
            if before[-1].time_s < time_s + INTERVAL_S:
                return  # the clock was put right by a moment
            before = ()
        after = time_s - KEPT_S - INTERVAL_S
        kept = before[1:] if before and before[0].time_s <= after else before
        last = kept[-1].models if kept else {}
        sample = _sample(time_s, values, _tallies(values, judged, last), self._scoring, self._quiet)
        self._providers = sorted({labels[3] for labels in values.get(MODEL_INFO.name, {})})
        self._samples = (*kept, sample)  # at once, for those who read in other threads

    def describe(self, since_s: float = 0.0) -> dict[str, Any]:
        """Tell of the intervals that end after a time: arrays over time, and of late as one number each."""
        kept = self._samples
        first = next((at for at, sample in enumerate(kept) if sample.time_s > since_s), len(kept))
        wide = [sample for sample in kept if sample.time_s % QUALITY_STEP_S == 0]
        return {
            "interval_s": INTERVAL_S,
            "kept_s": KEPT_S,
            "providers": self._providers,
            **_over_time(kept[max(0, first - 1) :]),
            "quality": {"step_s": QUALITY_STEP_S, **_quality(wide, since_s)},
            "last_minute": _summary(kept),
            "batches": {
                "up_to": list(BUCKETS[BATCH_ROWS.name]),
                "count": _grown([s.batches for s in (kept[0], kept[-1])])[0].astype(np.int64) if kept else [],
            },
        }


def percentiles(counts: Float64Array, bounds: Sequence[float], quantiles: Sequence[float]) -> Float64Array:
    """Find quantiles in histograms as Prometheus's `histogram_quantile` does: on a line between a bucket's bounds.

    Parameters
    ----------
    counts : float array [n, len(bounds) + 1]
        How many values fell into each bucket, the last of which has no upper bound.
    bounds : sequence of float
    quantiles : sequence of float

    Returns
    -------
    float64 array [len(quantiles), n]
        NaN where nothing was counted, and the last bound for what lies above it.
    """
    edges = np.array([0.0, *bounds, bounds[-1]])
    reached = counts.cumsum(axis=1)
    totals = reached[:, -1]
    found = np.full((len(quantiles), len(counts)), np.nan)
    rows = np.flatnonzero(totals > 0)
    for place, quantile in enumerate(quantiles):
        rank = quantile * totals[rows]
        bucket = (reached[rows] < rank[:, None]).sum(axis=1)
        inside = counts[rows, bucket]
        share = (rank - (reached[rows, bucket] - inside)) / inside
        low, high = edges[bucket], edges[bucket + 1]
        found[place, rows] = low + (high - low) * share
    return found


def _sample(
    time_s: float,
    values: Values,
    models: dict[tuple[str, str], Tally],
    scoring: Collection[str],
    quiet: Collection[str],
) -> Sample:
    def scores(labels: Labels) -> bool:
        return labels[0] in scoring

    def stage(name: str) -> Float64Array:
        return _histogram(values, STAGES.name, lambda labels: labels[2] == name)[0]

    batches, batch_rows = _histogram(values, BATCH_ROWS.name)
    queue, inflight, workers, memory = (
        values.get(gauge.name, {}).get((), 0.0) for gauge in (QUEUE_ROWS, INFLIGHT, WORKERS, MEMORY)
    )
    return Sample(
        time_s,
        _histogram(values, DURATION.name, scores)[0],
        np.array([stage(name) for name in STAGE_NAMES]),
        batches,
        batch_rows,
        (queue, inflight, workers, memory),
        _by(values, REQUESTS.name, lambda labels: labels[2] if scores(labels) else None),
        _by(values, ERRORS.name, lambda labels: None if labels[0] in quiet else labels[1]),
        models,
    )


def _histogram(
    values: Values, name: str, wanted: Callable[[Labels], bool] = lambda _: True
) -> tuple[Float64Array, float]:
    """Add up the histograms of an instrument whose labels are wanted: counts by bucket, and the sum of values."""
    counts, total = np.zeros(len(BUCKETS[name]) + 1), 0.0
    for labels, value in values.get(name, {}).items():
        if not wanted(labels):
            continue
        if labels[-1] == SUM:
            total += value
        else:
            counts[int(labels[-1])] += value
    return counts, total


def _by(values: Values, name: str, label: Callable[[Labels], str | None]) -> dict[str, float]:
    found: dict[str, float] = {}
    for labels, value in values.get(name, {}).items():
        if (key := label(labels)) is not None:
            found[key] = found.get(key, 0.0) + value
    return found


def _tallies(
    values: Values, judged: Judged, last: Mapping[tuple[str, str], Tally]
) -> dict[tuple[str, str], Tally]:
    rows = {(labels[0], labels[1]): value for labels, value in values.get(ROWS.name, {}).items()}
    found = {
        key: Tally(rows.get(key, 0.0), *judged.get(key, (0.0, 0.0, 0.0))) for key in {**rows, **dict(judged)}
    }
    # Most heads of many rest: what has not changed is kept once, not for each moment.
    return {key: last[key] if last.get(key) == tally else tally for key, tally in found.items()}


def _grown(counts: Sequence[Any]) -> Float64Array:
    """What came in between samples; never less than nothing, whatever a dead worker took along."""
    grown: Float64Array = np.maximum(np.diff(np.asarray(counts, np.float64), axis=0), 0.0)
    return grown


def _histograms(counts: Sequence[Float64Array], name: str) -> Float64Array:
    """What came in between samples of a histogram, [intervals, buckets], also where there are no intervals."""
    return _grown(counts).reshape(-1, len(BUCKETS[name]) + 1)


def _rates(
    samples: Sequence[Sample], of: Callable[[Sample], Mapping[K, float]]
) -> dict[K, NDArray[np.float32]]:
    keys = dict.fromkeys(key for sample in samples for key in of(sample))
    lengths_s = np.diff([sample.time_s for sample in samples])
    return {key: _short(_grown([of(sample).get(key, 0.0) for sample in samples]) / lengths_s) for key in keys}


def _short(numbers: Float64Array) -> NDArray[np.float32]:
    """No eye sees more than float32's digits, and twice as many would go over the wire."""
    return numbers.astype(np.float32)


def _over_time(samples: Sequence[Sample]) -> dict[str, Any]:
    if len(samples) < 2:
        samples = ()
    ends = samples[1:]
    lengths_s = np.diff([sample.time_s for sample in samples])
    durations = _histograms([s.durations for s in samples], DURATION.name)
    batches = _histograms([s.batches for s in samples], BATCH_ROWS.name).sum(axis=1)
    rows = _grown([sum(tally.rows for tally in s.models.values()) for s in samples])
    gauges = np.array([s.gauges for s in ends], np.int64).reshape(len(ends), 4).T.copy()
    return {
        "times_s": np.array([s.time_s for s in ends], np.int64),
        "requests_per_s": _short(durations.sum(axis=1) / lengths_s),
        "rows_per_s": _short(rows / lengths_s),
        "statuses_per_s": _rates(samples, lambda s: s.statuses),
        "errors_per_s": _rates(samples, lambda s: s.errors),
        "duration_s": _quantiles(durations, DURATION.name),
        "stages_s": {
            stage: _quantiles(_histograms([s.stages[at] for s in samples], STAGES.name), STAGES.name)
            for at, stage in enumerate(STAGE_NAMES)
        },
        "batch_rows": _short(_means(_grown([s.batch_rows for s in samples]), batches)),
        **dict(zip(("queue_rows", "inflight_requests", "workers", "memory_bytes"), gauges, strict=True)),
        "models": [
            {"model": model, "version": version, "rows_per_s": rates}
            for (model, version), rates in _busiest(_rates(samples, _rows_of))
        ],
    }


def _rows_of(sample: Sample) -> dict[tuple[str, str], float]:
    return {key: tally.rows for key, tally in sample.models.items()}


def _busiest(rates: Mapping[K, NDArray[np.float32]]) -> list[tuple[K, NDArray[np.float32]]]:
    busy = [(key, found) for key, found in rates.items() if found.any()]
    return sorted(busy, key=lambda one: -float(one[1].sum()))[:MOST_MODELS]


def _quantiles(counts: Float64Array, name: str) -> dict[str, NDArray[np.float32]]:
    found = percentiles(counts, BUCKETS[name], tuple(QUANTILES.values()))
    return dict(zip(QUANTILES, _short(found), strict=True))


def _means(sums: Float64Array, counts: Float64Array) -> Float64Array:
    """NaN, which JSON has as null, where there is nothing to take the mean of."""
    found: Float64Array = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return found


def _quality(samples: Sequence[Sample], since_s: float) -> dict[str, Any]:
    """Tell how good each version was in each wide step that ends after a time."""
    first = next((at for at, sample in enumerate(samples) if sample.time_s > since_s), len(samples))
    samples = samples[max(0, first - 1) :]
    if len(samples) < 2:
        samples = ()
    models = []
    for key in dict.fromkeys(key for sample in samples for key in sample.models):
        labelled, loss, correct = _grown([s.models.get(key, Tally())[1:] for s in samples]).T
        if labelled.any():
            told = {"rows": labelled.astype(np.int64), "log_loss": _short(_means(loss, labelled))}
            models.append(
                {"model": key[0], "version": key[1], **told, "accuracy": _short(_means(correct, labelled))}
            )
    models.sort(key=lambda one: -int(one["rows"].sum()))
    times_s = np.array([s.time_s for s in samples[1:]], np.int64)
    return {"times_s": times_s, "models": models[:MOST_MODELS]}


def _summary(samples: Sequence[Sample]) -> dict[str, Any] | None:
    """Tell of the last minute, or as much of it as there is, in one number each; None before the second sample."""
    if len(samples) < 2:
        return None
    end = samples[-1]
    start = next(sample for sample in samples if sample.time_s >= end.time_s - SUMMARY_S)
    if start is end:
        start = samples[-2]
    told = _over_time([start, end])
    return {
        "seconds": end.time_s - start.time_s,
        "requests_per_s": told["requests_per_s"][0],
        "rows_per_s": told["rows_per_s"][0],
        "batch_rows": told["batch_rows"][0],
        "statuses": _counted(start.statuses, end.statuses),
        "errors": _counted(start.errors, end.errors),
        "duration_s": {name: found[0] for name, found in told["duration_s"].items()},
        "stages_s": {
            stage: {name: found[0] for name, found in quantiles.items()}
            for stage, quantiles in told["stages_s"].items()
        },
    }


def _counted(start: Mapping[str, float], end: Mapping[str, float]) -> dict[str, int]:
    grown = {key: int(value - start.get(key, 0.0)) for key, value in end.items()}
    return {
        key: count for key, count in sorted(grown.items(), key=lambda one: (-one[1], one[0])) if count > 0
    }
